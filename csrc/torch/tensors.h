// Tensors as the kernels take them: whether they need a closer look, where their elements lie, and
// memory for results.
#pragma once
#include <ATen/Context.h>
#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <cstring>

#include "../common/interface.h"

namespace fastgan {

using at::Tensor;
using Tensors = std::vector<Tensor>;

// ---------------------------------------------------------------------------------- what is usual

// Keys of tensors that are not what they look like: subclasses, transforms, pending operations.
inline constexpr c10::DispatchKeySet unusual_tensors({
    c10::DispatchKey::Python,
    c10::DispatchKey::PythonTLSSnapshot,
    c10::DispatchKey::Functionalize,
    c10::DispatchKey::FuncTorchBatched,
    c10::DispatchKey::FuncTorchGradWrapper,
    c10::DispatchKey::BatchedNestedTensor,
    c10::DispatchKey::Batched,
    c10::DispatchKey::Negative,
    c10::DispatchKey::Conjugate,
    c10::DispatchKey::ZeroTensor,
    c10::DispatchKey::NestedTensor,
});

// Keys that modes, transforms and tracing put in force; not autocast's, since a loss is no
// operator.
inline constexpr c10::DispatchKeySet unusual_states({
    c10::DispatchKey::Python,
    c10::DispatchKey::PythonTLSSnapshot,
    c10::DispatchKey::PreDispatch,
    c10::DispatchKey::PythonDispatcher,
    c10::DispatchKey::Functionalize,
    c10::DispatchKey::FuncTorchDynamicLayerFrontMode,
    c10::DispatchKey::FuncTorchDynamicLayerBackMode,
    c10::DispatchKey::FuncTorchVmapMode,
    c10::DispatchKey::VmapMode,
    c10::DispatchKey::Tracer,
});

inline bool state_is_usual() {
  return !c10::impl::tls_local_dispatch_key_set().included_.has_any(unusual_states);
}

// The code of a dtype that kernels have, or -1.
inline int dtype_code(at::ScalarType t) {
  switch (t) {
    case at::kFloat: return int(DType::float32);
    case at::kDouble: return int(DType::float64);
    case at::kHalf: return int(DType::float16);
    case at::kBFloat16: return int(DType::bfloat16);
    default: return -1;
  }
}

inline DType dtype_of(const Tensor& t) {
  return DType(dtype_code(t.scalar_type()));
}

// The dtype of results and of what is computed with.
inline at::ScalarType wide(const Tensor& t) {
  return t.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// Dense memory on the CPU or on a CUDA device, of a dtype and a layout that kernels read.
inline bool is_usual(const Tensor& t) {
  if (!t.defined() || t.layout() != at::kStrided || dtype_code(t.scalar_type()) < 0) return false;
  if (t.key_set().has_any(unusual_tensors) || t.numel() == 0) return false;
  if (t.is_cpu()) return t.dim() <= max_dims || t.is_contiguous();
  // What has gaps may have more of them than the kernels' tables hold.
  return t.is_cuda() && (t.is_contiguous() || (t.numel() <= 0x7fffffff && t.dim() <= 6));
}

// The same of a tensor beside another one: of its device, and of a dtype.
inline bool is_usual(const Tensor& t, const Tensor& like, at::ScalarType dtype) {
  return is_usual(t) && t.scalar_type() == dtype && t.device() == like.device();
}

inline bool has_tangent(const Tensor& t) {
  return t._fw_grad(0).defined();
}

// ---------------------------------------------------------------------------------- where they lie

inline char* address(const Tensor& t) {
  return static_cast<char*>(const_cast<void*>(t.const_data_ptr()));
}

// Dimensions [begin, end), those that merge merged.
inline View dimensions(at::IntArrayRef sizes, at::IntArrayRef strides, size_t begin, size_t end) {
  View w;
  for (size_t d = begin; d < end; ++d) {
    if (sizes[d] == 1) continue;
    int k = w.dims - 1;
    if (k >= 0 && w.stride[k] == sizes[d] * strides[d]) {
      w.size[k] *= sizes[d];
      w.stride[k] = strides[d];
      continue;
    }
    TORCH_CHECK(w.dims < max_dims, "expected at most ", max_dims, " dimensions that do not merge");
    w.size[w.dims] = sizes[d];
    w.stride[w.dims++] = strides[d];
  }
  if (w.dims == 1 && w.stride[0] == 1) w.dims = 0;
  return w;
}

// An empty view for an undefined tensor.
inline View view(const Tensor& t) {
  View w;
  if (!t.defined()) return w;
  if (!t.is_contiguous()) w = dimensions(t.sizes(), t.strides(), 0, size_t(t.dim()));
  w.data = address(t);
  return w;
}

// ---------------------------------------------------------------------------------- new ones

// On the CPU past the dispatcher, which costs as much as a small kernel; not where torch is asked
// to fill it.
inline Tensor make(at::IntArrayRef sizes, at::ScalarType dtype, const Tensor& beside) {
  bool plain = beside.is_cpu() && !at::globalContext().deterministicFillUninitializedMemory();
  if (plain) return Tensor(at::detail::empty_cpu(sizes, dtype));
  return at::empty(sizes, at::TensorOptions().dtype(dtype).device(beside.device()));
}

inline Tensor make_like(const Tensor& t) {
  return t.is_contiguous() ? make(t.sizes(), t.scalar_type(), t) : at::empty_like(t.detach());
}

}  // namespace fastgan
