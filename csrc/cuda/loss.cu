// The CUDA kernels of the losses: the calls of ../common/loss.h with the roundings of
// ../cpu/loss.cpp.
//
// All terms of a call are in one launch. A warp takes a chunk of a term at a time; the last block
// to finish adds up the chunks' sums. Backward reads the logits again: that is as much traffic as
// reading what forward could have written, and needs neither memory nor a look at the upstream.
#include "loss_table.h"

namespace fastgan {
namespace {

// ---------------------------------------------------------------------------------- elements

enum Pass { value_only, value_and_gradient, gradient_only, gradient_and_curvature };

template <class F>
struct Elements {  // a thread's part of a row of lanes
  F x[4], y[4], z[4], value[4];
};

// Derivatives, as F or, for 16-bit tensors, as double.
template <class T>
struct Derivatives {
  T gradient[4], curvature[4];
};

// e^-|a| as functions of it in T want it; F is the type of other element maths.
template <Phi P, class F, class T>
FASTGAN_DEVICE auto decay_for(T a) {
  if constexpr (!Function<P>::uses_decay) return Pair<T>{};
  else if constexpr (sizeof(T) != sizeof(F)) return fine_decay(a);
  else return decay(a);
}

// K: coefficients, the same for all elements or of each.
template <Pass pass, Phi P, bool Linear, class K, class F>
FASTGAN_DEVICE void evaluate_as(const K& all, Elements<F>& e, Derivatives<F>& d) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const Coefficients<F>& k = all.template at<P>(i);
    auto u = decay_for<P, F>(k.argument(e.z[i]));
    if constexpr (pass == value_only || pass == value_and_gradient)
      e.value[i] = term_value<P, Linear, K::vary>(e.z[i], k, u);
    if constexpr (pass != value_only) d.gradient[i] = term_gradient<P, Linear>(e.z[i], k, u);
    if constexpr (pass == gradient_and_curvature) d.curvature[i] = term_curvature<P>(e.z[i], k, u);
  }
}

template <Pass pass, Phi P, bool Linear, class K>
FASTGAN_DEVICE void evaluate_as(const K& all, const double (&z)[4], Derivatives<double>& d) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const Coefficients<double>& k = all.template at<P>(i);
    auto u = decay_for<P, float>(k.argument(z[i]));
    d.gradient[i] = term_gradient<P, Linear>(z[i], k, u);
    if constexpr (pass == gradient_and_curvature) d.curvature[i] = term_curvature<P>(z[i], k, u);
  }
}

// `arguments`: what evaluate_as() takes.
template <Pass pass, class F, class... Arguments>
FASTGAN_DEVICE void evaluate(const TermEntry<F>& t, Arguments&... arguments) {
#define FASTGAN_CASE(name)                                               \
  case Phi::name:                                                        \
    if (t.linear != 0) evaluate_as<pass, Phi::name, true>(arguments...); \
    else evaluate_as<pass, Phi::name, false>(arguments...);              \
    break;
  switch (Phi(t.phi)) { FASTGAN_PHIS(FASTGAN_CASE) }
#undef FASTGAN_CASE
}

FASTGAN_DEVICE double read_weight(const char* weights, DType dtype, int member) {
  switch (dtype) {
    case DType::float32: return reinterpret_cast<const float*>(weights)[member];
    case DType::float64: return reinterpret_cast<const double*>(weights)[member];
    case DType::float16: return widen(reinterpret_cast<const Half*>(weights)[member]);
    default: return widen(reinterpret_cast<const BFloat16*>(weights)[member]);
  }
}

// w, or w / n, with the member's weight where that lies on the device.
template <class F>
FASTGAN_DEVICE double coefficient(const Table<F>& table, const TermEntry<F>& t) {
  double c = t.weight;
  if (table.weights) c = c * read_weight(table.weights, table.weights_dtype, t.member);
  return table.mean ? c / double(table.operand[t.x].n) : c;
}

template <class T, class F>
FASTGAN_DEVICE Coefficients<T> coefficients(const Table<F>& table, const TermEntry<F>& t) {
  if constexpr (sizeof(T) == sizeof(F))
    if (!table.weights) return t.k;
  return Coefficients<T>(t.scale, t.shift, t.linear, coefficient(table, t));
}

// A float64 constant whose part below the last bit of F counts as well.
template <class F>
struct Split {
  F hi = 0, lo = 0;
  FASTGAN_DEVICE explicit Split(double c) : hi(F(c)), lo(c - c == 0 ? F(c - double(F(c))) : F(0)) {}
  FASTGAN_DEVICE F below(F x) const {
    return (x - hi) - lo;
  }
};

// ---------------------------------------------------------------------------------- chunks

// What a thread has of a chunk: four lanes, that is four elements of each of its rows.
struct Piece {
  int64_t start;
  int n, lane0;

  FASTGAN_DEVICE Piece(unsigned chunk_number, int64_t all)
      : start(int64_t(chunk_number) * chunk), lane0(int(threadIdx.x) % warp * 4) {
    n = all - start < chunk ? int(all - start) : chunk;
  }
};

template <class F>
FASTGAN_DEVICE Run values_of(const Table<F>& table, const OperandEntry& a, const Piece& p) {
  return run_of(a.x, DType(a.dtype), table.find(a.x_strides), p.start);
}

// body(first element of the thread, elements) for each row of a chunk, of x and perhaps of y.
template <class F, class Body>
FASTGAN_DEVICE void for_each_elements(const Piece& p, const Run& x, const Run& y, bool paired,
                                      const Body& body) {
  const Run runs[2] = {x, y};
  const bool there[2] = {true, paired};
  for_each_row<F, 4>(runs, there, p.lane0, p.n, [&](int at, const Raw<F, 4>(&raw)[2]) {
    Elements<F> e;
    unpack(raw[0], x.dtype, e.x);
    unpack(raw[1], x.dtype, e.y);
    body(at, e);
  });
}

// The same of a term, with its argument in z.
template <class F, class Body>
FASTGAN_DEVICE void for_each_argument(const Table<F>& table, const TermEntry<F>& t, const Piece& p,
                                      const Body& body) {
  bool paired = t.y >= 0, subtracts_mean = t.mean_operand >= 0;
  Run x = values_of(table, table.operand[t.x], p),
      y = values_of(table, table.operand[paired ? t.y : t.x], p);
  Split<F> mean(subtracts_mean ? table.means[t.mean_operand] : 0.);
  for_each_elements<F>(p, x, y, paired, [&](int at, Elements<F>& e) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      e.z[i] = paired ? e.x[i] - e.y[i] : subtracts_mean ? mean.below(e.x[i]) : e.x[i];
    body(at, e);
  });
}

// The factors and labels of a thread's four elements; in kernels for calls without any, nothing.
template <bool Masked, class F>
struct PerElement {
  FASTGAN_DEVICE PerElement(const Table<F>&, const TermEntry<F>&, const Piece&, int) {}

  template <Pass pass, class T, class Z>
  FASTGAN_DEVICE void evaluate_at(const TermEntry<F>& t, const Coefficients<T>& k, Z& z,
                                  Derivatives<T>& d) const {
    evaluate<pass>(t, k, z, d);
  }
};

template <class F>
struct PerElement<true, F> {
  F factor[4], label[4];

  FASTGAN_DEVICE PerElement(const Table<F>& table, const TermEntry<F>& t, const Piece& p, int at) {
    read(table, t.factor_operand, p, at, factor);
    read(table, t.label_operand, p, at, label);
  }
  FASTGAN_DEVICE static void read(const Table<F>& table, int operand, const Piece& p, int at,
                                  F (&to)[4]) {
    if (operand < 0) return;
    unpack(fetch<F, 4>(values_of(table, table.operand[operand], p), at, p.n), native<F>, to);
  }

  template <Pass pass, class T, class Z>
  FASTGAN_DEVICE void evaluate_at(const TermEntry<F>& t, const Coefficients<T>& k, Z& z,
                                  Derivatives<T>& d) const {
    if (t.label_operand < 0) {
      evaluate<pass>(t, k, z, d);
    } else {
      const T own[4] = {T(label[0]), T(label[1]), T(label[2]), T(label[3])};
      const Labelled<T> labelled{k, own};
      evaluate<pass>(t, labelled, z, d);
    }
    if (t.factor_operand < 0) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (pass == value_only || pass == value_and_gradient)
        z.value[i] = factor[i] * z.value[i];
      if constexpr (pass != value_only) d.gradient[i] = T(factor[i]) * d.gradient[i];
      if constexpr (pass == gradient_and_curvature) d.curvature[i] = T(factor[i]) * d.curvature[i];
    }
  }
};

// body(zero of the type) for the type that a term's derivatives have: double for 16-bit tensors.
// Fine: whether a call has any. Kernels for these have more registers than others need.
template <bool Fine, class F, class Body>
FASTGAN_DEVICE void in_type_of_derivatives(const Table<F>& table, const TermEntry<F>& t,
                                           const Body& body) {
  if constexpr (Fine)
    if (item_size(DType(table.operand[t.x].dtype)) == 2) return body(0.);
  body(F(0));
}

// The derivatives at e's elements.
template <Pass pass, class T, bool Masked, class F>
FASTGAN_DEVICE void differentiate(const Table<F>& table, const TermEntry<F>& t,
                                  const Coefficients<T>& k, const PerElement<Masked, F>& own,
                                  Elements<F>& e, Derivatives<T>& d) {
  if constexpr (sizeof(T) == sizeof(F)) {
    own.template evaluate_at<pass>(t, k, e, d);
  } else {
    double z[4];
    double mean = t.mean_operand >= 0 ? table.means[t.mean_operand] : 0.;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      z[i] = t.y >= 0 ? double(e.x[i]) - double(e.y[i]) : double(e.x[i]) - mean;
    own.template evaluate_at<pass>(t, k, z, d);
  }
}

// body(number of an item, chunk of it) for the chunks that are this warp's. An item is a term or an
// operand; first(k) is the first chunk of the k-th.
template <class First, class Body>
FASTGAN_DEVICE void for_each_chunk(int items, unsigned chunks, const First& first,
                                   const Body& body) {
  int item = 0;
  for (unsigned u = blockIdx.x * warps_here() + warp_number(); u < chunks;
       u += gridDim.x * warps_here()) {
    while (item + 1 < items && u >= first(item + 1)) ++item;
    body(item, u - first(item));
  }
}

template <class F, class Body>
FASTGAN_DEVICE void for_each_chunk_of_terms(const Table<F>& table, const Body& body) {
  for_each_chunk(
      table.terms, table.chunks, [&](int k) { return table.term[k].first_chunk; },
      [&](int k, unsigned number) {
        const TermEntry<F>& t = table.term[k];
        body(t, number, Piece(number, table.operand[t.x].n));
      });
}

// ---------------------------------------------------------------------------------- sums

// The sums over a call's chunks; `memory` has a slot for each kind.
template <class F>
struct Partials {
  const Table<F>& table;
  double* memory;

  FASTGAN_DEVICE bool has(Sum kind) const {
    return table.slot[kind] >= 0;
  }
  FASTGAN_DEVICE double* of(Sum kind, unsigned first) const {
    return memory + size_t(table.slot[kind]) * table.partials + first;
  }
  FASTGAN_DEVICE void keep(Sum kind, const TermEntry<F>& t, unsigned number, double sum) const {
    if (has(kind) && threadIdx.x % warp == 0) of(kind, t.first_partial)[number] = sum;
  }
};

FASTGAN_DEVICE void clear(double (&lane)[4], const Piece& p) {
#pragma unroll
  for (double& s : lane) s = empty_lane(p.n);
}

template <class T>
FASTGAN_DEVICE void add(double (&lane)[4], const T (&v)[4], int at, const Piece& p) {
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (at + i < p.n) lane[i] = lane[i] + double(v[i]);
}

FASTGAN_DEVICE int warp_count(int s) {
#pragma unroll
  for (int distance = 1; distance < warp; distance *= 2) s += __shfl_xor_sync(~0u, s, distance);
  return s;
}

// The sum of `chunks` partial sums at v, whose lower levels shrink() has taken, by one warp.
FASTGAN_DEVICE double top_sum(const double* v, int64_t chunks) {
  for (; chunks > chunk; chunks = chunk_count(chunks)) v += chunks;
  return warp_tree_sum(v, int(chunks));
}

// All sums of all terms, into `total`: a row of most_terms for each slot.
template <class F>
FASTGAN_DEVICE void add_up(const Partials<F>& partials, double* total) {
  const Table<F>& table = partials.table;
  auto each = [&](const auto& body) {
    for (int kind = 0; kind < sum_count; ++kind) {
      if (!partials.has(Sum(kind))) continue;
      for (int k = 0; k < table.terms; ++k)
        body(kind, k, partials.of(Sum(kind), table.term[k].first_partial),
             chunk_count(table.operand[table.term[k].x].n));
    }
  };
  each([&](int, int, double* v, int64_t chunks) { shrink(v, &chunks); });
  each([&](int kind, int k, double* v, int64_t chunks) {
    if (k % warps_here() != warp_number()) return;
    double sum = top_sum(v, chunks);
    if (threadIdx.x % warp == 0) total[table.slot[kind] * most_terms + k] = sum;
  });
  __syncthreads();
}

// The constant of a term's mean operand receives the term's gradient; divided once it has them all.
template <class F>
FASTGAN_DEVICE void add_to_constant(const Table<F>& table, const TermEntry<F>& t, double gradient) {
  if (t.mean_operand < 0) return;
  double sum = (t.first_of_mean ? 0. : table.constants[t.mean_operand]) - gradient;
  table.constants[t.mean_operand] = t.last_of_mean ? sum / double(t.mean_operand_n) : sum;
}

// ---------------------------------------------------------------------------------- means

// Means of the mean operands, by all blocks of a launch.
template <class F>
FASTGAN_DEVICE void take_means(const Table<F>& table, double* partial) {
  auto operand = [&](int k) -> const OperandEntry& { return table.operand[table.mean_operand[k]]; };
  for_each_chunk(
      table.mean_operands, table.mean_chunks, [&](int k) { return operand(k).first_chunk; },
      [&](int k, unsigned number) {
        const OperandEntry& a = operand(k);
        Piece p(number, a.n);
        double lane[4];
        clear(lane, p);
        Run x = values_of(table, a, p);
        for_each_elements<F>(p, x, x, false,
                             [&](int at, Elements<F>& e) { add(lane, e.x, at, p); });
        double sum = fold(lane);
        if (threadIdx.x % warp == 0) partial[a.first_partial + number] = sum;
      });
  if (!last_to_come(table.ticket, gridDim.x)) return;
  for (int k = 0; k < table.mean_operands; ++k) {
    int64_t chunks = operand(k).x ? chunk_count(operand(k).n) : 0;
    shrink(partial + operand(k).first_partial, &chunks);
  }
  for (int k = warp_number(); k < table.mean_operands; k += warps_here()) {
    const OperandEntry& a = operand(k);
    double sum = a.x ? top_sum(partial + a.first_partial, chunk_count(a.n)) : 0.;
    if (threadIdx.x % warp == 0) table.means[a.number] = sum / double(a.n);
  }
}

template <class F>
__global__ void __launch_bounds__(most_warps* warp, sizeof(F) == 8 ? 1 : 2)
    loss_means(FASTGAN_GRID_CONSTANT(Table<F>) table) {
  FASTGAN_SHARED(double, shared, [shared_partials]);
  take_means(table, table.partial ? table.partial : shared);
}

// ---------------------------------------------------------------------------------- forward

// Adds gradients: those in d, or those of T.
template <class T, bool Masked, class F>
FASTGAN_DEVICE void add_slopes(const Table<F>& table, const TermEntry<F>& t,
                               const PerElement<Masked, F>& own, Elements<F>& e,
                               const Derivatives<F>& d, int at, const Piece& p, double (&lane)[4]) {
  if constexpr (sizeof(T) == sizeof(F)) return add(lane, d.gradient, at, p);
  Derivatives<T> fine;
  differentiate<gradient_only>(table, t, coefficients<T>(table, t), own, e, fine);
  add(lane, fine.gradient, at, p);
}

// A chunk's value; Full: with what only means and statistics need. T: the type of derivatives.
template <bool Full, bool Masked, class T, class F>
FASTGAN_DEVICE void forward_chunk(const Partials<F>& partials, const TermEntry<F>& t,
                                  unsigned number, const Piece& p) {
  const Table<F>& table = partials.table;
  Coefficients<F> k = coefficients<F>(table, t);
  bool slopes = Full && partials.has(gradient_sum), stats = Full && partials.has(x_sum);
  double value[4], gradient[4], x[4], y[4];
  int x_signs = 0, y_signs = 0, right = 0;
  clear(value, p);
  clear(gradient, p);
  clear(x, p);
  clear(y, p);
  F factor = table.weights ? F(coefficient(table, t)) : t.factor, side = F(t.side);
  for_each_argument(table, t, p, [&](int at, Elements<F>& e) {
    Derivatives<F> d;
    const PerElement<Masked, F> own(table, t, p, at);
    if (Full && sizeof(T) == sizeof(F)) own.template evaluate_at<value_and_gradient>(t, k, e, d);
    else own.template evaluate_at<value_only>(t, k, e, d);
    if (!table.reduced) {
#pragma unroll
      for (F& v : e.value) v = factor * v;
      put(run_of(t.out, native<F>, table.find(t.out_strides), p.start), at, p.n, e.value);
    }
    add(value, e.value, at, p);
    if (slopes) add_slopes<T>(table, t, own, e, d, at, p, gradient);
    if (!stats) return;
    add(x, e.x, at, p);
    add(y, e.y, at, p);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (at + i >= p.n) break;
      x_signs += int(e.x[i] > F(0)) - int(e.x[i] < F(0));
      y_signs += int(e.y[i] > F(0)) - int(e.y[i] < F(0));
      right += int(side * (e.z[i] - t.threshold) > F(0));
    }
  });
  partials.keep(value_sum, t, number, fold(value));
  if (slopes) partials.keep(gradient_sum, t, number, fold(gradient));
  if (!stats) return;
  partials.keep(x_sum, t, number, fold(x));
  partials.keep(y_sum, t, number, fold(y));
  partials.keep(x_sign, t, number, warp_count(x_signs));
  partials.keep(y_sign, t, number, warp_count(y_signs));
  partials.keep(right_count, t, number, warp_count(right));
}

template <class F>
FASTGAN_DEVICE void add_statistics(const Table<F>& table, const TermEntry<F>& t, double value,
                                   const double* total, Totals& all) {
  auto sum = [&](Sum kind) { return total[table.slot[kind] * most_terms]; };
  double n = double(table.operand[t.x].n), right = sum(right_count);
  all.of[t.role].loss += value;
  auto add = [&](int operand, Sum mean, Sum sign) {
    all.of[table.operand[operand].role].add(sum(mean), sum(sign), right, n, t.side);
  };
  add(t.x, x_sum, x_sign);
  if (t.y >= 0) add(t.y, y_sum, y_sign);
}

// By one thread, in the order of the terms; `all` begins as what earlier launches handed on.
template <class F>
FASTGAN_DEVICE void finish_forward(const Table<F>& table, const double* total, Totals& all) {
  for (int k = 0; k < table.terms; ++k) {
    const TermEntry<F>& t = table.term[k];
    double value = coefficient(table, t) * total[table.slot[value_sum] * most_terms + k];
    if (table.values) table.values[t.number] = value;
    all.loss += value;
    if (table.slot[gradient_sum] >= 0)
      add_to_constant(table, t, total[table.slot[gradient_sum] * most_terms + k]);
    if (table.slot[x_sum] >= 0) add_statistics(table, t, value, total + k, all);
  }
  if (!table.last) return;
  *table.result = F(all.loss);
  if (table.slot[x_sum] < 0) return;
  for (int r = 0; r < 2; ++r) all.of[r + 1].write(table.statistics, r);
}

template <bool Full, bool Fine, bool Masked, class F>
FASTGAN_DEVICE void forward_pass(const Table<F>& table) {
  FASTGAN_SHARED(double, shared, [shared_partials]);
  FASTGAN_SHARED(double, total, [(Full ? forward_sums : 1) * most_terms]);
  FASTGAN_SHARED(Totals, all, );
  double* memory = table.partial ? table.partial : shared;
  if (Full && table.means_here) {
    take_means(table, memory);
    __syncthreads();
  }
  Partials<F> partials{table, memory};
  for_each_chunk_of_terms(table, [&](const TermEntry<F>& t, unsigned number, const Piece& p) {
    in_type_of_derivatives<Full && Fine>(table, t, [&](auto zero) {
      forward_chunk<Full, Masked, decltype(zero)>(partials, t, number, p);
    });
  });
  if (!table.reduced || !last_to_come(table.ticket, gridDim.x)) return;
  add_up(partials, total);
  if (threadIdx.x > 0) return;
  all = table.first ? Totals{} : *table.totals;
  finish_forward(table, total, all);
  if (!table.last) *table.totals = all;
}

template <bool Full, class F>
__global__ void __launch_bounds__(most_warps* warp, sizeof(F) == 8 ? 1 : 2)
    loss_forward(FASTGAN_GRID_CONSTANT(Table<F>) table) {
  forward_pass<Full, false, false>(table);
}

// For calls with 16-bit tensors, which take more registers.
__global__ void __launch_bounds__(most_warps* warp, 1)
    loss_forward_fine(FASTGAN_GRID_CONSTANT(Table<float>) table) {
  forward_pass<true, true, false>(table);
}

// For calls with factors or labels.
template <class F>
__global__ void __launch_bounds__(most_warps* warp, 1)
    loss_forward_masked(FASTGAN_GRID_CONSTANT(Table<F>) table) {
  forward_pass<true, sizeof(F) == 4, true>(table);
}

// ---------------------------------------------------------------------------------- backward

template <class T>
struct Upstream {  // of a thread's four elements, or of all
  T scalar, each[4];
  bool elementwise;

  template <class F>
  FASTGAN_DEVICE void read(const Table<F>& table, const TermEntry<F>& t, const Piece& p, int at) {
    elementwise = t.upstream;
    scalar = elementwise || !table.scalar_upstream ? T(1) : T(*table.scalar_upstream);
    if (!elementwise) return;
    Run run =
        run_of(const_cast<char*>(t.upstream), native<F>, table.find(t.upstream_strides), p.start);
    F read[4];
    unpack(fetch<F, 4>(run, at, p.n), native<F>, read);
#pragma unroll
    for (int i = 0; i < 4; ++i) each[i] = T(read[i]);
  }
  FASTGAN_DEVICE T of(int i) const {
    return elementwise ? each[i] : scalar;
  }
};

// As put() is to round it to the tensor's dtype: a double comes for 16 bits.
FASTGAN_DEVICE float rounded(float g, float) {
  return g;
}
FASTGAN_DEVICE double rounded(double g, double) {
  return g;
}
FASTGAN_DEVICE float rounded(double g, float) {
  return to_odd(g);
}

// upstream * (unit + K), or upstream_i * unit_i + K, into an operand's gradient.
template <class T, class F>
FASTGAN_DEVICE void write_gradient(const Table<F>& table, const OperandEntry& a, const Piece& p,
                                   int at, const T (&unit_gradient)[4], T sign,
                                   const Upstream<T>& up) {
  if (!a.g) return;
  T k = a.is_mean_operand ? T(table.constants[a.number]) : T(0);
  F g[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    T u = sign * unit_gradient[i];
    if (a.is_mean_operand && !up.elementwise) u = u + k;
    u = up.of(i) * u;
    if (a.is_mean_operand && up.elementwise) u = u + k;
    g[i] = rounded(u, F(0));
  }
  put(run_of(a.g, DType(a.dtype), table.find(a.g_strides), p.start), at, p.n, g);
}

template <class T, class F>
FASTGAN_DEVICE void write_gradients(const Table<F>& table, const TermEntry<F>& t, const Piece& p,
                                    int at, const T (&unit_gradient)[4], const Upstream<T>& up) {
  write_gradient(table, table.operand[t.x], p, at, unit_gradient, T(1), up);
  if (t.y >= 0) write_gradient(table, table.operand[t.y], p, at, unit_gradient, T(-1), up);
}

// A mean operand without a term of its own: its gradient is the same everywhere.
template <class T, class F>
FASTGAN_DEVICE void fill_chunk(const Table<F>& table, const TermEntry<F>& t, const Piece& p) {
  Upstream<T> up;
  const T zero[4] = {T(-0.), T(-0.), T(-0.), T(-0.)};  // to which a constant adds without a trace
  up.read(table, t, p, 0);
  for (int at = p.lane0; at < p.n; at += lanes)
    write_gradient(table, table.operand[t.x], p, at, zero, T(1), up);
}

template <bool Masked, class T, class F>
FASTGAN_DEVICE void backward_chunk(const Partials<F>& partials, const TermEntry<F>& t,
                                   unsigned number, const Piece& p) {
  const Table<F>& table = partials.table;
  Coefficients<T> k = coefficients<T>(table, t);
  double sum[4];
  clear(sum, p);
  for_each_argument(table, t, p, [&](int at, Elements<F>& e) {
    Derivatives<T> d;
    differentiate<gradient_only>(table, t, k, PerElement<Masked, F>(table, t, p, at), e, d);
    Upstream<T> up;
    up.read(table, t, p, at);
    if (table.write) return write_gradients(table, t, p, at, d.gradient, up);
#pragma unroll
    for (int i = 0; i < 4; ++i) d.gradient[i] = up.of(i) * d.gradient[i];
    add(sum, d.gradient, at, p);
  });
  if (table.sums) partials.keep(gradient_sum, t, number, fold(sum));
}

// Constants of mean operands, and the gradient of the upstream: by one thread.
template <class F>
FASTGAN_DEVICE void finish_gradient(const Table<F>& table, const double* total) {
  double dot = table.first ? 0. : table.totals->loss;
  for (int k = 0; k < table.terms; ++k) {
    if (table.slot[gradient_sum] >= 0)
      add_to_constant(table, table.term[k], total[table.slot[gradient_sum] * most_terms + k]);
    if (table.slot[dot_sum] >= 0) dot += total[table.slot[dot_sum] * most_terms + k];
  }
  if (!table.last) table.totals->loss = dot;
  else if (table.slot[dot_sum] >= 0) *table.result = F(dot);
}

// Either the gradients (`write`) or the sums that constants of mean operands are made of.
template <bool Fine, bool Masked, class F>
FASTGAN_DEVICE void backward_pass(const Table<F>& table) {
  FASTGAN_SHARED(double, shared, [shared_partials]);
  FASTGAN_SHARED(double, total, [most_terms]);
  Partials<F> partials{table, table.partial ? table.partial : shared};
  for_each_chunk_of_terms(table, [&](const TermEntry<F>& t, unsigned number, const Piece& p) {
    in_type_of_derivatives<Fine>(table, t, [&](auto zero) {
      using T = decltype(zero);
      if (t.fill) fill_chunk<T>(table, t, p);
      else backward_chunk<Masked, T>(partials, t, number, p);
    });
  });
  if (!table.sums || !last_to_come(table.ticket, gridDim.x)) return;
  add_up(partials, total);
  if (threadIdx.x == 0) finish_gradient(table, total);
}

template <class F>
__global__ void __launch_bounds__(most_warps* warp, sizeof(F) == 8 ? 1 : 2)
    loss_backward(FASTGAN_GRID_CONSTANT(Table<F>) table) {
  backward_pass<false, false>(table);
}

__global__ void __launch_bounds__(most_warps* warp, 1)
    loss_backward_fine(FASTGAN_GRID_CONSTANT(Table<float>) table) {
  backward_pass<true, false>(table);
}

template <class F>
__global__ void __launch_bounds__(most_warps* warp, 1)
    loss_backward_masked(FASTGAN_GRID_CONSTANT(Table<F>) table) {
  backward_pass<sizeof(F) == 4, true>(table);
}

// ---------------------------------------------------------------------------------- second order

// w = v_x - v_y, or v_x - mean v of the mean operand, of a thread's four elements.
template <class T>
struct Cotangent {
  T w[4];

  template <class F>
  FASTGAN_DEVICE void read(const Table<F>& table, const OperandEntry& a, const Piece& p, int at,
                           bool minus) {
    if (!a.v) return;
    F v[4];
    unpack(fetch<F, 4>(run_of(a.v, DType(a.dtype), table.find(a.v_strides), p.start), at, p.n),
           DType(a.dtype), v);
#pragma unroll
    for (int i = 0; i < 4; ++i) w[i] = minus ? w[i] - T(v[i]) : T(v[i]);
  }
  template <class F>
  FASTGAN_DEVICE Cotangent(const Table<F>& table, const TermEntry<F>& t, const Piece& p, int at)
      : w{} {
    read(table, table.operand[t.x], p, at, false);
    if (t.y >= 0) read(table, table.operand[t.y], p, at, true);
    if (t.mean_operand < 0) return;
    Split<T> mean(table.v_means[t.mean_operand]);
#pragma unroll
    for (T& v : w) v = mean.below(v);
  }
};

// As second_chunk of ../cpu/loss.cpp.
template <bool Masked, class T, class F>
FASTGAN_DEVICE void second_chunk(const Partials<F>& partials, const TermEntry<F>& t,
                                 unsigned number, const Piece& p) {
  const Table<F>& table = partials.table;
  Coefficients<T> k = coefficients<T>(table, t);
  double sum[4], dot[4];
  clear(sum, p);
  clear(dot, p);
  for_each_argument(table, t, p, [&](int at, Elements<F>& e) {
    Derivatives<T> d;
    differentiate<gradient_and_curvature>(table, t, k, PerElement<Masked, F>(table, t, p, at), e,
                                          d);
    Cotangent<T> v(table, t, p, at);
    Upstream<T> up;
    up.read(table, t, p, at);
    T weighted[4];
    F out[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      d.curvature[i] = d.curvature[i] * v.w[i];
      d.gradient[i] = d.gradient[i] * v.w[i];
      weighted[i] = (up.elementwise ? up.each[i] : T(1)) * d.curvature[i];
      out[i] = F(d.gradient[i]);
    }
    add(dot, d.gradient, at, p);
    add(sum, weighted, at, p);
    if (!table.write) return;
    if (t.out) put(run_of(t.out, native<F>, table.find(t.out_strides), p.start), at, p.n, out);
    write_gradients(table, t, p, at, d.curvature, up);
  });
  partials.keep(dot_sum, t, number, fold(dot));
  partials.keep(gradient_sum, t, number, fold(sum));
}

template <bool Fine, bool Masked, class F>
FASTGAN_DEVICE void second_pass(const Table<F>& table) {
  FASTGAN_SHARED(double, shared, [shared_partials]);
  FASTGAN_SHARED(double, total, [2 * most_terms]);
  Partials<F> partials{table, table.partial ? table.partial : shared};
  for_each_chunk_of_terms(table, [&](const TermEntry<F>& t, unsigned number, const Piece& p) {
    in_type_of_derivatives<Fine>(table, t, [&](auto zero) {
      using T = decltype(zero);
      if (t.fill) fill_chunk<T>(table, t, p);
      else second_chunk<Masked, T>(partials, t, number, p);
    });
  });
  if (!table.sums || !last_to_come(table.ticket, gridDim.x)) return;
  add_up(partials, total);
  if (threadIdx.x == 0) finish_gradient(table, total);
}

template <class F>
__global__ void __launch_bounds__(most_warps* warp, sizeof(F) == 8 ? 1 : 2)
    loss_second(FASTGAN_GRID_CONSTANT(Table<F>) table) {
  second_pass<false, false>(table);
}

__global__ void __launch_bounds__(most_warps* warp, 1)
    loss_second_fine(FASTGAN_GRID_CONSTANT(Table<float>) table) {
  second_pass<true, false>(table);
}

template <class F>
__global__ void __launch_bounds__(most_warps* warp, 1)
    loss_second_masked(FASTGAN_GRID_CONSTANT(Table<F>) table) {
  second_pass<sizeof(F) == 4, true>(table);
}

// ---------------------------------------------------------------------------------- launches

// Launches a kernel over a table; `one_block`: as one block, whatever there is to do.
template <class F, class Kernel>
void run(const char* name, Kernel kernel, Table<F>& table, const Place& place,
         bool one_block = false) {
  int64_t chunks = table.chunks > table.mean_chunks ? table.chunks : table.mean_chunks;
  if (chunks == 0 && table.mean_operands == 0) return;
  int64_t warps = chunks < 1 ? 1 : chunks < place.warps ? chunks : place.warps;
  int64_t blocks = (chunks + warps - 1) / warps;
  if (blocks > place.most_blocks()) blocks = place.most_blocks();
  if (one_block || blocks < 1) blocks = 1;
  int slots = 0;
  for (signed char s : table.slot) slots += s >= 0;
  if (slots == 0 && table.mean_operands > 0) slots = 1;
  int64_t doubles = int64_t(slots) * table.partials;
  if (doubles > 0 && (blocks > 1 || doubles > shared_partials))
    table.partial = reinterpret_cast<double*>(place.scratch(doubles * int64_t(sizeof(double))));
  if (blocks > 1 && (table.sums || table.mean_operands > 0)) table.ticket = place.tickets();
  launch(name, kernel, blocks, int(warps) * warp, place, table);
}

// The kernel of a call: `masked` where it has factors or labels, `fine` where it has 16-bit
// tensors.
template <class Kernel, class Fine>
Kernel kernel_for(const Call& call, Kernel kernel, Fine fine, Kernel masked) {
  if (call.spec->has_constants) return masked;
  if constexpr (std::is_same_v<Kernel, Fine>)
    for (const Operand& a : call.operands)
      if (item_size(a.dtype) == 2) return fine;
  return kernel;
}

// Means of the mean operands' values or cotangents, in launches of their own.
template <class F>
void launch_means(const Call& call, View Operand::* values, double* means, const Place& place) {
  Tables<F> tables(call);
  for (int j : tables.mean_operands()) {
    tables.reserve(1, {&(call.operands[j].*values), &call.operands[j].g, &call.operands[j].v});
    tables.add_mean(j, values);
  }
  tables.finish(place, {});
  for (auto& t : tables.all) {
    t->means = means;
    run("loss_means", loss_means<F>, *t, place);
  }
}

// A loss of so few chunks that subtracts means is taken by one block, means and all.
constexpr unsigned one_block_chunks = 32;

template <class F>
bool means_fit(const Tables<F>& tables) {
  if (tables.all.size() != 1) return false;
  const Table<F>& t = *tables.all[0];
  int operands = t.operands, strided = tables.strided;
  int64_t all = 0;
  for (int j : tables.mean_operands()) {
    const Operand& a = tables.call.operands[j];
    all += chunk_count(a.n);
    ++operands;
    strided += (a.x.dims > 0) + (a.g.dims > 0);
  }
  return t.chunks <= one_block_chunks && all <= one_block_chunks && operands <= most_operands &&
         strided <= most_strided;
}

template <class F>
void forward_in(Call& call, const Place& place) {
  Tables<F> tables(call);
  tables.add_terms();
  bool subtracts_mean = call.spec->subtracts_mean, reduced = call.out.empty(), here = false;
  if (subtracts_mean) {
    here = means_fit(tables);
    if (here)
      for (int j : tables.mean_operands()) tables.add_mean(j, &Operand::x);
    else launch_means<F>(call, &Operand::x, call.means(), place);
  }
  bool keep = reduced && subtracts_mean && call.keep, stats = reduced && call.stats;
  if (!reduced) tables.finish(place, {});
  else if (keep && stats)
    tables.finish(place, {value_sum, gradient_sum, x_sum, y_sum, x_sign, y_sign, right_count});
  else if (stats) tables.finish(place, {value_sum, x_sum, y_sum, x_sign, y_sign, right_count});
  else if (keep) tables.finish(place, {value_sum, gradient_sum});
  else tables.finish(place, {value_sum});
  for (auto& t : tables.all) {
    t->means_here = here;
    t->values = call.buffers ? call.values() : nullptr;
    t->statistics = call.buffers ? call.statistics() : nullptr;
    if (here || keep || stats || call.spec->has_constants)
      run("loss_forward",
          kernel_for(call, &loss_forward<true, F>, &loss_forward_fine, &loss_forward_masked<F>), *t,
          place, here);
    else run("loss_forward", loss_forward<false, F>, *t, place);
  }
}

template <class F>
void backward_in(Call& call, const Place& place) {
  bool own = call.spec->subtracts_mean && !call.upstream.empty();
  double* constants = nullptr;
  if (own) {  // constants that this upstream gives
    constants = reinterpret_cast<double*>(place.scratch(int64_t(call.operands.size() * 8)));
    Tables<F> sums(call);
    sums.add_terms();
    sums.finish(place, {gradient_sum});
    for (auto& t : sums.all) {
      t->write = false;
      t->constants = constants;
      run("loss_backward",
          kernel_for(call, &loss_backward<F>, &loss_backward_fine, &loss_backward_masked<F>), *t,
          place);
    }
  }
  Tables<F> tables(call);
  tables.add_terms();
  tables.add_fills();
  tables.finish(place, {});
  for (auto& t : tables.all) {
    if (own) t->constants = constants;
    run("loss_backward",
        kernel_for(call, &loss_backward<F>, &loss_backward_fine, &loss_backward_masked<F>), *t,
        place);
  }
}

template <class F>
void second_in(Call& call, const Place& place) {
  double *v_means = nullptr, *constants = nullptr;
  bool subtracts_mean = call.spec->subtracts_mean;
  if (subtracts_mean) {
    int64_t bytes = int64_t(call.operands.size() * 8);
    v_means = reinterpret_cast<double*>(place.scratch(bytes));
    constants = reinterpret_cast<double*>(place.scratch(bytes));
    launch_means<F>(call, &Operand::v, v_means, place);
  }
  auto run_over = [&](bool sums, bool write) {
    Tables<F> tables(call);
    tables.add_terms();
    if (write && subtracts_mean) tables.add_fills();
    if (sums && subtracts_mean) tables.finish(place, {gradient_sum, dot_sum});
    else if (sums) tables.finish(place, {dot_sum});
    else tables.finish(place, {});
    for (auto& t : tables.all) {
      t->v_means = v_means;
      t->write = write;
      if (subtracts_mean) t->constants = constants;
      if (!call.loss) t->slot[dot_sum] = -1;
      run("loss_second",
          kernel_for(call, &loss_second<F>, &loss_second_fine, &loss_second_masked<F>), *t, place);
    }
  };
  if (subtracts_mean) {
    run_over(true, false);
    run_over(false, true);
  } else {
    run_over(call.loss, true);
  }
}

std::string load_kernels() {
  return loadable(loss_means<float>, loss_means<double>, loss_forward<false, float>,
                  loss_forward<true, float>, loss_forward_fine, loss_forward<false, double>,
                  loss_forward<true, double>, loss_backward<float>, loss_backward_fine,
                  loss_backward<double>, loss_second<float>, loss_second_fine, loss_second<double>,
                  loss_forward_masked<float>, loss_forward_masked<double>,
                  loss_backward_masked<float>, loss_backward_masked<double>,
                  loss_second_masked<float>, loss_second_masked<double>);
}

}  // namespace

namespace cuda {

std::string loss_unusable() {
  return load_kernels();
}

void loss_forward(Call& call, const Place& place) {
  if (call.is_float64) forward_in<double>(call, place);
  else forward_in<float>(call, place);
}

void loss_backward(Call& call, const Place& place) {
  if (call.is_float64) backward_in<double>(call, place);
  else backward_in<float>(call, place);
}

void loss_second(Call& call, const Place& place) {
  if (call.is_float64) second_in<double>(call, place);
  else second_in<float>(call, place);
}

}  // namespace cuda
}  // namespace fastgan
