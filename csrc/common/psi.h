// What a penalty makes of one group's norm, in double; the formulas stand in penalty.h.
#pragma once
#include "math.h"
#include "penalty.h"

namespace fastgan {

FASTGAN_HD double power_of(double x, int p) {
  double result = 1;
  for (int i = 0; i < p; ++i) result = result * x;
  return result;
}

// psi'(n) and n * psi''(n) - psi'(n)
struct Derivatives {
  double first, second;
};

// What a psi is made of, of which each has a specialization: its value, where `square` is n^2, from
// which even powers are formed without a root; and its derivatives at n > 0.
template <Psi P>
struct NormFunction;

template <>
struct NormFunction<Psi::two_sided> {
  static FASTGAN_HD double value(double n, double, double target, int) {
    double above = n - target;
    return above * above;
  }
  static FASTGAN_HD Derivatives derivatives(double n, double target, int) {
    return {2 * (n - target), 2 * target};
  }
};

template <>
struct NormFunction<Psi::one_sided> {
  static FASTGAN_HD double value(double n, double, double target, int) {
    double above = n - target;
    return above <= 0 ? 0 : above * above;
  }
  static FASTGAN_HD Derivatives derivatives(double n, double target, int) {
    bool flat = n <= target;
    return {flat ? 0 : 2 * (n - target), flat ? 0 : 2 * target};
  }
};

template <>
struct NormFunction<Psi::power> {
  static FASTGAN_HD double value(double n, double square, double, int power) {
    return power % 2 ? power_of(square, power / 2) * n : power_of(square, power / 2);
  }
  static FASTGAN_HD Derivatives derivatives(double n, double, int power) {
    double p = power, below = power_of(n, power - 1);
    return {p * below, p * (p - 2) * below};
  }
};

FASTGAN_HD double psi_value(Psi psi, double n, double square, double target, int power) {
#define FASTGAN_CASE(name) \
  if (psi == Psi::name) return NormFunction<Psi::name>::value(n, square, target, power);
  FASTGAN_PSIS(FASTGAN_CASE)
#undef FASTGAN_CASE
  __builtin_unreachable();
}

FASTGAN_HD Derivatives psi_derivatives(Psi psi, double n, double target, int power) {
#define FASTGAN_CASE(name) \
  if (psi == Psi::name) return NormFunction<Psi::name>::derivatives(n, target, power);
  FASTGAN_PSIS(FASTGAN_CASE)
#undef FASTGAN_CASE
  __builtin_unreachable();
}

// The gradient of psi(n) is slope * (h * scale), and its derivative in the direction v is
// slope * (v * scale) + (bend * dot * scale) * (h * scale) with dot = <v, h * scale>.
struct GroupFactors {
  double scale, slope, bend;
};

// A power of two near 1 / n for n > 0, and not outside the normal numbers: n has the biased
// exponent e.
FASTGAN_HD double near_reciprocal(double n) {
  uint64_t e = (bits<uint64_t>(n) >> 52) & 2047;
  e = e < 1 ? 1 : e > 2045 ? 2045 : e;
  return bits<double>((2046 - e) << 52);
}

// A factor on h * scale, for doubles. Where both are large or both small, so that h * scale might
// underflow and lose what the factor would bring back, the scale belongs to the factor.
struct ScaledFactor {
  double factor, scale;

  FASTGAN_HD ScaledFactor(double factor, double scale) : factor(factor), scale(scale) {
    if (!(absolute(factor) >= 1 && scale < 1)) return;
    this->factor = factor * scale;
    this->scale = 1;
  }
};

FASTGAN_HD GroupFactors group_factors(Psi psi, double n, double target, int power) {
  if (psi == Psi::power && power == 2) return {1, 2, 0};
  if (n == 0) return {0, 0, 0};
  double scale = near_reciprocal(n), near_one = n * scale;
  Derivatives d = psi_derivatives(psi, n, target, power);
  return {scale, d.first / near_one, d.second / near_one / near_one / near_one};
}

}  // namespace fastgan
