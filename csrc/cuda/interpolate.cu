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

template <class F>
FASTGAN_DEVICE void points_of_chunk(const PointsTable<F>& t, const TensorEntry& tensor,
                                    int64_t group, const Eighth& c) {
  F e = t.eps[group], rest = F(1) - e;
  Run real = along_group(tensor.x, group, c.start), fake = along_group(tensor.v, group, c.start),
      out = along_group(tensor.out, group, c.start);
  const Run runs[2] = {real, fake};
  const bool there[2] = {true, true};
  for_each_row<F, eight>(runs, there, c.lane0, c.n, [&](int at, const Raw<F, eight>(&raw)[2]) {
    F r[eight], f[eight];
    unpack(raw[0], real.dtype, r);
    unpack(raw[1], fake.dtype, f);
#pragma unroll
    for (int i = 0; i < eight; ++i) r[i] = between(e, rest, r[i], f[i]);
    put<F, eight>(out, at, c.n, r);
  });
}

template <class F>
FASTGAN_DEVICE void gradients_of_chunk(const PointsTable<F>& t, const TensorEntry& tensor,
                                       const Lie& fake_grad, int64_t group, const Eighth& c) {
  F e = t.eps[group], rest = F(1) - e;
  Run upstream = along_group(tensor.mask, group, c.start), real = upstream, fake = upstream;
  if (tensor.out.data) real = along_group(tensor.out, group, c.start);
  if (fake_grad.data) fake = along_group(fake_grad, group, c.start);
  const Run runs[1] = {upstream};
  const bool there[1] = {true};
  for_each_row<F, eight>(runs, there, c.lane0, c.n, [&](int at, const Raw<F, eight>(&raw)[1]) {
    F u[eight], g[eight];
    unpack(raw[0], upstream.dtype, u);
#pragma unroll
    for (int i = 0; i < eight; ++i) g[i] = e * u[i];
    if (tensor.out.data) put<F, eight>(real, at, c.n, g);
#pragma unroll
    for (int i = 0; i < eight; ++i) g[i] = rest * u[i];
    if (fake_grad.data) put<F, eight>(fake, at, c.n, g);
  });
}

template <class F>
FASTGAN_DEVICE void short_group(const PointsTable<F>& t, const TensorEntry& tensor,
                                const Lie& fake_grad, int64_t group) {
  F e = t.eps[group], rest = F(1) - e;
  for (int64_t at = 0; at < tensor.length; ++at) {
    if (!t.backward) {
      F r = read_one<F>(tensor.x, group, at), f = read_one<F>(tensor.v, group, at);
      write_one(tensor.out, group, at, between(e, rest, r, f));
      continue;
    }
    F u = read_one<F>(tensor.mask, group, at);
    if (tensor.out.data) write_one(tensor.out, group, at, e * u);
    if (fake_grad.data) write_one(fake_grad, group, at, rest * u);
  }
}

template <class F>
__global__ void __launch_bounds__(most_warps* warp, sizeof(F) == 8 ? 1 : 2)
    interpolate_elements(FASTGAN_GRID_CONSTANT(PointsTable<F>) t) {
  int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x,
          threads = int64_t(gridDim.x) * blockDim.x;
  for (int k = 0; k < t.sums.tensors; ++k) {
    const TensorEntry& tensor = t.sums.tensor[k];
    const Lie& fake_grad = t.fake_grad[k];
    if (t.backward && !tensor.out.data && !fake_grad.data) continue;
    if (t.by_thread) {
      for (int64_t group = thread; group < t.sums.groups; group += threads)
        short_group(t, tensor, fake_grad, group);
      continue;
    }
    int64_t pairs = pair_count(tensor.length);
    for (int64_t u = thread / warp; u < pairs * t.sums.groups; u += threads / warp) {
      Eighth c(u % pairs, tensor.length);
      if (t.backward) gradients_of_chunk(t, tensor, fake_grad, u / pairs, c);
      else points_of_chunk(t, tensor, u / pairs, c);
    }
  }
}

// ---------------------------------------------------------------------------------- eps

// The gradient of eps: sum of upstream * (real - fake) over a group.
template <class F>
__global__ void __launch_bounds__(most_warps* warp, sizeof(F) == 8 ? 1 : 2)
    interpolate_eps(FASTGAN_GRID_CONSTANT(PointsTable<F>) t) {
  FASTGAN_SHARED(double, shared, [shared_sums]);
  const GroupSums& sums = t.sums;
  unsigned b = sums.blocks_per_group;
  double* partial = sums.partial ? sums.partial + size_t(blockIdx.x / b) * sums.partials : shared;
  for (int64_t group = blockIdx.x / b; group < sums.groups; group += gridDim.x / b) {
    sum_chunks<apart, F>(sums, group, 1, partial, blockIdx.x % b, b);
    if (!last_to_come(b > 1 ? sums.tickets + group : nullptr, b)) continue;
    double sum = sum_group(sums, partial, sums.first, sums.first ? 0. : sums.sums[group]);
    if (threadIdx.x > 0) continue;
    sums.sums[group] = sum;
    if (t.last) t.eps_grad[group] = F(sum);
  }
}

// ---------------------------------------------------------------------------------- calls

template <class F>
void run(const InterpolateCall& call, const Place& place, bool backward) {
  double* sums = nullptr;
  if (call.eps_grad)
    sums = reinterpret_cast<double*>(place.scratch(call.groups * int64_t(sizeof(double))));
  for (size_t begin = 0; begin < call.tensors.size(); begin += most_tensors) {
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
      e.x = lie_of(tensor.real, tensor.dtype);
      e.v = lie_of(tensor.fake, tensor.dtype);
      e.mask = lie_of(backward ? tensor.out : Grid(), tensor.dtype);
      e.out = lie_of(backward ? tensor.real_grad : tensor.out, tensor.dtype);
      t.fake_grad[t.sums.tensors - 1] = lie_of(tensor.fake_grad, tensor.dtype);
      writes = writes || tensor.real_grad.groups.data || tensor.fake_grad.groups.data;
      pairs += call.groups * pair_count(tensor.length);
      longest = tensor.length > longest ? tensor.length : longest;
    });
    t.last = begin + size_t(t.sums.tensors) == call.tensors.size();
    t.by_thread = call.groups > 1 && longest <= short_length;
    if (writes) {
      PointsTable<F> order = t;
      for (int k = 0; k < t.sums.tensors; ++k) {
        TensorEntry& tensor = order.sums.tensor[k];
        if (backward) straighten({&tensor.mask, &tensor.out, &order.fake_grad[k]});
        else straighten({&tensor.x, &tensor.v, &tensor.out});
      }
      int threads = place.warps * warp;
      int64_t work = t.by_thread ? call.groups : pairs * warp,
              blocks = (work + threads - 1) / threads;
      if (blocks > place.most_blocks()) blocks = place.most_blocks();
      launch(backward ? "interpolate_backward" : "interpolate_forward", interpolate_elements<F>,
             blocks, threads, place, order);
    }
    if (!call.eps_grad) continue;
    Shape shape = shape_for(t.sums, place, 0);
    if (t.sums.blocks_per_group > 1) t.sums.tickets = place.tickets();
    launch("interpolate_eps", interpolate_eps<F>, shape.blocks, shape.threads, place, t);
  }
}

std::string load_kernels() {
  return loadable(interpolate_elements<float>, interpolate_elements<double>, interpolate_eps<float>,
                  interpolate_eps<double>);
}

}  // namespace

namespace cuda {

std::string interpolate_unusable() {
  return load_kernels();
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
