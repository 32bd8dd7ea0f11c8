// The CPU kernels of the losses. Compiled once for each instruction set (FASTGAN_ISA names it);
// every function is in an unnamed namespace, so that no code of one set is linked into another.
//
// A chunk of 1,024 elements at a time is brought into L1 (in place where it is contiguous and needs
// no conversion), worked on by loops that vectorise, and summed by the fixed tree.
#include "../common/loss.h"
#include "memory.h"
#include "parallel.h"
#include "tree.h"

namespace fastgan {
namespace {

// ---------------------------------------------------------------------------------- element loops

enum Pass { value_only, value_and_gradient, gradient_only, gradient_and_curvature };

template <class F>
struct Lines {  // one chunk of each
  F *value, *gradient, *curvature;
};

double coefficient(const Call& call, const Term& t) {
  double c = call.weights.empty() ? t.weight : t.weight * call.weights[t.member];
  return call.reduction == Reduction::mean ? c / double(call.operands[t.x].n) : c;
}

// A phi with an exponential takes three loops over L1 instead of one: a chain of operations as long
// as the whole leaves the processor waiting, and three shorter ones overlap (a third faster,
// measured).
template <Pass pass, Phi P, bool Linear, class F, class K>
void element_loop(const F* __restrict z, int n, const K k, Lines<F> out) {
  F* __restrict value = out.value, * __restrict gradient = out.gradient, * __restrict curvature = out.curvature;
  if constexpr (Function<P>::uses_decay) {
    alignas(64) F hi[chunk], lo[chunk];
    for (int i = 0; i < n; ++i) {
      Pair<F> u = decay(k.template at<P>(i).argument(z[i]));
      hi[i] = u.hi;
      lo[i] = u.lo;
    }
    if (pass == value_only || pass == value_and_gradient)
      for (int i = 0; i < n; ++i)
        value[i] = term_value<P, Linear, K::vary>(z[i], k.template at<P>(i), Pair<F>{hi[i], lo[i]});
    if (pass != value_only)
      for (int i = 0; i < n; ++i)
        gradient[i] = term_gradient<P, Linear>(z[i], k.template at<P>(i), Pair<F>{hi[i], lo[i]});
    if (pass == gradient_and_curvature)
      for (int i = 0; i < n; ++i)
        curvature[i] = term_curvature<P>(z[i], k.template at<P>(i), Pair<F>{hi[i], lo[i]});
  } else {
    for (int i = 0; i < n; ++i) {
      F x = z[i];  // read before anything is written
      if (pass == value_only || pass == value_and_gradient)
        value[i] = term_value<P, Linear, K::vary>(x, k.template at<P>(i), Pair<F>{});
      if (pass != value_only)
        gradient[i] = term_gradient<P, Linear>(x, k.template at<P>(i), Pair<F>{});
      if (pass == gradient_and_curvature)
        curvature[i] = term_curvature<P>(x, k.template at<P>(i), Pair<F>{});
    }
  }
}

// The derivatives for 16-bit tensors.
template <Pass pass, Phi P, bool Linear, class K>
void fine_loop(const double* __restrict z, int n, const K k, Lines<double> out) {
  double* __restrict gradient = out.gradient, * __restrict curvature = out.curvature;
  if constexpr (Function<P>::uses_decay) {
    alignas(64) float hi[chunk], lo[chunk];
    alignas(64) double power[chunk];
    for (int i = 0; i < n; ++i) {
      FineDecay u = fine_decay(k.template at<P>(i).argument(z[i]));
      hi[i] = u.hi;
      lo[i] = u.lo;
      power[i] = u.power;
    }
    for (int i = 0; i < n; ++i)
      gradient[i] =
          term_gradient<P, Linear>(z[i], k.template at<P>(i), FineDecay{hi[i], lo[i], power[i]});
    if (pass == gradient_and_curvature)
      for (int i = 0; i < n; ++i)
        curvature[i] =
            term_curvature<P>(z[i], k.template at<P>(i), FineDecay{hi[i], lo[i], power[i]});
  } else {
    element_loop<pass, P, Linear>(z, n, k, out);
  }
}

template <Pass pass, Phi P, bool Linear, class F, class K>
void loop_for(const Operand& x, const F* z, int n, const K& k, Lines<F> out) {
  if constexpr (sizeof(F) == 8 && pass != value_only && pass != value_and_gradient)
    if (item_size(x.dtype) == 2) return fine_loop<pass, P, Linear>(z, n, k, out);
  element_loop<pass, P, Linear>(z, n, k, out);
}

// ---------------------------------------------------------------------------------- one call

enum Sum { value_sum, gradient_sum, x_sum, x_sign, y_sum, y_sign, right_count, dot_sum, sum_count };

// Sums of all terms' chunks: partial[sum][chunk of the call]. Only those asked for are touched.
struct Partials {
  std::vector<double> at[sum_count];
  std::vector<int64_t> first;  // a term's first chunk; the last entry counts them all

  Partials(const Call& call, std::initializer_list<Sum> wanted) {
    first.push_back(0);
    for (const Term& t : call.spec->terms)
      first.push_back(first.back() + chunk_count(call.operands[t.x].n));
    for (Sum s : wanted) at[s].resize(first.back());
  }
  bool has(Sum s) const {
    return !at[s].empty();
  }
  double total(Sum s, size_t term) {
    return tree_sum(at[s].data() + first[term], first[term + 1] - first[term]);
  }
};

template <class F>
F scalar_upstream(const Call& call) {
  if (!call.scalar_upstream) return F(1);
  return call.is_float64 ? F(*static_cast<const double*>(call.scalar_upstream))
                         : F(*static_cast<const float*>(call.scalar_upstream));
}

// a - b, or a less a float64 constant whose part below the last bit of F counts as well.
template <class F>
void subtract(const F* a, const F* b, int n, F* out) {
  for (int i = 0; i < n; ++i) out[i] = a[i] - b[i];
}
template <class F>
void subtract(const F* a, double c, int n, F* out) {
  F hi = F(c), lo = c - c == 0 ? F(c - double(hi)) : F(0);
  for (int i = 0; i < n; ++i) out[i] = (a[i] - hi) - lo;
}

// A chunk of constants; null where there are none.
template <class F>
const F* constants_of(const Call& call, int operand, int64_t start, int n, F* buffer) {
  if (operand < 0) return nullptr;
  const Operand& a = call.operands[operand];
  return load(a.x, a.dtype, start, n, buffer);
}

// z of the chunk: x, x - y or x - mean; its factors and labels. Buffers are one chunk each.
template <class F>
struct Argument {
  alignas(64) F x_buffer[chunk];
  alignas(64) F y_buffer[chunk];
  alignas(64) F z_buffer[chunk];
  alignas(64) F factor_buffer[chunk];
  alignas(64) F label_buffer[chunk];
  const F *x, *y, *z, *factor, *label;

  void read(const Call& call, const Term& t, int64_t start, int n) {
    const Operand& a = call.operands[t.x];
    x = z = load(a.x, a.dtype, start, n, x_buffer);
    y = nullptr;
    factor = constants_of(call, t.factor, start, n, factor_buffer);
    label = constants_of(call, t.label, start, n, label_buffer);
    if (t.y >= 0) {
      y = load(call.operands[t.y].x, a.dtype, start, n, y_buffer);
      subtract(x, y, n, z_buffer);
      z = z_buffer;
    } else if (t.mean_operand >= 0) {
      subtract(x, call.means()[t.mean_operand], n, z_buffer);
      z = z_buffer;
    }
  }
};

template <class F>
void multiply(F* v, const F* factor, int n) {
  for (int i = 0; i < n; ++i) v[i] = factor[i] * v[i];
}

// What `pass` asks for of a chunk's elements, with their labels and factors.
template <Pass pass, class F>
void elements(const Call& call, const Term& t, const Argument<F>& a, int n, Lines<F> out) {
  const Coefficients<F> k(t.scale, t.shift, t.linear, coefficient(call, t));
  const Operand& x = call.operands[t.x];
#define FASTGAN_CASE(name)                                                         \
  case Phi::name:                                                                  \
    if (t.linear == 0) loop_for<pass, Phi::name, false>(x, a.z, n, k, out);        \
    else if (!a.label) loop_for<pass, Phi::name, true>(x, a.z, n, k, out);         \
    else loop_for<pass, Phi::name, true>(x, a.z, n, Labelled<F>{k, a.label}, out); \
    break;
  switch (t.phi) { FASTGAN_PHIS(FASTGAN_CASE) }
#undef FASTGAN_CASE
  if (!a.factor) return;
  if (pass == value_only || pass == value_and_gradient) multiply(out.value, a.factor, n);
  if (pass != value_only) multiply(out.gradient, a.factor, n);
  if (pass == gradient_and_curvature) multiply(out.curvature, a.factor, n);
}

int threads_for(const Call& call) {
  int64_t work = 0;  // in elements of a cheap phi; a thread is worth some 16,000 of them
  for (const Term& t : call.spec->terms)
    work += call.operands[t.x].n * (uses_decay(t.phi) ? 4 : 1) * (call.is_float64 ? 2 : 1);
  int64_t most = work / 16384;
  return int(most < 1 ? 1 : most < call.threads ? most : call.threads);
}

// body(term number, term, chunk of the call, first element, elements) over every chunk of every
// term.
template <class Body>
void for_each_chunk(const Call& call, const Partials& partials, const Body& body) {
  const auto& terms = call.spec->terms;
  parallel_for(partials.first.back(), threads_for(call), [&](int64_t begin, int64_t end) {
    size_t t = 0;
    for (int64_t c = begin; c < end; ++c) {
      while (c >= partials.first[t + 1]) ++t;
      int64_t start = (c - partials.first[t]) * chunk, left = call.operands[terms[t].x].n - start;
      body(t, terms[t], c, start, int(left < chunk ? left : chunk));
    }
  });
}

// The dtype of a call's results, and of elementwise upstreams.
DType result_dtype(const Call& call) {
  return call.is_float64 ? DType::float64 : DType::float32;
}

// Whether a term's gradient is formed in double and rounded once, to 16 bits.
bool is_fine(const Call& call, const Term& t) {
  return item_size(call.operands[t.x].dtype) == 2;
}

// Whether the operands' element maths is in double.
template <class Body>
void in_type(const Call& call, const Body& body) {
  if (call.is_float64) body(double());
  else body(float());
}

// Means of the mean operands: of their values, or of what `view` picks.
void operand_means(const Call& call, View Operand::* view, double* means) {
  for (size_t j = 0; j < call.operands.size(); ++j) {
    if (!call.spec->is_mean_operand[j]) continue;
    const Operand& a = call.operands[j];
    means[j] = 0;
    if (!(a.*view).data) continue;
    std::vector<double> sums(chunk_count(a.n));
    int threads = int(a.n / 16384 < call.threads ? a.n / 16384 : call.threads);
    parallel_for(int64_t(sums.size()), threads, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        int n = int(a.n - c * chunk < chunk ? a.n - c * chunk : chunk);
        if (a.dtype == DType::float64) {
          double buffer[chunk];
          sums[c] = chunk_sum(load(a.*view, a.dtype, c * chunk, n, buffer), n);
        } else {
          float buffer[chunk];
          sums[c] = chunk_sum(load(a.*view, a.dtype, c * chunk, n, buffer), n);
        }
      }
    });
    means[j] = tree_sum(sums.data(), int64_t(sums.size())) / double(a.n);
  }
}

// constants[j] = -(1/n_j) * the sum over the terms that subtract the mean of j of their gradients'
// sums.
void mean_constants(const Call& call, Partials& partials, double* constants) {
  const auto& terms = call.spec->terms;
  for (size_t j = 0; j < call.operands.size(); ++j) constants[j] = 0;
  for (size_t t = 0; t < terms.size(); ++t)
    if (terms[t].mean_operand >= 0)
      constants[terms[t].mean_operand] -= partials.total(gradient_sum, t);
  for (size_t j = 0; j < call.operands.size(); ++j) constants[j] /= double(call.operands[j].n);
}

// Mean operands without a term of their own: their gradient is the same everywhere.
template <class F>
void fill_mean_operands(const Call& call, F upstream, const double* constants) {
  std::vector<bool> has_term(call.operands.size());
  for (const Term& t : call.spec->terms) {
    has_term[t.x] = true;
    if (t.y >= 0) has_term[t.y] = true;
  }
  for (size_t j = 0; j < call.operands.size(); ++j) {
    const Operand& a = call.operands[j];
    if (has_term[j] || !a.g.data) continue;
    double buffer[chunk];
    for (double& v : buffer)
      v = a.dtype == DType::float32 ? double(float(upstream) * float(constants[j]))
                                    : double(upstream) * constants[j];
    for (int64_t start = 0; start < a.n; start += chunk)
      store(a.g, a.dtype, start, int(a.n - start < chunk ? a.n - start : chunk), buffer);
  }
}

// ---------------------------------------------------------------------------------- statistics

template <class F>
double sign_sum(const F* v, int n) {
  int sum = 0;
  for (int i = 0; i < n; ++i) sum += int(v[i] > F(0)) - int(v[i] < F(0));
  return sum;
}

template <class F>
void chunk_statistics(const Term& t, const Argument<F>& a, int64_t c, int n, Partials& partials) {
  partials.at[x_sum][c] = chunk_sum(a.x, n);
  partials.at[x_sign][c] = sign_sum(a.x, n);
  if (a.y) {
    partials.at[y_sum][c] = chunk_sum(a.y, n);
    partials.at[y_sign][c] = sign_sum(a.y, n);
  }
  F side = F(t.side), threshold = F(t.threshold);
  int right = 0;
  for (int i = 0; i < n; ++i) right += int(side * (a.z[i] - threshold) > F(0));
  partials.at[right_count][c] = right;
}

void statistics(const Call& call, Partials& partials) {
  RoleTotals of[3] = {};
  const auto& terms = call.spec->terms;
  for (size_t k = 0; k < terms.size(); ++k) {
    const Term& t = terms[k];
    of[int(t.role)].loss += call.values()[k];
    double right = partials.total(right_count, k), n = double(call.operands[t.x].n);
    auto add = [&](int operand, Sum sum, Sum sign) {
      of[int(call.spec->roles[operand])].add(partials.total(sum, k), partials.total(sign, k), right,
                                             n, t.side);
    };
    add(t.x, x_sum, x_sign);
    if (t.y >= 0) add(t.y, y_sum, y_sign);
  }
  for (int r = 0; r < 2; ++r) of[r + 1].write(call.statistics(), r);
}

// ---------------------------------------------------------------------------------- forward

template <class F>
void negate(const F* v, int n, F* out) {
  for (int i = 0; i < n; ++i) out[i] = -v[i];
}

// The unit gradients of a 16-bit term, and their sum where that is wanted.
void write_fine_gradients(Call& call, Partials& partials, const Term& t, int64_t c, int64_t start,
                          int n) {
  Argument<double> a;
  a.read(call, t, start, n);
  alignas(64) double gradient[chunk];
  elements<gradient_only>(call, t, a, n, Lines<double>{nullptr, gradient, nullptr});
  const Operand& x = call.operands[t.x];
  if (x.g.data) store(x.g, x.dtype, start, n, gradient);
  if (partials.has(gradient_sum)) partials.at[gradient_sum][c] = chunk_sum(gradient, n);
  if (t.y < 0 || !call.operands[t.y].g.data) return;
  negate(gradient, n, gradient);
  store(call.operands[t.y].g, x.dtype, start, n, gradient);
}

template <class F>
void forward_chunk(Call& call, Partials& partials, const Term& t, size_t number, int64_t c,
                   int64_t start, int n) {
  Argument<F> a;
  a.read(call, t, start, n);
  const Operand& x = call.operands[t.x];
  const Operand* y = t.y >= 0 ? &call.operands[t.y] : nullptr;
  alignas(64) F value[chunk], gradient[chunk];
  const View* out = call.out.empty() ? nullptr : &call.out[number];
  bool differentiate = x.g.data || (y && y->g.data) || partials.has(gradient_sum);
  bool fine = is_fine(call, t);
  Lines<F> lines{value, x.g.data ? place(x.g, x.dtype, start, gradient) : gradient, nullptr};
  if (differentiate && !fine) elements<value_and_gradient>(call, t, a, n, lines);
  else elements<value_only>(call, t, a, n, lines);
  if (differentiate && fine) write_fine_gradients(call, partials, t, c, start, n);
  else if (x.g.data) store(x.g, x.dtype, start, n, lines.gradient);
  if (call.stats) chunk_statistics(t, a, c, n, partials);  // before z's memory is used again
  if (y && y->g.data && !fine) {
    F* minus = place(y->g, y->dtype, start, a.z_buffer);
    negate(lines.gradient, n, minus);
    store(y->g, y->dtype, start, n, minus);
  }
  if (out) {
    F factor = F(coefficient(call, t));
    for (int i = 0; i < n; ++i) value[i] = factor * value[i];
    store(*out, native<F>, start, n, value);
  } else {
    partials.at[value_sum][c] = chunk_sum(value, n);
  }
  if (partials.has(gradient_sum) && !fine)
    partials.at[gradient_sum][c] = chunk_sum(lines.gradient, n);
}

void forward(Call& call) {
  const auto& terms = call.spec->terms;
  if (call.spec->subtracts_mean) operand_means(call, &Operand::x, call.means());
  bool reduced = call.out.empty();
  Partials partials(call, {});
  auto want = [&](std::initializer_list<Sum> sums) {
    for (Sum s : sums) partials.at[s].resize(partials.first.back());
  };
  if (reduced) want({value_sum});
  if (reduced && call.spec->subtracts_mean && call.keep) want({gradient_sum});
  if (call.stats) want({x_sum, x_sign, y_sum, y_sign, right_count});
  in_type(call, [&](auto zero) {
    using F = decltype(zero);
    for_each_chunk(call, partials, [&](size_t k, const Term& t, int64_t c, int64_t start, int n) {
      forward_chunk<F>(call, partials, t, k, c, start, n);
    });
  });
  if (!reduced) return;
  // A mean operand without a term has a unit gradient too: 0, to which rescale adds its constant.
  if (call.spec->subtracts_mean) {
    std::vector<double> zeros(call.operands.size(), -0.);  // -0 + K is K, be it -0
    in_type(call, [&](auto zero) { fill_mean_operands<decltype(zero)>(call, 1, zeros.data()); });
  }
  double loss = 0;
  for (size_t k = 0; k < terms.size(); ++k) {
    double value = coefficient(call, terms[k]) * partials.total(value_sum, k);
    if (call.buffers) call.values()[k] = value;
    loss += value;
  }
  if (call.is_float64) *static_cast<double*>(call.loss) = loss;
  else *static_cast<float*>(call.loss) = float(loss);
  if (partials.has(gradient_sum)) mean_constants(call, partials, call.constants());
  if (call.stats) statistics(call, partials);
}

// ---------------------------------------------------------------------------------- backward

// Writes upstream * (unit + K), or upstream_i * unit_i + K, into an operand's gradient.
template <class F>
void write_gradient(const Operand& a, bool is_mean_operand, double constant, int64_t start, int n,
                    const F* unit_gradient, F sign, F scalar, const F* upstream, F* buffer) {
  F* g = place(a.g, a.dtype, start, buffer);
  F k = F(constant);
  if (upstream) {
    for (int i = 0; i < n; ++i) g[i] = upstream[i] * (sign * unit_gradient[i]);
    if (is_mean_operand)
      for (int i = 0; i < n; ++i) g[i] = g[i] + k;
  } else if (is_mean_operand) {
    for (int i = 0; i < n; ++i) g[i] = scalar * (sign * unit_gradient[i] + k);
  } else {
    for (int i = 0; i < n; ++i) g[i] = scalar * (sign * unit_gradient[i]);
  }
  store(a.g, a.dtype, start, n, g);
}

template <class F>
void backward_chunk(Call& call, Partials& partials, const double* constants, const Term& t,
                    size_t number, int64_t c, int64_t start, int n) {
  Argument<F> a;
  a.read(call, t, start, n);
  alignas(64) F unit_gradient[chunk], up_buffer[chunk], buffer[chunk];
  F scalar = scalar_upstream<F>(call);
  elements<gradient_only>(call, t, a, n, Lines<F>{nullptr, unit_gradient, nullptr});
  const F* upstream = call.upstream.empty()
                          ? nullptr
                          : load(call.upstream[number], result_dtype(call), start, n, up_buffer);
  if (!constants) {  // the pass that only sums
    for (int i = 0; i < n; ++i) buffer[i] = upstream[i] * unit_gradient[i];
    partials.at[gradient_sum][c] = chunk_sum(buffer, n);
    return;
  }
  const Operand& x = call.operands[t.x];
  if (x.g.data)
    write_gradient<F>(x, call.spec->is_mean_operand[t.x], constants[t.x], start, n, unit_gradient,
                      F(1), scalar, upstream, buffer);
  if (t.y < 0 || !call.operands[t.y].g.data) return;
  write_gradient<F>(call.operands[t.y], call.spec->is_mean_operand[t.y], constants[t.y], start, n,
                    unit_gradient, F(-1), scalar, upstream, buffer);
}

void backward(Call& call) {
  bool elementwise = !call.upstream.empty(), subtracts_mean = call.spec->subtracts_mean;
  std::vector<double> own(call.operands.size());
  const double* constants = subtracts_mean && !elementwise ? call.constants() : own.data();
  Partials partials(call, {});
  in_type(call, [&](auto zero) {
    using F = decltype(zero);
    auto run = [&](const double* k) {
      for_each_chunk(call, partials,
                     [&](size_t number, const Term& t, int64_t c, int64_t start, int n) {
                       auto body = is_fine(call, t) ? backward_chunk<double> : backward_chunk<F>;
                       body(call, partials, k, t, number, c, start, n);
                     });
    };
    if (subtracts_mean && elementwise) {
      partials.at[gradient_sum].resize(partials.first.back());
      run(nullptr);
      mean_constants(call, partials, own.data());
    }
    run(constants);
    if (subtracts_mean)
      fill_mean_operands<F>(call, elementwise ? F(1) : scalar_upstream<F>(call), constants);
  });
}

// Turns the unit gradients that forward wrote into gradients: by the same formula as backward, and
// so with the same bits, without reading the operands again. A 16-bit unit gradient has been
// rounded already and serves only where there is nothing left to do.
bool rescale(Call& call) {
  double scalar = call.is_float64 ? scalar_upstream<double>(call) : scalar_upstream<float>(call);
  if (scalar == 1 && !call.spec->subtracts_mean) return true;
  for (const Operand& a : call.operands)
    if (a.g.data && item_size(a.dtype) == 2) return false;
  in_type(call, [&](auto zero) {
    using F = decltype(zero);
    for (size_t j = 0; j < call.operands.size(); ++j) {
      Operand a = call.operands[j];
      a.g = in_memory_order(a.g);  // of threads that share a tensor, each has lines of its own
      bool is_mean_operand = call.spec->is_mean_operand[j];
      if (!a.g.data || (scalar == 1 && !is_mean_operand)) continue;
      double constant = is_mean_operand ? call.constants()[j] : 0;
      int64_t count = chunk_count(a.n);
      parallel_for(count, a.n < 65536 ? 1 : call.threads, [&](int64_t begin, int64_t end) {
        F gradient_buffer[chunk], buffer[chunk];
        for (int64_t c = begin; c < end; ++c) {
          int n = int(a.n - c * chunk < chunk ? a.n - c * chunk : chunk);
          const F* unit_gradient = load(a.g, a.dtype, c * chunk, n, gradient_buffer);
          write_gradient<F>(a, is_mean_operand, constant, c * chunk, n, unit_gradient, F(1),
                            F(scalar), nullptr, buffer);
        }
      });
    }
  });
  return true;
}

// ---------------------------------------------------------------------------------- second order

// The gradient g of a call is linear in its upstream and depends on x; given v, the gradient of
// <v, g> with respect to both. With w = v_x - v_y (or v_x - mean v of the mean operand):
//   upstream: sum of u_i w_i;   x: upstream * coefficient * d'_i * w_i, and for y or a mean operand
// as in the first order.
template <class F>
void second_chunk(Call& call, Partials& partials, const double* v_means, const double* constants,
                  const Term& t, size_t number, int64_t c, int64_t start, int n) {
  Argument<F> a;
  a.read(call, t, start, n);
  alignas(64) F unit_gradient[chunk], curvature[chunk], w[chunk], buffer[chunk];
  elements<gradient_and_curvature>(call, t, a, n, Lines<F>{nullptr, unit_gradient, curvature});
  const Operand& x = call.operands[t.x];
  for (int i = 0; i < n; ++i) w[i] = F(0);
  if (x.v.data) {
    const F* v = load(x.v, x.dtype, start, n, buffer);
    for (int i = 0; i < n; ++i) w[i] = v[i];
  }
  if (t.y >= 0 && call.operands[t.y].v.data)
    subtract(w, load(call.operands[t.y].v, x.dtype, start, n, buffer), n, w);
  if (t.mean_operand >= 0) subtract(w, v_means[t.mean_operand], n, w);
  for (int i = 0; i < n; ++i) curvature[i] = curvature[i] * w[i];
  for (int i = 0; i < n; ++i) unit_gradient[i] = unit_gradient[i] * w[i];
  F scalar = scalar_upstream<F>(call);
  const F* upstream = call.upstream.empty()
                          ? nullptr
                          : load(call.upstream[number], result_dtype(call), start, n, buffer);
  if (!constants) {  // the pass that only sums
    partials.at[dot_sum][c] = chunk_sum(unit_gradient, n);
    for (int i = 0; i < n; ++i) curvature[i] = (upstream ? upstream[i] : F(1)) * curvature[i];
    partials.at[gradient_sum][c] = chunk_sum(curvature, n);
    return;
  }
  if (!call.out.empty()) store(call.out[number], result_dtype(call), start, n, unit_gradient);
  alignas(64) F written[chunk];
  if (x.g.data)
    write_gradient<F>(x, call.spec->is_mean_operand[t.x], constants[t.x], start, n, curvature, F(1),
                      scalar, upstream, written);
  if (t.y < 0 || !call.operands[t.y].g.data) return;
  write_gradient<F>(call.operands[t.y], call.spec->is_mean_operand[t.y], constants[t.y], start, n,
                    curvature, F(-1), scalar, upstream, written);
}

void second(Call& call) {
  size_t m = call.operands.size();
  std::vector<double> v_means(m), constants(m);
  if (call.spec->subtracts_mean) operand_means(call, &Operand::v, v_means.data());
  Partials partials(call, {gradient_sum, dot_sum});
  in_type(call, [&](auto zero) {
    using F = decltype(zero);
    auto run = [&](const double* k) {
      for_each_chunk(call, partials,
                     [&](size_t number, const Term& t, int64_t c, int64_t start, int n) {
                       auto body = is_fine(call, t) ? second_chunk<double> : second_chunk<F>;
                       body(call, partials, v_means.data(), k, t, number, c, start, n);
                     });
    };
    run(nullptr);
    mean_constants(call, partials, constants.data());
    run(constants.data());
    bool elementwise = !call.upstream.empty();
    fill_mean_operands<F>(call, elementwise ? F(1) : scalar_upstream<F>(call), constants.data());
  });
  if (!call.loss) return;
  double dot = 0;
  for (size_t k = 0; k < call.spec->terms.size(); ++k) dot += partials.total(dot_sum, k);
  if (call.is_float64) *static_cast<double*>(call.loss) = dot;
  else *static_cast<float*>(call.loss) = float(dot);
}

}  // namespace

extern const LossKernels FASTGAN_JOIN(loss_, FASTGAN_ISA);
const LossKernels FASTGAN_JOIN(loss_, FASTGAN_ISA) = {FASTGAN_STRING(FASTGAN_ISA), forward,
                                                      backward, second, rescale};

}  // namespace fastgan
