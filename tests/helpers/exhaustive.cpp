// Every stride-th float32 pattern through one phi: the largest error of its value and of its first
// and second derivative, in ulp of float32, against the same function in double, which is 29 bits
// finer. Built and run by tests/helpers/exhaustive.py.
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

#include "../../csrc/common/phi.h"

using namespace fastgan;

double error(float got, double exact) {
  if (std::isnan(exact)) return std::isnan(got) ? 0 : HUGE_VAL;
  if (std::isinf(got) || std::isinf(exact)) return got == float(exact) ? 0 : HUGE_VAL;
  int exponent;
  std::frexp(exact, &exponent);
  exponent = exponent - 24 < -149 ? -149 : exponent - 24;
  return std::fabs(double(got) - exact) / std::ldexp(1.0, exponent);
}

struct Jet {
  double value, first, second;
};

Jet exact(Phi phi, double x) {
  double relu = std::isnan(x) || x > 0 ? x : 0;
  auto step = [&](double above) { return std::isnan(x) ? x : x > 0 ? above : 0; };
  switch (phi) {
    case Phi::identity: return {x, 1, 0};
    case Phi::softplus: {
      double u = std::exp(-std::fabs(x));
      return {relu + std::log1p(u), (x >= 0 ? 1 : u) / (1 + u), u / (1 + u) / (1 + u)};
    }
    case Phi::relu: return {relu, step(1), 0};
    case Phi::square: return {x * x, 2 * x, 2};
    case Phi::relu_square: return {relu * relu, 2 * relu, step(2)};
    case Phi::relu_half: return {relu, x == 0 ? 0.5 : step(1), 0};
    case Phi::abs: return {std::fabs(x), std::isnan(x) ? x : double((x > 0) - (x < 0)), 0};
  }
  std::abort();
}

template <Phi P>
void check(uint64_t begin, uint64_t end, uint64_t stride, double* largest) {
  Coefficients<float> k(1, 0, 0, 1);
  for (uint64_t i = begin; i < end; i += stride) {
    float x = bits<float>(uint32_t(i));
    Pair<float> u = decay(x);
    Jet e = exact(P, x);
    double errors[3] = {error(term_value<P, false>(x, k, u), e.value),
                        error(term_gradient<P, false>(x, k, u), e.first),
                        error(term_curvature<P>(x, k, u), e.second)};
    for (int j = 0; j < 3; ++j) largest[j] = std::fmax(largest[j], errors[j]);
  }
}

int main(int count, char** arguments) {
  if (count != 3) return 2;
  using Check = void (*)(uint64_t, uint64_t, uint64_t, double*);
#define FASTGAN_CHECK(name) check<Phi::name>,
  const Check checks[] = {FASTGAN_PHIS(FASTGAN_CHECK)};
  Check run = checks[std::atoi(arguments[1])];
  uint64_t stride = std::strtoull(arguments[2], nullptr, 10), block = stride << 16;
  std::atomic<uint64_t> next{0};
  std::mutex lock;
  double largest[3] = {};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < std::thread::hardware_concurrency(); ++t)
    threads.emplace_back([&] {
      double mine[3] = {};
      for (uint64_t b; (b = next.fetch_add(block)) < uint64_t(1) << 32;)
        run(b, std::min(b + block, uint64_t(1) << 32), stride, mine);
      std::lock_guard<std::mutex> guard(lock);
      for (int j = 0; j < 3; ++j) largest[j] = std::fmax(largest[j], mine[j]);
    });
  for (auto& t : threads) t.join();
  std::printf("%.4f %.4f %.4f\n", largest[0], largest[1], largest[2]);
}
