// In the place of csrc/cuda/runtime.cu where the kernels run on the CPU.
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "cuda/place.h"

namespace {
std::map<std::pair<int, int64_t>, std::vector<unsigned>> streams;
std::mutex mutex;  // counters are asked for without Python's lock
}  // namespace

// How many streams have counters, and how many of these are not 0.
extern "C" int cusim_streams() {
  return int(streams.size());
}
extern "C" int cusim_counters_left() {
  int left = 0;
  for (const auto& [stream, counters] : streams)
    for (unsigned c : counters) left += c != 0;
  return left;
}

namespace fastgan {
namespace cuda {

std::string unusable(int) {
  return "";
}

int multiprocessors(int) {
  return 4;
}

// A stream is what its handle says; those below 0 as an integer are being captured.
unsigned* counters_of(int device, void* stream) {
  int64_t number = int64_t(stream);
  if (number < 0) return nullptr;
  std::lock_guard<std::mutex> lock(mutex);
  std::vector<unsigned>& counters = streams[{device, number}];
  counters.resize(ticket_count);
  return counters.data();
}

std::string versions() {
  return "simulated";
}

}  // namespace cuda
}  // namespace fastgan
