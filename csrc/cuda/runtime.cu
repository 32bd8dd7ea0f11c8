// What is asked of the CUDA runtime beside launches. It is linked in statically, and shares with
// torch's only the driver: the context that is current when a call comes, and its streams.
#include <mutex>
#include <string>

#include "device.h"

namespace fastgan {
namespace cuda {

namespace {
__global__ void nothing() {}
}  // namespace

std::string unusable(int device) {
  int count = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorInsufficientDriver) {
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    auto text = [](int v) {
      return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10);
    };
    return "the NVIDIA driver is too old: it serves CUDA " + text(driver) +
           ", the kernels were built with " + text(runtime);
  }
  if (error != cudaSuccess) return cudaGetErrorString(error);
  if (device >= count) return "there is no CUDA device " + std::to_string(device);
  cudaFuncAttributes attributes;  // also loads the module, which a capture had better not see
  error = cudaFuncGetAttributes(&attributes, nothing);
  cudaGetLastError();
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorUnsupportedPtxVersion)
    return "the kernels were not built for this device's architecture";
  return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

int multiprocessors(int device) {
  static std::mutex mutex;
  static int known[64] = {};
  std::lock_guard<std::mutex> lock(mutex);
  int slot = device & 63, n = 0;
  if (known[slot]) return known[slot];
  if (cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, device) != cudaSuccess || n < 1)
    throw std::runtime_error("the number of multiprocessors is not known");
  return known[slot] = n;
}

int64_t stream_number(void* stream) {
  cudaStreamCaptureStatus status;
  unsigned long long id;
  if (cudaStreamIsCapturing(cudaStream_t(stream), &status) != cudaSuccess)
    throw std::runtime_error("the stream is not usable");
  if (status != cudaStreamCaptureStatusNone) return -1;
  if (cudaStreamGetId(cudaStream_t(stream), &id) != cudaSuccess)
    throw std::runtime_error("the stream is not usable");
  return int64_t(id & 0x7fffffffffffffff);
}

std::string versions() {
  int runtime = 0, driver = 0;
  cudaRuntimeGetVersion(&runtime);
  if (cudaDriverGetVersion(&driver) != cudaSuccess) driver = 0;
  auto text = [](int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); };
  return "runtime " + text(runtime) + (driver ? ", driver for " + text(driver) : ", no driver");
}

}  // namespace cuda
}  // namespace fastgan
