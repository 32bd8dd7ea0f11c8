// Runs kernels of fastgan._native where tensors are: on the CPU, or on a device's current stream.
#pragma once
#include <ATen/record_function.h>
#include <Python.h>
#include <c10/core/DeviceGuard.h>

#include "tensors.h"

namespace fastgan {

// What `learn` was told.
struct Known {
  const Interface* native = nullptr;
  PyObject* stream_of = nullptr;  // a device's current stream, as a number
};
inline Known known;

// The interpreter, let go for as long as this lives, where this thread has it.
class Released {
 public:
  Released() : state_(PyGILState_Check() ? PyEval_SaveThread() : nullptr) {}
  ~Released() {
    if (state_) PyEval_RestoreThread(state_);
  }
  Released(const Released&) = delete;

 private:
  PyThreadState* state_;
};

// The interpreter, held for as long as this lives.
class Held {
 public:
  Held() : state_(PyGILState_Ensure()) {}
  ~Held() {
    PyGILState_Release(state_);
  }
  Held(const Held&) = delete;

 private:
  PyGILState_STATE state_;
};

inline void* stream_of(int device) {
  Held interpreter;
  PyObject* number = PyLong_FromLong(device);
  PyObject* found = number ? PyObject_CallOneArg(known.stream_of, number) : nullptr;
  Py_XDECREF(number);
  void* stream = found ? PyLong_AsVoidPtr(found) : nullptr;
  Py_XDECREF(found);
  if (PyErr_Occurred()) {
    PyErr_Clear();
    throw std::runtime_error("torch does not say which stream is current on device " +
                             std::to_string(device));
  }
  return stream;
}

inline int64_t elements(const Call& call) {
  int64_t n = 0;
  for (const Operand& a : call.operands) n += a.n;
  return n;
}

template <class Groups>
int64_t elements(const Groups& call) {
  int64_t n = 0;
  for (const auto& tensor : call.tensors) n += call.groups * tensor.length;
  return n;
}

// Letting go of the interpreter costs more than a small call takes.
template <class C, class Kernel>
auto on_cpu(C& call, Kernel kernel) {
  call.threads = at::get_num_threads();
  if (elements(call) < 16384) return kernel(call);
  Released interpreter;
  return kernel(call);
}

template <class C>
void on_cuda(C& call, void (*kernel)(C&, const Place&), const Tensor& beside) {
  c10::DeviceGuard guard(beside.device());
  Released interpreter;  // a launch waits where the device's queue is full
  Tensors held;  // until all is launched: what comes later on the stream may have the memory
  int device = beside.get_device();
  auto bytes = at::TensorOptions().dtype(at::kByte).device(beside.device());
  Place place;
  place.stream = stream_of(device);
  known.native->cuda->shape(device, place);
  place.scratch = [&](int64_t size) {
    held.push_back(at::empty({size}, bytes));
    return address(held.back());
  };
  place.tickets = [&]() -> unsigned* {
    if (unsigned* own = known.native->cuda->counters_of(device, place.stream)) return own;
    held.push_back(at::empty({ticket_count * int64_t(sizeof(unsigned))}, bytes).zero_());
    return reinterpret_cast<unsigned*>(address(held.back()));
  };
  kernel(call, place);
}

// What profilers see of a kernel, in the scope that follows.
#define FASTGAN_RECORD(name) RECORD_FUNCTION("fastgan::" name, c10::ArrayRef<const c10::IValue>{})

// A kernel of a family, where `beside` is.
#define FASTGAN_RUN(family, name, call, beside)                       \
  do {                                                                \
    FASTGAN_RECORD(#family "_" #name);                                \
    if ((beside).is_cpu()) on_cpu(call, known.native->family().name); \
    else on_cuda(call, known.native->cuda->family##_##name, beside);  \
  } while (0)

}  // namespace fastgan
