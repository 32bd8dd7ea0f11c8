// The gradients of a loss, and their derivatives.
#pragma once
#include "loss_gradients.h"
#include "loss_sums.h"

namespace fastgan {
namespace {

// A mean operand without a term of its own: its gradient is the same everywhere.
template <int width, DType D>
FASTGAN_DEVICE unsigned fill_term(const Table<Arithmetic<D>>& table,
                                  const TermEntry<Arithmetic<D>>& t, unsigned u) {
  using F = Arithmetic<D>;
  using T = Derivative<D>;
  const OperandEntry& a = table.operand[t.x];
  T up = table.scalar_upstream ? T(*table.scalar_upstream) : T(1);
  F g[width];
#pragma unroll
  for (F& v : g) v = rounded(up * T(table.constants[a.number]), F(0));
  for (; u < t.last_chunk; u += gridDim.x)
    for_each_piece(Piece<width>(u - t.first_chunk, a.n, t.aligned),
                   [&](const auto& p) FASTGAN_INLINED { write<D>(table, a.g, a.g_strides, p, g); });
  return u;
}

template <class Form, DType D>
FASTGAN_DEVICE unsigned plain_backward_term(const Table<Arithmetic<D>>& table,
                                            const TermEntry<Arithmetic<D>>& t, unsigned u) {
  using F = Arithmetic<D>;
  constexpr bool rounds = item_size(D) == 2;
  Walk<D> walk(table, t, u);
  const Coefficients<F> k = coefficients<F>(table, t);
  const std::conditional_t<rounds, RoundedGradients<Form, D, false>, PlainGradients<D>> gradients(
      table, t);
  const NothingPerElement own;
  const Split<F> mean(mean_of(table, t));
  for (; !walk.done(); walk.advance()) {
    Evaluation<Form, D, NothingPerElement> e;
    walk.take(e.z);
    if constexpr (rounds) {
      walk.write(
          gradients.at(e.z, [&](Raw<D, 4>& x, Raw<D, 4>& y) FASTGAN_INLINED { walk.again(x, y); }));
    } else {
      F g[4];
      subtract(t, mean, e.z);
      e.start(k, own);
      e.gradients(k, own, g);
      walk.write(gradients.of(g));
    }
  }
  return walk.chunk_number();
}

template <class Form, DType D>
FASTGAN_DEVICE unsigned general_backward_term(const Partials<Arithmetic<D>>& partials,
                                              Derivative<D> (&gradient_of)[chunk], Turn& turn,
                                              const TermEntry<Arithmetic<D>>& t, unsigned u) {
  using F = Arithmetic<D>;
  using T = Derivative<D>;
  const Table<F>& table = partials.table;
  for (; u < t.last_chunk; u += gridDim.x) {
    Piece<1> all(u - t.first_chunk, table.operand[t.x].n, false);
    for_each_piece(all, [&](const Piece<1>& p) FASTGAN_INLINED {
      PerElement<D> own(table, t, p);
      F x[1], y[1];
      T g[1];
      read_operands<D>(table, t, p, x, y);
      Differentiation<Form, D, PerElement<D>>(table, t, own, x, y).gradients(own, g);
      Upstream<T> up(table, t, p);
      if (table.write) return write_gradients<D>(table, t, p, g, up);
      g[0] = up.scale * g[0];
      leave(gradient_of, g, p);
    });
    if (table.write) continue;
    __syncthreads();
    if (turn.take()) partials.keep(gradient_sum, t, u, chunk_sum_called(gradient_of, all.n));
    __syncthreads();
  }
  return u;
}

// Constants of mean operands, and the gradient of the upstream: by one thread.
template <class F>
FASTGAN_DEVICE void finish_gradient(const Table<F>& table, const double* total) {
  double dot = table.first ? 0. : table.totals->loss;
  for (int k = 0; k < table.terms; ++k) {
    if (table.slot[gradient_sum] >= 0)
      add_to_constant(table, table.term[k], total[table.slot[gradient_sum] * most_terms + k]);
    if (table.slot[dot_sum] >= 0) dot += total[table.slot[dot_sum] * most_terms + k];
  }
  if (!table.last) table.totals->loss = dot;
  else if (table.slot[dot_sum] >= 0) *table.result = F(dot);
}

// A plain table's gradients; where forward has written them, only if the upstream is not 1.
template <DType D>
__global__ void __launch_bounds__(most_warps* warp, D == DType::float64 ? 2 : 4)
    loss_backward(FASTGAN_GRID_CONSTANT(Table<Arithmetic<D>>) table) {
  if (table.unless_one && (!table.scalar_upstream || *table.scalar_upstream == 1)) return;
  for_each_term(table, blockIdx.x, [&](const auto& t, unsigned u) FASTGAN_INLINED {
    if (t.fill) return fill_term<4, D>(table, t, u);
    return with_form<gradients_only, true>(t, [&](auto form) FASTGAN_INLINED {
      return plain_backward_term<decltype(form), D>(table, t, u);
    });
  });
}

// Any table's: either the gradients (`write`) or the sums that constants of mean operands are made
// of.
template <DType D>
__global__ void __launch_bounds__(most_warps* warp, 1)
    loss_backward_general(FASTGAN_GRID_CONSTANT(Table<Arithmetic<D>>) table) {
  using T = Derivative<D>;
  FASTGAN_SHARED(double, few, [shared_partials]);
  FASTGAN_SHARED(double, total, [most_terms]);
  using Gradients = Vec<T, chunk>;
  FASTGAN_SHARED(Gradients, gradient, );
  if (table.unless_one && (!table.scalar_upstream || *table.scalar_upstream == 1)) return;
  Partials<Arithmetic<D>> partials{table, table.partial ? table.partial : few};
  Turn turn;
  for_each_term(table, blockIdx.x, [&](const auto& t, unsigned u) FASTGAN_INLINED {
    if (t.fill) return fill_term<1, D>(table, t, u);
    return with_form<gradients_only, false>(t, [&](auto form) FASTGAN_INLINED {
      return general_backward_term<decltype(form), D>(partials, gradient.v, turn, t, u);
    });
  });
  if (!table.sums || !last_to_come(table.ticket, gridDim.x)) return;
  add_up(partials, total);
  if (threadIdx.x == 0) finish_gradient(table, total);
}

// ---------------------------------------------------------------------------------- second order

// w = v_x - v_y, or v_x - mean v of the mean operand, of a thread's element.
template <DType D>
FASTGAN_DEVICE Derivative<D> cotangent(const Table<Arithmetic<D>>& table,
                                       const TermEntry<Arithmetic<D>>& t, const Piece<1>& p) {
  using T = Derivative<D>;
  auto get = [&](int number) {
    const OperandEntry& a = table.operand[number];
    Arithmetic<D> v[1] = {0};
    if (a.v) read<D>(table, a.v, a.v_strides, p, v);
    return T(v[0]);
  };
  T w = get(t.x);
  if (t.y >= 0) w = w - get(t.y);
  return t.mean_operand < 0 ? w : Split<T>(table.v_means[t.mean_operand]).below(w);
}

template <DType D>
struct alignas(16) SecondShared {
  Derivative<D> dot[chunk], gradient[chunk];
};

// As second_chunk of ../cpu/loss.cpp.
template <class Form, DType D>
FASTGAN_DEVICE void second_piece(const Table<Arithmetic<D>>& table, SecondShared<D>& shared,
                                 const TermEntry<Arithmetic<D>>& t, const Piece<1>& p) {
  using F = Arithmetic<D>;
  using T = Derivative<D>;
  PerElement<D> own(table, t, p);
  F x[1], y[1];
  T g[1], curvature[1], weighted[1];
  read_operands<D>(table, t, p, x, y);
  Differentiation<Form, D, PerElement<D>> d(table, t, own, x, y);
  d.gradients(own, g);
  d.curvatures(own, curvature);
  T v = cotangent<D>(table, t, p);
  Upstream<T> up(table, t, p);
  curvature[0] = curvature[0] * v;
  g[0] = g[0] * v;
  weighted[0] = (up.elementwise ? up.scale : T(1)) * curvature[0];
  if (table.write) {
    F out[1] = {F(g[0])};
    if (t.out) write<native<F>>(table, t.out, t.out_strides, p, out);
    write_gradients<D>(table, t, p, curvature, up);
  }
  if (!table.sums) return;
  leave(shared.dot, g, p);
  leave(shared.gradient, weighted, p);
}

template <class Form, DType D>
FASTGAN_DEVICE unsigned second_term(const Partials<Arithmetic<D>>& partials,
                                    SecondShared<D>& shared, Turn& turn,
                                    const TermEntry<Arithmetic<D>>& t, unsigned u) {
  const Table<Arithmetic<D>>& table = partials.table;
  bool sums = partials.has(gradient_sum), dots = partials.has(dot_sum);
  for (; u < t.last_chunk; u += gridDim.x) {
    Piece<1> all(u - t.first_chunk, table.operand[t.x].n, false);
    for_each_piece(all, [&](const Piece<1>& p)
                            FASTGAN_INLINED { second_piece<Form, D>(table, shared, t, p); });
    if (!table.sums) continue;
    __syncthreads();
    if (dots && turn.take()) partials.keep(dot_sum, t, u, chunk_sum_called(shared.dot, all.n));
    if (sums && turn.take())
      partials.keep(gradient_sum, t, u, chunk_sum_called(shared.gradient, all.n));
    __syncthreads();
  }
  return u;
}

template <DType D>
__global__ void __launch_bounds__(most_warps* warp, 1)
    loss_second(FASTGAN_GRID_CONSTANT(Table<Arithmetic<D>>) table) {
  using Shared = SecondShared<D>;
  FASTGAN_SHARED(Shared, shared, );
  FASTGAN_SHARED(double, few, [shared_partials]);
  FASTGAN_SHARED(double, total, [2 * most_terms]);
  Partials<Arithmetic<D>> partials{table, table.partial ? table.partial : few};
  Turn turn;
  for_each_term(table, blockIdx.x, [&](const auto& t, unsigned u) FASTGAN_INLINED {
    if (t.fill) return fill_term<1, D>(table, t, u);
    return with_form<gradients_only, false>(t, [&](auto form) FASTGAN_INLINED {
      return second_term<decltype(form), D>(partials, shared, turn, t, u);
    });
  });
  if (!table.sums || !last_to_come(table.ticket, gridDim.x)) return;
  add_up(partials, total);
  if (threadIdx.x == 0) finish_gradient(table, total);
}

}  // namespace
}  // namespace fastgan
