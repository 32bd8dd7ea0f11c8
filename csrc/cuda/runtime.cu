// What is asked of the CUDA runtime beside launches. It is linked in statically, and shares with
// torch's only the driver: the context that is current when a call comes, and its streams.
#include <algorithm>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "device.h"

namespace fastgan {
namespace cuda {

namespace {

std::string text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

int driver_version() {
  int driver = 0;
  return cudaDriverGetVersion(&driver) == cudaSuccess ? driver : 0;
}

int runtime_version() {
  int runtime = 0;
  cudaRuntimeGetVersion(&runtime);
  return runtime;
}

// Drivers serve all runtimes of their major version; more than 4 KB of parameters came with 12.1.
int needed_driver() {
  return std::max(12010, runtime_version() / 1000 * 1000);
}

std::string old_driver(const std::string& what, int needed) {
  int driver = driver_version();
  if (!driver) return "there is no NVIDIA driver";
  return "the NVIDIA driver is too old: it serves CUDA " + text(driver) + ", " + what + " " +
         text(needed);
}

// Errors of work that runs on the device. They show at the next call, whatever that is, and stay.
// By number, since not every toolkit has a name for each.
bool of_earlier_work(cudaError_t error) {
  switch (int(error)) {
    case 214:  // an uncorrectable ECC error
    case 220:  // the same on NVLink
    case 226:  // a contained error
    case 700:  // illegal address
    case 702:  // launch timeout
    case 709:  // context destroyed, by one of these
    case 710:  // device-side assert
    case 714:  // hardware stack error
    case 715:  // illegal instruction
    case 716:  // misaligned address
    case 717:  // invalid address space
    case 718:  // invalid program counter
    case 719:  // launch failure
    case 721:  // tensor memory leak
      return true;
  }
  return false;
}

std::string explain(cudaError_t error) {
  std::string what = cudaGetErrorString(error);
  if (!of_earlier_work(error)) return what;
  return "an operation queued earlier on this device failed: " + what +
         " (CUDA_LAUNCH_BLOCKING=1 finds it)";
}

void check(cudaError_t error) {
  if (error) throw std::runtime_error("CUDA: " + explain(error));
}

// While one lives, no capture by another thread objects to this thread's allocating and loading.
class Relaxed {
 public:
  Relaxed() {
    check(cudaThreadExchangeStreamCaptureMode(&mode));
  }
  ~Relaxed() {
    cudaThreadExchangeStreamCaptureMode(&mode);
  }
  Relaxed(const Relaxed&) = delete;

 private:
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
};

// Counters at 0; null where the device has no memory left.
unsigned* new_counters(cudaStream_t stream) {
  constexpr size_t bytes = ticket_count * sizeof(unsigned);
  Relaxed relaxed;
  void* memory = nullptr;
  cudaError_t error = cudaMalloc(&memory, bytes);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // else it is reported once more
    return nullptr;
  }
  check(error);
  error = cudaMemsetAsync(memory, 0, bytes, stream);
  if (error) cudaFree(memory);
  check(error);
  return static_cast<unsigned*>(memory);
}

}  // namespace

std::string launch_failure(const char* kernel, cudaError_t error) {
  cudaGetLastError();
  if (of_earlier_work(error)) return explain(error) + "; seen at the launch of " + kernel;
  return std::string("the kernel ") + kernel + " could not be launched: " + explain(error);
}

std::string why_unusable(cudaError_t error) {
  cudaGetLastError();
  switch (error) {
    case cudaErrorInsufficientDriver: return old_driver("the kernels need", needed_driver());
    case cudaErrorUnsupportedPtxVersion:
      return old_driver("and for this device the kernels' PTX needs", runtime_version());
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
      return "the kernels were not built for this device's architecture";
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
    case cudaErrorStubLibrary:
    case cudaErrorInvalidKernelImage:
    case cudaErrorJitCompilerNotFound:
    case cudaErrorJitCompilationDisabled:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice: return cudaGetErrorString(error);
    default: throw std::runtime_error(explain(error));
  }
}

std::string unusable(int device) {
  int driver = 0, count = 0;
  if (cudaError_t error = cudaDriverGetVersion(&driver)) return why_unusable(error);
  if (driver < needed_driver()) return old_driver("the kernels need", needed_driver());
  if (cudaError_t error = cudaGetDeviceCount(&count)) return why_unusable(error);
  if (device >= count) return "there is no CUDA device " + std::to_string(device);
  Relaxed relaxed;
  // Loading the kernels also keeps a capture from having to.
  for (const auto& family : {loss_unusable, penalty_unusable, interpolate_unusable}) {
    std::string why = family();
    if (!why.empty()) return why;
  }
  return "";
}

int multiprocessors(int device) {
  static std::mutex mutex;
  static int known[64] = {};
  std::lock_guard<std::mutex> lock(mutex);
  int slot = device & 63, n = 0;
  if (known[slot]) return known[slot];
  check(cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, device));
  return known[slot] = n;
}

// Not from torch's allocator: what it hands out while torch.compile warms up its graphs belongs to
// these. Allocated once a stream, whose number never comes again (its handle may), and kept: so
// their number is limited.
unsigned* counters_of(int device, void* stream) {
  constexpr size_t most_streams = 256;
  static std::mutex mutex;
  static auto& known = *new std::map<std::pair<int, unsigned long long>, unsigned*>;
  cudaStreamCaptureStatus status;
  unsigned long long number;
  check(cudaStreamIsCapturing(cudaStream_t(stream), &status));
  if (status != cudaStreamCaptureStatusNone) return nullptr;
  check(cudaStreamGetId(cudaStream_t(stream), &number));
  std::lock_guard<std::mutex> lock(mutex);
  auto found = known.find({device, number});
  if (found != known.end()) return found->second;
  if (known.size() >= most_streams) return nullptr;
  unsigned* counters = new_counters(cudaStream_t(stream));
  if (counters) known[{device, number}] = counters;
  return counters;
}

std::string versions() {
  int driver = driver_version();
  return "runtime " + text(runtime_version()) +
         (driver ? ", driver for " + text(driver) : ", no driver");
}

}  // namespace cuda
}  // namespace fastgan
