// What the kernels need of CUDA. With FASTGAN_SIM the same sources are compiled by a C++ compiler
// and run on the CPU by tests/helpers/cusim, thread by thread.
#pragma once
#ifdef FASTGAN_SIM
#include "cusim.h"
#define FASTGAN_DEVICE inline
#define FASTGAN_CALLED inline
#else
#include <cuda_runtime.h>
#define FASTGAN_DEVICE __device__ __forceinline__
#define FASTGAN_CALLED static __device__ __noinline__  // once, not wherever it is called
#define FASTGAN_SHARED(type, name, dims) __shared__ type name dims
#define FASTGAN_GRID_CONSTANT(type) const __grid_constant__ type
#endif

// A function object's body into its caller: as a function of its own it would keep its captures on
// the stack.
#define FASTGAN_INLINED __attribute__((always_inline))

#include <stdexcept>
#include <string>
#include <type_traits>

#include "../common/dtype.h"
#include "place.h"

namespace fastgan {

constexpr int warp = 32, most_warps = 8;  // a block has at most 8 warps

#ifndef FASTGAN_SIM
namespace cuda {
// runtime.cu: what to say of a launch that failed.
std::string launch_failure(const char* kernel, cudaError_t error);
// Why kernels cannot be loaded, for good. An error that may pass is thrown: std::runtime_error.
std::string why_unusable(cudaError_t error);
}  // namespace cuda
#endif

// The most bytes of parameters that a kernel can have, from Volta and CUDA 12.1 on. 16 bytes: what
// their alignment may add.
constexpr size_t most_parameters = 32764;
template <class... Parameters>
constexpr size_t parameter_bytes = (size_t(0) + ... + ((sizeof(Parameters) + 15) / 16 * 16));

// The one place where a kernel is launched.
template <class... Parameters, class... Arguments>
void launch(const std::string& name, void (*kernel)(Parameters...), int64_t blocks, int threads,
            const Place& place, const Arguments&... arguments) {
  static_assert((std::is_same_v<std::decay_t<Parameters>, Arguments> && ...));
  static_assert(parameter_bytes<Arguments...> <= most_parameters);
  if (blocks < 1 || blocks > 0x7fffffff)
    throw std::invalid_argument(name + ": the call is too large for one launch");
  dim3 grid{unsigned(blocks)}, block{unsigned(threads)};
#ifdef FASTGAN_SIM
  cudaError_t error =
      place.waiting([&] { return cusim::launch(name.c_str(), kernel, grid, block, arguments...); });
  std::string what = error ? "the kernel " + name + " failed: " + cusim::last_message() : "";
#else
  void* list[] = {const_cast<void*>(static_cast<const void*>(&arguments))...};
  cudaError_t error = place.waiting([&] {
    return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, list, 0,
                            cudaStream_t(place.stream));
  });
  std::string what = error ? cuda::launch_failure(name.c_str(), error) : "";
#endif
  if (error) throw std::runtime_error(what);
}

// Loads kernels; why that cannot be, or "". An error that may pass is thrown.
template <class... Kernels>
std::string loadable(Kernels... kernels) {
#ifndef FASTGAN_SIM
  for (const void* kernel : {reinterpret_cast<const void*>(kernels)...}) {
    cudaFuncAttributes attributes;
    cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
    if (error) return cuda::why_unusable(error);
  }
#else
  (void)sizeof...(kernels);
#endif
  return "";
}

// The first reason that one of these gives, or "".
template <std::string (*... checks)()>
std::string first_reason() {
  std::string why;
  (void)((why = checks(), why.empty()) && ...);
  return why;
}

// ---------------------------------------------------------------------------------- dtypes

// body(dtype) for a call's dtype, where results are of F.
template <class F, class Body>
void with_dtype(DType dtype, const Body& body) {
  if constexpr (sizeof(F) == 8) {
    body(std::integral_constant<DType, DType::float64>());
  } else {
    switch (dtype) {
      case DType::float16: return body(std::integral_constant<DType, DType::float16>());
      case DType::bfloat16: return body(std::integral_constant<DType, DType::bfloat16>());
      default: return body(std::integral_constant<DType, DType::float32>());
    }
  }
}

inline std::string named(const char* kernel, DType dtype) {
  return std::string(kernel) + dtype_names[int(dtype)] + ">";
}

}  // namespace fastgan
