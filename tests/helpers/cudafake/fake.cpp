// A CUDA runtime that does what tests/kernels/cuda/test_cuda_runtime.py tells it to, and
// csrc/cuda/runtime.cu's functions for ctypes. A stream's number is its handle; one below 0 is
// being captured.
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include "cuda/device.h"

namespace {

std::map<std::string, cudaError_t> failing;
std::map<std::string, int> calls;
int driver = 13000, runtime = 13000;
cudaError_t last = cudaSuccess;
cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;

cudaError_t answer(const char* name) {
  ++calls[name];
  auto found = failing.find(name);
  return found == failing.end() ? cudaSuccess : last = found->second;
}

// What may not be done while another thread captures, unless this one has relaxed its mode.
cudaError_t unsafe(const char* name) {
  if (mode != cudaStreamCaptureModeRelaxed) return last = cudaError_t(900);
  return answer(name);
}

std::string said;

// 1 where `call` throws; what it returned or threw is kept for `fake_said`.
template <class Call>
int telling(Call call) {
  try {
    said = call();
    return 0;
  } catch (const std::exception& error) {
    said = error.what();
    return 1;
  }
}

void kernel(int) {}

}  // namespace

const char* cudaGetErrorString(cudaError_t error) {
  static std::string text;
  text = "error " + std::to_string(int(error));
  return text.c_str();
}
cudaError_t cudaGetLastError() {
  cudaError_t error = last;
  last = cudaSuccess;
  return error;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = driver;
  return answer("cudaDriverGetVersion");
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = runtime;
  return answer("cudaRuntimeGetVersion");
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 2;
  return answer("cudaGetDeviceCount");
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 132;
  return answer("cudaDeviceGetAttribute");
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, const void*) {
  return unsafe("cudaFuncGetAttributes");
}
cudaError_t cudaLaunchKernel(const void*, dim3, dim3, void**, size_t, cudaStream_t) {
  return answer("cudaLaunchKernel");
}
cudaError_t cudaMalloc(void** memory, size_t bytes) {
  cudaError_t error = unsafe("cudaMalloc");
  *memory = error ? nullptr : malloc(bytes);
  return error;
}
cudaError_t cudaFree(void* memory) {
  free(memory);
  return answer("cudaFree");
}
cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
  cudaError_t error = answer("cudaMemsetAsync");
  if (!error) memset(memory, value, bytes);
  return error;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = intptr_t(stream) < 0 ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return answer("cudaStreamIsCapturing");
}
cudaError_t cudaStreamGetId(cudaStream_t stream, unsigned long long* number) {
  *number = (unsigned long long)(intptr_t(stream));
  return answer("cudaStreamGetId");
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* other) {
  std::swap(mode, *other);
  return answer("cudaThreadExchangeStreamCaptureMode");
}

namespace fastgan {
namespace cuda {
std::string loss_unusable() {
  return loadable(kernel);
}
std::string penalty_unusable() {
  return "";
}
std::string interpolate_unusable() {
  return "";
}
}  // namespace cuda
}  // namespace fastgan

extern "C" {
// From now on `function` returns `error`; 0: it does as it should.
void fake_failing(const char* function, int error) {
  if (error) failing[function] = cudaError_t(error);
  else failing.erase(function);
}
void fake_versions(int of_driver, int of_runtime) {
  driver = of_driver;
  runtime = of_runtime;
}
int fake_calls(const char* function) {
  return calls[function];
}
int fake_last() {
  return last;
}
int fake_mode() {
  return mode;
}
const char* fake_said() {
  return said.c_str();
}
int unusable(int device) {
  return telling([&] { return fastgan::cuda::unusable(device); });
}
int multiprocessors(int device) {
  return telling([&] { return std::to_string(fastgan::cuda::multiprocessors(device)); });
}
int counters(int device, intptr_t stream, unsigned** result) {
  return telling([&] {
    *result = fastgan::cuda::counters_of(device, reinterpret_cast<void*>(stream));
    return "";
  });
}
// Launches a kernel; what released and acquired the program's lock is told by adding up.
int launch(int* released, int* acquired) {
  static int *out, *in;
  out = released;
  in = acquired;
  fastgan::Place place;
  place.release = [] {
    ++*out;
    return static_cast<void*>(in);
  };
  place.acquire = [](void* state) { ++*static_cast<int*>(state); };
  return telling([&] {
    fastgan::launch("a_kernel", kernel, 1, 32, place, 7);
    return "";
  });
}
}
