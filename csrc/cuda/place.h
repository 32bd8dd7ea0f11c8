// Where a call to the CUDA kernels runs, and what the kernels offer to the binding.
#pragma once
#include <cstdint>
#include <functional>

#include "../common/loss.h"
#include "../common/penalty.h"

namespace fastgan {

struct Place {
  void* stream = nullptr;
  int multiprocessors = 1;
  int threads_per_multi = 2048;  // that live at once on a multiprocessor
  int warps = 8;                 // a block, at most, of kernels that leave it open
  int blocks_per_multi = 0;      // of a grid that fills the device; 0: what a kernel says
  // Memory for this call alone, of that many bytes, aligned to 16.
  std::function<char*(int64_t)> scratch;
  // Counters that are 0, and that the kernel leaves 0; no other launch that may run at the same
  // time has them.
  std::function<unsigned*()> tickets;
  // Let the program's other threads run, and stop them again, given what the first returned: for
  // Python, its lock. Null where nobody waits.
  void* (*release)() = nullptr;
  void (*acquire)(void*) = nullptr;

  // The most blocks of so many threads that live at once, where `per_multi` of 256 threads do on a
  // multiprocessor.
  int64_t most_blocks(int threads, int per_multi) const {
    int each = per_multi * 256 / threads, fit = threads_per_multi / threads;
    each = each < fit ? each : fit;
    each = each < 32 ? each : 32;
    return int64_t(multiprocessors) * (blocks_per_multi ? blocks_per_multi : each < 1 ? 1 : each);
  }

  // Blocks for so many pieces of work, one after another: as many as live at once, or as few as
  // take no longer.
  int64_t grid(int64_t pieces, int threads, int per_multi) const {
    int64_t most = most_blocks(threads, per_multi), rounds = (pieces + most - 1) / most;
    return rounds < 2 ? pieces : (pieces + rounds - 1) / rounds;
  }

  // `call()`, which may block, as a launch does while the device's queue is full; meanwhile other
  // threads run. It must not throw.
  template <class Function>
  auto waiting(Function call) const {
    void* state = release ? release() : nullptr;
    auto result = call();
    if (acquire) acquire(state);
    return result;
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

// Why a family's kernels cannot be loaded on the current device, for good; "" where they were. An
// error that may pass is thrown.
std::string loss_unusable();
std::string penalty_unusable();
std::string interpolate_unusable();

// runtime.cu. Why the kernels cannot run on a device, for good ("" where they can; an error that
// may pass is thrown), and its multiprocessors.
std::string unusable(int device);
int multiprocessors(int device);
// A stream's own counters, all 0; null while the stream is being captured, and where there is no
// memory for them or too many streams have some.
unsigned* counters_of(int device, void* stream);
std::string versions();

}  // namespace cuda
}  // namespace fastgan
