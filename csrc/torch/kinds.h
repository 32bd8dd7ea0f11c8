// The kinds of operations, each under the same names, for the nodes in nodes.h.
#pragma once
#include "operations.h"

namespace fastgan {

// What a forward leaves for its backward beside the operands: means or norms, and gradients for an
// upstream of 1.
struct State {
  Tensor extra;
  Tensors ahead;
};

inline bool all_usual(const Tensors& x) {
  for (const Tensor& t : x)
    if (!is_usual(t, x[0], x[0].scalar_type())) return false;
  return !x.empty();
}

class LossKind {
 public:
  static constexpr const char* name = "loss";
  static constexpr bool second_in_closed_form = true;
  std::shared_ptr<const LossPlan> plan;
  bool statistics = false, values = false;

  explicit LossKind(std::shared_ptr<const LossPlan> given) : plan(std::move(given)) {}
  explicit LossKind(const std::string& text) : plan(plan_of<LossPlan>(text)) {}
  const at::IValue& text() const {
    return plan->text;
  }
  // Whether the operands are as the kernels want them; Python knows what to do about others.
  bool fits(const Tensors& x, const Tensor&) const {
    if (x.size() != plan->spec.roles.size() || !all_usual(x)) return false;
    for (const Term& t : plan->spec.terms)
      if (t.y >= 0 && x[size_t(t.x)].sizes() != x[size_t(t.y)].sizes()) return false;
    return true;
  }
  bool fits_upstream(const Tensors& x, const Tensor&, const Tensors& u) const {
    return u.size() == 1 && is_usual(u[0], x[0], wide(x[0])) && u[0].numel() == 1;
  }
  Tensors forward(const Tensors& x, const Need* need, State& state) const {
    LossResult result = loss_forward(*plan, x, need, statistics, values);
    state = {result.buffers, std::move(result.ahead)};
    return {result.value};
  }
  bool rescale(const Tensors& x, const Tensors& ahead, const Tensor& extra,
               const Tensor& upstream) const {
    return loss_rescale(*plan, x, ahead, extra, upstream);
  }
  Tensors backward(const Tensors& x, const Tensor& extra, const Tensors& u, const Need& n) const {
    return loss_backward(*plan, x, extra, u[0], n);
  }
  Tensors second(const Tensors& x, const Tensor& extra, const Tensors& u, const Tensors& v,
                 const Need& n) const {
    return loss_second(*plan, x, extra, u[0], v, n);
  }
};

class PenaltyKind {
 public:
  static constexpr const char* name = "penalty";
  static constexpr bool second_in_closed_form = true;
  std::shared_ptr<const PenaltyPlan> plan;

  explicit PenaltyKind(std::shared_ptr<const PenaltyPlan> given) : plan(std::move(given)) {}
  explicit PenaltyKind(const std::string& text) : plan(plan_of<PenaltyPlan>(text)) {}
  const at::IValue& text() const {
    return plan->text;
  }
  bool fits(const Tensors& x, const Tensor& norms) const {
    static constexpr int64_t least[] = {1, 2, 0};  // dimensions, over a sample, channels, the batch
    if (!all_usual(x)) return false;
    for (const Tensor& t : x) {
      if (t.dim() < least[plan->over] || t.dim() > max_dims) return false;
      Shape shape(t, plan->over), first(x[0], plan->over);
      if (shape.outer != first.outer ||
          !std::equal(shape.sizes.begin(), shape.sizes.begin() + shape.outer, first.sizes.begin()))
        return false;
    }
    return !norms.defined() || norms.numel() == Shape(x[0], plan->over).groups();
  }
  bool fits_upstream(const Tensors& x, const Tensor& norms, const Tensors& u) const {
    if (u.size() != 1 || !is_usual(u[0], x[0], wide(x[0]))) return false;
    return plan->reduction == Reduction::none ? u[0].sizes() == norms.sizes() : u[0].numel() == 1;
  }
  Tensors forward(const Tensors& x, const Need*, State& state) const {
    auto [value, norms] = penalty_forward(*plan, x);
    state.extra = norms;
    return {value};
  }
  bool rescale(const Tensors&, const Tensors&, const Tensor&, const Tensor&) const {
    return false;
  }
  Tensors backward(const Tensors& x, const Tensor& extra, const Tensors& u, const Need& n) const {
    return penalty_backward(*plan, x, extra, u[0], n);
  }
  Tensors second(const Tensors& x, const Tensor& extra, const Tensors& u, const Tensors& v,
                 const Need& n) const {
    return penalty_second(*plan, x, extra, u[0], v, n);
  }
};

// Operands are all of real, all of fake, and eps.
class PointsKind {
 public:
  static constexpr const char* name = "points";
  static constexpr bool second_in_closed_form = false;

  PointsKind() = default;
  explicit PointsKind(const std::string&) {}
  at::IValue text() const {
    return std::string();
  }
  bool fits(const Tensors& x, const Tensor&) const {
    size_t half = x.size() / 2;
    if (x.size() < 3 || x.size() % 2 == 0 || !is_usual(x[0])) return false;
    const Tensor& eps = x.back();
    if (!is_usual(eps, x[0], wide(x[0])) || eps.dim() != 1) return false;
    for (size_t k = 0; k < half; ++k) {
      const Tensor &real = x[k], &fake = x[half + k];
      if (!is_usual(real, x[0], x[0].scalar_type()) || !is_usual(fake, x[0], x[0].scalar_type()))
        return false;
      if (real.dim() < 1 || real.dim() > max_dims || real.sizes() != fake.sizes() ||
          real.size(0) != eps.numel())
        return false;
    }
    return true;
  }
  bool fits_upstream(const Tensors& x, const Tensor&, const Tensors& u) const {
    for (size_t k = 0; k < u.size(); ++k)
      if (!is_usual(u[k], x[0], x[0].scalar_type()) || u[k].sizes() != x[k].sizes()) return false;
    return u.size() == x.size() / 2;
  }
  Tensors forward(const Tensors& x, const Need*, State&) const {
    return interpolate_forward(x);
  }
  bool rescale(const Tensors&, const Tensors&, const Tensor&, const Tensor&) const {
    return false;
  }
  Tensors backward(const Tensors& x, const Tensor&, const Tensors& u, const Need& need) const {
    return interpolate_backward(x, u, need);
  }
  Tensors second(const Tensors&, const Tensor&, const Tensors&, const Tensors&, const Need&) const {
    return {};
  }
};

}  // namespace fastgan
