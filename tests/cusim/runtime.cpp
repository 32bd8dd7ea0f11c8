// In the place of csrc/cuda/runtime.cu where the kernels run on the CPU.
#include "cuda/place.h"

namespace fastgan {
namespace cuda {

std::string unusable(int) {
  return "";
}

int multiprocessors(int) {
  return 4;
}

// A stream is what its handle says; those below 0 as an integer are being captured.
int64_t stream_number(void* stream) {
  int64_t handle = int64_t(stream);
  return handle < 0 ? -1 : handle;
}

std::string versions() {
  return "simulated";
}

}  // namespace cuda
}  // namespace fastgan
