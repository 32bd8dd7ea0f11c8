// What fastgan._native lends to fastgan._nodes, the C++ nodes of autograd, by a table of functions:
// so no kernel is compiled twice. Both are compiled from the same headers, or they are not used
// together (`headers`).
#pragma once
#include "../cuda/place.h"
#include "loss.h"
#include "penalty.h"

namespace fastgan {

// Where the CUDA kernels run; null where they were not built.
struct CudaKernels {
  void (*loss_forward)(Call&, const Place&);
  void (*loss_backward)(Call&, const Place&);
  void (*loss_second)(Call&, const Place&);
  void (*penalty_forward)(PenaltyCall&, const Place&);
  void (*penalty_backward)(PenaltyCall&, const Place&);
  void (*penalty_second)(PenaltyCall&, const Place&);
  void (*interpolate_forward)(InterpolateCall&, const Place&);
  void (*interpolate_backward)(InterpolateCall&, const Place&);
  // Fill in the shape of launches on a device.
  void (*shape)(int device, Place&);
  unsigned* (*counters_of)(int device, void* stream);
};

struct Interface {
  // The CPU kernels of the instruction set in force.
  const LossKernels& (*loss)();
  const PenaltyKernels& (*penalty)();
  const InterpolateKernels& (*interpolate)();
  const CudaKernels* cuda;
};

constexpr const char* interface_name = "fastgan._native.interface";

#ifndef FASTGAN_HEADERS
#define FASTGAN_HEADERS "unknown"
#endif

}  // namespace fastgan
