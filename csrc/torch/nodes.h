// The nodes of autograd's graph: an operation, and its gradient, which has a graph of its own. What
// they do is fastgan/ops/autograd.py's; what is unusual, and third derivatives, they leave to it.
#pragma once
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/python_variable.h>

#include "kinds.h"

namespace fastgan {

using torch::autograd::AutogradContext;

// Functions of fastgan/ops/nodes.py.
inline PyObject *python_backward = nullptr, *python_second = nullptr;

// ---------------------------------------------------------------------------------- to Python

class Reference {
 public:
  explicit Reference(PyObject* o) : o_(o) {
    if (!o) fail();
  }
  Reference(const Reference&) = delete;
  ~Reference() {
    Py_XDECREF(o_);
  }
  PyObject* get() const {
    return o_;
  }
  [[noreturn]] static void fail() {
    python_error error;
    error.persist();
    throw error;
  }

 private:
  PyObject* o_;
};

// New references; an undefined tensor is None.
inline PyObject* tuple_of(const Tensors& tensors) {
  Reference tuple(PyTuple_New(Py_ssize_t(tensors.size())));
  for (size_t k = 0; k < tensors.size(); ++k)
    PyTuple_SET_ITEM(tuple.get(), Py_ssize_t(k), THPVariable_Wrap(tensors[k]));
  return Py_NewRef(tuple.get());
}

inline PyObject* tuple_of(const Need& flags) {
  Reference tuple(PyTuple_New(Py_ssize_t(flags.size())));
  for (size_t k = 0; k < flags.size(); ++k)
    PyTuple_SET_ITEM(tuple.get(), Py_ssize_t(k), PyBool_FromLong(flags[k]));
  return Py_NewRef(tuple.get());
}

inline Tensors tensors_of(PyObject* sequence) {
  Reference list(PySequence_Fast(sequence, "expected a sequence of gradients"));
  Tensors tensors;
  for (Py_ssize_t k = 0; k < PySequence_Fast_GET_SIZE(list.get()); ++k) {
    PyObject* o = PySequence_Fast_GET_ITEM(list.get(), k);
    tensors.push_back(o == Py_None ? Tensor() : THPVariable_Unpack(o));
  }
  return tensors;
}

// function(kind, text, extra, tensors, upstream, need...)
template <class... More>
Tensors ask_python(PyObject* function, const char* kind, const at::IValue& text,
                   const Tensor& extra, const Tensors& x, const Tensors& upstream,
                   const More&... more) {
  Held interpreter;
  Reference name(PyUnicode_FromString(kind)),
      words(PyUnicode_FromString(text.toStringRef().c_str()));
  Reference beside(THPVariable_Wrap(extra)), operands(tuple_of(x)), ups(tuple_of(upstream));
  std::vector<std::unique_ptr<Reference>> held;
  (held.push_back(std::make_unique<Reference>(tuple_of(more))), ...);
  std::vector<PyObject*> given = {name.get(), words.get(), beside.get(), operands.get(), ups.get()};
  for (const auto& one : held) given.push_back(one->get());
  Reference result(PyObject_Vectorcall(function, given.data(), given.size(), nullptr));
  return tensors_of(result.get());
}

// ---------------------------------------------------------------------------------- nodes

inline Tensors joined(const Tensors& a, const Tensors& b) {
  Tensors all = a;
  all.insert(all.end(), b.begin(), b.end());
  return all;
}

inline Tensors part(const Tensors& all, size_t begin, size_t end) {
  return Tensors(all.begin() + std::ptrdiff_t(begin), all.begin() + std::ptrdiff_t(end));
}

// What a node keeps beside its operands: the text of the operation, and tensors that its forward
// left, each by itself, as compiled autograd wants them.
inline void keep(AutogradContext* ctx, const at::IValue& text, const Tensor& extra) {
  ctx->saved_data["text"] = text;
  if (extra.defined()) ctx->saved_data["extra"] = extra;
}
inline Tensor kept_extra(AutogradContext* ctx) {
  auto found = ctx->saved_data.find("extra");
  return found == ctx->saved_data.end() ? Tensor() : found->second.toTensor();
}
inline const std::string& kept_text(AutogradContext* ctx, const char* name = "text") {
  return ctx->saved_data[name].toStringRef();
}

// As many undefined gradients as there are arguments that are no tensors, and then these.
inline Tensors after(size_t others, const Tensors& gradients) {
  Tensors all(others);
  all.insert(all.end(), gradients.begin(), gradients.end());
  return all;
}

// The gradient of an operation. Arguments are the upstream and then the operands; results are the
// gradients that are needed.
template <class Self, class Kind>
struct GradientOf : torch::autograd::Function<Self> {
  static Tensors forward(AutogradContext* ctx, const Kind& kind, const Tensor* extra,
                         const Need& need, size_t count, at::TensorList given) {
    Tensors arguments = given.vec();
    ctx->set_materialize_grads(false);
    std::string flags(count, 'u');  // an upstream; an operand that needs a gradient, or does not
    for (bool n : need) flags += n ? '1' : '0';
    keep(ctx, kind.text(), *extra);
    ctx->saved_data["flags"] = flags;
    ctx->save_for_backward(arguments);
    Tensors all = kind.backward(part(arguments, count, arguments.size()), *extra,
                                part(arguments, 0, count), need);
    Tensors wanted;
    for (size_t k = 0; k < all.size(); ++k)
      if (need[k]) wanted.push_back(all[k]);
    return wanted;
  }

  static Tensors backward(AutogradContext* ctx, const Tensors& cotangents) {
    Tensors saved = ctx->get_saved_variables();
    Tensor extra = kept_extra(ctx);
    Kind kind(kept_text(ctx));
    std::string flags = kept_text(ctx, "flags");
    size_t count = flags.find_last_of('u') + 1;
    Tensors upstream = part(saved, 0, count), x = part(saved, count, saved.size());
    Need need, wanted;
    Tensors v;
    size_t at = 0;
    for (char flag : flags.substr(count)) {
      need.push_back(flag == '1');
      v.push_back(flag == '1' ? cotangents[at++] : Tensor());
    }
    for (size_t k = 0; k < saved.size(); ++k) wanted.push_back(ctx->needs_input_grad(k));
    bool usual = Kind::second_in_closed_form && !at::GradMode::is_enabled() && state_is_usual() &&
                 kind.fits(x, extra) && kind.fits_upstream(x, extra, upstream);
    for (size_t k = 0; k < x.size() && usual; ++k)
      if (v[k].defined())
        usual = is_usual(v[k], x[k], x[k].scalar_type()) && v[k].sizes() == x[k].sizes();
    if (!usual)
      return after(4, ask_python(python_second, Kind::name, kind.text(), extra, x, upstream, need,
                                 v, wanted));
    Need of_operands(wanted.begin() + std::ptrdiff_t(count), wanted.end());
    return after(4, kind.second(x, extra, upstream, v, of_operands));
  }
};

// An operation. Arguments are its operands.
template <class Self, class Kind, class Gradient>
struct OperationOf : torch::autograd::Function<Self> {
  static Tensors forward(AutogradContext* ctx, const Kind& kind, State* state,
                         at::TensorList given) {
    Tensors x = given.vec();
    Need need;
    for (const Tensor& t : x) need.push_back(t.requires_grad());
    Tensors results = kind.forward(x, &need, *state);
    keep(ctx, kind.text(), state->extra);
    for (size_t j = 0; j < state->ahead.size(); ++j)
      if (state->ahead[j].defined()) ctx->saved_data[ahead_name(j)] = std::move(state->ahead[j]);
    ctx->save_for_backward(std::move(x));
    return results;
  }

  static Tensors backward(AutogradContext* ctx, const Tensors& upstream) {
    Tensors x = ctx->get_saved_variables();  // raises where one was changed in place
    Tensor extra = kept_extra(ctx);
    Kind kind(kept_text(ctx));
    Need need;
    for (size_t k = 0; k < x.size(); ++k) need.push_back(ctx->needs_input_grad(k));
    bool tangents = std::any_of(upstream.begin(), upstream.end(), has_tangent);
    if (tangents || !state_is_usual() || !kind.fits(x, extra) ||
        !kind.fits_upstream(x, extra, upstream))
      return after(2,
                   ask_python(python_backward, Kind::name, kind.text(), extra, x, upstream, need));
    if (at::GradMode::is_enabled()) return with_graph(kind, x, extra, upstream, need);
    Tensors ahead = taken(ctx, x.size());
    if (is_enough(ahead, need) && kind.rescale(x, ahead, extra, upstream[0]))
      return after(2, ahead);
    return after(2, kind.backward(x, extra, upstream, need));
  }

 private:
  static Tensors with_graph(const Kind& kind, const Tensors& x, const Tensor& extra,
                            const Tensors& upstream, const Need& need) {
    Tensors arguments = joined(upstream, x);
    Tensors wanted =
        Gradient::apply(kind, &extra, need, upstream.size(), at::TensorList(arguments));
    Tensors grads(x.size());
    size_t at = 0;
    for (size_t k = 0; k < x.size(); ++k)
      if (need[k]) grads[k] = wanted[at++];
    return after(2, grads);
  }

  static std::string ahead_name(size_t j) {
    return std::to_string(j);
  }

  // Gradients that forward computed are handed out once, so that they have one owner, who may
  // modify them. Every later backward over the same graph computes its own.
  static Tensors taken(AutogradContext* ctx, size_t count) {
    static std::mutex mutex;  // the same graph may be differentiated by two threads
    std::lock_guard<std::mutex> lock(mutex);
    Tensors ahead(count);
    for (size_t j = 0; j < count; ++j) {
      auto found = ctx->saved_data.find(ahead_name(j));
      if (found == ctx->saved_data.end()) continue;
      ahead[j] = std::move(found->second).toTensor();
      ctx->saved_data.erase(found);
    }
    return ahead;
  }

  // Under compiled autograd the node still has what this context has a copy of.
  static bool is_enough(const Tensors& ahead, const Need& need) {
    for (size_t k = 0; k < ahead.size(); ++k) {
      if (need[k] && !ahead[k].defined()) return false;
      if (ahead[k].defined() && ahead[k].use_count() > 1) return false;
    }
    return true;
  }
};

struct LossGradient : GradientOf<LossGradient, LossKind> {};
struct PenaltyGradient : GradientOf<PenaltyGradient, PenaltyKind> {};
struct PointsGradient : GradientOf<PointsGradient, PointsKind> {};

// Under these names they stand in graphs.
struct Loss : OperationOf<Loss, LossKind, LossGradient> {};
struct Penalty : OperationOf<Penalty, PenaltyKind, PenaltyGradient> {};
struct Points : OperationOf<Points, PointsKind, PointsGradient> {};

// The operation on operands that fit, with a node where one of them wants a gradient.
template <class Node, class Kind>
Tensors run(const Kind& kind, const Tensors& x, State& state) {
  bool grad = false;
  for (const Tensor& t : x) grad = grad || t.requires_grad();
  if (!grad || !at::GradMode::is_enabled()) return kind.forward(x, nullptr, state);
  return Node::apply(kind, &state, at::TensorList(x));
}

// What a node costs that does nothing.
struct Nothing : torch::autograd::Function<Nothing> {
  static Tensors forward(AutogradContext* ctx, at::TensorList given) {
    ctx->save_for_backward(given.vec());
    return {make({}, wide(given[0]), given[0])};
  }
  static Tensors backward(AutogradContext* ctx, const Tensors&) {
    Tensors grads;
    for (const Tensor& t : ctx->get_saved_variables()) grads.push_back(make_like(t));
    return grads;
  }
};

}  // namespace fastgan
