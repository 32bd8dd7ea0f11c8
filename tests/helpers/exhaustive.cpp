// The largest error of a phi, its first and its second derivative, in ulp:
//
//   exhaustive PHI patterns STRIDE       of every STRIDE-th float32, against the function in double
//   exhaustive PHI random COUNT SEED     of COUNT random float64, against it in long double
//   exhaustive PHI points                of the float64 on stdin: prints what long double says
//
// Built and run by tests/helpers/exhaustive.py; prints the error of value, first and second, each
// with its place.
#include <atomic>
#include <cfloat>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#include "../../csrc/common/phi.h"

using namespace fastgan;

constexpr int digits_of(float) {
  return FLT_MANT_DIG;
}
constexpr int digits_of(double) {
  return DBL_MANT_DIG;
}

// The distance of `got` from `exact`, which has at least 11 more bits, in ulp of F.
template <class F, class Wide>
double error(F got, Wide exact) {
  if (std::isnan(exact)) return std::isnan(got) ? 0 : HUGE_VAL;
  if (std::isinf(got) || std::isinf(exact)) return got == F(exact) ? 0 : HUGE_VAL;
  constexpr int digits = digits_of(F());
  constexpr int lowest = sizeof(F) == 4 ? -149 : -1074;
  int exponent;
  std::frexp(exact, &exponent);
  exponent = exponent - digits < lowest ? lowest : exponent - digits;
  return double(std::fabs(Wide(got) - exact) / std::ldexp(Wide(1), exponent));
}

template <class Wide>
struct Jet {
  Wide value, first, second;
};

template <class Wide>
Jet<Wide> exact(Phi phi, Wide x) {
  Wide relu = std::isnan(x) || x > 0 ? x : 0;
  auto step = [&](Wide above) { return std::isnan(x) ? x : x > 0 ? above : Wide(0); };
  switch (phi) {
    case Phi::identity: return {x, 1, 0};
    case Phi::softplus: {
      Wide u = std::exp(-std::fabs(x));
      return {relu + std::log1p(u), (x >= 0 ? 1 : u) / (1 + u), u / (1 + u) / (1 + u)};
    }
    case Phi::relu: return {relu, step(1), 0};
    case Phi::square: return {x * x, 2 * x, 2};
    case Phi::relu_square: return {relu * relu, 2 * relu, step(2)};
    case Phi::relu_half: return {relu, x == 0 ? Wide(0.5) : step(1), 0};
    case Phi::huber: {
      Wide size = std::fabs(x);
      return {size > 1 ? size - Wide(0.5) : x * x / 2, size > 1 ? std::copysign(Wide(1), x) : x,
              std::isnan(x) ? x : Wide(size < 1)};
    }
    case Phi::softplus_square: {
      auto [s, first, second] = exact<Wide>(Phi::softplus, x);
      return {s * s, x == -INFINITY ? 0 : 2 * s * first,
              std::isinf(x) ? Wide(x > 0 ? 2 : 0) : 2 * (first * first + s * second)};
    }
    case Phi::abs: return {std::fabs(x), std::isnan(x) ? x : Wide((x > 0) - (x < 0)), 0};
  }
  std::abort();
}

struct Largest {
  double error[3] = {}, at[3] = {};

  void take(int order, double found, double x) {
    if (found > error[order]) error[order] = found, at[order] = x;
  }

  template <class F, class Wide, Phi P>
  void look_at(F x) {
    Coefficients<F> k(1, 0, 0, 1);
    Pair<F> u{};
    if constexpr (Function<P>::uses_decay) u = decay(x);
    Jet<Wide> e = exact<Wide>(P, x);
    double errors[3] = {::error(term_value<P, false>(x, k, u), e.value),
                        ::error(term_gradient<P, false>(x, k, u), e.first),
                        ::error(term_curvature<P>(x, k, u), e.second)};
    for (int j = 0; j < 3; ++j) take(j, errors[j], x);
  }
};

template <Phi P>
void patterns(uint64_t begin, uint64_t end, uint64_t stride, Largest& largest) {
  for (uint64_t i = begin; i < end; i += stride)
    largest.look_at<float, double, P>(bits<float>(uint32_t(i)));
}

uint64_t mixed(uint64_t x) {  // SplitMix64
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Any pattern; numbers around 0; those whose exponential is not 0 or 1; those where it is denormal;
// and those beside a half multiple of log 2, where the exponential's reduction takes another one.
double hard(uint64_t k, uint64_t seed) {
  uint64_t r = mixed(mixed(seed) + k);
  double unit = double(r >> 11) * 0x1p-53, sign = r & 1 ? 1 : -1;
  switch (k % 5) {
    case 0: return bits<double>(r);
    case 1: return sign * 2 * unit;
    case 2: return sign * 40 * unit;
    case 3: return sign * (700 + 50 * unit);
  }
  double edge = (double((r >> 1) % 2160) + 0.5) * 0.6931471805599453;
  return sign * (edge + (unit - 0.5) * 0x1p-30);
}

template <Phi P>
void random(uint64_t begin, uint64_t end, uint64_t seed, Largest& largest) {
  for (uint64_t k = begin; k < end; ++k) largest.look_at<double, long double, P>(hard(k, seed));
}

// As doubles that add up to it, so that a reader needs no long double.
void points(Phi phi) {
  for (double x; std::scanf("%la", &x) == 1;) {
    Jet<long double> e = exact<long double>(phi, x);
    for (long double f : {e.value, e.first, e.second})
      std::printf("%a %a ", double(f), double(f - (long double)(double(f))));
    std::printf("\n");
  }
}

// work(begin, end, ., .) over [0, count) by all processors.
void in_blocks(void (*work)(uint64_t, uint64_t, uint64_t, Largest&), uint64_t count, uint64_t block,
               uint64_t argument) {
  std::atomic<uint64_t> next{0};
  std::mutex lock;
  Largest largest;
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < std::thread::hardware_concurrency(); ++t)
    threads.emplace_back([&] {
      Largest mine;
      for (uint64_t b; (b = next.fetch_add(block)) < count;)
        work(b, std::min(b + block, count), argument, mine);
      std::lock_guard<std::mutex> guard(lock);
      for (int j = 0; j < 3; ++j) largest.take(j, mine.error[j], mine.at[j]);
    });
  for (auto& t : threads) t.join();
  for (int j = 0; j < 3; ++j) std::printf("%.4f %a ", largest.error[j], largest.at[j]);
  std::printf("\n");
}

int main(int count, char** arguments) {
  if (count < 3) return 2;
  using Work = void (*)(uint64_t, uint64_t, uint64_t, Largest&);
#define FASTGAN_PATTERNS(name) patterns<Phi::name>,
#define FASTGAN_RANDOM(name) random<Phi::name>,
  const Work by_pattern[] = {FASTGAN_PHIS(FASTGAN_PATTERNS)};
  const Work by_chance[] = {FASTGAN_PHIS(FASTGAN_RANDOM)};
  int phi = std::atoi(arguments[1]);
  auto number = [&](int k) { return std::strtoull(arguments[k], nullptr, 10); };
  uint64_t all = uint64_t(1) << 32;
  if (!std::strcmp(arguments[2], "patterns") && count == 4) {
    uint64_t stride = number(3);
    in_blocks(by_pattern[phi], all, stride << 16, stride);
  } else if (LDBL_MANT_DIG < DBL_MANT_DIG + 11) {
    std::puts("no long double");
  } else if (!std::strcmp(arguments[2], "random") && count == 5) {
    in_blocks(by_chance[phi], number(3), 1 << 16, number(4));
  } else if (!std::strcmp(arguments[2], "points")) {
    points(Phi(phi));
  } else {
    return 2;
  }
}
