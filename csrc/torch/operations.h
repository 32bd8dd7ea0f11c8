// The operations on tensors that have been looked at, without autograd: what `Kernels` is in
// fastgan/backends/base.py.
#pragma once
#include "plans.h"
#include "run.h"

namespace fastgan {

using Need = std::vector<bool>;

// ---------------------------------------------------------------------------------- losses

struct LossResult {
  Tensor value, buffers;
  Tensors ahead;  // gradients for an upstream of 1, where there are any
};

inline Call call_of(const LossPlan& plan, const Tensors& x, const Tensor& buffers) {
  Call call;
  call.spec = &plan.spec;
  call.reduction = plan.reduction;
  call.weights = plan.weights;
  call.operands.resize(x.size());
  for (size_t j = 0; j < x.size(); ++j) {
    Operand& a = call.operands[j];
    a.dtype = dtype_of(x[j]);
    a.n = x[j].numel();
    a.x = view(x[j]);
    call.is_float64 = a.dtype == DType::float64;
  }
  if (buffers.defined()) call.buffers = reinterpret_cast<double*>(address(buffers));
  return call;
}

// `need`: of a call that a backward follows, which operands want a gradient.
inline LossResult loss_forward(const LossPlan& plan, const Tensors& x, const Need* need,
                               bool statistics, bool values) {
  LossResult result;
  const Tensor& first = x[0];
  if (plan.spec.subtracts_mean || statistics || values) {
    result.buffers = make({plan.buffer_size()}, at::kDouble, first);
    if (first.is_cpu()) std::memset(address(result.buffers), 0, result.buffers.nbytes());
  }
  result.value = make({}, wide(first), first);
  Call call = call_of(plan, x, result.buffers);
  call.loss = address(result.value);
  call.stats = statistics;
  call.keep = need != nullptr;
  if (need && (first.is_cpu() || !plan.spec.subtracts_mean)) {
    // float16 is left to backward: its upstream is a loss scale, and a gradient rounded before it
    // is scaled has lost what the scale is for.
    result.ahead.resize(x.size());
    for (size_t j = 0; j < x.size(); ++j)
      if ((*need)[j] && x[j].scalar_type() != at::kHalf) {
        result.ahead[j] = make_like(x[j]);
        call.operands[j].g = view(result.ahead[j]);
      }
  }
  FASTGAN_RUN(loss, forward, call, first);
  return result;
}

inline Tensors loss_backward(const LossPlan& plan, const Tensors& x, const Tensor& buffers,
                             const Tensor& upstream, const Need& need) {
  Tensors grads(x.size());
  Call call = call_of(plan, x, buffers);
  for (size_t j = 0; j < x.size(); ++j)
    if (need[j]) call.operands[j].g = view(grads[j] = make_like(x[j]));
  call.scalar_upstream = address(upstream);
  FASTGAN_RUN(loss, backward, call, x[0]);
  return grads;
}

// The gradient of the upstream, and then those of the operands.
inline Tensors loss_second(const LossPlan& plan, const Tensors& x, const Tensor& buffers,
                           const Tensor& upstream, const Tensors& v, const Need& need) {
  Tensors grads(x.size() + 1);
  Call call = call_of(plan, x, buffers);
  for (size_t j = 0; j < x.size(); ++j) {
    if (need[j]) call.operands[j].g = view(grads[j + 1] = make_like(x[j]));
    call.operands[j].v = view(v[j]);
  }
  grads[0] = make(upstream.sizes(), upstream.scalar_type(), upstream);
  call.scalar_upstream = address(upstream);
  call.loss = address(grads[0]);
  FASTGAN_RUN(loss, second, call, x[0]);
  return grads;
}

// The device looks at the upstream, and computes the gradients from the operands if it is not 1.
inline bool loss_rescale_on_device(const LossPlan& plan, const Tensors& x, const Tensors& ahead,
                                   const Tensor& buffers, const Tensor& upstream) {
  Call call = call_of(plan, x, buffers);
  for (size_t j = 0; j < x.size(); ++j)
    if (ahead[j].defined()) call.operands[j].g = view(ahead[j]);
  call.scalar_upstream = address(upstream);
  call.unless_one = true;
  FASTGAN_RUN(loss, backward, call, x[0]);
  return true;
}

// Turn gradients for an upstream of 1 into those for `upstream`, in place; false if they cannot be.
inline bool loss_rescale(const LossPlan& plan, const Tensors& x, const Tensors& ahead,
                         const Tensor& buffers, const Tensor& upstream) {
  if (!x[0].is_cpu()) return loss_rescale_on_device(plan, x, ahead, buffers, upstream);
  bool one = upstream.scalar_type() == at::kDouble ? *upstream.const_data_ptr<double>() == 1.0
                                                   : *upstream.const_data_ptr<float>() == 1.0f;
  if (one && !plan.spec.subtracts_mean) return true;
  Call call;
  call.spec = &plan.spec;
  call.reduction = Reduction::mean;
  call.operands.resize(ahead.size());
  for (size_t j = 0; j < ahead.size(); ++j) {
    Operand& a = call.operands[j];
    a.n = 1;
    a.dtype = DType::float32;
    if (!ahead[j].defined()) continue;
    a.dtype = dtype_of(ahead[j]);
    a.n = ahead[j].numel();
    a.g = view(ahead[j]);
    call.is_float64 = call.is_float64 || a.dtype == DType::float64;
  }
  if (buffers.defined()) call.buffers = reinterpret_cast<double*>(address(buffers));
  call.scalar_upstream = address(upstream);
  FASTGAN_RECORD("loss_rescale");
  return on_cpu(call, known.native->loss().rescale);
}

// ---------------------------------------------------------------------------------- norms

// Sizes and strides with the dimensions that number the norms before those that a norm covers.
struct Shape {
  c10::SmallVector<int64_t, 6> sizes, strides;
  size_t outer;

  Shape(const Tensor& t, int over) : sizes(t.sizes()), strides(t.strides()) {
    size_t dims = sizes.size();
    outer = over == 0 ? 1 : over == 1 ? dims - 1 : 0;
    if (over != 1) return;
    for (auto* list : {&sizes, &strides})  // channels last
      std::rotate(list->begin() + 1, list->begin() + 2, list->end());
  }
  int64_t product(size_t begin, size_t end) const {
    int64_t n = 1;
    for (size_t d = begin; d < end; ++d) n *= sizes[d];
    return n;
  }
  int64_t groups() const {
    return product(0, outer);
  }
  int64_t length() const {
    return product(outer, sizes.size());
  }
};

inline Grid grid(const Tensor& t, int over) {
  Grid g;
  if (!t.defined()) return g;
  Shape shape(t, over);
  g.groups = dimensions(shape.sizes, shape.strides, 0, shape.outer);
  g.elements = dimensions(shape.sizes, shape.strides, shape.outer, shape.sizes.size());
  g.groups.data = address(t);
  return g;
}

inline PenaltyCall call_of(const PenaltyPlan& plan, const Tensors& g, const Tensor& norms) {
  PenaltyCall call;
  call.psi = plan.psi;
  call.target = plan.target;
  call.power = plan.power;
  call.is_float64 = g[0].scalar_type() == at::kDouble;
  call.groups = Shape(g[0], plan.over).groups();
  call.scale = plan.reduction == Reduction::mean ? plan.scale / double(norms.numel()) : plan.scale;
  call.transposed = plan.over == 1 && g[0].dim() > 2 && call.groups > 1;
  call.elementwise = plan.reduction == Reduction::none;
  for (const Tensor& t : g) {
    NormTensor tensor;
    tensor.dtype = dtype_of(t);
    tensor.length = Shape(t, plan.over).length();
    tensor.g = grid(t, plan.over);
    // More than a chunk: line after line is as good.
    call.transposed = call.transposed && tensor.length <= 1024;
    call.tensors.push_back(tensor);
  }
  call.norms = reinterpret_cast<double*>(address(norms));
  return call;
}

// The penalty and the norms.
inline std::pair<Tensor, Tensor> penalty_forward(const PenaltyPlan& plan, const Tensors& g) {
  Shape shape(g[0], plan.over);
  at::IntArrayRef sizes(shape.sizes.data(), shape.outer);
  bool elementwise = plan.reduction == Reduction::none;
  Tensor norms = make(sizes, at::kDouble, g[0]);
  Tensor value = make(elementwise ? sizes : at::IntArrayRef(), wide(g[0]), g[0]);
  PenaltyCall call = call_of(plan, g, norms);
  if (elementwise) call.values = address(value);
  else call.result = address(value);
  FASTGAN_RUN(penalty, forward, call, g[0]);
  return {value, norms};
}

inline Tensors penalty_backward(const PenaltyPlan& plan, const Tensors& g, const Tensor& norms,
                                const Tensor& upstream, const Need& need) {
  Tensors grads(g.size());
  PenaltyCall call = call_of(plan, g, norms);
  Tensor dense = upstream.contiguous();
  call.upstream = address(dense);
  for (size_t k = 0; k < g.size(); ++k)
    if (need[k]) call.tensors[k].out = grid(grads[k] = make_like(g[k]), plan.over);
  FASTGAN_RUN(penalty, backward, call, g[0]);
  return grads;
}

inline Tensors penalty_second(const PenaltyPlan& plan, const Tensors& g, const Tensor& norms,
                              const Tensor& upstream, Tensors v, const Need& need) {
  Tensors grads(g.size() + 1);
  PenaltyCall call = call_of(plan, g, norms);
  Tensor dense = upstream.contiguous();
  call.upstream = address(dense);
  grads[0] = make(upstream.sizes(), upstream.scalar_type(), upstream);
  if (call.elementwise) call.values = address(grads[0]);
  else call.result = address(grads[0]);
  for (size_t k = 0; k < g.size(); ++k) {
    if (!v[k].defined()) v[k] = make_like(g[k]).zero_();
    call.tensors[k].v = grid(v[k], plan.over);
    if (need[k]) call.tensors[k].out = grid(grads[k + 1] = make_like(g[k]), plan.over);
  }
  FASTGAN_RUN(penalty, second, call, g[0]);
  return grads;
}

// ---------------------------------------------------------------------------------- points

// Operands are all of real, all of fake, and eps.
inline InterpolateCall call_of(const Tensors& operands, const Tensor& eps) {
  InterpolateCall call;
  size_t half = operands.size() / 2;
  call.is_float64 = eps.scalar_type() == at::kDouble;
  call.groups = eps.numel();
  call.eps = address(eps);
  for (size_t k = 0; k < half; ++k) {
    TensorPair tensor;
    tensor.dtype = dtype_of(operands[k]);
    tensor.length = operands[k].numel() / call.groups;
    tensor.real = grid(operands[k], 0);
    tensor.fake = grid(operands[half + k], 0);
    call.tensors.push_back(tensor);
  }
  return call;
}

inline Tensors interpolate_forward(const Tensors& operands) {
  Tensors points;
  Tensor eps = operands.back().contiguous();
  InterpolateCall call = call_of(operands, eps);
  for (size_t k = 0; k < call.tensors.size(); ++k) {
    points.push_back(make_like(operands[k]));
    call.tensors[k].out = grid(points[k], 0);
  }
  FASTGAN_RUN(interpolate, forward, call, eps);
  return points;
}

inline Tensors interpolate_backward(const Tensors& operands, const Tensors& upstream,
                                    const Need& need) {
  Tensors grads(operands.size());
  Tensor eps = operands.back().contiguous();
  InterpolateCall call = call_of(operands, eps);
  size_t half = call.tensors.size();
  auto gradient = [&](size_t j) {
    if (need[j]) grads[j] = make_like(operands[j]);
    return grid(grads[j], 0);
  };
  for (size_t k = 0; k < half; ++k) {
    call.tensors[k].out = grid(upstream[k], 0);
    call.tensors[k].real_grad = gradient(k);
    call.tensors[k].fake_grad = gradient(half + k);
  }
  if (need.back()) {
    grads.back() = make(eps.sizes(), eps.scalar_type(), eps);
    call.eps_grad = address(grads.back());
  }
  FASTGAN_RUN(interpolate, backward, call, eps);
  return grads;
}

}  // namespace fastgan
