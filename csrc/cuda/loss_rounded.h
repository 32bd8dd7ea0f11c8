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

// phi'(a) of others, and how far it may be from phi' at the exact argument, which is within `near`
// of a. What is off in proportion to phi'(a) is counted elsewhere, up to 2^-21 of it.
struct Rough {
  float slope, off;
};

template <Phi P, DType D>
FASTGAN_DEVICE Rough rough_slope(float a, float near) {
  if constexpr (P == Phi::softplus) {
    float s = rough_reciprocal(1.f + rough_power(a * -Real<float>::log2e));
    // The slope of its logarithm is at most 1. Below 2^-126 it is 0 here, and in halves in the end.
    if (s == 0.f) return {s, D == DType::bfloat16 ? unknown : 0.f};
    return {s, s * near};
  } else {
    float s = Function<P>::slope(a, Pair<float>{});
    return {s, near + near};
  }
}

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
template <Phi P>
FASTGAN_CALLED float exact_gradient(const Table<float>& table, const TermEntry<float>& t, float x,
                                    float y, double upstream) {
  Coefficients<double> k = coefficients<double>(table, t);
  double z = t.y >= 0 ? double(x) - double(y) : double(x) - mean_of(table, t);
  auto u = decay_for<P, float>(k.argument(z));
  return from_unit(table, t, term_gradient<P, true>(z, k, u), upstream);
}

// The gradients of a term's x. D: 16 bits; plain tables only, in which a paired term has no
// constants: its y has the same gradients with the other sign. Unit: for an upstream of 1, of a
// term that subtracts no mean.
template <class Form, DType D, bool Unit>
class RoundedGradients {
 public:
  FASTGAN_DEVICE RoundedGradients(const Table<float>& table, const TermEntry<float>& t)
      : table_(table), t_(t), mean_(Unit ? 0. : mean_of(table, t)) {
    scale_ = float(t.scale);
    shift_ = float(t.shift);
    near_ = 0x1p-21f * absolute(scale_);
    near_all_ = 0x1p-21f * fma(absolute(scale_), absolute(mean_.hi), absolute(shift_));
    bool known = fits(scale_, 0x1p-10f) && is(shift_) && is(mean_.hi);
    if constexpr (is_straight<P>) known = set_lines() && known;
    else known = set_slope() && known;
    all_ = known ? 0 : 3;
  }

  // `differences`: x - y, or x.
  FASTGAN_DEVICE Raw<D, 4> at(const Raw<D, 4>& x, const Raw<D, 4>& y,
                              const float (&differences)[4]) const {
    float z[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) z[i] = differences[i];
    if (!Unit && t_.mean_operand >= 0) {
#pragma unroll
      for (float& v : z) v = mean_.below(v);
    }
    Raw<D, 4> g;
    unsigned differ = all_;
    if constexpr (is_straight<P>) differ |= on_lines(z, g);
    else differ |= within_bounds(z, g);
    return differ ? exactly(g, differ, x, y) : g;
  }

 private:
  static constexpr Phi P = Form::phi;
  const Table<float>& table_;
  const TermEntry<float>& t_;
  Split<float> mean_;
  float scale_, shift_;
  float near_, near_all_;   // how far an argument may be from a: near_ * |z| + near_all_
  float slope_, rest_;      // the gradient is slope_ * phi'(a) + rest_
  uint32_t above_, below_;  // or, of straight lines, one of these; twice, as 16 bits
  unsigned all_;            // pairs: those that doubles must do

  // Within these bounds no float is denormal, or 0 or infinite, where a double is not, but for
  // gradients that are looked at.
  FASTGAN_DEVICE static bool fits(float x, float least) {
    return absolute(x) >= least && absolute(x) <= 0x1p20f;
  }
  FASTGAN_DEVICE static bool is(float x) {
    return x == 0.f || fits(x, 0x1p-60f);
  }

  FASTGAN_DEVICE bool set_slope() {
    const OperandEntry& a = table_.operand[t_.x];
    bool has_constant = !Unit && a.is_mean_operand;
    double c = upstream() * coefficient(table_, t_),
           constant = has_constant ? upstream() * table_.constants[a.number] : 0.;
    slope_ = float(c * t_.scale);
    rest_ = float(t_.linear != 0 ? c * t_.linear + constant : constant);
    // Nor is a sum 0 whose sign two summands decide.
    bool known = fits(slope_, 0x1p-60f) && is(rest_) && !(has_constant && rest_ == 0.f);
    if (t_.linear == 0 && !has_constant) rest_ = -0.f;
    return known;
  }
  FASTGAN_DEVICE bool set_lines() {
    auto twice = [&](double slope) {
      float g = from_slope(table_, t_, slope, upstream());
      return narrow_two<D>(g, g);
    };
    above_ = twice(1);
    below_ = twice(P == Phi::identity ? 1 : P == Phi::abs ? -1 : 0);
    return true;
  }

  FASTGAN_DEVICE float argument(float z, float& near) const {
    near = fma(near_, absolute(z), near_all_);
    return fma(scale_, z, shift_);
  }

  // The gradients, and a bit for each pair of elements that is not sure of them. All but the kink
  // is sure, and which side of it an argument is on.
  FASTGAN_DEVICE unsigned on_lines(const float (&z)[4], Raw<D, 4>& g) const {
    bool sure[4], is_above[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float near, a = argument(z[i], near);
      sure[i] = P == Phi::identity || (absolute(a) > near);
      is_above[i] = a > 0.f;
    }
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      uint32_t first = is_above[2 * k] ? above_ : below_,
               other = is_above[2 * k + 1] ? above_ : below_;
      g.v[k] = (first & 0xffffu) | (other & 0xffff0000u);
    }
    return unsigned(!(sure[0] && sure[1])) | unsigned(!(sure[2] && sure[3])) << 1;
  }
  FASTGAN_DEVICE unsigned within_bounds(const float (&z)[4], Raw<D, 4>& g) const {
    float low[4], high[4], relative = 0x1p-20f * absolute(slope_),
                           always = 0x1p-20f * absolute(rest_);
    bool tiny[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float near, a = argument(z[i], near);
      Rough r = rough_slope<P, D>(a, near);
      float of = fma(slope_, r.slope, rest_);
      float off = fma(absolute(slope_), r.off, fma(relative, absolute(r.slope), always));
      // Where halves are 0, a bfloat16 need not be: 0 < |of| < 2^-100.
      tiny[i] =
          D == DType::bfloat16 && 2 * bits<uint32_t>(of) - 1 < 2 * bits<uint32_t>(0x1p-100f) - 1;
      low[i] = of - off;
      high[i] = of + off;
    }
    g = pack<D, 4>(high);
    Raw<D, 4> least = pack<D, 4>(low);
    return unsigned(least.v[0] != g.v[0] || tiny[0] || tiny[1]) |
           unsigned(least.v[1] != g.v[1] || tiny[2] || tiny[3]) << 1;
  }

  FASTGAN_DEVICE double upstream() const {
    return Unit || !table_.scalar_upstream ? 1. : double(*table_.scalar_upstream);
  }

  // Pairs of elements that `differ` has a bit for, anew. The elements move on by one a time, as in
  // fetch_each().
  FASTGAN_DEVICE Raw<D, 4> exactly(Raw<D, 4> raw, unsigned differ, Raw<D, 4> x, Raw<D, 4> y) const {
#pragma unroll 1
    for (int i = 0; i < 4; ++i) {
      uint32_t mine = raw.v[0] & 0xffffu;
      if (differ >> (i / 2) & 1) {
        float a = widen_bits<D>(uint16_t(x.v[0])), b = widen_bits<D>(uint16_t(y.v[0]));
        mine = bits_of<D>(exact_gradient<Form::phi>(table_, t_, a, b, upstream()));
      }
      for (Raw<D, 4>* of : {&raw, &x, &y}) {
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
