// Sums over a loss's elements: a chunk's by a warp, all chunks' by the last block to finish; and
// the means that relativistic losses subtract.
#pragma once
#include "loss_elements.h"

namespace fastgan {
namespace {

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
    double more[4];
    unpack<D, 4>(raw, v);
    to_doubles(v, more);
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (at + i < n) lane[i] = lane[i] + more[i];
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
    Piece<1> p(u - a.first_chunk, a.n, false);
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

}  // namespace
}  // namespace fastgan
