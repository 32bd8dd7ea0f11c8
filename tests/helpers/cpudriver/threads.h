// Threads under the name by which kernels ask OpenMP for its own, and dirt on their stacks.
#pragma once
#include <cstring>
#include <thread>
#include <vector>

namespace fastgan {

// What fresh memory is full of: another number in each run, so that results that depend on what
// nobody wrote differ between runs.
inline unsigned char dirt = 0;

// Fills the stack below with dirt, except where a sanitizer watches it (WATCHED).
__attribute__((noinline)) inline void soil() {
#ifndef WATCHED
  char room[1 << 18];
  memset(room, dirt, sizeof room);
  asm volatile("" : : "r"(room) : "memory");
#endif
}

}  // namespace fastgan

extern "C" __attribute__((used)) inline void GOMP_parallel(void (*body)(void*), void* data,
                                                           unsigned threads, unsigned) {
  auto run = [=] {
    fastgan::soil();
    body(data);
  };
  std::vector<std::thread> others;
  for (unsigned k = 1; k < threads; ++k) others.emplace_back(run);
  run();
  for (std::thread& other : others) other.join();
}
