// The forward pass of a loss: values, their sums, and the gradients for an upstream of 1.
//
// A block takes a chunk of a term at a time, a thread four neighbouring elements of it. Each thread
// leaves its elements' values in shared memory, and the block's warps add up a chunk in turn.
#pragma once
#include "loss_gradients.h"
#include "loss_sums.h"

namespace fastgan {
namespace {

// lean: the loss of a plain table, and perhaps its gradients, but of doubles; steady: the same of
// many chunks, of which each warp takes one at a time; full: with what means and statistics need;
// general: any table.
enum Kind { lean, steady, full, general };

template <Kind K, DType D>
struct alignas(16) ForwardShared {
  Arithmetic<D> value[chunk], x[chunk], y[chunk];
  Derivative<D> gradient[chunk];
  int x_sign[most_warps * warp], y_sign[most_warps * warp], right[most_warps * warp];
};

template <DType D>
struct ForwardShared<steady, D> {};

// Two chunks in turn: a warp adds up one while the others go on with the next.
template <DType D>
struct alignas(16) ForwardShared<lean, D> {
  Arithmetic<D> value[2][chunk];
};

// Those of 16 bits for an upstream of 1; others are made of what values are made of.
template <class Form, DType D>
using UnitGradients =
    std::conditional_t<item_size(D) == 2, RoundedGradients<Form, D, true>, NothingPerElement>;

template <class Form, DType D>
FASTGAN_DEVICE unsigned lean_forward_term(const Partials<Arithmetic<D>>& partials,
                                          TwoChunks<Arithmetic<D>>& chunks, Turn& turn,
                                          const TermEntry<Arithmetic<D>>& t, unsigned u) {
  using F = Arithmetic<D>;
  constexpr bool rounds = item_size(D) == 2;
  const Table<F>& table = partials.table;
  Walk<D> walk(table, t, u);
  const Coefficients<F> k = coefficients<F>(table, t);
  const UnitGradients<Form, D> gradients(table, t);
  const NothingPerElement own;
  for (; !walk.done(); walk.advance(), chunks.turn()) {
    F value[4];
    Evaluation<Form, D, NothingPerElement> e;
    walk.take(e.z);
    e.start(k, own);
    e.values(k, own, value);
    chunks.leave(value);
    if (walk.writes()) {
      if constexpr (rounds) {
        walk.write(gradients.at(
            e.z, [&](Raw<D, 4>& x, Raw<D, 4>& y) FASTGAN_INLINED { walk.again(x, y); }));
      } else {
        F g[4];
        e.gradients(k, own, g);
        walk.write(pack<D, 4>(g));
      }
    }
    __syncthreads();
    if (turn.take()) partials.keep(value_sum, t, walk.chunk_number(), chunks.sum(walk.count()));
  }
  return walk.chunk_number();
}

// A plain table's term, of which a warp takes a chunk at a time: a thread four lanes, row after
// row.
template <class Form, DType D>
class SteadyTerm {
 public:
  using F = Arithmetic<D>;

  FASTGAN_DEVICE SteadyTerm(const Table<F>& table, const TermEntry<F>& t)
      : table_(table), t_(t), k_(coefficients<F>(table, t)), gradients_(table, t) {}

  // The sum of a chunk's values; if asked for, its gradients are written.
  FASTGAN_DEVICE double chunk_sum(unsigned number) const {
    const OperandEntry& a = table_.operand[t_.x];
    int64_t begin = int64_t(number) * chunk;
    int lane0 = int(threadIdx.x) % warp * 4, n = a.n - begin < chunk ? int(a.n - begin) : chunk;
    int64_t offset = (begin + lane0) * item_size(D);
    double lane[4];
#pragma unroll
    for (double& s : lane) s = empty_lane(n);
    if (n < chunk || !t_.aligned) {
#pragma unroll 1
      for (int left = n - lane0; left > 0; left -= lanes, offset += row)
        add_rows<1, false, true>(offset, left, lane);
    } else if (t_.y >= 0) {
      add_chunk<true>(offset, lane);
    } else {
      add_chunk<false>(offset, lane);
    }
    return fold(lane);
  }

 private:
  static constexpr int row = lanes * int(item_size(D)), words = sizeof(Raw<D, 4>) / 4;

  template <bool paired>
  FASTGAN_DEVICE void add_chunk(int64_t offset, double (&lane)[4]) const {
    constexpr int rows = 4;  // on their way at once
#pragma unroll 1
    for (int r = 0; r < chunk / lanes; r += rows, offset += rows * row)
      add_rows<rows, true, paired>(offset, chunk, lane);
  }

  template <bool whole>
  FASTGAN_DEVICE static Raw<D, 4> get(const char* from, int left) {
    return whole ? load_words<words>(from) : load_each<D, 4>(from, left);
  }
  template <bool whole>
  FASTGAN_DEVICE static void put_(char* to, int left, const Raw<D, 4>& g) {
    if constexpr (whole) store_words(to, g);
    else store_each<D, 4>(to, left, g);
  }

  template <int rows, bool whole, bool paired>
  FASTGAN_DEVICE void add_rows(int64_t offset, int left, double (&lane)[4]) const {
    bool two = paired && t_.y >= 0;
    const OperandEntry &a = table_.operand[t_.x], &b = table_.operand[two ? t_.y : t_.x];
    Raw<D, 4> x[rows], y[rows] = {};
#pragma unroll
    for (int r = 0; r < rows; ++r) x[r] = get<whole>(a.x + offset + r * row, left);
    if (two) {
#pragma unroll
      for (int r = 0; r < rows; ++r) y[r] = get<whole>(b.x + offset + r * row, left);
    }
    char *gx = a.g, *gy = two ? b.g : nullptr;
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      F value[4];
      double more[4];
      auto again = [&](Raw<D, 4>& x_again, Raw<D, 4>& y_again) FASTGAN_INLINED {
        x_again = load_each<D, 4>(a.x + offset + r * row, left);
        y_again = two ? load_each<D, 4>(b.x + offset + r * row, left) : Raw<D, 4>{};
      };
      Raw<D, 4> g = values<paired>(x[r], y[r], gx || gy, value, again);
      to_doubles(value, more);
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (whole || i < left) lane[i] = lane[i] + more[i];
      if (gx) put_<whole>(gx + offset + r * row, left, g);
      if (gy) put_<whole>(gy + offset + r * row, left, negated<D>(g));
    }
  }

  // Values, and x's gradients if these are wanted.
  template <bool paired, class Again>
  FASTGAN_DEVICE Raw<D, 4> values(const Raw<D, 4>& raw_x, const Raw<D, 4>& raw_y, bool wanted,
                                  F (&value)[4], const Again& again) const {
    const NothingPerElement own;
    Evaluation<Form, D, NothingPerElement> e;
    F x[4], y[4], g[4];
    unpack<D, 4>(raw_x, x);
    unpack<D, 4>(raw_y, y);
#pragma unroll
    for (int i = 0; i < 4; ++i) e.z[i] = paired ? x[i] - y[i] : x[i];
    e.start(k_, own);
    e.values(k_, own, value);
    if (!wanted) return {};
    if constexpr (item_size(D) == 2) return gradients_.at(e.z, again);
    e.gradients(k_, own, g);
    return pack<D, 4>(g);
  }

  const Table<F>& table_;
  const TermEntry<F>& t_;
  const Coefficients<F> k_;
  const UnitGradients<Form, D> gradients_;
};

template <class Form, DType D>
FASTGAN_DEVICE unsigned steady_forward_term(const Partials<Arithmetic<D>>& partials,
                                            const TermEntry<Arithmetic<D>>& t, unsigned u) {
  const SteadyTerm<Form, D> term(partials.table, t);
  for (; u < t.last_chunk; u += gridDim.x * warps_here())
    partials.keep(value_sum, t, u, term.chunk_sum(u - t.first_chunk));
  return u;
}

// Of a thread's four elements: how many are above 0 less how many are below.
template <class F, int width>
FASTGAN_DEVICE int signs(const F (&x)[width], const Piece<width>& p) {
  int s = 0;
#pragma unroll
  for (int i = 0; i < width; ++i)
    if (p.has(i)) s += int(x[i] > F(0)) - int(x[i] < F(0));
  return s;
}

// What a thread counts of a chunk.
struct Counts {
  int x_sign = 0, y_sign = 0, right = 0;
};

// A thread's elements: into `shared` what is to be summed up, into memory what is asked for.
template <Kind K, class Form, DType D, int width>
FASTGAN_DEVICE void forward_piece(const Partials<Arithmetic<D>>& partials,
                                  ForwardShared<K, D>& shared, const TermEntry<Arithmetic<D>>& t,
                                  const Piece<width>& p, Counts& counts) {
  using F = Arithmetic<D>;
  using T = Derivative<D>;
  using Own = std::conditional_t<K == general, PerElement<D>, NothingPerElement>;
  const Table<F>& table = partials.table;
  const Coefficients<F> k = coefficients<F>(table, t);
  bool writes = table.operand[t.x].g || (t.y >= 0 && table.operand[t.y].g);
  bool slopes = partials.has(gradient_sum);
  const Own own(table, t, p);
  F x[width], y[width], value[width];
  read_operands<D>(table, t, p, x, y);
  Evaluation<Form, D, Own> e;
  arguments(t, x, y, mean_of(table, t), e.z);
  e.start(k, own);
  e.values(k, own, value);
  if (slopes || writes) {
    T g[width];
    if constexpr (sizeof(T) == sizeof(F)) e.gradients(k, own, g);
    else Differentiation<Form, D, Own>(table, t, own, x, y).gradients(own, g);
    if (slopes) leave(shared.gradient, g, p);
    if (writes) write_gradients<D>(table, t, p, g, Upstream<T>());
  }
  if (!table.reduced) {
    F factor = table.weights ? F(coefficient(table, t)) : t.factor;
#pragma unroll
    for (F& v : value) v = factor * v;
    write<native<F>>(table, t.out, t.out_strides, p, value);
    return;
  }
  leave(shared.value, value, p);
  if (!partials.has(x_sum)) return;
  leave(shared.x, x, p);
  leave(shared.y, y, p);
  counts.x_sign += signs(x, p);
  counts.y_sign += signs(y, p);
#pragma unroll
  for (int i = 0; i < width; ++i)
    if (p.has(i)) counts.right += int(F(t.side) * (e.z[i] - t.threshold) > F(0));
}

template <Kind K, class Form, DType D>
FASTGAN_DEVICE unsigned full_forward_term(const Partials<Arithmetic<D>>& partials,
                                          ForwardShared<K, D>& shared, Turn& turn,
                                          const TermEntry<Arithmetic<D>>& t, unsigned u) {
  const Table<Arithmetic<D>>& table = partials.table;
  bool slopes = partials.has(gradient_sum), stats = partials.has(x_sum);
  for (; u < t.last_chunk; u += gridDim.x) {
    Piece<width_of(K == full)> all(u - t.first_chunk, table.operand[t.x].n, t.aligned);
    Counts counts;
    for_each_piece(all, [&](const auto& p) FASTGAN_INLINED {
      forward_piece<K, Form, D>(partials, shared, t, p, counts);
    });
    if (!table.reduced) continue;
    if (stats) {
      shared.x_sign[threadIdx.x] = counts.x_sign;
      shared.y_sign[threadIdx.x] = counts.y_sign;
      shared.right[threadIdx.x] = counts.right;
    }
    __syncthreads();
    auto keep = [&](Sum kind, const auto& v) FASTGAN_INLINED {
      if (turn.take()) partials.keep(kind, t, u, chunk_sum_called(v, all.n));
    };
    auto keep_count = [&](Sum kind, const int* v) FASTGAN_INLINED {
      if (turn.take()) partials.keep(kind, t, u, count_sum(v));
    };
    keep(value_sum, shared.value);
    if (slopes) keep(gradient_sum, shared.gradient);
    if (stats) {
      keep(x_sum, shared.x);
      keep(y_sum, shared.y);
      keep_count(x_sign, shared.x_sign);
      keep_count(y_sign, shared.y_sign);
      keep_count(right_count, shared.right);
    }
    __syncthreads();
  }
  return u;
}

template <class F>
FASTGAN_DEVICE void add_statistics(const Table<F>& table, const TermEntry<F>& t, double value,
                                   const double* total, Totals& all) {
  auto sum = [&](Sum kind) { return total[table.slot[kind] * most_terms]; };
  double n = double(table.operand[t.x].n), right = sum(right_count);
  all.of[t.role].loss += value;
  auto add = [&](int operand, Sum mean, Sum sign) {
    all.of[table.operand[operand].role].add(sum(mean), sum(sign), right, n, t.side);
  };
  add(t.x, x_sum, x_sign);
  if (t.y >= 0) add(t.y, y_sum, y_sign);
}

// By one thread, in the order of the terms; `all` begins as what earlier launches handed on.
template <class F>
FASTGAN_DEVICE void finish_forward(const Table<F>& table, const double* total, Totals& all) {
  for (int k = 0; k < table.terms; ++k) {
    const TermEntry<F>& t = table.term[k];
    double value = coefficient(table, t) * total[table.slot[value_sum] * most_terms + k];
    if (table.values) table.values[t.number] = value;
    all.loss += value;
    if (table.slot[gradient_sum] >= 0)
      add_to_constant(table, t, total[table.slot[gradient_sum] * most_terms + k]);
    if (table.slot[x_sum] >= 0) add_statistics(table, t, value, total + k, all);
  }
  if (!table.last) return;
  *table.result = F(all.loss);
  if (table.slot[x_sum] < 0) return;
  for (int r = 0; r < 2; ++r) all.of[r + 1].write(table.statistics, r);
}

// Blocks of 256 threads that live at once on a multiprocessor with 65,536 registers, at least.
constexpr int forward_blocks(Kind k, DType d) {
  return d == DType::float64 ? 1 : k == lean || k == steady ? 3 : 2;
}

template <Kind K, DType D>
__global__ void __launch_bounds__(most_warps* warp, forward_blocks(K, D))
    loss_forward(FASTGAN_GRID_CONSTANT(Table<Arithmetic<D>>) table) {
  using F = Arithmetic<D>;
  using Shared = ForwardShared<K, D>;
  FASTGAN_SHARED(Shared, shared, );
  FASTGAN_SHARED(double, few, [shared_partials]);
  constexpr bool sums_only_values = K == lean || K == steady;
  FASTGAN_SHARED(double, total, [(sums_only_values ? 1 : forward_sums) * most_terms]);
  FASTGAN_SHARED(Totals, all, );
  double* memory = table.partial ? table.partial : few;
  if constexpr (!sums_only_values)
    if (table.means_here) {
      take_means<D>(table, memory);
      __syncthreads();
    }
  Partials<F> partials{table, memory};
  Turn turn;
  auto chunks = [&]() FASTGAN_INLINED {
    if constexpr (K == lean) return TwoChunks<F>(shared.value);
    else return 0;
  }();
  unsigned first = K == steady ? blockIdx.x * warps_here() + warp_number() : blockIdx.x;
  for_each_term(table, first, [&](const TermEntry<F>& t, unsigned u) FASTGAN_INLINED {
    return with_form<sums_only_values ? fast_values : any_values, K != general>(
        t, [&](auto form) FASTGAN_INLINED {
          using Form = decltype(form);
          if constexpr (K == lean) return lean_forward_term<Form, D>(partials, chunks, turn, t, u);
          else if constexpr (K == steady) return steady_forward_term<Form, D>(partials, t, u);
          else return full_forward_term<K, Form, D>(partials, shared, turn, t, u);
        });
  });
  if (!table.reduced || !last_to_come(table.ticket, gridDim.x)) return;
  add_up(partials, total);
  if (threadIdx.x > 0) return;
  all = table.first ? Totals{} : *table.totals;
  finish_forward(table, total, all);
  if (!table.last) *table.totals = all;
}

}  // namespace
}  // namespace fastgan
