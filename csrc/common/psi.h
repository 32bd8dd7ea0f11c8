// What a penalty makes of one row's norm, in double; the formulas stand in penalty.h.
#pragma once
#include "math.h"
#include "penalty.h"

namespace fastgan {

FASTGAN_HD double power_of(double x, int p) {
  double result = 1;
  for (int i = 0; i < p; ++i) result = result * x;
  return result;
}

// `square` is n^2, from which even powers are formed without a root.
FASTGAN_HD double psi_value(Psi psi, double n, double square, double target, int power) {
  double above = n - target;
  if (psi == Psi::two_sided) return above * above;
  if (psi == Psi::one_sided) return above <= 0 ? 0 : above * above;
  return power % 2 ? power_of(square, power / 2) * n : power_of(square, power / 2);
}

// The gradient of psi(n) is slope * (h * scale), and its derivative in the direction v is
// slope * (v * scale) + (bend * dot * scale) * (h * scale) with dot = <v, h * scale>.
struct RowFactors {
  double scale, slope, bend;
};

// A power of two near 1 / n for n > 0, and not outside the normal numbers: n has the biased
// exponent e.
FASTGAN_HD double near_reciprocal(double n) {
  uint64_t e = (bits<uint64_t>(n) >> 52) & 2047;
  e = e < 1 ? 1 : e > 2045 ? 2045 : e;
  return bits<double>((2046 - e) << 52);
}

FASTGAN_HD RowFactors row_factors(Psi psi, double n, double target, int power) {
  if (psi == Psi::power && power == 2) return {1, 2, 0};
  if (n == 0) return {0, 0, 0};
  double scale = near_reciprocal(n), near_one = n * scale;
  double first, second;  // psi'(n), n * psi''(n) - psi'(n)
  if (psi == Psi::power) {
    double p = power, below = power_of(n, power - 1);
    first = p * below;
    second = p * (p - 2) * below;
  } else {
    bool flat = psi == Psi::one_sided && n <= target;
    first = flat ? 0 : 2 * (n - target);
    second = flat ? 0 : 2 * target;
  }
  return {scale, first / near_one, second / near_one / near_one / near_one};
}

}  // namespace fastgan
