// Tensors as groups of elements on the device: norms, penalties and points between samples.
//
// The sum over a group goes chunk by chunk as in sums.h, with 16 threads of 8 lanes a chunk, so
// that a thread reads 16 bytes of a 16-bit group at once and a warp has two chunks. Groups that are
// short, or whose elements lie apart while those of neighbouring groups do not, have a thread each
// instead.
#pragma once
#include <cstring>
#include <initializer_list>

#include "../common/psi.h"
#include "sums.h"

namespace fastgan {
namespace {

constexpr int most_tensors = 4, eight = 8, team = lanes / eight, teams = warp / team;

struct Lie {  // a Grid; data null: not there
  char* data;
  Strides groups, elements;  // no dimensions: without gaps
};

struct TensorEntry {
  int64_t length;
  unsigned partials;    // partial sums of a group before this tensor's
  Lie x, mask, v, out;  // as NormTensor in ../common/penalty.h
};

inline Lie lie_of(const Grid& grid) {
  Lie lie;
  lie.data = grid.groups.data;
  lie.groups = strides_of(grid.groups);
  lie.elements = strides_of(grid.elements);
  return lie;
}

// Where each element has the same place in all of these tensors, and none has gaps, their order
// does not matter to a pass over elements: it may be that of memory (channels_last images).
inline void straighten(std::initializer_list<Lie*> lies) {
  const Strides* first = nullptr;
  for (Lie* lie : lies) {
    if (!lie->data) continue;
    const Strides& s = lie->elements;
    if (!first) first = &s;
    if (s.dims == 0 || s.dims != first->dims) return;
    for (int d = 0; d < s.dims; ++d)
      if (s.size[d] != first->size[d] || s.stride[d] != first->stride[d]) return;
  }
  if (!first) return;
  int64_t next = 1;
  for (int found = 0; found < first->dims; ++found) {
    int d = 0;
    while (d < first->dims && first->stride[d] != next) ++d;
    if (d == first->dims) return;
    next *= first->size[d];
  }
  for (Lie* lie : lies) lie->elements.dims = 0;
}

// A run of a group's elements from `start` on, and one of the same element of neighbouring groups.
template <DType D>
FASTGAN_DEVICE Run along_group(const Lie& lie, int64_t group, int64_t start) {
  int64_t offset = lie.groups.dims ? offset_of(lie.groups, group) : group;
  return run_of<D>(lie.data + offset * item_size(D), lie.elements.dims ? &lie.elements : nullptr,
                   start);
}

template <DType D>
FASTGAN_DEVICE Bits<D>* one_of(const Lie& lie, int64_t group, int64_t at) {
  int64_t k = (lie.groups.dims ? offset_of(lie.groups, group) : group) +
              (lie.elements.dims ? offset_of(lie.elements, at) : at);
  return reinterpret_cast<Bits<D>*>(lie.data) + k;
}
template <DType D>
FASTGAN_DEVICE Arithmetic<D> read_one(const Lie& lie, int64_t group, int64_t at) {
  return number<D>(*one_of<D>(lie, group, at));
}
template <DType D>
FASTGAN_DEVICE void write_one(const Lie& lie, int64_t group, int64_t at, Arithmetic<D> x) {
  *one_of<D>(lie, group, at) = bits_of<D>(x);
}

// Where this thread's eight lanes of a chunk are.
struct Eighth {
  int64_t chunk_number, start;
  int n, lane0;

  FASTGAN_DEVICE Eighth(int64_t pair, int64_t length) {
    int thread = int(threadIdx.x) % warp;
    chunk_number = pair * teams + thread / team;
    start = chunk_number * chunk;
    n = start >= length ? 0 : length - start < chunk ? int(length - start) : chunk;
    lane0 = thread % team * eight;
  }
};

// The fold of a chunk's lanes, by the 16 threads that have it.
FASTGAN_DEVICE double fold(const double (&lane)[eight]) {
  double sum =
      ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
#pragma unroll
  for (int distance = 1; distance < team; distance *= 2)
    sum = sum + __shfl_xor_sync(~0u, sum, distance);
  return sum;
}

FASTGAN_HD int64_t pair_count(int64_t length) {
  return (length + chunk * teams - 1) / (chunk * teams);
}

// ---------------------------------------------------------------------------------- rows

// Which tensors a pass reads beside x.
template <bool Mask, bool V>
struct Beside {
  static constexpr bool mask = Mask, v = V;
};

// Eight neighbours of each tensor; M: the mask's dtype. What is absent is 0.
template <DType D, DType M, class B>
struct Eights {
  Raw<D, eight> x, v;
  Raw<M, eight> mask;

  // body(at, x, mask, v), in numbers.
  template <class Body>
  FASTGAN_DEVICE void give(int at, const Body& body) const {
    Arithmetic<D> a[eight], m[eight] = {}, b[eight] = {};
    unpack<D, eight>(x, a);
    if constexpr (B::mask) unpack<M, eight>(mask, m);
    if constexpr (B::v) unpack<D, eight>(v, b);
    body(at, a, m, b);
  }
};

// The rows of a chunk.
template <DType D, DType M, class B>
struct Rows {
  Run x, mask, v;

  FASTGAN_DEVICE Rows(const Lie& x, const Lie& mask, const Lie& v, int64_t group, int64_t start)
      : x(along_group<D>(x, group, start)) {
    if constexpr (B::mask) this->mask = along_group<M>(mask, group, start);
    if constexpr (B::v) this->v = along_group<D>(v, group, start);
  }
  FASTGAN_DEVICE bool vectors() const {
    return x.vector && (!B::mask || mask.vector) && (!B::v || v.vector);
  }
  // This thread's part of a row, `whole`: of a chunk that is, and whose tensors are aligned.
  template <bool whole>
  FASTGAN_DEVICE Eights<D, M, B> row(int at, int n) const {
    Eights<D, M, B> e;
    get<whole, D>(x, at, n, e.x);
    if constexpr (B::mask) get<whole, M>(mask, at, n, e.mask);
    if constexpr (B::v) get<whole, D>(v, at, n, e.v);
    return e;
  }

 private:
  template <bool whole, DType E>
  FASTGAN_DEVICE static void get(const Run& run, int at, int n, Raw<E, eight>& to) {
    if constexpr (whole) to = load_words<sizeof to / 4>(run.data + at * item_size(E));
    else to = fetch<E, eight>(run, at, n);
  }
};

// body(first element, eight of x, of the mask, of v) for this thread's part of a chunk's rows. Of a
// whole chunk several rows are on their way at once, as many as so many registers hold.
template <int registers, DType D, DType M, class B, class Body>
FASTGAN_DEVICE void for_each_row(const Eighth& e, const Rows<D, M, B>& rows, const Body& body) {
  constexpr int words =
      (1 + B::v) * sizeof(Raw<D, eight>) / 4 + B::mask * sizeof(Raw<M, eight>) / 4;
  constexpr int most = registers / words, ahead = most >= 8 ? 8 : most >= 4 ? 4 : most >= 2 ? 2 : 1;
  if (e.n == chunk && rows.vectors()) {
#pragma unroll 1
    for (int first = e.lane0; first < chunk; first += ahead * lanes) {
      Eights<D, M, B> now[ahead];
#pragma unroll
      for (int r = 0; r < ahead; ++r) now[r] = rows.template row<true>(first + r * lanes, chunk);
#pragma unroll
      for (int r = 0; r < ahead; ++r) now[r].give(first + r * lanes, body);
    }
  } else {
#pragma unroll 1
    for (int at = e.lane0; at < e.n; at += lanes) rows.template row<false>(at, e.n).give(at, body);
  }
}

// ---------------------------------------------------------------------------------- summands

// What sums over groups are of: squares of mask * x, products of v with mask * x * scale, or
// products of `mask` with x - v, which is the gradient of an interpolation's eps.
enum Summand { squares, dots, apart };

// `Scaled`: whether `scale` may be other than 1.
template <Summand S, bool Masked, bool Scaled>
FASTGAN_DEVICE double added(double sum, double x, double mask, double v, double scale) {
  if constexpr (S == apart) {
    return sum + mask * (x - v);
  } else {
    if (Masked) x = x * mask;
    if (Scaled) x = x * scale;
    if constexpr (S == squares) return fma(x, x, sum);
    else return fma(Masked ? v * mask : v, x, sum);
  }
}

// Squares are scaled only where those of doubles overflow or underflow.
template <Summand S, DType D>
constexpr bool is_scaled = S == dots || (S == squares && D == DType::float64);

// A lane before its first summand. By an fma the first square is as from a product; chunk_dot() of
// ../cpu/penalty.cpp then never gives -0 for a chunk that is not full.
template <Summand S>
FASTGAN_DEVICE double no_sum(int n) {
  return S == apart ? empty_lane(n) : -0.;
}

template <Summand S, DType D, bool Masked>
FASTGAN_DEVICE double sum_of_chunk(const TensorEntry& tensor, int64_t group, const Eighth& e,
                                   double scale) {
  using F = Arithmetic<D>;
  constexpr DType M = S == apart ? D : native<F>;
  Rows<D, M, Beside<Masked, S != squares>> rows(tensor.x, tensor.mask, tensor.v, group, e.start);
  double lane[eight];
#pragma unroll
  for (int i = 0; i < eight; ++i) lane[i] = no_sum<S>(e.n);
  for_each_row<32>(
      e, rows,
      [&](int at, const F(&a)[eight], const F(&m)[eight], const F(&b)[eight]) FASTGAN_INLINED {
        bool all = at + eight <= e.n;
        double x[eight], mask[eight] = {}, v[eight] = {};
        to_doubles(a, x);
        if constexpr (Masked) to_doubles(m, mask);
        if constexpr (S != squares) to_doubles(b, v);
#pragma unroll
        for (int i = 0; i < eight; ++i)
          if (all || at + i < e.n)
            lane[i] = added<S, Masked, is_scaled<S, D>>(lane[i], x[i], mask[i], v[i], scale);
      });
  double sum = fold(lane);
  return S == apart || e.n == chunk ? sum : sum + 0.;
}

// The same tree over a group of at most a chunk, by one thread: lanes in order, each joined to its
// neighbours as soon as these are complete.
template <Summand S, DType D>
FASTGAN_DEVICE double sum_of_short_group(const TensorEntry& tensor, int64_t group, double scale) {
  constexpr DType M = S == apart ? D : native<Arithmetic<D>>;
  double level[7] = {}, sum = 0;
  int used = tensor.length < lanes ? int(tensor.length) : lanes;
  bool masked = tensor.mask.data;
#pragma unroll 1
  for (int lane = 0; lane < used; ++lane) {
    sum = no_sum<S>(int(tensor.length));
#pragma unroll 1
    for (int64_t at = lane; at < tensor.length; at += lanes) {
      double x = double(read_one<D>(tensor.x, group, at));
      double m = masked ? double(read_one<M>(tensor.mask, group, at)) : 0.;
      double v = S == squares ? 0. : double(read_one<D>(tensor.v, group, at));
      sum = masked ? added<S, true, is_scaled<S, D>>(sum, x, m, v, scale)
                   : added<S, false, is_scaled<S, D>>(sum, x, m, v, scale);
    }
    bool open = true;
#pragma unroll
    for (int k = 0; k < 7; ++k) {
      if (open && (lane >> k & 1)) sum = level[k] + sum;
      else if (open) {
        level[k] = sum;
        open = false;
      }
    }
  }
  if (used == lanes) return S == apart || tensor.length == chunk ? sum : sum + 0.;
  // Levels that wait, smallest first: what they wait for is 0.
  bool any = false;
#pragma unroll
  for (int k = 0; k < 7; ++k)
    if (used >> k & 1) {
      sum = any ? level[k] + sum : level[k];
      any = true;
    }
  return S == apart ? sum : sum + 0.;
}

// ---------------------------------------------------------------------------------- a group's sum

struct GroupSums {  // what a kernel that sums over groups is told
  int tensors;
  int64_t groups;
  unsigned blocks_per_group;
  unsigned partials;  // of a group
  bool first;         // these are the call's first tensors
  double* partial;    // null: in shared memory
  double* sums;       // one per group, over the tensors so far
  unsigned* tickets;  // the grid's, then one per group
  TensorEntry tensor[most_tensors];
};

constexpr int shared_sums = 256;

// The sums of a group's chunks, by `blocks` blocks of which this is number `block`.
template <Summand S, DType D>
FASTGAN_DEVICE void sum_chunks(const GroupSums& table, int64_t group, double scale, double* partial,
                               unsigned block, unsigned blocks) {
  for (int k = 0; k < table.tensors; ++k) {
    const TensorEntry& tensor = table.tensor[k];
    int64_t pairs = pair_count(tensor.length);
    for (int64_t pair = int64_t(block) * warps_here() + warp_number(); pair < pairs;
         pair += int64_t(blocks) * warps_here()) {
      Eighth e(pair, tensor.length);
      double sum = S == apart || tensor.mask.data
                       ? sum_of_chunk<S, D, true>(tensor, group, e, scale)
                       : sum_of_chunk<S, D, false>(tensor, group, e, scale);
      if (e.lane0 == 0 && e.n > 0) partial[tensor.partials + e.chunk_number] = sum;
    }
  }
}

// The group's sum from those of its chunks; `before` is that of earlier tensors. In all threads.
FASTGAN_DEVICE double sum_group(const GroupSums& table, double* partial, bool first,
                                double before) {
  FASTGAN_SHARED(double, result, );
  double total = before;
  for (int k = 0; k < table.tensors; ++k) {
    Level list{partial + table.tensor[k].partials, chunk_count(table.tensor[k].length)};
    double sum = shrink(list).sum();
    total = first && k == 0 ? sum : total + sum;
  }
  if (threadIdx.x == 0) result = total;
  __syncthreads();
  double all = result;
  __syncthreads();
  return all;
}

// Fills in tensors from number `begin` on, of one dtype.
template <class Tensor, class Fill>
void set_tensors(GroupSums& table, const std::vector<Tensor>& tensors, size_t begin,
                 const Fill& fill) {
  for (size_t k = begin; k < tensors.size() && table.tensors < most_tensors; ++k) {
    if (tensors[k].dtype != tensors[begin].dtype) return;
    TensorEntry& e = table.tensor[table.tensors++];
    e.length = tensors[k].length;
    int64_t p = table.partials;
    e.partials = unsigned(p);
    p += level_space(chunk_count(e.length));
    if (p > 0x7fffffff) throw std::invalid_argument("too many elements");
    table.partials = unsigned(p);
    fill(tensors[k], e);
  }
}

struct Shape {
  int64_t blocks;
  int threads;
};

// Blocks for sums over groups: several for each of few long groups, else whole groups for each
// block.
inline Shape shape_for(GroupSums& table, const Place& place, int per_multi, int extra_tickets) {
  int64_t pairs = 0;
  for (int k = 0; k < table.tensors; ++k) pairs += pair_count(table.tensor[k].length);
  int64_t warps = pairs < place.warps ? pairs : place.warps, per_group = 1;
  int64_t blocks = place.most_blocks(int(warps) * warp, per_multi);
  if (table.groups < blocks && table.groups + extra_tickets <= ticket_count) {
    int64_t most = (blocks + table.groups - 1) / table.groups;
    per_group = (pairs + warps - 1) / warps;
    if (per_group > most) per_group = most;
  }
  int64_t groups = table.groups;
  if (per_group == 1) {
    if (groups > blocks) groups = blocks;
  }
  table.blocks_per_group = unsigned(per_group);
  int64_t regions = groups;
  if (per_group > 1 || table.partials > shared_sums)
    table.partial = reinterpret_cast<double*>(
        place.scratch(regions * table.partials * int64_t(sizeof(double))));
  return {groups * per_group, int(warps) * warp};
}

constexpr int64_t short_length = 32;  // of a group that a thread has to itself

}  // namespace
}  // namespace fastgan
