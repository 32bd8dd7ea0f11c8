// Gradients in 16 bits. They are rounded once, from doubles (../common/loss.h). A float with a
// bound on its error will do wherever both ends of that interval round to the same 16 bits: then
// so does the double between them. Only the few other elements are computed in double.
#pragma once
#include "loss_elements.h"

namespace fastgan {
namespace {

constexpr float unknown = __builtin_huge_valf();  // an error that may be anything

// 2^x and 1 / x, within 2 units of the last place.
FASTGAN_DEVICE float rough_power(float x) {
#ifdef FASTGAN_SIM
  float y = __builtin_exp2f(x);
  return y * (bits<uint32_t>(x) % 3 * 0x1p-22f + (1 - 0x1p-22f));  // as far off as a GPU may be
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}
FASTGAN_DEVICE float rough_reciprocal(float x) {
#ifdef FASTGAN_SIM
  float y = 1 / x * (bits<uint32_t>(x) % 3 * 0x1p-23f + (1 - 0x1p-23f));
  return absolute(y) < 0x1p-126f ? 0 * y : y;
#else
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

// A phi of two straight lines, whose slope is one of two numbers, but at the kink.
template <Phi P>
constexpr bool is_straight =
    P == Phi::identity || P == Phi::relu || P == Phi::abs || P == Phi::relu_half;

// One whose slope is itself a straight line, on both sides of a kink or on one.
template <Phi P>
constexpr bool is_parabola = P == Phi::square || P == Phi::relu_square;

// Rounding errors of floats are bounded relative to what is rounded, but for tiny numbers. So an
// interval reaches at least so far, unless what comes out is a 0 that is known: far less than the
// 16 bits resolve, and far more than errors there.
template <DType D>
constexpr float least_off = D == DType::bfloat16 ? 0x1p-110f : 0x1p-40f;

// The gradient of a term's x, of phi'(a) or of a unit gradient, in double; as a float that rounds
// to 16 bits as the double would.
FASTGAN_DEVICE float from_unit(const Table<float>& table, const TermEntry<float>& t, double g,
                               double upstream) {
  const OperandEntry& a = table.operand[t.x];
  if (a.is_mean_operand) g = g + table.constants[a.number];
  return to_odd(upstream * g);
}
FASTGAN_DEVICE float from_slope(const Table<float>& table, const TermEntry<float>& t, double slope,
                                double upstream) {
  Coefficients<double> k = coefficients<double>(table, t);
  return from_unit(table, t, fma(k.slope, slope, k.slope_linear), upstream);
}
template <Phi P, int count>
FASTGAN_CALLED Vec<float, count> exact_gradients(const Table<float>& table,
                                                 const TermEntry<float>& t, Vec<float, count> x,
                                                 Vec<float, count> y, double upstream) {
#ifdef FASTGAN_SIM
  cusim::in_double(count);
#endif
  Coefficients<double> k = coefficients<double>(table, t);
  double minus = mean_of(table, t);
  Vec<float, count> g;
#pragma unroll
  for (int i = 0; i < count; ++i) {
    double z = double(x.v[i]) - (t.y >= 0 ? double(y.v[i]) : minus);
    auto u = decay_for<P, float>(k.argument(z));
    g.v[i] = from_unit(table, t, term_gradient<P, true>(z, k, u), upstream);
  }
  return g;
}

// The gradients of a term's x. D: 16 bits; plain tables only, in which a paired term has no
// constants: its y has the same gradients with the other sign. Unit: for an upstream of 1, of a
// term that subtracts no mean.
template <class Form, DType D, bool Unit>
class RoundedGradients {
 public:
  FASTGAN_DEVICE RoundedGradients(const Table<float>& table, const TermEntry<float>& t)
      : table_(table), t_(t) {
    double mean = Unit ? 0. : mean_of(table, t);
    float scale = absolute(float(t.scale)), shift = absolute(float(t.shift)),
          shifted = scale * absolute(float(mean));
    bool known = fits(scale, 0x1p-10f) && is(shift) && is(float(mean));
    if constexpr (is_straight<P>) set_lines();
    else if constexpr (is_parabola<P>) known = set_parabola(mean, shifted + shift) && known;
    else known = set_softplus(mean, shifted + shift) && known;
    if constexpr (P != Phi::softplus && P != Phi::square)
      set_argument(mean, shifted + shift, known);
    all_ = known ? 0 : ~0u;
  }

  // `z`: x - y, or x; again(x, y) reads them.
  template <class Again>
  FASTGAN_DEVICE Raw<D, 4> at(const float (&z)[4], const Again& again) const {
    Raw<D, 4> g, unsure;
    if constexpr (is_straight<P>) on_lines(z, g, unsure);
    else within_bounds(z, g, unsure);
    if (!(unsure.v[0] | unsure.v[1])) return g;
    Raw<D, 4> x, y;
    again(x, y);
    return P == Phi::softplus ? one_by_one(g, unsure, x, y) : all_four(x, y);
  }

 private:
  static constexpr Phi P = Form::phi;
  const Table<float>& table_;
  const TermEntry<float>& t_;
  float scale_, shift_;  // an argument, or what 2 is raised to
  float near_kink_;      // an argument of a greater magnitude has the sign of the exact one
  // Of straight lines: the gradient above a kink, below it and at it; twice, as 16 bits.
  uint32_t above_, below_, middle_;
  // Others: slope_ * phi'(a) + rest_, within (off_ * |z| + least_) * phi'(a), of softplus; or
  // slope_ * z + rest_, within off_ * |z| + least_.
  float slope_, rest_, off_, least_;
  float under_, under_off_;  // below the kink: this, and how far from it
  uint32_t all_;             // ones, if doubles must do all

  // Within these bounds no float is denormal, or 0 or infinite, where a double is not, but for
  // gradients that are looked at.
  FASTGAN_DEVICE static bool fits(float x, float least) {
    return absolute(x) >= least && absolute(x) <= 0x1p20f;
  }
  FASTGAN_DEVICE static bool is(float x) {
    return x == 0.f || fits(x, 0x1p-60f);
  }

  FASTGAN_DEVICE void set_lines() {
    auto twice = [&](double slope) {
      float g = from_slope(table_, t_, slope, upstream());
      return narrow_two<D>(g, g);
    };
    above_ = twice(1);
    if constexpr (P != Phi::identity) below_ = twice(P == Phi::abs ? -1 : 0);
    if constexpr (P == Phi::abs || P == Phi::relu_half) middle_ = twice(P == Phi::abs ? 0 : 0.5);
  }

  // The gradient as a * phi' + b; whether its numbers are of a usual size.
  FASTGAN_DEVICE bool factors(double& a, double& b) const {
    const OperandEntry& x = table_.operand[t_.x];
    bool has_constant = !Unit && x.is_mean_operand;
    double c = upstream() * coefficient(table_, t_),
           constant = has_constant ? upstream() * table_.constants[x.number] : 0.;
    a = c * t_.scale;
    b = t_.linear != 0 ? c * t_.linear + constant : constant;
    // Nor is a sum 0 whose sign two summands decide.
    bool known =
        fits(float(a), 0x1p-60f) && (fits(float(b), 0x1p-60f) || (b == 0 && !has_constant));
    if (t_.linear == 0 && !has_constant) b = -0.;
    return known;
  }
  // `parts`: the magnitudes of what a mean and a shift add to an argument.
  FASTGAN_DEVICE void set_argument(double mean, float parts, bool known) {
    scale_ = fixed(float(t_.scale));
    shift_ = fixed(float(t_.shift - t_.scale * mean));
    // Where z is all that an argument is made of, its sign is exact, and 0 is: that without a sign,
    // which a shift of -0 might have.
    bool exact = bits<uint64_t>(t_.shift) == 0 && mean == 0;
    near_kink_ = fixed(!known ? unknown : exact ? -1.f : 0x1p-19f * parts);
  }
  FASTGAN_DEVICE bool set_softplus(double mean, float parts) {
    double a, b, scale = t_.scale * -Real<double>::log2e;
    bool known = factors(a, b);
    scale_ = fixed(float(scale));
    shift_ = fixed(float(t_.shift * -Real<double>::log2e - scale * mean));
    slope_ = fixed(float(a));
    rest_ = fixed(float(b));
    // The slope of its logarithm is at most 1: an argument's error is one in proportion. Another
    // one is its own.
    off_ = fixed(0x1p-21f * absolute(float(t_.scale)) * absolute(slope_));
    least_ = fixed((0x1p-21f * parts + 0x1p-20f) * absolute(slope_));
    under_off_ = fixed(0x1p-20f * absolute(rest_) + (D == DType::bfloat16 ? least_off<D> : 0.f));
    return known;
  }
  // Its slope is 2 a.
  FASTGAN_DEVICE bool set_parabola(double mean, float parts) {
    double a, b;
    bool known = factors(a, b);
    slope_ = fixed(float(2 * a * t_.scale));
    rest_ = fixed(float(2 * a * (t_.shift - t_.scale * mean) + b));
    off_ = fixed(0x1p-20f * absolute(slope_));
    // Less than 16 bits have stands for a 0, so that both ends of its interval have its sign.
    under_ = b != 0 ? float(b) : a < 0 ? -0x1p-149f : 0x1p-149f;
    under_off_ = 0x1p-20f * absolute(float(b));
    least_ = fixed(fma(0x1p-19f * absolute(float(a)), parts, under_off_) + least_off<D>);
    return known;
  }

  // The gradients, and ones for the elements that are not sure of them: of which side of the kink
  // an argument is on.
  FASTGAN_DEVICE void on_lines(const float (&z)[4], Raw<D, 4>& g, Raw<D, 4>& unsure) const {
    bool sure[4];
    uint32_t mine[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float a = P == Phi::identity ? 1.f : fma(scale_, z[i], shift_);
      sure[i] = P == Phi::identity || absolute(a) > near_kink_;
      mine[i] = a > 0.f ? above_ : below_;
      if constexpr (P == Phi::abs || P == Phi::relu_half) mine[i] = a == 0.f ? middle_ : mine[i];
    }
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      g.v[k] = (mine[2 * k] & 0xffffu) | (mine[2 * k + 1] & 0xffff0000u);
      unsure.v[k] = (sure[2 * k] ? 0 : 0xffffu) | (sure[2 * k + 1] ? 0 : 0xffff0000u);
    }
  }

  // A gradient, and how far from it the exact one may be.
  struct Rough {
    float g, off;
  };
  FASTGAN_DEVICE Rough rough(float z) const {
    float off = fma(off_, absolute(z), least_);
    if constexpr (P == Phi::softplus) {
      float s = rough_reciprocal(1.f + rough_power(fma(scale_, z, shift_)));
      off = fma(s, off, under_off_);
      // Below 2^-126 it is 0 here, and in halves in the end.
      if (s == 0.f) off = D == DType::bfloat16 ? unknown : under_off_;
      return {fma(slope_, s, rest_), off};
    }
    Rough r{fma(slope_, z, rest_), off};
    if constexpr (P == Phi::relu_square) {
      float a = fma(scale_, z, shift_);
      if (!(a > 0.f)) r = {under_, under_off_};
      if (!(absolute(a) > near_kink_)) r.off = unknown;
    }
    return r;
  }
  FASTGAN_DEVICE void within_bounds(const float (&z)[4], Raw<D, 4>& g, Raw<D, 4>& unsure) const {
    float low[4], high[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      Rough r = rough(z[i]);
      low[i] = r.g - r.off;
      high[i] = r.g + r.off;
    }
    g = pack<D, 4>(high);
    Raw<D, 4> least = pack<D, 4>(low);
#pragma unroll
    for (int k = 0; k < 2; ++k) unsure.v[k] = (least.v[k] ^ g.v[k]) | all_;
  }

  FASTGAN_DEVICE double upstream() const {
    return Unit || !table_.scalar_upstream ? 1. : double(*table_.scalar_upstream);
  }

  // Gradients of cheap functions, anew: four take no longer than to find out which. They are not
  // few where a gradient often lies just between two numbers of 16 bits, as that of a square does
  // if its coefficient is a power of 2.
  FASTGAN_DEVICE Raw<D, 4> all_four(const Raw<D, 4>& x, const Raw<D, 4>& y) const {
    Vec<float, 4> a, b;
    unpack<D, 4>(x, a.v);
    unpack<D, 4>(y, b.v);
    return pack<D, 4>(exact_gradients<P>(table_, t_, a, b, upstream()).v);
  }
  // Those that are not sure, anew. They move on by one a time, as in fetch_each().
  FASTGAN_DEVICE Raw<D, 4> one_by_one(Raw<D, 4> raw, Raw<D, 4> unsure, Raw<D, 4> x,
                                      Raw<D, 4> y) const {
#pragma unroll 1
    for (int i = 0; i < 4; ++i) {
      uint32_t mine = raw.v[0] & 0xffffu;
      if (unsure.v[0] & 0xffffu) {
        Vec<float, 1> a{widen_bits<D>(uint16_t(x.v[0]))}, b{widen_bits<D>(uint16_t(y.v[0]))};
        mine = bits_of<D>(exact_gradients<P>(table_, t_, a, b, upstream()).v[0]);
      }
      for (Raw<D, 4>* of : {&raw, &unsure, &x, &y}) {
        of->v[0] = of->v[0] >> 16 | of->v[1] << 16;
        of->v[1] >>= 16;
      }
      raw.v[1] |= mine << 16;
    }
    return raw;
  }
};

}  // namespace
}  // namespace fastgan
