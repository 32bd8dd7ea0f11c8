// The CPU kernels of interpolation, compiled once for each instruction set as loss.cpp is.
#include "rows.h"

namespace fastgan {
namespace {

template <class F>
F epsilon(const InterpolateCall& call, int64_t row) {
  return reinterpret_cast<const F*>(call.eps)[row];
}

template <class F>
void forward_in(const InterpolateCall& call) {
  for_each_line(call.parts, call.rows, call.threads, [&](size_t k, const Line& line, int64_t) {
    const Between& part = call.parts[k];
    F real_buffer[chunk], fake_buffer[chunk], out_buffer[chunk];
    const F* r = load(part.real, part.dtype, line, real_buffer);
    const F* f = load(part.fake, part.dtype, line, fake_buffer);
    F e = epsilon<F>(call, line.row), rest = F(1) - e;
    store(part.out, part.dtype, line, out_buffer, [&](F* out) {
      for (int i = 0; i < line.n; ++i) out[i] = r[i] == f[i] ? r[i] : fma(e, r[i], rest * f[i]);
    });
  });
}

template <class F>
void multiply(const Between& part, const Grid& grid, const Line& line, const F* u, F factor) {
  F buffer[chunk];
  if (!grid.rows.data) return;
  store(grid, part.dtype, line, buffer, [&](F* out) {
    for (int i = 0; i < line.n; ++i) out[i] = factor * u[i];
  });
}

template <class F>
double line_of_eps(const Between& part, const Line& line) {
  F u_buffer[chunk], buffer[chunk];
  double product[chunk], apart[chunk];
  const F* u = load(part.out, part.dtype, line, u_buffer);
  const F* r = load(part.real, part.dtype, line, buffer);
  for (int i = 0; i < line.n; ++i) apart[i] = double(r[i]);
  const F* f = load(part.fake, part.dtype, line, buffer);
  for (int i = 0; i < line.n; ++i) apart[i] = apart[i] - double(f[i]);
  for (int i = 0; i < line.n; ++i) product[i] = double(u[i]) * apart[i];
  return chunk_sum(product, line.n);
}

template <class F>
void backward_in(const InterpolateCall& call) {
  bool data = false;
  for (const Between& part : call.parts)
    data |= part.real_grad.rows.data || part.fake_grad.rows.data;
  if (data)
    for_each_line(call.parts, call.rows, call.threads, [&](size_t k, const Line& line, int64_t) {
      const Between& part = call.parts[k];
      F buffer[chunk];
      const F* u = load(part.out, part.dtype, line, buffer);
      F e = epsilon<F>(call, line.row);
      multiply(part, part.real_grad, line, u, e);
      multiply(part, part.fake_grad, line, u, F(1) - e);
    });
  if (!call.eps_grad) return;
  std::vector<double> sums(call.rows);
  row_sums(call.parts, call.rows, call.threads, sums.data(),
           [](const Between& part, const Line& line) { return line_of_eps<F>(part, line); });
  for (int64_t i = 0; i < call.rows; ++i) reinterpret_cast<F*>(call.eps_grad)[i] = F(sums[i]);
}

void forward(InterpolateCall& call) {
  if (call.wide) forward_in<double>(call);
  else forward_in<float>(call);
}

void backward(InterpolateCall& call) {
  if (call.wide) backward_in<double>(call);
  else backward_in<float>(call);
}

}  // namespace

extern const InterpolateKernels FASTGAN_JOIN(interpolate_, FASTGAN_ISA);
const InterpolateKernels FASTGAN_JOIN(interpolate_, FASTGAN_ISA) = {forward, backward};

}  // namespace fastgan
