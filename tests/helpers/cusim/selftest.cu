// Kernels for the test of the simulator itself. A fault can be planted in some of them.
#include "selftest.h"

namespace {

// The sum of a block's values, in thread 0.
template <int Threads>
__device__ __forceinline__ double block_sum(double value, Fault fault) {
  FASTGAN_SHARED(double, sums, [Threads / 32]);
  for (int flip = 16; flip; flip /= 2) value += __shfl_xor_sync(~0u, value, flip);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  if (fault != Fault::missing_barrier) __syncthreads();
  double total = 0;
  const double* p = sums;
  int count = Threads / 32 + (fault == Fault::shared_overrun);
  if (threadIdx.x == 0)
    for (int w = 0; w < count; ++w) total += p[w];
  __syncthreads();
  return total;
}

// Sums a block each; the block that finishes last adds them up in the order of blocks.
template <int Threads>
__global__ void __launch_bounds__(Threads)
    sum_kernel(const float* x, int n, double* partial, unsigned* ticket, double* out, Fault fault) {
  FASTGAN_SHARED(bool, last, );
  double value = 0;
  if (fault == Fault::global_overrun) n += 1;
  for (int i = blockIdx.x * Threads + threadIdx.x; i < n; i += gridDim.x * Threads)
    value += __ldg(x + i);
  value = block_sum<Threads>(value, fault);
  if (threadIdx.x == 0) {
    if (fault == Fault::early_fence) __threadfence();
    __stcg(partial + blockIdx.x, value);
    if (fault != Fault::missing_fence && fault != Fault::early_fence) __threadfence();
    last = atomicAdd(ticket, 1u) == gridDim.x - 1;
    if (last && fault != Fault::missing_second_fence) __threadfence();
  }
  __syncthreads();
  if (!last) return;
  value = 0;
  for (unsigned i = threadIdx.x; i < gridDim.x; i += Threads) value += __ldcg(partial + i);
  value = block_sum<Threads>(value, Fault::none);
  if (threadIdx.x == 0) {
    *out = value;
    atomicExch(ticket, 0u);
  }
}

// Every collective once; the results of a thread stand in a row of out.
__global__ void collectives_kernel(int64_t* out, Fault fault) {
  FASTGAN_SHARED(int, written, [2][32]);
  int t = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  int lane = t % 32, warp = t / 32;
  int64_t* row = out + t * collective_results;
  *row++ = __shfl_xor_sync(~0u, t, 5);
  *row++ = int64_t(__shfl_xor_sync(~0u, t + 0.25f, 24, 16) * 4);
  *row++ = int64_t(__shfl_down_sync(~0u, t + 0.5, 3) * 2);
  *row++ = __shfl_down_sync(~0u, unsigned(t), 9, 16);
  *row++ = __shfl_sync(~0u, int64_t(t) << 40, 7) >> 40;
  *row++ = __shfl_sync(~0u, uint64_t(t) << 40, 21, 8) >> 40;
  *row++ = __ballot_sync(~0u, t % 3 == 0);
  *row++ = __any_sync(~0u, t == 40);
  *row++ = __all_sync(~0u, t < 40);
  *row++ = __syncthreads_or(t == 33);
  *row++ = __syncthreads_or(t < 0);
  *row++ = __syncthreads_count(t % 5 == 0);
  // The two halves of a warp go different ways, the upper one further.
  unsigned half = lane < 16 ? 0xffffu : 0xffff0000u;
  int value = t;
  if (lane >= 16) value = __shfl_xor_sync(half, value, 8);
  value = __shfl_xor_sync(half, value, 1, 16);
  *row++ = value;
  written[warp][lane] = t;
  if (fault != Fault::missing_warp_barrier) __syncwarp();
  *row++ = written[warp][31 - lane];
}

// No thread waits. The parameter is large, and passed as it is meant to be.
__global__ void scale_kernel(FASTGAN_GRID_CONSTANT(Table) table, const float* x, float* y) {
  dim3 place(blockIdx.x * blockDim.x + threadIdx.x, blockIdx.y * blockDim.y + threadIdx.y,
             blockIdx.z);
  unsigned width = gridDim.x * blockDim.x, height = gridDim.y * blockDim.y;
  unsigned i = (place.z * height + place.y) * width + place.x;
  __stcs(y + i, __ldcs(x + i) * table.factor[i % 2048]);
}

__global__ void faulty_kernel(int* out, Fault fault) {
  FASTGAN_SHARED(float, unwritten, [64]);
  int t = threadIdx.x;
  if (fault == Fault::divergent_barrier) {
    if (t < 40) __syncthreads();
    else __syncthreads();
  }
  if (fault == Fault::early_return) {
    if (t >= 40) return;
    __syncthreads();
  }
  if (fault == Fault::deadlock) {
    if (t < 40) __syncthreads();
    else __syncwarp();
  }
  if (fault == Fault::shuffle_outside) {
    if (t % 32 < 16) out[t] = __shfl_xor_sync(0xffffu, t, 16);
    return;
  }
  if (fault == Fault::unwritten_shared) {
    out[t] = unwritten[t] == unwritten[t];  // 0 for NaN
    return;
  }
  out[t] = t;
}

__global__ void nothing_kernel(int* out) {
  if (threadIdx.x > 1024) *out = 0;
}

__global__ void barriers_kernel(int n) {
  for (int i = 0; i < n; ++i) __syncthreads();
}

}  // namespace

cudaError_t sum(const float* x, int n, double* partial, unsigned* ticket, double* out, int blocks,
                Fault fault) {
  return cusim::launch("sum", sum_kernel<128>, blocks, 128, x, n, partial, ticket, out, fault);
}

cudaError_t collectives(int64_t* out, Fault fault) {
  return cusim::launch("collectives", collectives_kernel, 1, dim3(8, 4, 2), out, fault);
}

cudaError_t scale(const Table& table, const float* x, float* y, dim3 grid, dim3 block) {
  return cusim::launch("scale", scale_kernel, grid, block, table, x, y);
}

cudaError_t faulty(int* out, Fault fault) {
  return cusim::launch("faulty", faulty_kernel, 1, 64, out, fault);
}

cudaError_t nothing(int* out, int blocks, int threads) {
  return cusim::launch("nothing", nothing_kernel, blocks, threads, out);
}

cudaError_t barriers(int n, int blocks, int threads) {
  return cusim::launch("barriers", barriers_kernel, blocks, threads, n);
}
