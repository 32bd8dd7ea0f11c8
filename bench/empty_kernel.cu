// What a launch costs by the size of its parameters: gpu_shapes.py calls it.
#include <cuda_runtime.h>

template <int bytes>
struct Parameters {
  char data[bytes];
};

template <int bytes>
__global__ void empty(const __grid_constant__ Parameters<bytes> parameters, char* never) {
  if (never) *never = parameters.data[blockIdx.x % bytes];
}

template <int bytes>
static float microseconds(int launches) {
  static Parameters<bytes> parameters = {};
  cudaEvent_t start, end;
  float taken = 0;
  cudaEventCreate(&start);
  cudaEventCreate(&end);
  for (int round = 0; round < 2; ++round) {  // the first loads the kernel
    cudaEventRecord(start);
    for (int k = 0; k < launches; ++k) empty<bytes><<<1, 32>>>(parameters, nullptr);
    cudaEventRecord(end);
    if (cudaEventSynchronize(end) != cudaSuccess) return -1;
    cudaEventElapsedTime(&taken, start, end);
  }
  cudaEventDestroy(start);
  cudaEventDestroy(end);
  return cudaGetLastError() == cudaSuccess ? 1000 * taken / launches : -1;
}

// Microseconds of a launch, one after another, with parameters of 16 bytes, 1, 4 or 13 KB; -1: failed.
extern "C" float empty_launch(int kilobytes, int launches) {
  switch (kilobytes) {
    case 0: return microseconds<16>(launches);
    case 1: return microseconds<1024>(launches);
    case 4: return microseconds<4000>(launches);
    case 13: return microseconds<13256>(launches);
  }
  return -1;
}
