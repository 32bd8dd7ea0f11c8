// Where a call to the CUDA kernels runs, and what the kernels offer to the binding.
#pragma once
#include <cstdint>
#include <functional>

#include "../penalty.h"
#include "../terms.h"

namespace fastgan {

struct Place {
  void* stream = nullptr;
  int multiprocessors = 1;
  int warps = 8;             // a block, at most
  int blocks_per_multi = 4;  // of a grid that fills the device
  // Memory for this call alone, of that many bytes, aligned to 16.
  std::function<char*(int64_t)> scratch;
  // Counters that are 0, and that the kernel leaves 0; no other launch that may run at the same
  // time has them.
  std::function<unsigned*()> tickets;

  int64_t most_blocks() const {
    return int64_t(multiprocessors) * blocks_per_multi;
  }
};

constexpr int ticket_count = 4096;

namespace cuda {

void loss_forward(Call&, const Place&);
void loss_backward(Call&, const Place&);
void loss_second(Call&, const Place&);
void penalty_forward(PenaltyCall&, const Place&);
void penalty_backward(PenaltyCall&, const Place&);
void penalty_second(PenaltyCall&, const Place&);
void interpolate_forward(InterpolateCall&, const Place&);
void interpolate_backward(InterpolateCall&, const Place&);

// Why a family's kernels cannot be loaded on the current device; "" where they were.
std::string loss_unusable();
std::string penalty_unusable();
std::string interpolate_unusable();

// runtime.cu. Why the kernels cannot run on a device ("" where they can), its multiprocessors, and
// a stream's own counters, all 0; null while the stream is being captured.
std::string unusable(int device);
int multiprocessors(int device);
unsigned* counters_of(void* stream);
std::string versions();

}  // namespace cuda
}  // namespace fastgan
