// The CUDA kernels of points between samples, as ../cpu/interpolate.cpp computes them.
#include "rows.h"

namespace fastgan {
namespace {

template <class F>
struct PointsTable {
  RowSums sums;  // x: real, v: fake, mask: upstream (backward), out: points or real's gradient
  Lie fake_grad[most_parts];
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
FASTGAN_DEVICE void points_of_chunk(const PointsTable<F>& t, const PartEntry& part, int64_t row,
                                    const Eighth& c) {
  F e = t.eps[row], rest = F(1) - e;
  Run real = along_row(part.x, row, c.start), fake = along_row(part.v, row, c.start),
      out = along_row(part.out, row, c.start);
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
FASTGAN_DEVICE void gradients_of_chunk(const PointsTable<F>& t, const PartEntry& part,
                                       const Lie& fake_grad, int64_t row, const Eighth& c) {
  F e = t.eps[row], rest = F(1) - e;
  Run upstream = along_row(part.mask, row, c.start), real = upstream, fake = upstream;
  if (part.out.data) real = along_row(part.out, row, c.start);
  if (fake_grad.data) fake = along_row(fake_grad, row, c.start);
  const Run runs[1] = {upstream};
  const bool there[1] = {true};
  for_each_row<F, eight>(runs, there, c.lane0, c.n, [&](int at, const Raw<F, eight>(&raw)[1]) {
    F u[eight], g[eight];
    unpack(raw[0], upstream.dtype, u);
#pragma unroll
    for (int i = 0; i < eight; ++i) g[i] = e * u[i];
    if (part.out.data) put<F, eight>(real, at, c.n, g);
#pragma unroll
    for (int i = 0; i < eight; ++i) g[i] = rest * u[i];
    if (fake_grad.data) put<F, eight>(fake, at, c.n, g);
  });
}

template <class F>
FASTGAN_DEVICE void short_row(const PointsTable<F>& t, const PartEntry& part, const Lie& fake_grad,
                              int64_t row) {
  F e = t.eps[row], rest = F(1) - e;
  for (int64_t at = 0; at < part.length; ++at) {
    if (!t.backward) {
      F r = read_one<F>(part.x, row, at), f = read_one<F>(part.v, row, at);
      write_one(part.out, row, at, between(e, rest, r, f));
      continue;
    }
    F u = read_one<F>(part.mask, row, at);
    if (part.out.data) write_one(part.out, row, at, e * u);
    if (fake_grad.data) write_one(fake_grad, row, at, rest * u);
  }
}

template <class F>
__global__ void __launch_bounds__(most_warps* warp, sizeof(F) == 8 ? 1 : 2)
    interpolate_elements(FASTGAN_GRID_CONSTANT(PointsTable<F>) t) {
  int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x,
          threads = int64_t(gridDim.x) * blockDim.x;
  for (int k = 0; k < t.sums.parts; ++k) {
    const PartEntry& part = t.sums.part[k];
    const Lie& fake_grad = t.fake_grad[k];
    if (t.backward && !part.out.data && !fake_grad.data) continue;
    if (t.by_thread) {
      for (int64_t row = thread; row < t.sums.rows; row += threads)
        short_row(t, part, fake_grad, row);
      continue;
    }
    int64_t pairs = pair_count(part.length);
    for (int64_t u = thread / warp; u < pairs * t.sums.rows; u += threads / warp) {
      Eighth c(u % pairs, part.length);
      if (t.backward) gradients_of_chunk(t, part, fake_grad, u / pairs, c);
      else points_of_chunk(t, part, u / pairs, c);
    }
  }
}

// ---------------------------------------------------------------------------------- eps

// The gradient of eps: sum of upstream * (real - fake) over a row.
template <class F>
__global__ void __launch_bounds__(most_warps* warp, sizeof(F) == 8 ? 1 : 2)
    interpolate_eps(FASTGAN_GRID_CONSTANT(PointsTable<F>) t) {
  FASTGAN_SHARED(double, shared, [shared_sums]);
  const RowSums& sums = t.sums;
  unsigned b = sums.blocks_per_row;
  double* partial = sums.partial ? sums.partial + size_t(blockIdx.x / b) * sums.partials : shared;
  for (int64_t row = blockIdx.x / b; row < sums.rows; row += gridDim.x / b) {
    sum_chunks<apart, F>(sums, row, 1, partial, blockIdx.x % b, b);
    if (!last_to_come(b > 1 ? sums.tickets + row : nullptr, b)) continue;
    double sum = sum_row(sums, partial, sums.first, sums.first ? 0. : sums.sums[row]);
    if (threadIdx.x > 0) continue;
    sums.sums[row] = sum;
    if (t.last) t.eps_grad[row] = F(sum);
  }
}

// ---------------------------------------------------------------------------------- calls

template <class F>
void run(const InterpolateCall& call, const Place& place, bool backward) {
  double* sums = nullptr;
  if (call.eps_grad)
    sums = reinterpret_cast<double*>(place.scratch(call.rows * int64_t(sizeof(double))));
  for (size_t begin = 0; begin < call.parts.size(); begin += most_parts) {
    PointsTable<F> t;
    memset(static_cast<void*>(&t), 0, sizeof t);
    t.sums.rows = call.rows;
    t.sums.first = begin == 0;
    t.sums.sums = sums;
    t.eps = reinterpret_cast<const F*>(call.eps);
    t.eps_grad = reinterpret_cast<F*>(call.eps_grad);
    t.backward = backward;
    bool writes = !backward;
    int64_t units = 0, longest = 0;
    set_parts(t.sums, call.parts, begin, [&](const Between& part, PartEntry& e) {
      e.x = lie_of(part.real, part.dtype);
      e.v = lie_of(part.fake, part.dtype);
      e.mask = lie_of(backward ? part.out : Grid(), part.dtype);
      e.out = lie_of(backward ? part.real_grad : part.out, part.dtype);
      t.fake_grad[t.sums.parts - 1] = lie_of(part.fake_grad, part.dtype);
      writes = writes || part.real_grad.rows.data || part.fake_grad.rows.data;
      units += call.rows * pair_count(part.length);
      longest = part.length > longest ? part.length : longest;
    });
    t.last = begin + size_t(t.sums.parts) == call.parts.size();
    t.by_thread = call.rows > 1 && longest <= short_length;
    if (writes) {
      PointsTable<F> order = t;
      for (int k = 0; k < t.sums.parts; ++k) {
        PartEntry& part = order.sums.part[k];
        if (backward) straighten({&part.mask, &part.out, &order.fake_grad[k]});
        else straighten({&part.x, &part.v, &part.out});
      }
      int threads = place.warps * warp;
      int64_t work = t.by_thread ? call.rows : units * warp,
              blocks = (work + threads - 1) / threads;
      if (blocks > place.most_blocks()) blocks = place.most_blocks();
      launch(backward ? "interpolate_backward" : "interpolate_forward", interpolate_elements<F>,
             blocks, threads, place, order);
    }
    if (!call.eps_grad) continue;
    Shape shape = shape_for(t.sums, place, 0);
    if (t.sums.blocks_per_row > 1) t.sums.tickets = place.tickets();
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
  if (call.wide) run<double>(call, place, false);
  else run<float>(call, place, false);
}

void interpolate_backward(InterpolateCall& call, const Place& place) {
  if (call.wide) run<double>(call, place, true);
  else run<float>(call, place, true);
}

}  // namespace cuda
}  // namespace fastgan
