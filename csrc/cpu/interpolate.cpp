// The CPU kernels of interpolation, compiled once for each instruction set as loss.cpp is.
#include "groups.h"

namespace fastgan {
namespace {

template <class F>
F epsilon(const InterpolateCall& call, int64_t group) {
  return reinterpret_cast<const F*>(call.eps)[group];
}

template <class F>
void forward_in(const InterpolateCall& call) {
  for_each_line(call.tensors, call.groups, call.threads, [&](size_t k, const Line& line, int64_t) {
    const TensorPair& pair = call.tensors[k];
    F real_buffer[chunk], fake_buffer[chunk], out_buffer[chunk];
    const F* r = load(pair.real, pair.dtype, line, real_buffer);
    const F* f = load(pair.fake, pair.dtype, line, fake_buffer);
    F e = epsilon<F>(call, line.group), rest = F(1) - e;
    store(pair.out, pair.dtype, line, out_buffer, [&](F* out) {
      for (int i = 0; i < line.n; ++i) out[i] = r[i] == f[i] ? r[i] : fma(e, r[i], rest * f[i]);
    });
  });
}

template <class F>
void multiply(const TensorPair& pair, const Grid& grid, const Line& line, const F* u, F factor) {
  F buffer[chunk];
  if (!grid.groups.data) return;
  store(grid, pair.dtype, line, buffer, [&](F* out) {
    for (int i = 0; i < line.n; ++i) out[i] = factor * u[i];
  });
}

template <class F>
double line_of_eps(const TensorPair& pair, const Line& line) {
  F u_buffer[chunk], buffer[chunk];
  double product[chunk], apart[chunk];
  const F* u = load(pair.out, pair.dtype, line, u_buffer);
  const F* r = load(pair.real, pair.dtype, line, buffer);
  for (int i = 0; i < line.n; ++i) apart[i] = double(r[i]);
  const F* f = load(pair.fake, pair.dtype, line, buffer);
  for (int i = 0; i < line.n; ++i) apart[i] = apart[i] - double(f[i]);
  for (int i = 0; i < line.n; ++i) product[i] = double(u[i]) * apart[i];
  return chunk_sum(product, line.n);
}

template <class F>
void backward_in(const InterpolateCall& call) {
  bool data = false;
  for (const TensorPair& pair : call.tensors)
    data |= pair.real_grad.groups.data || pair.fake_grad.groups.data;
  if (data)
    for_each_line(call.tensors, call.groups, call.threads,
                  [&](size_t k, const Line& line, int64_t) {
                    const TensorPair& pair = call.tensors[k];
                    F buffer[chunk];
                    const F* u = load(pair.out, pair.dtype, line, buffer);
                    F e = epsilon<F>(call, line.group);
                    multiply(pair, pair.real_grad, line, u, e);
                    multiply(pair, pair.fake_grad, line, u, F(1) - e);
                  });
  if (!call.eps_grad) return;
  std::vector<double> sums(call.groups);
  group_sums(call.tensors, call.groups, call.threads, sums.data(),
             [](const TensorPair& pair, const Line& line) { return line_of_eps<F>(pair, line); });
  for (int64_t i = 0; i < call.groups; ++i) reinterpret_cast<F*>(call.eps_grad)[i] = F(sums[i]);
}

void forward(InterpolateCall& call) {
  if (call.is_float64) forward_in<double>(call);
  else forward_in<float>(call);
}

void backward(InterpolateCall& call) {
  if (call.is_float64) backward_in<double>(call);
  else backward_in<float>(call);
}

}  // namespace

extern const InterpolateKernels FASTGAN_JOIN(interpolate_, FASTGAN_ISA);
const InterpolateKernels FASTGAN_JOIN(interpolate_, FASTGAN_ISA) = {forward, backward};

}  // namespace fastgan
