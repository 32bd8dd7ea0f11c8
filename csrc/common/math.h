// Element maths for float and double: the same source, and so the same bits, on the CPU and in
// CUDA.
//
// Every multiply-add is an explicit fma and contraction is off, so that no compiler may round
// otherwise. Nothing branches: conditions are selects, and loops over these functions vectorise.
// Where a rounding error would reach the last bit, its value is carried along as a second number
// ("lo"), which is how each function stays within 1 ulp of the exact one over the whole range.
// (What multiplies it, such as the 1/n of a mean, is rounded as well: see loss.h.)
#pragma once
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define FASTGAN_HD __host__ __device__ __forceinline__
#define FASTGAN_RARE static __host__ __device__ __noinline__  // else it is in every kernel
#else
#define FASTGAN_HD inline __attribute__((always_inline))
#define FASTGAN_RARE FASTGAN_HD
#endif

namespace fastgan {

FASTGAN_HD float fma(float a, float b, float c) {
  return __builtin_fmaf(a, b, c);
}
FASTGAN_HD double fma(double a, double b, double c) {
  return __builtin_fma(a, b, c);
}
FASTGAN_HD double root(double x) {
  return __builtin_sqrt(x);
}
FASTGAN_HD float absolute(float x) {
  return __builtin_fabsf(x);
}
FASTGAN_HD double absolute(double x) {
  return __builtin_fabs(x);
}

template <class To, class From>
FASTGAN_HD To bits(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To y;
  memcpy(&y, &x, sizeof y);
  return y;
}

// Constants and coefficients of one floating type (csrc/tools/minimax.py prints the coefficients).
template <class F>
struct Real;

template <>
struct Real<float> {
  using Bits = uint32_t;
  static constexpr int mantissa = 23, bias = 127;
  static constexpr float cutoff = -104.f;    // exp rounds to 0 from here down
  static constexpr float magic = 0x1.8p23f;  // adding it rounds to an integer
  static constexpr float log2e = 0x1.715476p0f;
  static constexpr float ln2_hi = 0x1.62e4p-1f;  // 16 bits: n * ln2_hi is exact
  static constexpr float ln2_lo = 0x1.7f7d1cp-20f;
  static constexpr float log2_hi = 0x1.62e43p-1f, log2_lo = -0x1.05c61p-29f;  // ln(2) to 48 bits
  static constexpr float slope_at_0 = 1.f;  // 1 / (1 + u) is about slope_at_0 - u / 2

  static FASTGAN_HD float exp_far_tail(float r) {  // (exp_tail(r) - 1/2) / r
    float p = 0x1.9a6ae4p-13f;
    p = fma(p, r, 0x1.6d4fp-10f);
    p = fma(p, r, 0x1.1115c8p-7f);
    p = fma(p, r, 0x1.5554e6p-5f);
    return fma(p, r, 0x1.555552p-3f);
  }
  static FASTGAN_HD float exp_tail(float r) {  // (e^r - 1 - r) / r^2 on |r| <= ln(2)/2, 2^-32.9
    return fma(exp_far_tail(r), r, 0x1p-1f);
  }
  static FASTGAN_HD float log1p_tail(
      float u) {  // (ln(1 + u) - u + u^2 / 2) / u^3 on [-1/4, 1/2], 2^-27.4
    float p = -0x1.6c1ba6p-5f;
    p = fma(p, u, 0x1.aa0f5p-4f);
    p = fma(p, u, -0x1.0d684p-3f);
    p = fma(p, u, 0x1.28ad52p-3f);
    p = fma(p, u, -0x1.54f68cp-3f);
    p = fma(p, u, 0x1.9967bap-3f);
    p = fma(p, u, -0x1.000026p-2f);
    return fma(p, u, 0x1.5555a8p-2f);
  }
};

template <>
struct Real<double> {
  using Bits = uint64_t;
  static constexpr int mantissa = 52, bias = 1023;
  static constexpr double cutoff = -746.;
  static constexpr double magic = 0x1.8p52;
  static constexpr double log2e = 0x1.71547652b82fep0;
  static constexpr double ln2_hi = 0x1.62e42fefap-1;  // 36 bits
  static constexpr double ln2_lo = 0x1.cf79abc9e3b3ap-40;
  static constexpr double log2_hi = 0x1.62e42fefa39efp-1, log2_lo = 0x1.abc9e3b39803fp-56;
  static constexpr double slope_at_0 = 0.957;

  static FASTGAN_HD double exp_tail(double r) {  // 2^-63.5
    double p = 0x1.1ed986d1f5259p-29;
    p = fma(p, r, 0x1.af6e5b2b81035p-26);
    p = fma(p, r, 0x1.27e540c3e9a9p-22);
    p = fma(p, r, 0x1.71ddee867a44ep-19);
    p = fma(p, r, 0x1.a01a0176e937cp-16);
    p = fma(p, r, 0x1.a01a01b43e0efp-13);
    p = fma(p, r, 0x1.6c16c16c1fa9dp-10);
    p = fma(p, r, 0x1.111111110ea06p-7);
    p = fma(p, r, 0x1.5555555555541p-5);
    p = fma(p, r, 0x1.555555555555cp-3);
    return fma(p, r, 0x1p-1);
  }
  static FASTGAN_HD double log1p_tail(double u) {  // 2^-61.7
    double p = 0x1.88b97329faa47p-8;
    p = fma(p, u, -0x1.80b1b1c05eda2p-6);
    p = fma(p, u, 0x1.639ef76f563bdp-5);
    p = fma(p, u, -0x1.b6d620d37a43dp-5);
    p = fma(p, u, 0x1.c3cc2a9b79f14p-5);
    p = fma(p, u, -0x1.c96cb0f064e93p-5);
    p = fma(p, u, 0x1.dfc01e1b7b992p-5);
    p = fma(p, u, -0x1.ff47fc414f7ffp-5);
    p = fma(p, u, 0x1.1118a9a80ddd6p-4);
    p = fma(p, u, -0x1.2499e41c0976bp-4);
    p = fma(p, u, 0x1.3b1420d814e26p-4);
    p = fma(p, u, -0x1.5555050e4d2dap-4);
    p = fma(p, u, 0x1.745d0d2bf7f5ep-4);
    p = fma(p, u, -0x1.99999b6604b1p-4);
    p = fma(p, u, 0x1.c71c721898878p-4);
    p = fma(p, u, -0x1.fffffffa929c6p-4);
    p = fma(p, u, 0x1.24924923f32d5p-3);
    p = fma(p, u, -0x1.5555555559196p-3);
    p = fma(p, u, 0x1.999999999ab7p-3);
    p = fma(p, u, -0x1.fffffffffffe5p-3);
    return fma(p, u, 0x1.555555555555p-2);
  }
};

// A number and the error of its rounding: hi + lo is closer to the exact value than hi.
template <class F>
struct Pair {
  F hi, lo;
};

// exp(x) for x <= 0, -inf and NaN included, with all that a square needs if `exact`.
template <class F, bool exact = false>
FASTGAN_HD Pair<F> exp_nonpositive(F x) {
  using R = Real<F>;
  using B = typename R::Bits;
  x = R::cutoff > x ? R::cutoff : x;  // NaN stays
  F shifted = fma(x, R::log2e, R::magic);
  F n = shifted - R::magic;
  F t = fma(n, -R::ln2_hi, x), r = fma(n, -R::ln2_lo, t);
  F square = r * r, tail = R::exp_tail(r), p = fma(square, tail, r);
  F hi = F(1) + p, lo = p - (hi - F(1));
  if constexpr (exact) lo = lo + fma(fma(r, r, -square), tail, fma(square, tail, r - p));
  // What r lost: a double's softplus would be off by up to 1.08 ulp, a float's is within 1 without.
  if constexpr (exact || sizeof(F) == 8) lo = fma(fma(n, -R::ln2_lo, t - r), hi, lo);
  // 2^n as a product, since it may be denormal; unsigned, so that the shift needs no sign.
  B m = bits<B>(shifted) - bits<B>(R::magic) + B(2 * R::bias);
  B half = m >> 1;
  F power = bits<F>(half << R::mantissa) * bits<F>((m - half) << R::mantissa);
  return {hi * power, lo * power};
}

// What softplus and its derivatives at z share: e^-|z|.
template <class F>
FASTGAN_HD Pair<F> decay(F z) {
  return exp_nonpositive(-absolute(z));
}

// m + ln(1 + u), where m is finite: as a number and what it lacks, with all that a square needs if
// `exact`.
template <bool exact = false, class F>
FASTGAN_HD Pair<F> softplus_parts(F m, Pair<F> u) {
  using R = Real<F>;
  // ln(1 + u) = ln(2) + ln(1 + (u - 1) / 2) brings u into [-1/4, 1/2];
  // ln(1 + v) = v + v^2 (-1/2 + v tail(v)).
  bool upper = u.hi >= F(0.5);
  F v = upper ? fma(F(0.5), u.hi, F(-0.5)) : u.hi;
  F base = upper ? R::log2_hi : F(0), base_lo = upper ? R::log2_lo : F(0);
  F first = base + v, first_lo = v - (first - base);
  F slope = fma(F(-0.5), u.hi, R::slope_at_0);  // 1 / (1 + u), as well as the size of u.lo needs it
  F small = fma(u.lo, slope, base_lo) + first_lo;
  F square = v * v, tail = R::log1p_tail(v), factor = fma(v, tail, F(-0.5));
  F rest = fma(square, factor, small);
  F sum = m + first, shadow = sum - m;
  F error = (m - (sum - shadow)) + (first - shadow);
  if constexpr (exact) {
    F square_lo = fma(v, v, -square), factor_lo = fma(v, tail, F(-0.5) - factor);
    F rest_lo = fma(square, factor, -rest) + small;
    rest_lo = rest_lo + fma(square_lo, factor, square * factor_lo);
    F hi = sum + rest;
    return {hi, (rest - (hi - sum)) + (error + rest_lo)};
  }
  return {sum, rest + error};
}

// m + ln(1 + u), where m is softplus(z)'s other summand: max(z, 0), with a linear part or without.
template <class F>
FASTGAN_HD F softplus_sum(F z, F m, Pair<F> u) {
  Pair<F> s = softplus_parts(m, u);
  // Past the cutoff u is 0; the error there would be inf - inf where m is infinite.
  return absolute(z) > -Real<F>::cutoff ? m : s.hi + s.lo;
}

// ln(1 + e^z)
template <class F>
FASTGAN_HD F softplus(F z, Pair<F> u) {
  return softplus_sum(z, F(0) > z ? F(0) : z, u);
}

// 1 / t for t in [1, 2]: what a GPU does for any float, less the test whether it is an unusual one.
FASTGAN_HD float reciprocal(float t) {
#ifdef __CUDA_ARCH__
  float q;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(q) : "f"(t));
  return fma(fma(-t, q, 1.f), q, q);
#else
  return 1.f / t;
#endif
}
FASTGAN_HD double reciprocal(double t) {
  return 1. / t;
}

// 1 / (1 + e^-z), the derivative of softplus.
template <class F>
FASTGAN_HD F sigmoid(F z, Pair<F> u) {
  F t = F(1) + u.hi, t_lo = (u.hi - (t - F(1))) + u.lo;
  F q = reciprocal(t), r = u.hi * q;
  F below = fma(fma(-r, t, u.hi) + fma(-r, t_lo, u.lo), q, r);  // sigmoid(-|z|)
  return z >= F(0) ? F(1) - below : below;
}

// 1 / (1 + u) and u / (1 + u), which are sigmoid(|z|) and sigmoid(-|z|).
template <class F>
struct Sigmoids {
  Pair<F> q, r;

  FASTGAN_HD explicit Sigmoids(Pair<F> u) {
    F t = F(1) + u.hi, t_lo = (u.hi - (t - F(1))) + u.lo;
    q.hi = reciprocal(t);
    q.lo = fma(-q.hi, t_lo, fma(-q.hi, t, F(1))) * q.hi;
    r.hi = u.hi * q.hi;
    r.lo = fma(u.hi, q.hi, -r.hi) + fma(u.hi, q.lo, u.lo * q.hi);
  }
};

template <class F>
FASTGAN_HD Pair<F> product(Pair<F> a, Pair<F> b) {
  F hi = a.hi * b.hi;
  return {hi, fma(a.hi, b.hi, -hi) + fma(a.hi, b.lo, a.lo * b.hi)};
}

// sigmoid(z) sigmoid(-z), the second derivative of softplus.
template <class F>
FASTGAN_HD F sigmoid_slope(Pair<F> u) {
  Sigmoids<F> s(u);
  Pair<F> h = product(s.r, s.q);
  return h.hi + h.lo;
}

// softplus(z)^2 and its two derivatives. Past the cutoff they are those of max(z, 0)^2. A float's
// exponential, squared, would be off by up to 1.4 ulp without what decay() leaves out.
template <class F>
struct SoftplusSquare {
  F z, m;
  bool far;
  Pair<F> u, s;  // s: softplus, where not far

  FASTGAN_HD explicit SoftplusSquare(F z)
      : z(z), m(F(0) > z ? F(0) : z), far(absolute(z) > -Real<F>::cutoff) {
    u = exp_nonpositive<F, true>(-absolute(z));
    Pair<F> parts = softplus_parts<true>(m, u);
    s.hi = parts.hi + parts.lo;
    s.lo = parts.lo - (s.hi - parts.hi);
  }

  FASTGAN_HD F value(F rest) const {
    return (far ? m * m : scaled_product(s, s, F(0x1p-60))) + rest;
  }
  FASTGAN_HD F slope() const {
    Sigmoids<F> of(u);
    Pair<F> own = z >= F(0) ? of.q : of.r;
    return far ? m + m : scaled_product(own, s, F(0x1p-59));
  }
  // 2 sigmoid(z) (sigmoid(z) + softplus(z) sigmoid(-z)): one product that may be denormal.
  FASTGAN_HD F curvature() const {
    Sigmoids<F> of(u);
    bool above = z >= F(0);
    Pair<F> own = above ? of.q : of.r, b = product(s, above ? of.r : of.q);
    Pair<F> sum{own.hi + b.hi, 0};
    F shadow = sum.hi - own.hi;
    sum.lo = (own.hi - (sum.hi - shadow)) + (b.hi - shadow) + (own.lo + b.lo);
    return far ? (z > F(0) ? F(2) : F(0)) : scaled_product(own, sum, F(0x1p-59));
  }

 private:
  // 2^60 a b, times `down`. The result may be denormal, where what a product lacks would be lost.
  static FASTGAN_HD F scaled_product(Pair<F> a, Pair<F> b, F down) {
    Pair<F> p = product({a.hi * F(0x1p60), a.lo * F(0x1p60)}, b);
    return (p.hi + p.lo) * down;
  }
};

template <class F>
FASTGAN_RARE F softplus_square(F z, F rest) {
  return SoftplusSquare<F>(z).value(rest);
}
template <class F>
FASTGAN_RARE F softplus_square_slope(F z) {
  return SoftplusSquare<F>(z).slope();
}
template <class F>
FASTGAN_RARE F softplus_square_curvature(F z) {
  return SoftplusSquare<F>(z).curvature();
}

// ---------------------------------------------------------------------------------- 16-bit tensors

// A gradient in 16 bits is formed in double and rounded once. Only the exponential and the quotient
// are of floats, whose errors are carried along to 2^-31: a device may have few units for doubles.

constexpr float fine_cutoff = -700.f;  // e^x counts as 0 from here down: 2^n is to stay normal

// e^-|z| = (hi + lo) * power
struct FineDecay {
  float hi, lo;
  double power;
};

FASTGAN_HD FineDecay fine_decay(double z) {
  using R = Real<float>;
  float x = -absolute(float(z)), x_lo = float(-absolute(z) - double(x));
  bool far = fine_cutoff > x;  // NaN is not
  x = far ? fine_cutoff : x;
  x_lo = far ? 0.f : x_lo;
  // As exp_nonpositive(), where each rounding has its error beside it.
  float shifted = fma(x, R::log2e, R::magic), n = shifted - R::magic;
  float t = fma(n, -R::ln2_hi, x);
  float r = fma(n, -R::ln2_lo, t), r_lo = fma(n, -R::ln2_lo, t - r) + x_lo;
  float q = R::exp_far_tail(r);
  float tail = fma(q, r, 0.5f), tail_lo = fma(q, r, 0.5f - tail);
  float square = r * r, square_lo = fma(r, r, -square);
  float p = fma(square, tail, r), p_lo = fma(square, tail, r - p);
  p_lo = fma(square, tail_lo, fma(square_lo, tail, p_lo));
  float hi = 1.f + p, lo = (p - (hi - 1.f)) + fma(r_lo, hi, p_lo);
  int exponent = int(bits<uint32_t>(shifted) - bits<uint32_t>(R::magic));
  double power = bits<double>(uint64_t(uint32_t(exponent + Real<double>::bias)) << 52);
  return {hi, lo, far ? 0. : power};
}

// 1 + u for u = e^-|z|, and 1 / (1 + u) to a float.
struct FineQuotient {
  float t, t_lo, q;

  FASTGAN_HD explicit FineQuotient(FineDecay d) {
    float w = float(d.power), u = d.hi * w;
    t = 1.f + u;
    t_lo = (u - (t - 1.f)) + d.lo * w;
    q = reciprocal(t);
  }
};

FASTGAN_HD double sigmoid(double z, FineDecay d) {
  FineQuotient f(d);
  bool above = z >= 0;
  float n = above ? 1.f : d.hi, n_lo = above ? 0.f : d.lo;
  float s = n * f.q, s_lo = (fma(-s, f.t, n) + fma(-s, f.t_lo, n_lo)) * f.q;
  return (double(s) + double(s_lo)) * (above ? 1. : d.power);
}

FASTGAN_HD double sigmoid_slope(FineDecay d) {
  FineQuotient f(d);
  float q = f.q, q_lo = fma(-q, f.t_lo, fma(-q, f.t, 1.f)) * q;
  float s = d.hi * q, s_lo = fma(d.hi, q, -s) + fma(d.hi, q_lo, d.lo * q);
  float h = s * q, h_lo = fma(s, q, -h) + fma(s, q_lo, s_lo * q);
  return (double(h) + double(h_lo)) * d.power;
}

}  // namespace fastgan
