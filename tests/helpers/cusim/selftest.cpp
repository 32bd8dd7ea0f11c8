// Runs the kernels of selftest.cu: `selftest` all of them, without a fault; `selftest NUMBER` the
// one that has this fault; `selftest time` measures what a block and a switch of threads cost.
// Returns 0 if all was right, 1 for a wrong result, 2 for a launch that failed.
#include "selftest.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

namespace {

int wrong(const char* what) {
  printf("wrong: %s\n", what);
  return 1;
}

int check_sum(Fault fault) {
  for (int n : {1, 3000}) {
    std::vector<float> x(n);
    double expected = 0, out = -1;
    for (int i = 0; i < n; ++i) expected += x[i] = float(i % 97) - 31;
    std::vector<double> partial(5, -1e9);
    unsigned ticket = 0;
    if (sum(x.data(), n, partial.data(), &ticket, &out, 5, fault)) return 2;
    if (out != expected || ticket) return wrong("sum");
  }
  return 0;
}

int check_collectives(Fault fault) {
  std::vector<int64_t> out(64 * collective_results, -1);
  if (collectives(out.data(), fault)) return 2;
  for (int t = 0; t < 64; ++t) {
    int lane = t % 32, warp = t / 32 * 32, upper = lane / 16;
    // In groups of 16, what lies behind the group is not read; what lies before it is.
    int flipped = warp + (upper ? lane ^ 24 : lane);
    int64_t votes = 0;
    for (int i = 0; i < 32; ++i) votes |= int64_t((warp + i) % 3 == 0) << i;
    int64_t expected[collective_results] = {
        t ^ 5,
        4 * flipped + 1,
        2 * (lane + 3 < 32 ? t + 3 : t) + 1,
        lane % 16 + 9 < 16 ? t + 9 : t,
        warp + 7,
        t / 8 * 8 + 5,
        votes,
        t >= 32,
        t < 32,
        1,
        0,
        13,
        upper ? t ^ 9 : t ^ 1,
        warp + 31 - lane,
    };
    for (int i = 0; i < collective_results; ++i) {
      int64_t got = out[t * collective_results + i];
      if (got == expected[i]) continue;
      printf("thread %d, result %d: %lld, not %lld\n", t, i, (long long)got,
             (long long)expected[i]);
      return wrong("collectives");
    }
  }
  return 0;
}

int check_scale() {
  auto table = std::make_unique<Table>();
  for (int i = 0; i < 2048; ++i) table->factor[i] = i % 13;
  int n = 3 * 8 * 2 * 4 * 5;
  std::vector<float> x(n), y(n, -1);
  for (int i = 0; i < n; ++i) x[i] = float(i % 7);
  if (scale(*table, x.data(), y.data(), dim3(3, 2, 5), dim3(8, 4))) return 2;
  for (int i = 0; i < n; ++i)
    if (y[i] != float(i % 7 * (i % 2048 % 13))) return wrong("scale");
  return 0;
}

int check_faulty(Fault fault) {
  std::vector<int> out(64, -1);
  if (faulty(out.data(), fault)) return 2;
  for (int t = 0; t < 64; ++t)
    if (out[t] != t) return wrong("faulty");
  return 0;
}

// A launch that fails leaves the next ones alone.
int check_recovery() {
  int out[64];
  for (Fault fault : {Fault::divergent_barrier, Fault::deadlock})
    if (faulty(out, fault) != cudaErrorLaunchFailure || !*cusim::last_message())
      return wrong("no error was reported");
  if (nothing(out, 1, 2000) != cudaErrorInvalidConfiguration) return wrong("a block too large");
  if (nothing(out, 0, 32) != cudaErrorInvalidConfiguration) return wrong("an empty grid");
  return check_faulty(Fault::none);
}

int check_all() {
  int code = check_sum(Fault::none);
  if (!code) code = check_collectives(Fault::none);
  if (!code) code = check_scale();
  if (!code) code = check_recovery();
  return code;
}

template <class Run>
double nanoseconds(Run run) {
  double best = 1e30;
  for (int i = 0; i < 5; ++i) {
    auto begin = std::chrono::steady_clock::now();
    run();
    std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - begin;
    if (took.count() < best) best = took.count();
  }
  return best;
}

int measure() {
  int out = 0;
  for (int threads : {32, 256}) {
    double block = nanoseconds([&] { nothing(&out, 2000, threads); }) / 2000;
    double one = nanoseconds([&] { barriers(1, 2000, threads); }) / 2000;
    double many = nanoseconds([&] { barriers(1001, 20, threads); }) / 20;
    printf("%d threads: a block %.0f ns, with one barrier %.0f ns, a switch %.1f ns\n", threads,
           block, one, (many - one) / 1000 / threads);
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2) return check_all();
  if (!strcmp(arguments[1], "time")) return measure();
  Fault fault = Fault(atoi(arguments[1]));
  if (fault == Fault::missing_warp_barrier) return check_collectives(fault);
  return fault < Fault::divergent_barrier ? check_sum(fault) : check_faulty(fault);
}
