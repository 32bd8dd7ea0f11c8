// The CUDA kernels of points between samples, as ../cpu/interpolate.cpp computes them.
#include "groups.h"

namespace fastgan {
namespace {

template <class F>
struct PointsTable {
  GroupSums sums;  // x: real, v: fake, mask: upstream (backward), out: points or real's gradient
  Lie fake_grad[most_tensors];
  const F* eps;
  F* eps_grad;
  bool backward, by_thread, last;
};

template <class F>
FASTGAN_DEVICE F between(F e, F rest, F real, F fake) {
  return real == fake ? real : fma(e, real, rest * fake);
}

// ---------------------------------------------------------------------------------- elements

template <DType D>
FASTGAN_DEVICE void points_of_chunk(const PointsTable<Arithmetic<D>>& t, const TensorEntry& tensor,
                                    int64_t group, const Eighth& c) {
  using F = Arithmetic<D>;
  F e = t.eps[group], rest = F(1) - e;
  Rows<D, D, Beside<false, true>> rows(tensor.x, tensor.mask, tensor.v, group, c.start);
  Run out = along_group<D>(tensor.out, group, c.start);
  for_each_row<16>(c, rows,
                   [&](int at, const F(&real)[eight], const F(&)[eight], const F(&fake)[eight])
                       FASTGAN_INLINED {
                         F point[eight];
#pragma unroll
                         for (int i = 0; i < eight; ++i)
                           point[i] = between(e, rest, real[i], fake[i]);
                         put<D, eight>(out, at, c.n, pack<D, eight>(point));
                       });
}

template <DType D>
FASTGAN_DEVICE void gradients_of_chunk(const PointsTable<Arithmetic<D>>& t,
                                       const TensorEntry& tensor, const Lie& fake_grad,
                                       int64_t group, const Eighth& c) {
  using F = Arithmetic<D>;
  F e = t.eps[group], rest = F(1) - e;
  Rows<D, D, Beside<false, false>> rows(tensor.mask, tensor.mask, tensor.mask, group, c.start);
  bool to_real = tensor.out.data, to_fake = fake_grad.data;
  Run real = rows.x, fake = rows.x;
  if (to_real) real = along_group<D>(tensor.out, group, c.start);
  if (to_fake) fake = along_group<D>(fake_grad, group, c.start);
  for_each_row<16>(c, rows,
                   [&](int at, const F(&u)[eight], const F(&)[eight], const F(&)[eight])
                       FASTGAN_INLINED {
                         auto write = [&](const Run& run, F factor) FASTGAN_INLINED {
                           F g[eight];
#pragma unroll
                           for (int i = 0; i < eight; ++i) g[i] = factor * u[i];
                           put<D, eight>(run, at, c.n, pack<D, eight>(g));
                         };
                         if (to_real) write(real, e);
                         if (to_fake) write(fake, rest);
                       });
}

template <DType D>
FASTGAN_DEVICE void short_group(const PointsTable<Arithmetic<D>>& t, const TensorEntry& tensor,
                                const Lie& fake_grad, int64_t group) {
  using F = Arithmetic<D>;
  F e = t.eps[group], rest = F(1) - e;
  for (int64_t at = 0; at < tensor.length; ++at) {
    if (!t.backward) {
      F r = read_one<D>(tensor.x, group, at), f = read_one<D>(tensor.v, group, at);
      write_one<D>(tensor.out, group, at, between(e, rest, r, f));
      continue;
    }
    F u = read_one<D>(tensor.mask, group, at);
    if (tensor.out.data) write_one<D>(tensor.out, group, at, e * u);
    if (fake_grad.data) write_one<D>(fake_grad, group, at, rest * u);
  }
}

// Blocks of 256 threads that live at once on a multiprocessor with 65,536 registers, at least.
template <DType D>
constexpr int blocks_of = D == DType::float64 ? 2 : 4;

template <DType D>
__global__ void __launch_bounds__(most_warps* warp, blocks_of<D>)
    interpolate_elements(FASTGAN_GRID_CONSTANT(PointsTable<Arithmetic<D>>) t) {
  int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x,
          threads = int64_t(gridDim.x) * blockDim.x;
  for (int k = 0; k < t.sums.tensors; ++k) {
    const TensorEntry& tensor = t.sums.tensor[k];
    const Lie& fake_grad = t.fake_grad[k];
    if (t.backward && !tensor.out.data && !fake_grad.data) continue;
    if (t.by_thread) {
      for (int64_t group = thread; group < t.sums.groups; group += threads)
        short_group<D>(t, tensor, fake_grad, group);
      continue;
    }
    int64_t pairs = pair_count(tensor.length);
    for (int64_t u = thread / warp; u < pairs * t.sums.groups; u += threads / warp) {
      int64_t group = u / pairs;
      Eighth c(u - group * pairs, tensor.length);
      if (t.backward) gradients_of_chunk<D>(t, tensor, fake_grad, group, c);
      else points_of_chunk<D>(t, tensor, group, c);
    }
  }
}

// ---------------------------------------------------------------------------------- eps

// The gradient of eps: sum of upstream * (real - fake) over a group.
template <DType D>
__global__ void __launch_bounds__(most_warps* warp, D == DType::float64 ? 1 : 2)
    interpolate_eps(FASTGAN_GRID_CONSTANT(PointsTable<Arithmetic<D>>) t) {
  FASTGAN_SHARED(double, shared, [shared_sums]);
  const GroupSums& sums = t.sums;
  unsigned b = sums.blocks_per_group;
  double* partial = sums.partial ? sums.partial + size_t(blockIdx.x / b) * sums.partials : shared;
  for (int64_t group = blockIdx.x / b; group < sums.groups; group += gridDim.x / b) {
    sum_chunks<apart, D>(sums, group, 1, partial, blockIdx.x % b, b);
    if (!last_to_come(b > 1 ? sums.tickets + group : nullptr, b)) continue;
    double sum = sum_group(sums, partial, sums.first, sums.first ? 0. : sums.sums[group]);
    if (threadIdx.x > 0) continue;
    sums.sums[group] = sum;
    if (t.last) t.eps_grad[group] = Arithmetic<D>(sum);
  }
}

// ---------------------------------------------------------------------------------- calls

template <DType D>
void launch_elements(PointsTable<Arithmetic<D>> t, int64_t pairs, const Place& place) {
  for (int k = 0; k < t.sums.tensors; ++k) {
    TensorEntry& tensor = t.sums.tensor[k];
    if (t.backward) straighten({&tensor.mask, &tensor.out, &t.fake_grad[k]});
    else straighten({&tensor.x, &tensor.v, &tensor.out});
  }
  int threads = place.warps * warp;
  int64_t work = t.by_thread ? t.sums.groups : pairs * warp;
  launch(named("interpolate_elements<", D), interpolate_elements<D>,
         place.grid((work + threads - 1) / threads, threads, blocks_of<D>), threads, place, t);
}

template <DType D>
void launch_eps(PointsTable<Arithmetic<D>>& t, const Place& place) {
  Shape shape = shape_for(t.sums, place, D == DType::float64 ? 1 : 2, 0);
  if (t.sums.blocks_per_group > 1) t.sums.tickets = place.tickets();
  launch(named("interpolate_eps<", D), interpolate_eps<D>, shape.blocks, shape.threads, place, t);
}

template <class F>
void run(const InterpolateCall& call, const Place& place, bool backward) {
  double* sums = nullptr;
  if (call.eps_grad)
    sums = reinterpret_cast<double*>(place.scratch(call.groups * int64_t(sizeof(double))));
  for (size_t begin = 0, count; begin < call.tensors.size(); begin += count) {
    PointsTable<F> t;
    memset(static_cast<void*>(&t), 0, sizeof t);
    t.sums.groups = call.groups;
    t.sums.first = begin == 0;
    t.sums.sums = sums;
    t.eps = reinterpret_cast<const F*>(call.eps);
    t.eps_grad = reinterpret_cast<F*>(call.eps_grad);
    t.backward = backward;
    bool writes = !backward;
    int64_t pairs = 0, longest = 0;
    set_tensors(t.sums, call.tensors, begin, [&](const TensorPair& tensor, TensorEntry& e) {
      e.x = lie_of(tensor.real);
      e.v = lie_of(tensor.fake);
      e.mask = lie_of(backward ? tensor.out : Grid());
      e.out = lie_of(backward ? tensor.real_grad : tensor.out);
      t.fake_grad[t.sums.tensors - 1] = lie_of(tensor.fake_grad);
      writes = writes || tensor.real_grad.groups.data || tensor.fake_grad.groups.data;
      pairs += call.groups * pair_count(tensor.length);
      longest = tensor.length > longest ? tensor.length : longest;
    });
    count = size_t(t.sums.tensors);
    t.last = begin + count == call.tensors.size();
    t.by_thread = call.groups > 1 && longest <= short_length;
    with_dtype<F>(call.tensors[begin].dtype, [&](auto d) {
      constexpr DType D = decltype(d)::value;
      if (writes) launch_elements<D>(t, pairs, place);
      if (call.eps_grad) launch_eps<D>(t, place);
    });
  }
}

template <DType D>
std::string load_kernels_of() {
  return loadable(interpolate_elements<D>, interpolate_eps<D>);
}

}  // namespace

namespace cuda {

std::string interpolate_unusable() {
  return first_reason<load_kernels_of<DType::float32>, load_kernels_of<DType::float64>,
                      load_kernels_of<DType::float16>, load_kernels_of<DType::bfloat16>>();
}

void interpolate_forward(InterpolateCall& call, const Place& place) {
  if (call.is_float64) run<double>(call, place, false);
  else run<float>(call, place, false);
}

void interpolate_backward(InterpolateCall& call, const Place& place) {
  if (call.is_float64) run<double>(call, place, true);
  else run<float>(call, place, true);
}

}  // namespace cuda
}  // namespace fastgan
