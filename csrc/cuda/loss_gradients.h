// Derivatives of a thread's elements of a loss, and the gradients of tensors that are made of them.
#pragma once
#include "loss_rounded.h"

namespace fastgan {
namespace {

template <class T, class F, int width>
FASTGAN_DEVICE void subtract(const TermEntry<F>& t, const Split<T>& mean, T (&z)[width]) {
  if (t.mean_operand < 0) return;
#pragma unroll
  for (T& v : z) v = mean.below(v);
}

// x, x - y or x - mean, as a term has it. In double, for derivatives of 16-bit tensors, no
// difference of theirs is rounded to a float first.
template <class T, class F, int width>
FASTGAN_DEVICE void arguments(const TermEntry<F>& t, const F (&x)[width], const F (&y)[width],
                              double mean, T (&z)[width]) {
#pragma unroll
  for (int i = 0; i < width; ++i) z[i] = T(x[i]) - T(y[i]);  // y is 0 where there is none
  subtract(t, Split<T>(mean), z);
}

// A term's derivatives, as sums and second derivatives want them.
template <class Form, DType D, class Own>
class Differentiation {
 public:
  using F = Arithmetic<D>;
  using T = Derivative<D>;

  template <int width>
  FASTGAN_DEVICE Differentiation(const Table<F>& table, const TermEntry<F>& t, const Own& own,
                                 const F (&x)[width], const F (&y)[width])
      : k_(coefficients<T>(table, t)) {
    arguments(t, x, y, mean_of(table, t), e_.z);
    e_.start(k_, own);
  }
  template <int width>
  FASTGAN_DEVICE void gradients(const Own& own, T (&g)[width]) const {
    e_.gradients(k_, own, g);
  }
  template <int width>
  FASTGAN_DEVICE void curvatures(const Own& own, T (&g)[width]) const {
    e_.curvatures(k_, own, g);
  }

 private:
  Coefficients<T> k_;
  Evaluation<Form, D, Own, T> e_;
};

// ---------------------------------------------------------------------------------- gradients

template <class T>
struct Upstream {
  T scale = 1;  // an element's own, or that of all
  bool elementwise = false;

  FASTGAN_DEVICE Upstream() {}

  template <class F>
  FASTGAN_DEVICE Upstream(const Table<F>& table, const TermEntry<F>& t, const Piece<1>& p)
      : elementwise(t.upstream) {
    if (elementwise) {
      F own[1];
      read<native<F>>(table, const_cast<char*>(t.upstream), t.upstream_strides, p, own);
      scale = T(own[0]);
    } else if (table.scalar_upstream) {
      scale = T(*table.scalar_upstream);
    }
  }
};

// As pack() is to round it to the tensor's dtype: a double comes for 16 bits.
FASTGAN_DEVICE float rounded(float g, float) {
  return g;
}
FASTGAN_DEVICE double rounded(double g, double) {
  return g;
}
FASTGAN_DEVICE float rounded(double g, float) {
  return to_odd(g);
}

// upstream * (unit + K), or upstream_i * unit_i + K, into an operand's gradient.
template <DType D, class T, class F, int width>
FASTGAN_DEVICE void write_gradient(const Table<F>& table, const OperandEntry& a,
                                   const Piece<width>& p, const T (&unit_gradient)[width], T sign,
                                   const Upstream<T>& up) {
  if (!a.g) return;
  T k = a.is_mean_operand ? T(table.constants[a.number]) : T(0);
  F g[width];
#pragma unroll
  for (int i = 0; i < width; ++i) {
    T u = sign * unit_gradient[i];
    if (a.is_mean_operand && !up.elementwise) u = u + k;
    u = up.scale * u;
    if (a.is_mean_operand && up.elementwise) u = u + k;
    g[i] = rounded(u, F(0));
  }
  write<D>(table, a.g, a.g_strides, p, g);
}

template <DType D, class T, class F, int width>
FASTGAN_DEVICE void write_gradients(const Table<F>& table, const TermEntry<F>& t,
                                    const Piece<width>& p, const T (&unit_gradient)[width],
                                    const Upstream<T>& up) {
  write_gradient<D>(table, table.operand[t.x], p, unit_gradient, T(1), up);
  if (t.y >= 0) write_gradient<D>(table, table.operand[t.y], p, unit_gradient, T(-1), up);
}

// The gradients of a plain table's term, of its unit gradients.
template <DType D>
class PlainGradients {
 public:
  using F = Arithmetic<D>;

  FASTGAN_DEVICE PlainGradients(const Table<F>& table, const TermEntry<F>& t)
      : upstream_(table.scalar_upstream ? *table.scalar_upstream : F(1)), constant_(F(-0.)) {
    const OperandEntry& a = table.operand[t.x];
    if (a.is_mean_operand) constant_ = F(table.constants[a.number]);
  }
  FASTGAN_DEVICE Raw<D, 4> of(const F (&unit)[4]) const {
    F g[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) g[i] = upstream_ * (unit[i] + constant_);
    return pack<D, 4>(g);
  }

 private:
  F upstream_, constant_;
};

}  // namespace
}  // namespace fastgan
