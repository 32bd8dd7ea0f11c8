// What is asked of the CUDA runtime beside launches. It is linked in statically, and shares with
// torch's only the driver: the context that is current when a call comes, and its streams.
#include <map>
#include <mutex>
#include <string>

#include "device.h"

namespace fastgan {
namespace cuda {

namespace {

void check(cudaError_t error) {
  if (error) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}

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
  // Loading the kernels also keeps a capture from having to.
  for (const std::string& why : {loss_unusable(), penalty_unusable(), interpolate_unusable()})
    if (!why.empty()) return why;
  return "";
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

// Not from torch's allocator: what it hands out while torch.compile warms up its graphs belongs to
// these. Allocated once a stream; that no capture elsewhere objects, it is said to be relaxed.
unsigned* counters_of(void* stream) {
  static std::mutex mutex;
  static auto& known = *new std::map<unsigned long long, unsigned*>;
  cudaStreamCaptureStatus status;
  unsigned long long number;
  check(cudaStreamIsCapturing(cudaStream_t(stream), &status));
  if (status != cudaStreamCaptureStatusNone) return nullptr;
  check(cudaStreamGetId(cudaStream_t(stream), &number));  // a handle may come again, a number not
  std::lock_guard<std::mutex> lock(mutex);
  unsigned*& counters = known[number];
  if (counters) return counters;
  constexpr size_t bytes = ticket_count * sizeof(unsigned);
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  check(cudaThreadExchangeStreamCaptureMode(&mode));
  void* memory = nullptr;
  cudaError_t error = cudaMalloc(&memory, bytes);
  if (!error) error = cudaMemsetAsync(memory, 0, bytes, cudaStream_t(stream));
  check(cudaThreadExchangeStreamCaptureMode(&mode));
  check(error);
  return counters = static_cast<unsigned*>(memory);
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
