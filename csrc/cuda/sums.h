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

// The lanes of a thread after more rows, each of four neighbours.
template <class T>
FASTGAN_DEVICE void add_row(double (&lane)[4], const Vec<T, 4>& row) {
  double more[4];
  to_doubles(row.v, more);
#pragma unroll
  for (int k = 0; k < 4; ++k) lane[k] = lane[k] + more[k];
}

// The sum of a chunk's n <= 1,024 numbers, by one warp. They lie at v, aligned to 16 bytes, where
// threads wrote them before a barrier.
template <class T>
FASTGAN_DEVICE double warp_chunk_sum(const T* v, int n) {
  const T* mine = v + int(threadIdx.x) % warp * 4;
  const Vec<T, 4>* four = reinterpret_cast<const Vec<T, 4>*>(mine);
  double lane[4];
#pragma unroll
  for (int k = 0; k < 4; ++k) lane[k] = empty_lane(n);
  if (n == chunk) {
#pragma unroll
    for (int row = 0; row < chunk / lanes; ++row) add_row(lane, four[row * warp]);
    return fold(lane);
  }
  int left = n - int(threadIdx.x) % warp * 4;
#pragma unroll 1
  for (int row = 0; row * lanes < n; ++row, left -= lanes) {
#pragma unroll
    for (int k = 0; k < 4; ++k)
      if (k < left) lane[k] = lane[k] + double(mine[row * lanes + k]);
  }
  return fold(lane);
}

// The same where speed matters less than how much code there is.
template <class T>
FASTGAN_CALLED double chunk_sum_called(const T* v, int n) {
  return warp_chunk_sum(v, n);
}

// ---------------------------------------------------------------------------------- levels

// The levels of a tree above chunk sums: `n` sums at v shrink to at most 1,024. Level after level
// lies behind the one before it, each from a multiple of 16 bytes on; v has room for
// level_space(n).
FASTGAN_HD constexpr int64_t padded(int64_t n) {
  return n + n % 2;
}

FASTGAN_HD constexpr int64_t level_space(int64_t n) {
  int64_t all = padded(n);
  while (n > chunk) {
    n = chunk_count(n);
    all += padded(n);
  }
  return all;
}

// A list of sums; up() is the level above it.
struct Level {
  double* v;
  int64_t n;

  FASTGAN_DEVICE bool is_top() const {
    return n <= chunk;
  }
  FASTGAN_DEVICE Level up() const {
    return {v + padded(n), chunk_count(n)};
  }
  FASTGAN_DEVICE Level top() const {
    Level level = *this;
    while (!level.is_top()) level = level.up();
    return level;
  }
  // The sum of a chunk of it, by one warp, into the level above.
  FASTGAN_DEVICE void add_up(int64_t number) const {
    int64_t left = n - number * chunk;
    double sum = chunk_sum_called(v + number * chunk, int(left < chunk ? left : chunk));
    if (threadIdx.x % warp == 0) up().v[number] = sum;
  }
  // The last level, by one warp: as tree_sum() has it, a single sum stays as it is.
  FASTGAN_DEVICE double sum() const {
    return n == 1 ? *v : chunk_sum_called(v, int(n));
  }
};

// The levels of one list, by the whole block; the top one.
FASTGAN_DEVICE Level shrink(Level level) {
  for (; !level.is_top(); level = level.up()) {
    int64_t count = chunk_count(level.n);
    for (int64_t c = warp_number(); c < count; c += warps_here()) level.add_up(c);
    __syncthreads();
  }
  return level;
}

// ---------------------------------------------------------------------------------- the last block

// Adds 1 to a counter: what this thread, and others before a barrier, have written is seen by whom
// finds the counter at that or more, and likewise here.
FASTGAN_DEVICE unsigned take_ticket(unsigned* ticket) {
#ifdef FASTGAN_SIM
  __threadfence();
  unsigned before = atomicAdd(ticket, 1u);
  __threadfence();
#else
  unsigned before;
  asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], 1;"
               : "=r"(before)
               : "l"(__cvta_generic_to_global(ticket))
               : "memory");
#endif
  return before;
}

// A counter is 0 again, by whom came last. take_ticket() orders that after the others' tickets;
// only the fences that stand for it in the simulation leave out the atomic operation itself.
FASTGAN_DEVICE void clear_tickets(unsigned* ticket) {
#ifdef FASTGAN_SIM
  atomicExch(ticket, 0u);
#else
  *ticket = 0;
#endif
}

// Whether all other blocks that take a ticket here have done so before: the last one sees all that
// they have written. The counter is 0 again afterwards, for the next launch on the stream.
FASTGAN_DEVICE bool last_to_come(unsigned* ticket, unsigned blocks) {
  FASTGAN_SHARED(bool, last, );
  __syncthreads();
  if (blocks == 1) return true;
  if (threadIdx.x == 0) {
    last = take_ticket(ticket) == blocks - 1;
    if (last) clear_tickets(ticket);
  }
  __syncthreads();
  return last;
}

}  // namespace fastgan
