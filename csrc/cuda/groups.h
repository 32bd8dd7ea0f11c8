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
  DType dtype;
  Strides groups, elements;  // no dimensions: without gaps
};

struct TensorEntry {
  int64_t length;
  unsigned partials;    // partial sums of a group before this tensor's
  Lie x, mask, v, out;  // as NormTensor in ../common/penalty.h
};

inline Lie lie_of(const Grid& grid, DType dtype) {
  Lie lie;
  lie.data = grid.groups.data;
  lie.dtype = dtype;
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
FASTGAN_DEVICE Run along_group(const Lie& lie, int64_t group, int64_t start) {
  int64_t offset = lie.groups.dims ? offset_of(lie.groups, group) : group;
  return run_of(lie.data + offset * item_size(lie.dtype), lie.dtype,
                lie.elements.dims ? &lie.elements : nullptr, start);
}

template <class F>
FASTGAN_DEVICE F read_one(const Lie& lie, int64_t group, int64_t at) {
  int64_t k = (lie.groups.dims ? offset_of(lie.groups, group) : group) +
              (lie.elements.dims ? offset_of(lie.elements, at) : at);
  if constexpr (sizeof(F) == 8) return reinterpret_cast<const double*>(lie.data)[k];
  else if (lie.dtype == DType::float32) return reinterpret_cast<const float*>(lie.data)[k];
  else if (lie.dtype == DType::float16) return widen(reinterpret_cast<const Half*>(lie.data)[k]);
  else return widen(reinterpret_cast<const BFloat16*>(lie.data)[k]);
}

template <class F>
FASTGAN_DEVICE void write_one(const Lie& lie, int64_t group, int64_t at, F x) {
  int64_t k = (lie.groups.dims ? offset_of(lie.groups, group) : group) +
              (lie.elements.dims ? offset_of(lie.elements, at) : at);
  if constexpr (sizeof(F) == 8) reinterpret_cast<double*>(lie.data)[k] = x;
  else if (lie.dtype == DType::float32) reinterpret_cast<float*>(lie.data)[k] = x;
  else if (lie.dtype == DType::float16) reinterpret_cast<Half*>(lie.data)[k] = narrow<Half>(x);
  else reinterpret_cast<BFloat16*>(lie.data)[k] = narrow<BFloat16>(x);
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

// What sums over groups are of: squares of mask * x, products of v with mask * x * scale, or
// products of `mask` with x - v, which is the gradient of an interpolation's eps.
enum Summand { squares, dots, apart };

template <Summand S>
FASTGAN_DEVICE double added(double sum, double x, double mask, double v, bool masked,
                            double scale) {
  if constexpr (S == apart) return sum + mask * (x - v);
  if (masked) x = x * mask;
  x = x * scale;
  if constexpr (S == squares) return fma(x, x, sum);
  return fma(masked ? v * mask : v, x, sum);
}

// A lane before its first summand. By an fma the first square is as from a product; chunk_dot() of
// ../cpu/penalty.cpp then never gives -0 for a chunk that is not full.
template <Summand S>
FASTGAN_DEVICE double no_sum(int n) {
  return S == apart ? empty_lane(n) : -0.;
}

template <Summand S, class F>
FASTGAN_DEVICE double sum_of_chunk(const TensorEntry& tensor, int64_t group, const Eighth& e,
                                   double scale) {
  bool masked = tensor.mask.data;
  Run x = along_group(tensor.x, group, e.start), mask = x, v = x;
  if (masked) mask = along_group(tensor.mask, group, e.start);
  if (S != squares) v = along_group(tensor.v, group, e.start);
  double lane[eight];
#pragma unroll
  for (int i = 0; i < eight; ++i) lane[i] = no_sum<S>(e.n);
  const Run runs[3] = {x, mask, v};
  const bool there[3] = {true, masked, S != squares};
  for_each_row<F, eight>(runs, there, e.lane0, e.n, [&](int at, const Raw<F, eight>(&raw)[3]) {
    F a[eight], m[eight] = {}, b[eight] = {};
    unpack(raw[0], x.dtype, a);
    if (masked) unpack(raw[1], mask.dtype, m);
    if constexpr (S != squares) unpack(raw[2], v.dtype, b);
#pragma unroll
    for (int i = 0; i < eight; ++i)
      if (at + i < e.n)
        lane[i] = added<S>(lane[i], double(a[i]), double(m[i]), double(b[i]), masked, scale);
  });
  double sum = fold(lane);
  return S == apart || e.n == chunk ? sum : sum + 0.;
}

// The same tree over a group of at most a chunk, by one thread: lanes in order, each joined to its
// neighbours as soon as these are complete.
template <Summand S, class F>
FASTGAN_DEVICE double sum_of_short_group(const TensorEntry& tensor, int64_t group, double scale) {
  double level[7] = {}, sum = 0;
  int used = tensor.length < lanes ? int(tensor.length) : lanes;
  bool masked = tensor.mask.data;
#pragma unroll 1
  for (int lane = 0; lane < used; ++lane) {
    sum = no_sum<S>(int(tensor.length));
#pragma unroll 1
    for (int64_t at = lane; at < tensor.length; at += lanes) {
      double x = double(read_one<F>(tensor.x, group, at));
      double m = masked ? double(read_one<F>(tensor.mask, group, at)) : 0.;
      double v = S == squares ? 0. : double(read_one<F>(tensor.v, group, at));
      sum = added<S>(sum, x, m, v, masked, scale);
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
template <Summand S, class F>
FASTGAN_DEVICE void sum_chunks(const GroupSums& table, int64_t group, double scale, double* partial,
                               unsigned block, unsigned blocks) {
  for (int k = 0; k < table.tensors; ++k) {
    const TensorEntry& tensor = table.tensor[k];
    int64_t pairs = pair_count(tensor.length);
    for (int64_t pair = int64_t(block) * warps_here() + warp_number(); pair < pairs;
         pair += int64_t(blocks) * warps_here()) {
      Eighth e(pair, tensor.length);
      double sum = sum_of_chunk<S, F>(tensor, group, e, scale);
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
    int64_t n = chunk_count(table.tensor[k].length);
    double* v = shrink(partial + table.tensor[k].partials, &n);
    double sum = warp_tree_sum(v, int(n));
    total = first && k == 0 ? sum : total + sum;
  }
  if (threadIdx.x == 0) result = total;
  __syncthreads();
  double all = result;
  __syncthreads();
  return all;
}

// Fills in the tensors; whether a thread or a team of warps should have a group.
template <class Tensor, class Fill>
void set_tensors(GroupSums& table, const std::vector<Tensor>& tensors, size_t begin,
                 const Fill& fill) {
  for (size_t k = begin; k < tensors.size() && table.tensors < most_tensors; ++k) {
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
inline Shape shape_for(GroupSums& table, const Place& place, int extra_tickets) {
  int64_t pairs = 0;
  for (int k = 0; k < table.tensors; ++k) pairs += pair_count(table.tensor[k].length);
  int64_t warps = pairs < place.warps ? pairs : place.warps, per_group = 1;
  if (table.groups < place.most_blocks() && table.groups + extra_tickets <= ticket_count) {
    int64_t most = (place.most_blocks() + table.groups - 1) / table.groups;
    per_group = (pairs + warps - 1) / warps;
    if (per_group > most) per_group = most;
  }
  int64_t groups = table.groups;
  if (per_group == 1) {
    int64_t fill = place.most_blocks() * (place.warps / warps);
    if (groups > fill) groups = fill;
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
