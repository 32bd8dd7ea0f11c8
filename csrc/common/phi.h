// The functions that every loss is made of: a term is phi(scale * z + shift) + linear * z.
//
// A new phi is a name in FASTGAN_PHIS, at its end, and a struct of its value, slope and curvature.
// The same name comes into fastgan/backends/formulas.py and triton_kernels/phi.py; tests compare
// the lists.
#pragma once
#include "list.h"
#include "math.h"

namespace fastgan {

#define FASTGAN_PHIS(X) \
  X(identity)           \
  X(softplus)           \
  X(relu)               \
  X(square)             \
  X(relu_square)        \
  X(abs)                \
  X(relu_half)          \
  X(huber)              \
  X(softplus_square)

enum class Phi : int { FASTGAN_PHIS(FASTGAN_CODE) };
constexpr const char* phi_names[] = {FASTGAN_PHIS(FASTGAN_NAME)};
constexpr int phi_count = sizeof phi_names / sizeof *phi_names;

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

  // At an element of a chunk: the same for all.
  static constexpr bool vary = false;
  template <Phi P>
  FASTGAN_HD const Coefficients& at(int) const {
    return *this;
  }

  // At an element whose label multiplies the linear part.
  template <Phi P>
  FASTGAN_HD Coefficients labelled(F label) const {
    Coefficients k = *this;
    k.linear = linear * label;
    k.sum = scale + k.linear;
    k.slope_linear = slope_linear * label;
    if constexpr (P == Phi::softplus)
      if (scale == F(1) && shift == F(0) && k.sum < -k.linear) k.reflect();
    return k;
  }

  // softplus(z) - t z as softplus(-z) + (1 - t) z, in which nothing cancels for t near 1.
  FASTGAN_HD void reflect() {
    F minus_label = linear;
    slope_linear = slope * sum;
    linear = sum;
    sum = minus_label;
    scale = -scale;
    slope = -slope;
  }
};

// Coefficients of elements that each have a label.
template <class F>
struct Labelled {
  Coefficients<F> k;
  const F* label;

  static constexpr bool vary = true;
  template <Phi P>
  FASTGAN_HD Coefficients<F> at(int i) const {
    return k.template labelled<P>(label[i]);
  }
};

// k * z that is 0 for k = 0, whatever z.
template <class F>
FASTGAN_HD F times(F k, F z) {
  return k == F(0) ? F(0) : k * z;
}

// What a phi is made of, of which each has a specialization:
//   value      the term's value at z. `Linear`: whether linear is other than 0; a: k.argument(z);
//              rest: linear * z, or 0; u: decay(a), where the phi asks for it.
//   slope      phi'(a), NaN where a is.
//   curvature  phi''(a), 0 at a kink.
template <Phi P>
struct Function;

struct WithoutDecay {
  static constexpr bool uses_decay = false;
};

template <>
struct Function<Phi::identity> : WithoutDecay {
  template <bool Linear, class F>
  static FASTGAN_HD F value(F z, F a, F, const Coefficients<F>& k, Pair<F>) {
    return Linear ? times(k.sum, z) + k.shift : a;
  }
  template <class F>
  static FASTGAN_HD F slope(F, Pair<F>) {
    return F(1);
  }
  template <class F>
  static FASTGAN_HD F curvature(F, Pair<F>) {
    return F(0);
  }
};

template <>
struct Function<Phi::softplus> {
  static constexpr bool uses_decay = true;

  template <bool Linear, class F>
  static FASTGAN_HD F value(F z, F a, F rest, const Coefficients<F>& k, Pair<F> u) {
    if constexpr (!Linear) return softplus(a, u);
    // max(a, 0) + linear * z in one rounding: no summand has the other sign for a soft label in
    // [0, 1], so nothing cancels.
    F above = k.sum == F(0) ? k.shift : fma(k.sum, z, k.shift);
    return softplus_sum(a, a > F(0) ? above : rest, u);
  }
  template <class F, class Decay>
  static FASTGAN_HD F slope(F a, Decay u) {
    return sigmoid(a, u);
  }
  template <class F, class Decay>
  static FASTGAN_HD F curvature(F, Decay u) {
    return sigmoid_slope(u);
  }
};

template <>
struct Function<Phi::relu> : WithoutDecay {
  template <bool Linear, class F>
  static FASTGAN_HD F value(F, F a, F rest, const Coefficients<F>&, Pair<F>) {
    return (F(0) > a ? F(0) : a) + rest;
  }
  template <class F>
  static FASTGAN_HD F slope(F a, Pair<F>) {
    return a > F(0) ? F(1) : (a <= F(0) ? F(0) : a);
  }
  template <class F>
  static FASTGAN_HD F curvature(F, Pair<F>) {
    return F(0);
  }
};

template <>
struct Function<Phi::square> : WithoutDecay {
  template <bool Linear, class F>
  static FASTGAN_HD F value(F, F a, F rest, const Coefficients<F>&, Pair<F>) {
    return fma(a, a, rest);
  }
  template <class F>
  static FASTGAN_HD F slope(F a, Pair<F>) {
    return a + a;
  }
  template <class F>
  static FASTGAN_HD F curvature(F, Pair<F>) {
    return F(2);
  }
};

template <>
struct Function<Phi::relu_square> : WithoutDecay {
  template <bool Linear, class F>
  static FASTGAN_HD F value(F, F a, F rest, const Coefficients<F>&, Pair<F>) {
    F r = F(0) > a ? F(0) : a;
    return fma(r, r, rest);
  }
  template <class F>
  static FASTGAN_HD F slope(F a, Pair<F>) {
    return F(0) > a ? F(0) : a + a;
  }
  template <class F>
  static FASTGAN_HD F curvature(F a, Pair<F>) {
    return a > F(0) ? F(2) : (a <= F(0) ? F(0) : a);
  }
};

template <>
struct Function<Phi::abs> : WithoutDecay {
  template <bool Linear, class F>
  static FASTGAN_HD F value(F, F a, F rest, const Coefficients<F>&, Pair<F>) {
    return absolute(a) + rest;
  }
  template <class F>
  static FASTGAN_HD F slope(F a, Pair<F>) {
    return a > F(0) ? F(1) : (a < F(0) ? F(-1) : a);
  }
  template <class F>
  static FASTGAN_HD F curvature(F, Pair<F>) {
    return F(0);
  }
};

// Relu, but with a slope of 1/2 at 0: a maximum shares its derivative where both sides are equal.
template <>
struct Function<Phi::relu_half> : Function<Phi::relu> {
  template <class F>
  static FASTGAN_HD F slope(F a, Pair<F>) {
    return a > F(0) ? F(1) : (a < F(0) ? F(0) : (a == F(0) ? F(0.5) : a));
  }
};

// Huber's function with its kinks at -1 and 1; delta^2 huber(z / delta) has them at delta.
template <>
struct Function<Phi::huber> : WithoutDecay {
  template <bool Linear, class F>
  static FASTGAN_HD F value(F, F a, F rest, const Coefficients<F>&, Pair<F>) {
    F size = absolute(a);
    return size > F(1) ? (size - F(0.5)) + rest : fma(F(0.5) * a, a, rest);
  }
  template <class F>
  static FASTGAN_HD F slope(F a, Pair<F>) {
    return a > F(1) ? F(1) : (a < F(-1) ? F(-1) : a);
  }
  template <class F>
  static FASTGAN_HD F curvature(F a, Pair<F>) {
    return absolute(a) < F(1) ? F(1) : (absolute(a) >= F(1) ? F(0) : a);
  }
};

template <>
struct Function<Phi::softplus_square> : WithoutDecay {
  template <bool Linear, class F>
  static FASTGAN_HD F value(F, F a, F rest, const Coefficients<F>&, Pair<F>) {
    return softplus_square(a, rest);
  }
  template <class F>
  static FASTGAN_HD F slope(F a, Pair<F>) {
    return softplus_square_slope(a);
  }
  template <class F>
  static FASTGAN_HD F curvature(F a, Pair<F>) {
    return softplus_square_curvature(a);
  }
};

// The term's value; u is decay(argument), which only a phi that uses_decay looks at. Vary: whether
// k is of an element with a label, which may be 0.
template <Phi P, bool Linear, bool Vary = false, class F>
FASTGAN_HD F term_value(F z, const Coefficients<F>& k, Pair<F> u) {
  F rest = Linear ? (Vary ? times(k.linear, z) : k.linear * z) : F(0);
  return Function<P>::template value<Linear>(z, k.argument(z), rest, k, u);
}

// coefficient * derivative of the term in z. Decay: Pair<F>, or FineDecay for 16-bit tensors.
template <Phi P, bool Linear, class F, class Decay>
FASTGAN_HD F term_gradient(F z, const Coefficients<F>& k, Decay u) {
  F slope = Function<P>::slope(k.argument(z), u);
  return Linear ? fma(k.slope, slope, k.slope_linear) : k.slope * slope;
}

// coefficient * second derivative of the term in z.
template <Phi P, class F, class Decay>
FASTGAN_HD F term_curvature(F z, const Coefficients<F>& k, Decay u) {
  return k.curvature * Function<P>::curvature(k.argument(z), u);
}

// Which CUDA's fast kernels leave to the general ones: its code would be in each of them.
FASTGAN_HD constexpr bool is_rare(Phi phi) {
  return phi == Phi::huber || phi == Phi::softplus_square;
}

// Whether a phi is worth several cheap ones: it takes an exponential.
inline bool uses_decay(Phi phi) {
#define FASTGAN_CASE(name) \
  case Phi::name: return Function<Phi::name>::uses_decay;
  switch (phi) { FASTGAN_PHIS(FASTGAN_CASE) }
#undef FASTGAN_CASE
  return false;
}

}  // namespace fastgan
