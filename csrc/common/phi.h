// The seven functions that every loss is made of: a term is phi(scale * z + shift) + linear * z.
#pragma once
#include "math.h"

namespace fastgan {

enum class Phi : int {
  identity = 0,
  softplus = 1,
  relu = 2,
  square = 3,
  relu_square = 4,
  abs = 5,
  relu_half = 6
};
constexpr int phi_count = 7;

// A term's constants, each formed in double and rounded once.
template <class F>
struct Coefficients {
  F scale, shift, linear;
  F sum;                  // scale + linear: the slope above the kink
  F slope, slope_linear;  // coefficient * scale, coefficient * linear
  F curvature;            // coefficient * scale^2

  Coefficients() = default;
  FASTGAN_HD Coefficients(double scale, double shift, double linear, double coefficient)
      : scale(F(scale)),
        shift(F(shift)),
        linear(F(linear)),
        sum(F(scale + linear)),
        slope(F(coefficient * scale)),
        slope_linear(F(coefficient * linear)),
        curvature(F(coefficient * scale * scale)) {}

  FASTGAN_HD F argument(F z) const {
    return fma(scale, z, shift);
  }
};

// k * z that is 0 for k = 0, whatever z.
template <class F>
FASTGAN_HD F times(F k, F z) {
  return k == F(0) ? F(0) : k * z;
}

// The term's value. `Linear` says whether linear is other than 0; u is decay(argument), which only
// softplus looks at.
template <Phi P, bool Linear, class F>
FASTGAN_HD F term_value(F z, const Coefficients<F>& k, Pair<F> u) {
  F a = k.argument(z);
  F rest = Linear ? k.linear * z : F(0);
  if constexpr (P == Phi::identity) return Linear ? times(k.sum, z) + k.shift : a;
  if constexpr (P == Phi::softplus) {
    if constexpr (!Linear) return softplus(a, u);
    // max(a, 0) + linear * z in one rounding: no summand has the other sign for a soft label in
    // [0, 1], so nothing cancels.
    F above = k.sum == F(0) ? k.shift : fma(k.sum, z, k.shift);
    return softplus_sum(a, a > F(0) ? above : rest, u);
  }
  if constexpr (P == Phi::relu || P == Phi::relu_half) return (F(0) > a ? F(0) : a) + rest;
  if constexpr (P == Phi::square) return fma(a, a, rest);
  if constexpr (P == Phi::relu_square) {
    F r = F(0) > a ? F(0) : a;
    return fma(r, r, rest);
  }
  if constexpr (P == Phi::abs) return absolute(a) + rest;
}

// phi'(a), NaN where a is.
template <Phi P, class F>
FASTGAN_HD F phi_slope(F a, Pair<F> u) {
  if constexpr (P == Phi::identity) return F(1);
  if constexpr (P == Phi::softplus) return sigmoid(a, u);
  if constexpr (P == Phi::relu) return a > F(0) ? F(1) : (a <= F(0) ? F(0) : a);
  if constexpr (P == Phi::square) return a + a;
  if constexpr (P == Phi::relu_square) return F(0) > a ? F(0) : a + a;
  if constexpr (P == Phi::abs) return a > F(0) ? F(1) : (a < F(0) ? F(-1) : a);
  // As a maximum shares its derivative where both sides are equal.
  if constexpr (P == Phi::relu_half)
    return a > F(0) ? F(1) : (a < F(0) ? F(0) : (a == F(0) ? F(0.5) : a));
}

// phi''(a), 0 at a kink.
template <Phi P, class F>
FASTGAN_HD F phi_curvature(F a, Pair<F> u) {
  if constexpr (P == Phi::softplus) return sigmoid_slope(u);
  if constexpr (P == Phi::square) return F(2);
  if constexpr (P == Phi::relu_square) return a > F(0) ? F(2) : (a <= F(0) ? F(0) : a);
  return F(0);
}

// coefficient * derivative of the term in z.
template <Phi P, bool Linear, class F>
FASTGAN_HD F term_gradient(F z, const Coefficients<F>& k, Pair<F> u) {
  F slope = phi_slope<P>(k.argument(z), u);
  return Linear ? fma(k.slope, slope, k.slope_linear) : k.slope * slope;
}

// coefficient * second derivative of the term in z.
template <Phi P, class F>
FASTGAN_HD F term_curvature(F z, const Coefficients<F>& k, Pair<F> u) {
  return k.curvature * phi_curvature<P>(k.argument(z), u);
}

}  // namespace fastgan
