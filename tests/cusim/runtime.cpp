// In the place of csrc/cuda/runtime.cu where the kernels run on the CPU.
#include <map>
#include <vector>

#include "cuda/place.h"

namespace {
std::map<int64_t, std::vector<unsigned>> streams;
}

// How many streams have counters, and how many of these are not 0.
extern "C" int cusim_streams() {
  return int(streams.size());
}
extern "C" int cusim_counters_left() {
  int left = 0;
  for (const auto& [number, counters] : streams)
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
unsigned* counters_of(void* stream) {
  int64_t number = int64_t(stream);
  if (number < 0) return nullptr;
  std::vector<unsigned>& counters = streams[number];
  counters.resize(ticket_count);
  return counters.data();
}

std::string versions() {
  return "simulated";
}

}  // namespace cuda
}  // namespace fastgan
