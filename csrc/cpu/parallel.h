// Threads without an OpenMP dependency: the OpenMP runtime that torch has loaded into the process
// is asked for its own threads by name. Where there is none, the work is done by the caller.
#pragma once
#include <dlfcn.h>

#include <atomic>
#include <cstdint>

namespace fastgan {
namespace {

template <class Body>
struct Loop {
  const Body& body;
  int64_t count, step;
  std::atomic<int64_t> next{0};

  void run() {
    for (int64_t begin; (begin = next.fetch_add(step, std::memory_order_relaxed)) < count;)
      body(begin, begin + step < count ? begin + step : count);
  }
};

// body(begin, end) over disjoint ranges of [0, count), on up to `threads` threads.
template <class Body>
void parallel_for(int64_t count, int threads, const Body& body) {
  using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
  // Looked up once a process: torch, and its runtime with it, is loaded before any kernel runs.
  static const Parallel parallel = Parallel(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  if (threads <= 1 || count <= 1 || !parallel) return body(0, count);
  // A few ranges a thread: one that starts late then costs little.
  Loop<Body> loop{body, count, (count + 4 * threads - 1) / (4 * threads)};
  parallel([](void* p) { static_cast<Loop<Body>*>(p)->run(); }, &loop, unsigned(threads), 0);
}

}  // namespace
}  // namespace fastgan
