// What the kernels need of CUDA. With FASTGAN_SIM the same sources are compiled by a C++ compiler
// and run on the CPU by tests/cusim, thread by thread.
#pragma once
#ifdef FASTGAN_SIM
#include "cusim.h"
#define FASTGAN_DEVICE inline
#else
#include <cuda_runtime.h>
#define FASTGAN_DEVICE __device__ __forceinline__
#define FASTGAN_SHARED(type, name, dims) __shared__ type name dims
#define FASTGAN_GRID_CONSTANT(type) const __grid_constant__ type
#endif

#include <stdexcept>
#include <string>
#include <type_traits>

#include "place.h"

namespace fastgan {

constexpr int warp = 32, most_warps = 8;  // a block has at most 8 warps

// The one place where a kernel is launched.
template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), int64_t blocks, int threads,
            const Place& place, const Arguments&... arguments) {
  static_assert((std::is_same_v<std::decay_t<Parameters>, Arguments> && ...));
  if (blocks < 1 || blocks > 0x7fffffff)
    throw std::invalid_argument(std::string(name) + ": the call is too large for one launch");
#ifdef FASTGAN_SIM
  cudaError_t error =
      cusim::launch(name, kernel, dim3(unsigned(blocks)), dim3(unsigned(threads)), arguments...);
  std::string what = error ? cusim::last_message() : "";
#else
  void* list[] = {const_cast<void*>(static_cast<const void*>(&arguments))...};
  cudaError_t error =
      cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(unsigned(blocks)),
                       dim3(unsigned(threads)), list, 0, cudaStream_t(place.stream));
  std::string what = error ? cudaGetErrorString(error) : "";
#endif
  (void)place;
  if (error) throw std::runtime_error(std::string("the kernel ") + name + " failed: " + what);
}

// Loads kernels; why that cannot be, or "".
template <class... Kernels>
std::string loadable(Kernels... kernels) {
#ifndef FASTGAN_SIM
  for (const void* kernel : {reinterpret_cast<const void*>(kernels)...}) {
    cudaFuncAttributes attributes;
    cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
    if (error) cudaGetLastError();
    if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorUnsupportedPtxVersion)
      return "the kernels were not built for this device's architecture";
    if (error) return cudaGetErrorString(error);
  }
#else
  (void)sizeof...(kernels);
#endif
  return "";
}

}  // namespace fastgan
