// The CUDA kernels of norms and penalties, with the roundings of ../common/penalty.h.
//
// Forward is one launch: the last block at a group makes its norm and psi of it, the last block of
// all adds up the groups. Backward is one launch that works out a group's factor wherever it is
// needed.
#include "groups.h"

namespace fastgan {
namespace {

// Past so many groups their values are added up by a launch of its own.
constexpr int64_t groups_at_once = 4096;

template <class F>
struct PenaltyTable {
  GroupSums sums;
  Psi psi;
  int power;
  double target, scale;
  const double* weights;
  int64_t groups_per_weight;
  double* norms;
  double* value;      // a group: what the result is the sum of; null where it is not reduced
  double* statistic;  // memory for the trees of the statistics; null: none
  F* values;          // unreduced
  F* result;
  NormStatistics* statistics;
  const F* upstream;
  double* most;    // rescue over several tables: the greatest element of each group
  double* scaled;  // and its sum, scaled
  bool elementwise, by_thread, last, finish_here, second, rescue_later;
};

template <class F>
FASTGAN_DEVICE double coefficient(const PenaltyTable<F>& t, int64_t group) {
  return t.weights ? t.scale * t.weights[group / t.groups_per_weight] : t.scale;
}

template <class F>
FASTGAN_DEVICE GroupFactors factors_of(const PenaltyTable<F>& t, int64_t group) {
  return group_factors(t.psi, t.norms[group], t.target, t.power);
}

// ---------------------------------------------------------------------------------- groups

// The norm of a group of doubles whose sum of squares overflowed or lost its smaller summands: once
// more, scaled by a power of two. `most` is its greatest element.
struct Rescue {
  double scale;
  bool done;

  FASTGAN_DEVICE explicit Rescue(double most)
      : scale(1), done(most == 0 || most > 0x1.fffffffffffffp1023) {
    if (!done) scale = near_reciprocal(most);
  }
};

FASTGAN_DEVICE bool extreme(double square) {
  return square < 0x1p-900 || square > 0x1.fffffffffffffp1023;
}

FASTGAN_DEVICE double greatest(const GroupSums& table, int64_t group, int first, int step) {
  double most = 0;
  for (int k = 0; k < table.tensors; ++k) {
    const TensorEntry& tensor = table.tensor[k];
    for (int64_t at = first; at < tensor.length; at += step) {
      double h = read_one<DType::float64>(tensor.x, group, at);
      if (tensor.mask.data) h = h * read_one<DType::float64>(tensor.mask, group, at);
      most = absolute(h) > most ? absolute(h) : most;
    }
  }
  return most;
}

FASTGAN_DEVICE double block_maximum(double x) {
  FASTGAN_SHARED(double, of_warp, [most_warps]);
#pragma unroll
  for (int distance = 1; distance < warp; distance *= 2) {
    double other = __shfl_xor_sync(~0u, x, distance);
    x = other > x ? other : x;
  }
  if (threadIdx.x % warp == 0) of_warp[warp_number()] = x;
  __syncthreads();
  for (int w = 0; w < warps_here(); ++w) x = of_warp[w] > x ? of_warp[w] : x;
  __syncthreads();
  return x;
}

// By a block; `partial` has room for the group's sums.
FASTGAN_DEVICE double rescued_norm(const GroupSums& table, int64_t group, double* partial) {
  double most = block_maximum(greatest(table, group, int(threadIdx.x), int(blockDim.x)));
  Rescue r(most);
  if (r.done) return most;
  sum_chunks<squares, DType::float64>(table, group, r.scale, partial, 0, 1);
  __syncthreads();
  return root(sum_group(table, partial, true, 0)) / r.scale;
}

FASTGAN_DEVICE double rescued_norm_by_thread(const GroupSums& table, int64_t group) {
  double most = greatest(table, group, 0, 1), total = 0;
  Rescue r(most);
  if (r.done) return most;
  for (int k = 0; k < table.tensors; ++k)
    total += sum_of_short_group<squares, DType::float64>(table.tensor[k], group, r.scale);
  return root(total) / r.scale;
}

// Forward, from a group's square; `norm` as rescued where that was needed.
template <class F>
FASTGAN_DEVICE void finish_group(const PenaltyTable<F>& t, int64_t group, double norm,
                                 double square) {
  t.norms[group] = norm;
  if (t.statistic) t.statistic[group] = norm;
  double value = psi_value(t.psi, norm, square, t.target, t.power);
  if (t.values) t.values[group] = F(coefficient(t, group) * value);
  if (t.value) t.value[group] = t.weights ? t.weights[group / t.groups_per_weight] * value : value;
}

// Second order, from <v, h * scale>.
template <class F>
FASTGAN_DEVICE void finish_dot(const PenaltyTable<F>& t, int64_t group, double dot) {
  double value = coefficient(t, group) * (factors_of(t, group).slope * dot);
  if (t.values) t.values[group] = F(value);
  if (t.value) t.value[group] = value;
}

// ---------------------------------------------------------------------------------- all groups

// The sum of `n` doubles at v, by a block; v has room for the levels above. In all threads.
FASTGAN_DEVICE double block_tree_sum(double* v, int64_t n) {
  double sum = shrink(Level{v, n}).sum();
  __syncthreads();
  return sum;
}

FASTGAN_DEVICE double block_extreme(double x, bool least) {
  FASTGAN_SHARED(double, of_warp, [most_warps]);
  auto pick = [&](double a, double b) {  // NaN, once seen, stays
    return b != b || (least ? b < a : b > a) ? b : a;
  };
#pragma unroll
  for (int distance = 1; distance < warp; distance *= 2)
    x = pick(x, __shfl_xor_sync(~0u, x, distance));
  if (threadIdx.x % warp == 0) of_warp[warp_number()] = x;
  __syncthreads();
  for (int w = 0; w < warps_here(); ++w) x = pick(x, of_warp[w]);
  __syncthreads();
  return x;
}

template <class F>
FASTGAN_DEVICE void take_statistics(const PenaltyTable<F>& t) {
  int64_t groups = t.sums.groups;
  double n = double(groups), mean = block_tree_sum(t.statistic, groups) / n;
  double least = t.norms[0], most = least, above = 0;
  for (int64_t i = threadIdx.x; i < groups; i += blockDim.x) {
    double x = t.norms[i], d = x - mean;
    least = x < least || x != x ? x : least;
    most = x > most || x != x ? x : most;
    above += x > t.target ? 1. : 0.;
    t.statistic[i] = d * d;
  }
  least = block_extreme(least, true);
  most = block_extreme(most, false);
  FASTGAN_SHARED(double, count, [most_warps]);
#pragma unroll
  for (int distance = 1; distance < warp; distance *= 2)
    above = above + __shfl_xor_sync(~0u, above, distance);
  if (threadIdx.x % warp == 0) count[warp_number()] = above;
  __syncthreads();
  double variance = block_tree_sum(t.statistic, groups) / n;
  if (threadIdx.x > 0) return;
  above = 0;
  for (int w = 0; w < warps_here(); ++w) above += count[w];
  *t.statistics = {mean, root(variance), least, most, above / n};
}

template <class F>
FASTGAN_DEVICE void finish_all(const PenaltyTable<F>& t) {
  if (t.value) {
    double sum = block_tree_sum(t.value, t.sums.groups);
    if (t.sums.groups == 1) sum = sum + 0.;  // one value is a chunk all the same: never -0
    if (threadIdx.x == 0) *t.result = F(t.second ? sum : t.scale * sum);
  }
  if (t.statistic) take_statistics(t);
}

template <class F>
__global__ void __launch_bounds__(most_warps* warp, sizeof(F) == 8 ? 1 : 2)
    penalty_finish(FASTGAN_GRID_CONSTANT(PenaltyTable<F>) t) {
  finish_all(t);
}

// ---------------------------------------------------------------------------------- sums

// A group by a block, or by several.
template <Summand S, DType D>
FASTGAN_DEVICE void sum_by_blocks(const PenaltyTable<Arithmetic<D>>& t) {
  FASTGAN_SHARED(double, shared, [shared_sums]);
  const GroupSums& sums = t.sums;
  unsigned b = sums.blocks_per_group, block = blockIdx.x % b;
  double* partial = sums.partial ? sums.partial + size_t(blockIdx.x / b) * sums.partials : shared;
  for (int64_t group = blockIdx.x / b; group < sums.groups; group += gridDim.x / b) {
    double scale = S == dots ? factors_of(t, group).scale : 1.;
    sum_chunks<S, D>(sums, group, scale, partial, block, b);
    if (!last_to_come(b > 1 ? sums.tickets + 1 + group : nullptr, b)) continue;
    double before = sums.first ? 0. : sums.sums[group];
    double sum = sum_group(sums, partial, sums.first, before), norm = 0;
    bool later = S == squares && D == DType::float64 && t.rescue_later && extreme(sum);
    if (S == squares && t.last) {
      norm = root(sum);
      if (D == DType::float64 && extreme(sum) && !later) {
        norm = rescued_norm(sums, group, partial);
        sum = norm * norm;
      }
    }
    if (threadIdx.x > 0) continue;
    sums.sums[group] = sum;
    if (!t.last || later) continue;
    if (S == squares) finish_group(t, group, norm, sum);
    else finish_dot(t, group, sum);
  }
}

// A group by a thread.
template <Summand S, DType D>
FASTGAN_DEVICE void sum_by_threads(const PenaltyTable<Arithmetic<D>>& t) {
  const GroupSums& sums = t.sums;
  for (int64_t group = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; group < sums.groups;
       group += int64_t(gridDim.x) * blockDim.x) {
    double scale = S == dots ? factors_of(t, group).scale : 1.,
           sum = sums.first ? 0. : sums.sums[group];
    for (int k = 0; k < sums.tensors; ++k) {
      double s = sum_of_short_group<S, D>(sums.tensor[k], group, scale);
      sum = sums.first && k == 0 ? s : sum + s;
    }
    sums.sums[group] = sum;
    if (!t.last) continue;
    if (S == dots) {
      finish_dot(t, group, sum);
      continue;
    }
    double norm = root(sum);
    if (D == DType::float64 && extreme(sum)) {
      if (t.rescue_later) continue;
      norm = rescued_norm_by_thread(sums, group);
      sum = norm * norm;
    }
    finish_group(t, group, norm, sum);
  }
}

// Blocks of 256 threads that live at once on a multiprocessor with 65,536 registers, at least.
template <Summand S, DType D>
constexpr int blocks_of_sums = D == DType::float64 ? 1
                               : S == squares      ? 3
                                                   : 2;

template <Summand S, DType D>
__global__ void __launch_bounds__(most_warps* warp, blocks_of_sums<S, D>)
    penalty_sums(FASTGAN_GRID_CONSTANT(PenaltyTable<Arithmetic<D>>) t) {
  if (t.by_thread) sum_by_threads<S, D>(t);
  else sum_by_blocks<S, D>(t);
  if (t.last && t.finish_here && last_to_come(t.sums.tickets, gridDim.x)) finish_all(t);
}

// ---------------------------------------------------------------------------------- rescue, later

// Groups of doubles over more tensors than a table holds, whose squares overflowed or underflowed:
// table after table for their greatest element, and table after table for their sums, a block a
// group.
__global__ void __launch_bounds__(most_warps* warp, 1)
    penalty_greatest(FASTGAN_GRID_CONSTANT(PenaltyTable<double>) t) {
  for (int64_t group = blockIdx.x; group < t.sums.groups; group += gridDim.x) {
    if (!extreme(t.sums.sums[group])) continue;
    double most = block_maximum(greatest(t.sums, group, int(threadIdx.x), int(blockDim.x)));
    if (threadIdx.x > 0) continue;
    t.most[group] = !t.sums.first && t.most[group] > most ? t.most[group] : most;
  }
}

__global__ void __launch_bounds__(most_warps* warp, 1)
    penalty_rescue(FASTGAN_GRID_CONSTANT(PenaltyTable<double>) t) {
  FASTGAN_SHARED(double, shared, [shared_sums]);
  double* partial = t.sums.partial ? t.sums.partial + size_t(blockIdx.x) * t.sums.partials : shared;
  for (int64_t group = blockIdx.x; group < t.sums.groups; group += gridDim.x) {
    if (!extreme(t.sums.sums[group])) continue;
    Rescue r(t.most[group]);
    double norm = t.most[group];
    if (!r.done) {
      sum_chunks<squares, DType::float64>(t.sums, group, r.scale, partial, 0, 1);
      __syncthreads();
      double sum = sum_group(t.sums, partial, t.sums.first, t.sums.first ? 0. : t.scaled[group]);
      if (threadIdx.x == 0) t.scaled[group] = sum;
      norm = root(sum) / r.scale;
    }
    if (threadIdx.x == 0 && t.last) finish_group(t, group, norm, norm * norm);
  }
}

// ---------------------------------------------------------------------------------- gradients

// To what a group's elements are multiplied; the scale is folded in, as it can be for all but
// doubles.
template <class F>
struct Gradient {
  double first, second, scale, second_scale;

  FASTGAN_DEVICE Gradient(const PenaltyTable<F>& t, int64_t group) {
    GroupFactors r = factors_of(t, group);
    double up = double(t.upstream[t.elementwise ? group : 0]) * coefficient(t, group);
    double bent = t.second ? up * (r.bend * t.sums.sums[group]) * r.scale : 0.;
    ScaledFactor f(up * r.slope, r.scale), s(bent, r.scale);
    first = f.factor;
    second = s.factor;
    scale = f.scale;
    second_scale = s.scale;
    if (sizeof(F) == 8) return;
    first = first * scale;
    second = second * second_scale;
  }

  // The gradient at an element, in double.
  template <bool Masked, bool Second>
  FASTGAN_DEVICE double of(double h, double w, double mask) const {
    if (Masked) h = h * mask;
    if (sizeof(F) == 8) h = h * (Second ? second_scale : scale);
    double g = first * h;
    if (Second) {
      if (Masked) w = w * mask;
      if (sizeof(F) == 8) w = w * scale;
      g = fma(first, w, second * h);
    }
    return Masked ? g * mask : g;
  }
};

// Four of eight elements' gradients, as pack() is to round them to D.
template <DType D, class B, int first, class F>
FASTGAN_DEVICE void four_gradients(const Gradient<F>& gradient, const F (&h)[eight],
                                   const F (&w)[eight], const F (&m)[eight], F (&g)[eight]) {
  double x[4], v[4] = {}, mask[4] = {};
  some_to_doubles<first>(h, x);
  if constexpr (B::v) some_to_doubles<first>(w, v);
  if constexpr (B::mask) some_to_doubles<first>(m, mask);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    x[i] = gradient.template of<B::mask, B::v>(x[i], v[i], mask[i]);
    g[first + i] = F(x[i]);
  }
  if constexpr (item_size(D) == 2) {
    // Rounded to a float first, as is right unless that lies in the middle between two numbers of
    // 16 bits: its last 12 bits are 0 then.
    bool middle = false;
#pragma unroll
    for (int i = 0; i < 4; ++i) middle = middle || (bits<uint32_t>(g[first + i]) & 0xfffu) == 0;
    if (middle) {
#pragma unroll
      for (int i = 0; i < 4; ++i) g[first + i] = to_odd(x[i]);
    }
  }
}

template <DType D, class B>
FASTGAN_DEVICE void write_chunk(const PenaltyTable<Arithmetic<D>>& t, const TensorEntry& tensor,
                                int64_t group, const Eighth& e) {
  using F = Arithmetic<D>;
  Gradient<F> gradient(t, group);
  Rows<D, native<F>, B> rows(tensor.x, tensor.mask, tensor.v, group, e.start);
  Run out = along_group<D>(tensor.out, group, e.start);
  for_each_row<16>(e, rows,
                   [&](int at, const F(&h)[eight], const F(&m)[eight], const F(&w)[eight])
                       FASTGAN_INLINED {
                         F g[eight];
                         four_gradients<D, B, 0>(gradient, h, w, m, g);
                         four_gradients<D, B, 4>(gradient, h, w, m, g);
                         put<D, eight>(out, at, e.n, pack<D, eight>(g));
                       });
}

template <DType D, class B>
FASTGAN_DEVICE void write_short_group(const PenaltyTable<Arithmetic<D>>& t,
                                      const TensorEntry& tensor, int64_t group) {
  using F = Arithmetic<D>;
  Gradient<F> gradient(t, group);
  for (int64_t at = 0; at < tensor.length; ++at) {
    double h = double(read_one<D>(tensor.x, group, at)), m = 0, w = 0;
    if constexpr (B::mask) m = double(read_one<native<F>>(tensor.mask, group, at));
    if constexpr (B::v) w = double(read_one<D>(tensor.v, group, at));
    double g = gradient.template of<B::mask, B::v>(h, w, m);
    F out;
    if constexpr (item_size(D) == 2) out = to_odd(g);
    else out = F(g);
    write_one<D>(tensor.out, group, at, out);
  }
}

template <DType D, class B>
FASTGAN_DEVICE void write_tensor(const PenaltyTable<Arithmetic<D>>& t, const TensorEntry& tensor) {
  int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x,
          threads = int64_t(gridDim.x) * blockDim.x;
  if (t.by_thread) {
    for (int64_t group = thread; group < t.sums.groups; group += threads)
      write_short_group<D, B>(t, tensor, group);
    return;
  }
  int64_t pairs = pair_count(tensor.length);
  for (int64_t u = thread / warp; u < pairs * t.sums.groups; u += threads / warp) {
    int64_t group = u / pairs;
    write_chunk<D, B>(t, tensor, group, Eighth(u - group * pairs, tensor.length));
  }
}

// Blocks of 256 threads that live at once on a multiprocessor with 65,536 registers, at least.
template <DType D>
constexpr int blocks_of_gradients = D == DType::float64 ? 1 : 4;

template <bool Second, DType D>
__global__ void __launch_bounds__(most_warps* warp, blocks_of_gradients<D>)
    penalty_gradient(FASTGAN_GRID_CONSTANT(PenaltyTable<Arithmetic<D>>) t) {
  for (int k = 0; k < t.sums.tensors; ++k) {
    const TensorEntry& tensor = t.sums.tensor[k];
    if (!tensor.out.data) continue;
    if (tensor.mask.data) write_tensor<D, Beside<true, Second>>(t, tensor);
    else write_tensor<D, Beside<false, Second>>(t, tensor);
  }
}

// ---------------------------------------------------------------------------------- calls

template <class F>
PenaltyTable<F> table_of(const PenaltyCall& call, size_t begin) {
  PenaltyTable<F> t;
  memset(static_cast<void*>(&t), 0, sizeof t);
  t.sums.groups = call.groups;
  t.sums.first = begin == 0;
  set_tensors(t.sums, call.tensors, begin, [&](const NormTensor& tensor, TensorEntry& e) {
    e.x = lie_of(tensor.g);
    e.mask = lie_of(tensor.mask);
    e.v = lie_of(tensor.v);
    e.out = lie_of(tensor.out);
  });
  t.last = begin + size_t(t.sums.tensors) == call.tensors.size();
  t.psi = call.psi;
  t.power = call.power;
  t.target = call.target;
  t.scale = call.scale;
  t.weights = call.weights;
  t.groups_per_weight = call.groups_per_weight;
  t.norms = call.norms;
  t.values = reinterpret_cast<F*>(call.values);
  t.result = static_cast<F*>(call.result);
  t.statistics = call.statistics;
  t.upstream = reinterpret_cast<const F*>(call.upstream);
  t.elementwise = call.elementwise;
  t.by_thread = call.transposed;
  if (call.transposed) return t;
  t.by_thread = call.groups > 1;  // so far; a long tensor wants a warp at least
  for (const NormTensor& tensor : call.tensors)
    t.by_thread = t.by_thread && tensor.length <= short_length;
  return t;
}

// A thread for each group, or for each of whatever there is to do.
Shape by_thread(int64_t threads_of_work, const Place& place, int per_multi) {
  int threads = place.warps * warp;
  return {place.grid((threads_of_work + threads - 1) / threads, threads, per_multi), threads};
}

double* doubles(const Place& place, int64_t n) {
  return reinterpret_cast<double*>(place.scratch(n * int64_t(sizeof(double))));
}

// run(a table, its tensors' dtype) for the tables of a call, with the memory that they share.
template <class F, class Run>
void for_each_table(const PenaltyCall& call, const PenaltyTable<F>& shared, const Run& run) {
  for (size_t begin = 0, count; begin < call.tensors.size(); begin += count) {
    PenaltyTable<F> t = table_of<F>(call, begin);
    t.sums.sums = shared.sums.sums;
    t.value = shared.value;
    t.statistic = shared.statistic;
    t.most = shared.most;
    t.scaled = shared.scaled;
    count = size_t(t.sums.tensors);
    with_dtype<F>(call.tensors[begin].dtype, [&](auto d) { run(t, d); });
  }
}

void rescue(const PenaltyCall& call, PenaltyTable<double> shared, const Place& place) {
  shared.most = doubles(place, call.groups);
  shared.scaled = doubles(place, call.groups);
  int threads = place.warps * warp;
  int64_t blocks = place.grid(call.groups, threads, 1);
  for_each_table(call, shared, [&](PenaltyTable<double>& t, auto) {
    launch("penalty_greatest", penalty_greatest, blocks, threads, place, t);
  });
  for_each_table(call, shared, [&](PenaltyTable<double>& t, auto) {
    if (t.sums.partials > shared_sums) t.sums.partial = doubles(place, blocks * t.sums.partials);
    launch("penalty_rescue", penalty_rescue, blocks, threads, place, t);
  });
}

// Sums over all groups, and what is made of them. The sums stay behind at the address returned.
template <Summand S, class F>
double* sum_rows(const PenaltyCall& call, const Place& place) {
  PenaltyTable<F> shared{};
  shared.sums.sums = doubles(place, call.groups);
  if (call.result) shared.value = doubles(place, level_space(call.groups));
  if (call.statistics) shared.statistic = doubles(place, level_space(call.groups));
  bool later = S == squares && call.is_float64 && call.tensors.size() > most_tensors;
  for_each_table(call, shared, [&](PenaltyTable<F>& t, auto d) {
    constexpr DType D = decltype(d)::value;
    constexpr int per_multi = blocks_of_sums<S, D>;
    t.second = S == dots;
    t.rescue_later = later;
    t.finish_here = call.groups <= groups_at_once && !later;
    Shape shape = t.by_thread ? by_thread(call.groups, place, per_multi)
                              : shape_for(t.sums, place, per_multi, 1);
    if (shape.blocks > 1) t.sums.tickets = place.tickets();
    launch(named(S == squares ? "penalty_sums<squares, " : "penalty_sums<dots, ", D),
           penalty_sums<S, D>, shape.blocks, shape.threads, place, t);
    if (!t.last || t.finish_here) return;
    if constexpr (sizeof(F) == 8)
      if (later) rescue(call, shared, place);
    if (t.value || t.statistic)
      launch("penalty_finish", penalty_finish<F>, 1, most_warps * warp, place, t);
  });
  return shared.sums.sums;
}

template <bool Second, class F>
void write_gradients(const PenaltyCall& call, double* dots, const Place& place) {
  PenaltyTable<F> shared{};
  shared.sums.sums = dots;
  for_each_table(call, shared, [&](PenaltyTable<F>& t, auto d) {
    constexpr DType D = decltype(d)::value;
    t.second = Second;
    int64_t pairs = 0;
    for (int k = 0; k < t.sums.tensors; ++k) {
      TensorEntry& tensor = t.sums.tensor[k];
      straighten({&tensor.x, &tensor.mask, &tensor.v, &tensor.out});
      pairs += call.groups * pair_count(tensor.length);
    }
    Shape shape =
        by_thread(t.by_thread ? call.groups : pairs * warp, place, blocks_of_gradients<D>);
    launch(named(Second ? "penalty_gradient<second, " : "penalty_gradient<first, ", D),
           penalty_gradient<Second, D>, shape.blocks, shape.threads, place, t);
  });
}

template <class F>
void forward_in(const PenaltyCall& call, const Place& place) {
  sum_rows<squares, F>(call, place);
}

template <class F>
void second_in(const PenaltyCall& call, const Place& place) {
  write_gradients<true, F>(call, sum_rows<dots, F>(call, place), place);
}

template <DType D>
std::string load_kernels_of() {
  return loadable(penalty_sums<squares, D>, penalty_sums<dots, D>, penalty_gradient<false, D>,
                  penalty_gradient<true, D>, penalty_finish<Arithmetic<D>>, penalty_greatest,
                  penalty_rescue);
}

}  // namespace

namespace cuda {

std::string penalty_unusable() {
  return first_reason<load_kernels_of<DType::float32>, load_kernels_of<DType::float64>,
                      load_kernels_of<DType::float16>, load_kernels_of<DType::bfloat16>>();
}

void penalty_forward(PenaltyCall& call, const Place& place) {
  if (call.is_float64) forward_in<double>(call, place);
  else forward_in<float>(call, place);
}

void penalty_backward(PenaltyCall& call, const Place& place) {
  if (call.is_float64) write_gradients<false, double>(call, nullptr, place);
  else write_gradients<false, float>(call, nullptr, place);
}

void penalty_second(PenaltyCall& call, const Place& place) {
  if (call.is_float64) second_in<double>(call, place);
  else second_in<float>(call, place);
}

}  // namespace cuda
}  // namespace fastgan
