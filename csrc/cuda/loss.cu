// The CUDA kernels of the losses: the calls of ../common/loss.h with the roundings of
// ../cpu/loss.cpp.
//
// All terms of a call are in one launch, if their tensors have one dtype. A block takes a chunk of
// a term at a time, a thread four neighbouring elements of it. Where a sum is wanted, each thread
// leaves its elements' values in shared memory, and the block's warps add up a chunk in turn. The
// last block to finish adds up the chunks' sums.
#include "loss_rounded.h"

namespace fastgan {
namespace {

// lean: the loss of a plain table, and perhaps its gradients, but of doubles; steady: the same of
// many chunks, of which each warp takes one at a time; full: with what means and statistics need;
// general: any table.
enum Kind { lean, steady, full, general };

// ---------------------------------------------------------------------------------- sums

// The sums over a call's chunks; `memory` has a slot for each kind.
template <class F>
struct Partials {
  const Table<F>& table;
  double* memory;

  FASTGAN_DEVICE bool has(Sum kind) const {
    return table.slot[kind] >= 0;
  }
  FASTGAN_DEVICE double* of(Sum kind, unsigned first) const {
    return memory + size_t(table.slot[kind]) * table.partials + first;
  }
  FASTGAN_DEVICE void keep(Sum kind, const TermEntry<F>& t, unsigned u, double sum) const {
    if (threadIdx.x % warp == 0) of(kind, t.first_partial)[u - t.first_chunk] = sum;
  }
};

// Whose turn it is, of a block's warps, to take the next sum.
class Turn {
 public:
  FASTGAN_DEVICE Turn() : wait_(warp_number()) {}
  FASTGAN_DEVICE bool take() {
    bool mine = wait_ == 0;
    wait_ = mine ? warps_here() - 1 : wait_ - 1;
    return mine;
  }

 private:
  int wait_;
};

// A chunk's values, of two that a block works on in turn: while a warp adds up one, the others go
// on with the next.
template <class F>
class TwoChunks {
 public:
  FASTGAN_DEVICE explicit TwoChunks(F (&chunks)[2][chunk])
      : now_(chunks[0] + threadIdx.x * 4),
        both_(now_.sum(InShared<F>(chunks[1] + threadIdx.x * 4))) {}
  FASTGAN_DEVICE void leave(const F (&v)[4]) const {
    now_.store(v);
  }
  FASTGAN_DEVICE double sum(int n) const {
    return warp_chunk_sum(now_.generic() - threadIdx.x * 4, n);
  }
  FASTGAN_DEVICE void turn() {
    now_ = now_.other_of(both_);
  }

 private:
  InShared<F> now_;
  uintptr_t both_;
};

// A thread's elements into a chunk's; -0, which is neutral, for those past the end of a row.
template <class T>
FASTGAN_DEVICE void leave(T (&chunk_of)[chunk], const T (&v)[1], const Piece<1>& p) {
  chunk_of[p.at] = v[0];
}
template <class T>
FASTGAN_DEVICE void leave(T (&chunk_of)[chunk], const T (&v)[4], const Piece<4>& p) {
  Vec<T, 4> mine;
#pragma unroll
  for (int i = 0; i < 4; ++i) mine.v[i] = v[i];
  if (!p.whole()) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (!p.has(i)) mine.v[i] = T(-0.);
  }
  *reinterpret_cast<Vec<T, 4>*>(chunk_of + p.at) = mine;
}

// The sum of a chunk's counts, one a thread, by one warp.
FASTGAN_DEVICE int count_sum(const int* count) {
  int s = 0;
  for (int k = int(threadIdx.x) % warp; k < int(blockDim.x); k += warp) s += count[k];
#pragma unroll
  for (int distance = 1; distance < warp; distance *= 2) s += __shfl_xor_sync(~0u, s, distance);
  return s;
}

// body(number, kind, term, its list) for each list of chunk sums.
template <class F, class Body>
FASTGAN_DEVICE void for_each_list(const Partials<F>& partials, const Body& body) {
  const Table<F>& table = partials.table;
  int number = 0;
  for (int kind = 0; kind < sum_count; ++kind) {
    if (!partials.has(Sum(kind))) continue;
    for (int k = 0; k < table.terms; ++k) {
      const TermEntry<F>& t = table.term[k];
      Level list{partials.of(Sum(kind), t.first_partial), t.last_chunk - t.first_chunk};
      body(number++, kind, k, list);
    }
  }
}

// All sums of all terms, into `total`: a row of most_terms for each slot. The warps share out the
// chunks of all lists, level by level, and then the lists.
template <class F>
FASTGAN_DEVICE void add_up(const Partials<F>& partials, double* total) {
  const Table<F>& table = partials.table;
  for (int64_t most = chunk_count(table.longest), level = 0; most > chunk;
       most = chunk_count(most), ++level) {
    int64_t before = 0;
    for_each_list(partials, [&](int, int, int, Level list) {
      for (int64_t k = 0; k < level && !list.is_top(); ++k) list = list.up();
      if (list.is_top()) return;
      int64_t count = chunk_count(list.n), step = warps_here();
      for (int64_t c = (warp_number() + step - before % step) % step; c < count; c += step)
        list.add_up(c);
      before += count;
    });
    __syncthreads();
  }
  for_each_list(partials, [&](int number, int kind, int k, const Level& list) {
    if (number % warps_here() != warp_number()) return;
    double sum = list.top().sum();
    if (threadIdx.x % warp == 0) total[table.slot[kind] * most_terms + k] = sum;
  });
  __syncthreads();
}

// The constant of a term's mean operand receives the term's gradient; divided once it has them all.
template <class F>
FASTGAN_DEVICE void add_to_constant(const Table<F>& table, const TermEntry<F>& t, double gradient) {
  if (t.mean_operand < 0) return;
  double sum = (t.first_of_mean ? 0. : table.constants[t.mean_operand]) - gradient;
  table.constants[t.mean_operand] = t.last_of_mean ? sum / double(t.mean_operand_n) : sum;
}

// ---------------------------------------------------------------------------------- means

// The sum of a chunk of an operand, by one warp: all rows on their way at once, if it is whole.
template <DType D>
FASTGAN_DEVICE double operand_sum(const Run& x, int n) {
  constexpr int rows = chunk / lanes;
  int lane0 = int(threadIdx.x) % warp * 4;
  double lane[4];
#pragma unroll
  for (double& s : lane) s = empty_lane(n);
  auto add = [&](const Raw<D, 4>& raw, int at) {
    Arithmetic<D> v[4];
    unpack<D, 4>(raw, v);
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (at + i < n) lane[i] = lane[i] + double(v[i]);
  };
  if (x.vector && n == chunk) {
    Raw<D, 4> raw[rows];
#pragma unroll
    for (int r = 0; r < rows; ++r)
      raw[r] = load_words<sizeof(Raw<D, 4>) / 4>(x.data + (r * lanes + lane0) * item_size(D));
#pragma unroll
    for (int r = 0; r < rows; ++r) add(raw[r], -chunk);
  } else {
#pragma unroll 1
    for (int at = lane0; at < n; at += lanes) add(fetch<D, 4>(x, at, n), at);
  }
  return fold(lane);
}

// Means of the mean operands, by all blocks of a launch.
template <DType D, class F>
FASTGAN_DEVICE void take_means(const Table<F>& table, double* partial) {
  auto operand = [&](int k) -> const OperandEntry& { return table.operand[table.mean_operand[k]]; };
  auto list = [&](int k) {
    const OperandEntry& a = operand(k);
    return Level{partial + a.first_partial, a.x ? chunk_count(a.n) : 0};
  };
  int item = 0;
  for (unsigned u = blockIdx.x * warps_here() + warp_number(); u < table.mean_chunks;
       u += gridDim.x * warps_here()) {
    while (item + 1 < table.mean_operands && u >= operand(item + 1).first_chunk) ++item;
    const OperandEntry& a = operand(item);
    Piece<1> p(u - a.first_chunk, a.n);
    double sum = operand_sum<D>(run_of<D>(a.x, table.find(a.x_strides), p.start), p.n);
    if (threadIdx.x % warp == 0) partial[a.first_partial + u - a.first_chunk] = sum;
  }
  if (!last_to_come(table.ticket, gridDim.x)) return;
  for (int k = 0; k < table.mean_operands; ++k) shrink(list(k));
  for (int k = warp_number(); k < table.mean_operands; k += warps_here()) {
    const OperandEntry& a = operand(k);
    double sum = a.x ? list(k).top().sum() : 0.;
    if (threadIdx.x % warp == 0) table.means[a.number] = sum / double(a.n);
  }
}

template <DType D>
__global__ void __launch_bounds__(most_warps* warp, D == DType::float64 ? 2 : 4)
    loss_means(FASTGAN_GRID_CONSTANT(Table<Arithmetic<D>>) table) {
  FASTGAN_SHARED(double, shared, [shared_partials]);
  take_means<D>(table, table.partial ? table.partial : shared);
}

// ---------------------------------------------------------------------------------- arguments

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

// ---------------------------------------------------------------------------------- forward

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
    Raw<D, 4> x, y;
    F value[4];
    Evaluation<Form, D, NothingPerElement> e;
    walk.take(x, y, e.z);
    e.start(k, own);
    e.values(k, own, value);
    chunks.leave(value);
    if (walk.writes()) {
      if constexpr (rounds) {
        walk.write(gradients.at(x, y, e.z));
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
    if (n == chunk) {
      constexpr int rows = D == DType::float32 ? 4 : 2;  // on their way at once
#pragma unroll 1
      for (int r = 0; r < chunk / lanes; r += rows, offset += rows * row)
        add_rows<rows, true>(offset, chunk, lane);
    } else {
#pragma unroll 1
      for (int left = n - lane0; left > 0; left -= lanes, offset += row)
        add_rows<1, false>(offset, left, lane);
    }
    return fold(lane);
  }

 private:
  static constexpr int row = lanes * int(item_size(D)), words = sizeof(Raw<D, 4>) / 4;

  template <bool whole>
  FASTGAN_DEVICE static Raw<D, 4> get(const char* from, int left) {
    return whole || left >= 4 ? load_words<words>(from) : load_last<D>(from, left);
  }
  template <bool whole>
  FASTGAN_DEVICE static void put_(char* to, int left, const Raw<D, 4>& g) {
    if (whole || left >= 4) store_words(to, g);
    else store_last<D>(to, left, g);
  }

  template <int rows, bool whole>
  FASTGAN_DEVICE void add_rows(int64_t offset, int left, double (&lane)[4]) const {
    const OperandEntry &a = table_.operand[t_.x], &b = table_.operand[t_.y >= 0 ? t_.y : t_.x];
    Raw<D, 4> x[rows], y[rows] = {};
#pragma unroll
    for (int r = 0; r < rows; ++r) x[r] = get<whole>(a.x + offset + r * row, left);
    if (t_.y >= 0) {
#pragma unroll
      for (int r = 0; r < rows; ++r) y[r] = get<whole>(b.x + offset + r * row, left);
    }
    char *gx = a.g, *gy = t_.y >= 0 ? b.g : nullptr;
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      F value[4];
      Raw<D, 4> g = values(x[r], y[r], gx || gy, value);
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (whole || i < left) lane[i] = lane[i] + double(value[i]);
      if (gx) put_<whole>(gx + offset + r * row, left, g);
      if (gy) put_<whole>(gy + offset + r * row, left, negated<D>(g));
    }
  }

  // Values, and x's gradients if these are wanted.
  FASTGAN_DEVICE Raw<D, 4> values(const Raw<D, 4>& raw_x, const Raw<D, 4>& raw_y, bool wanted,
                                  F (&value)[4]) const {
    const NothingPerElement own;
    Evaluation<Form, D, NothingPerElement> e;
    F x[4], y[4], g[4];
    unpack<D, 4>(raw_x, x);
    unpack<D, 4>(raw_y, y);
#pragma unroll
    for (int i = 0; i < 4; ++i) e.z[i] = x[i] - y[i];  // y is 0 where there is none
    e.start(k_, own);
    e.values(k_, own, value);
    if (!wanted) return {};
    if constexpr (item_size(D) == 2) return gradients_.at(raw_x, raw_y, e.z);
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
    Piece<width_of(K == full)> all(u - t.first_chunk, table.operand[t.x].n);
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
    return with_form<sums_only_values ? fast_values : any_values>(
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

// ---------------------------------------------------------------------------------- backward

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
    for_each_piece(Piece<width>(u - t.first_chunk, a.n),
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
    Raw<D, 4> x, y;
    Evaluation<Form, D, NothingPerElement> e;
    walk.take(x, y, e.z);
    if constexpr (rounds) {
      walk.write(gradients.at(x, y, e.z));
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
    Piece<1> all(u - t.first_chunk, table.operand[t.x].n);
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
    return with_form<gradients_only>(t, [&](auto form) FASTGAN_INLINED {
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
    return with_form<gradients_only>(t, [&](auto form) FASTGAN_INLINED {
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
    Piece<1> all(u - t.first_chunk, table.operand[t.x].n);
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
    return with_form<gradients_only>(t, [&](auto form) FASTGAN_INLINED {
      return second_term<decltype(form), D>(partials, shared, turn, t, u);
    });
  });
  if (!table.sums || !last_to_come(table.ticket, gridDim.x)) return;
  add_up(partials, total);
  if (threadIdx.x == 0) finish_gradient(table, total);
}

// ---------------------------------------------------------------------------------- launches

// A loss of so few chunks is taken by one block: to find the last of several would take longer.
// One that subtracts means is taken by one block, means and all, if it has at most these.
constexpr unsigned one_block_chunks = 4, one_block_mean_chunks = 8;

// Memory for partial sums, where the blocks' shared memory will not do; counters for many blocks.
template <class F>
void provide(Table<F>& table, int slots, int64_t blocks, const Place& place) {
  int64_t doubles = int64_t(slots) * table.partials;
  if (doubles > 0 && (blocks > 1 || doubles > shared_partials))
    table.partial = reinterpret_cast<double*>(place.scratch(doubles * int64_t(sizeof(double))));
  if (blocks > 1 && slots > 0) table.ticket = place.tickets();
}

// From so many chunks a multiprocessor on, each warp has chunks of its own.
constexpr int64_t steady_chunks = 16;

// Launches a kernel over a table; `per_multi` of its blocks live at once on a multiprocessor.
template <class F, class Kernel>
void run(const std::string& name, Kernel kernel, Table<F>& table, const Place& place,
         int per_multi) {
  if (table.chunks == 0) return;
  int threads = warp;
  while (threads < most_warps * warp && threads * 4 < table.longest) threads *= 2;
  int slots = 0;
  for (signed char s : table.slot) slots += s >= 0;
  bool one = table.means_here || (slots > 0 && table.chunks <= one_block_chunks);
  int64_t blocks = one ? 1 : place.grid(table.chunks, threads, per_multi);
  provide(table, slots, blocks, place);
  launch(name, kernel, blocks, threads, place, table);
}

// The same where a warp takes a chunk: of the terms, or of operands whose means are taken. A mean
// of operands that are not there is 0; without any chunks one warp says so.
template <class F, class Kernel>
void run_by_warps(const std::string& name, Kernel kernel, Table<F>& table, const Place& place,
                  int per_multi) {
  int64_t chunks = table.chunks ? table.chunks : table.mean_chunks ? table.mean_chunks : 1;
  int64_t each = chunks / (4 * int64_t(place.multiprocessors));
  int64_t warps = each < 1 ? 1 : each < place.warps ? each : place.warps;
  int64_t blocks = place.grid((chunks + warps - 1) / warps, int(warps) * warp, per_multi);
  provide(table, 1, blocks, place);
  launch(name, kernel, blocks, int(warps) * warp, place, table);
}

// Means of the mean operands' values or cotangents, in launches of their own.
template <class F>
void launch_means(const Call& call, View Operand::* values, double* means, const Place& place) {
  Tables<F> tables(call);
  for (int j : tables.mean_operands()) {
    const Operand& a = call.operands[j];
    tables.reserve(a.dtype, 1, {&(a.*values), &a.g, &a.v});
    tables.add_mean(j, values);
  }
  tables.finish(place, {});
  for (auto& t : tables.all) {
    t->means = means;
    with_dtype<F>(t->dtype, [&](auto d) {
      constexpr DType D = decltype(d)::value;
      run_by_warps(named("loss_means<", D), loss_means<D>, *t, place, D == DType::float64 ? 2 : 4);
    });
  }
}

template <class F>
bool means_fit(const Tables<F>& tables) {
  if (tables.all.size() != 1) return false;
  const Table<F>& t = *tables.all[0];
  int operands = t.operands, strided = tables.strided;
  int64_t all = 0;
  for (int j : tables.mean_operands()) {
    const Operand& a = tables.call.operands[j];
    if (a.dtype != t.dtype) return false;
    all += chunk_count(a.n);
    ++operands;
    strided += (a.x.dims > 0) + (a.g.dims > 0);
  }
  return t.chunks <= one_block_mean_chunks && all <= one_block_mean_chunks &&
         operands <= most_operands && strided <= most_strided;
}

template <class F>
void launch_forward(Table<F>& table, bool needs_full, const Place& place) {
  with_dtype<F>(table.dtype, [&](auto d) {
    constexpr DType D = decltype(d)::value;
    auto with = [&](auto kind, const char* name) {
      constexpr Kind K = decltype(kind)::value;
      if constexpr (K == steady)
        run_by_warps(named(name, D), loss_forward<K, D>, table, place, forward_blocks(K, D));
      else run(named(name, D), loss_forward<K, D>, table, place, forward_blocks(K, D));
    };
    bool many = table.chunks >= steady_chunks * place.multiprocessors;
    if (!table.plain)
      return with(std::integral_constant<Kind, general>(), "loss_forward<general, ");
    if constexpr (D != DType::float64) {  // rare, and then not in a hurry
      if (!needs_full && many)
        return with(std::integral_constant<Kind, steady>(), "loss_forward<steady, ");
      if (!needs_full) return with(std::integral_constant<Kind, lean>(), "loss_forward<lean, ");
    }
    with(std::integral_constant<Kind, full>(), "loss_forward<full, ");
  });
}

template <class F>
void launch_backward(Table<F>& table, const Place& place) {
  with_dtype<F>(table.dtype, [&](auto d) {
    constexpr DType D = decltype(d)::value;
    if (table.plain && table.write)
      run(named("loss_backward<", D), loss_backward<D>, table, place, D == DType::float64 ? 2 : 4);
    else run(named("loss_backward_general<", D), loss_backward_general<D>, table, place, 1);
  });
}

template <class F>
void forward_in(Call& call, const Place& place) {
  Tables<F> tables(call);
  tables.add_terms();
  bool subtracts_mean = call.spec->subtracts_mean, reduced = call.out.empty(), here = false;
  if (subtracts_mean) {
    here = means_fit(tables);
    if (here)
      for (int j : tables.mean_operands()) tables.add_mean(j, &Operand::x);
    else launch_means<F>(call, &Operand::x, call.means(), place);
  }
  bool keep = reduced && subtracts_mean && call.keep, stats = reduced && call.stats;
  if (!reduced) tables.finish(place, {});
  else if (keep && stats)
    tables.finish(place, {value_sum, gradient_sum, x_sum, y_sum, x_sign, y_sign, right_count});
  else if (stats) tables.finish(place, {value_sum, x_sum, y_sum, x_sign, y_sign, right_count});
  else if (keep) tables.finish(place, {value_sum, gradient_sum});
  else tables.finish(place, {value_sum});
  for (auto& t : tables.all) {
    t->means_here = here;
    t->values = call.buffers ? call.values() : nullptr;
    t->statistics = call.buffers ? call.statistics() : nullptr;
    launch_forward(*t, stats || subtracts_mean, place);
  }
}

template <class F>
void backward_in(Call& call, const Place& place) {
  bool own = call.spec->subtracts_mean && !call.upstream.empty();
  double* constants = nullptr;
  if (own) {  // constants that this upstream gives
    constants = reinterpret_cast<double*>(place.scratch(int64_t(call.operands.size() * 8)));
    Tables<F> sums(call);
    sums.add_terms();
    sums.finish(place, {gradient_sum});
    for (auto& t : sums.all) {
      t->write = false;
      t->constants = constants;
      launch_backward(*t, place);
    }
  }
  Tables<F> tables(call);
  tables.add_terms();
  tables.add_fills();
  tables.finish(place, {});
  for (auto& t : tables.all) {
    if (own) t->constants = constants;
    t->unless_one = call.unless_one;
    launch_backward(*t, place);
  }
}

template <class F>
void second_in(Call& call, const Place& place) {
  double *v_means = nullptr, *constants = nullptr;
  bool subtracts_mean = call.spec->subtracts_mean;
  if (subtracts_mean) {
    int64_t bytes = int64_t(call.operands.size() * 8);
    v_means = reinterpret_cast<double*>(place.scratch(bytes));
    constants = reinterpret_cast<double*>(place.scratch(bytes));
    launch_means<F>(call, &Operand::v, v_means, place);
  }
  auto run_over = [&](bool sums, bool write) {
    Tables<F> tables(call);
    tables.add_terms();
    if (write && subtracts_mean) tables.add_fills();
    if (sums && subtracts_mean) tables.finish(place, {gradient_sum, dot_sum});
    else if (sums) tables.finish(place, {dot_sum});
    else tables.finish(place, {});
    for (auto& t : tables.all) {
      t->v_means = v_means;
      t->write = write;
      if (subtracts_mean) t->constants = constants;
      if (!call.loss) t->slot[dot_sum] = -1;
      with_dtype<F>(t->dtype, [&](auto d) {
        constexpr DType D = decltype(d)::value;
        run(named("loss_second<", D), loss_second<D>, *t, place, 1);
      });
    }
  };
  if (subtracts_mean) {
    run_over(true, false);
    run_over(false, true);
  } else {
    run_over(call.loss, true);
  }
}

template <DType D>
std::string load_kernels_of() {
  if constexpr (D != DType::float64) {
    std::string why = loadable(loss_forward<lean, D>, loss_forward<steady, D>);
    if (!why.empty()) return why;
  }
  return loadable(loss_means<D>, loss_forward<full, D>, loss_forward<general, D>, loss_backward<D>,
                  loss_backward_general<D>, loss_second<D>);
}

}  // namespace

namespace cuda {

std::string loss_unusable() {
  return first_reason<load_kernels_of<DType::float32>, load_kernels_of<DType::float64>,
                      load_kernels_of<DType::float16>, load_kernels_of<DType::bfloat16>>();
}

void loss_forward(Call& call, const Place& place) {
  if (call.is_float64) forward_in<double>(call, place);
  else forward_in<float>(call, place);
}

void loss_backward(Call& call, const Place& place) {
  if (call.is_float64) backward_in<double>(call, place);
  else backward_in<float>(call, place);
}

void loss_second(Call& call, const Place& place) {
  if (call.is_float64) second_in<double>(call, place);
  else second_in<float>(call, place);
}

}  // namespace cuda
}  // namespace fastgan
