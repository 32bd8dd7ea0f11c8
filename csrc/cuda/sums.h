// The fixed tree of ../cpu/tree.h on the device. A warp has a chunk: each thread holds four
// neighbouring lanes, adds their rows in order and folds them; the rest of the fold are shuffles
// between neighbours. a + b and b + a have the same bits, so every order of threads and blocks
// gives the same sum.
#pragma once
#include "memory.h"

namespace fastgan {

constexpr int chunk = 1024, lanes = 128;

FASTGAN_HD constexpr int64_t chunk_count(int64_t n) {
  return (n + chunk - 1) / chunk;
}

FASTGAN_DEVICE int warp_number() {
  return int(threadIdx.x) / warp;
}
FASTGAN_DEVICE int warps_here() {
  return int(blockDim.x) / warp;
}

// The fold of a chunk's lanes; every thread of the warp gets it.
FASTGAN_DEVICE double fold(const double (&lane)[4]) {
  double sum = (lane[0] + lane[1]) + (lane[2] + lane[3]);
#pragma unroll
  for (int distance = 1; distance < warp; distance *= 2)
    sum = sum + __shfl_xor_sync(~0u, sum, distance);
  return sum;
}

// A lane's sum before its first summand: -0 is neutral, and what tree.h has of a chunk that is
// full.
FASTGAN_DEVICE double empty_lane(int n) {
  return n == chunk ? -0. : 0.;
}

// What other threads have written before a barrier, in shared memory or by other blocks: volatile,
// so that neither an old value in a register nor one in a cache is taken for it.
FASTGAN_DEVICE double written(const double* p) {
  return *static_cast<const volatile double*>(p);
}

// Sum of n <= 1024 doubles by one warp.
FASTGAN_DEVICE double warp_chunk_sum(const double* v, int n) {
  int lane0 = int(threadIdx.x) % warp * 4;
  double lane[4];
#pragma unroll
  for (int k = 0; k < 4; ++k) lane[k] = empty_lane(n);
#pragma unroll 1
  for (int at = lane0; at < n; at += lanes)
#pragma unroll
    for (int k = 0; k < 4; ++k)
      if (at + k < n) lane[k] = lane[k] + written(v + at + k);
  return fold(lane);
}

// The levels of a tree above chunk sums: `n` sums at v shrink to at most 1,024, by the whole block.
// Level after level lies behind the one before it, so v has room for level_space(n).
FASTGAN_HD constexpr int64_t level_space(int64_t n) {
  int64_t all = n;
  while (n > chunk) {
    n = chunk_count(n);
    all += n;
  }
  return all;
}

FASTGAN_DEVICE double* shrink(double* v, int64_t* n) {
  while (*n > chunk) {
    int64_t count = chunk_count(*n);
    double* next = v + *n;
    for (int64_t c = warp_number(); c < count; c += warps_here()) {
      int64_t left = *n - c * chunk;
      double s = warp_chunk_sum(v + c * chunk, int(left < chunk ? left : chunk));
      if (threadIdx.x % warp == 0) next[c] = s;
    }
    __syncthreads();
    v = next;
    *n = count;
  }
  return v;
}

// The last level, by one warp: as tree_sum() has it, a single sum stays as it is.
FASTGAN_DEVICE double warp_tree_sum(const double* v, int n) {
  return n == 1 ? written(v) : warp_chunk_sum(v, n);
}

// Whether all other blocks that take a ticket here have done so before: the last one sees all that
// they have written. The counter is 0 again afterwards, for the next launch on the stream.
FASTGAN_DEVICE bool last_to_come(unsigned* ticket, unsigned blocks) {
  FASTGAN_SHARED(bool, last, );
  __syncthreads();
  if (blocks == 1) return true;
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicAdd(ticket, 1u) == blocks - 1;
    if (last) {
      atomicExch(ticket, 0u);
      __threadfence();
    }
  }
  __syncthreads();
  return last;
}

}  // namespace fastgan
