// The CPU kernels of norms and penalties, compiled once for each instruction set as loss.cpp is.
//
// One read of the gradients gives all norms. What depends on a group's norm (psi, factors) is
// worked out for a chunk of groups at a time; then gradients are written line by line.
#include "../common/psi.h"
#include "groups.h"

namespace fastgan {
namespace {

// ---------------------------------------------------------------------------------- sums

// Sum over a line of a[i] * b[i], in the order of chunk_sum, each product added by an fma.
template <class A, class B>
double chunk_dot(const A* a, const B* b, int n) {
  double lane[lanes];
  if (n == chunk) {
    for (int j = 0; j < lanes; ++j) {
      double s = double(a[j]) * double(b[j]);
#pragma GCC unroll 7
      for (int row = lanes; row < chunk; row += lanes)
        s = fma(double(a[row + j]), double(b[row + j]), s);
      lane[j] = s;
    }
    return fold(lane);
  }
  int used = 1;
  while (used < n && used < lanes) used *= 2;
  for (int j = 0; j < used; ++j) lane[j] = j < n ? double(a[j]) * double(b[j]) : 0.;
  for (int row = lanes; row < n; row += lanes)
    for (int j = 0; j < (n - row < lanes ? n - row : lanes); ++j)
      lane[j] = fma(double(a[row + j]), double(b[row + j]), lane[j]);
  return fold(lane, used) + 0.;  // never -0, whatever the number of lanes
}

// mask * x, as doubles; `scale` is a power of two.
template <class F>
void masked(const F* x, const F* mask, double scale, int n, double* h) {
  for (int i = 0; i < n; ++i) h[i] = double(x[i]) * double(mask[i]) * scale;
}

template <class F>
double line_squares(const NormTensor& tensor, const Line& line) {
  F buffer[chunk], mask_buffer[chunk];
  double h[chunk];
  const F* x = load(tensor.g, tensor.dtype, line, buffer);
  if (!tensor.mask.groups.data) return chunk_dot(x, x, line.n);
  masked(x, load(tensor.mask, native<F>, line, mask_buffer), 1, line.n, h);
  return chunk_dot(h, h, line.n);
}

template <class F>
double line_dot(const NormTensor& tensor, const Line& line, double scale) {
  F buffer[chunk], mask_buffer[chunk];
  double h[chunk], w[chunk];
  const F* mask =
      tensor.mask.groups.data ? load(tensor.mask, native<F>, line, mask_buffer) : nullptr;
  auto read = [&](const Grid& grid, double factor, double* to) {
    const F* x = load(grid, tensor.dtype, line, buffer);
    if (mask) return masked(x, mask, factor, line.n, to);
    for (int i = 0; i < line.n; ++i) to[i] = double(x[i]) * factor;
  };
  read(tensor.g, scale, h);
  read(tensor.v, 1, w);
  return chunk_dot(w, h, line.n);
}

// Transposed: the sums of a tile of groups; `v` and `scale` of line_dot, or neither.
template <class F>
void tile_dots(const NormTensor& tensor, int64_t group, int n, const double* scale,
               double* result) {
  F buffer[tile], mask_buffer[tile];
  double h[tile], w[tile];
  tile_sums(tensor.length, n, result, [&](int64_t element, double* sum, bool first) {
    Line line{group, element, n, true};
    const F* mask =
        tensor.mask.groups.data ? load(tensor.mask, native<F>, line, mask_buffer) : nullptr;
    auto read = [&](const Grid& grid, const double* factor, double* to) {
      const F* x = load(grid, tensor.dtype, line, buffer);
      for (int i = 0; i < n; ++i) to[i] = double(x[i]);
      if (mask)
        for (int i = 0; i < n; ++i) to[i] = to[i] * double(mask[i]);
      if (factor)
        for (int i = 0; i < n; ++i) to[i] = to[i] * factor[i];
    };
    read(tensor.g, scale, h);
    if (scale) read(tensor.v, nullptr, w);
    const double* other = scale ? w : h;
    for (int i = 0; i < n; ++i) sum[i] = first ? other[i] * h[i] : fma(other[i], h[i], sum[i]);
  });
}

template <class F>
void for_each_tile_sum(const PenaltyCall& call, const double* scale, double* result) {
  int64_t elements = 0;
  for (const NormTensor& p : call.tensors) elements += call.groups * p.length;
  parallel_for((call.groups + tile - 1) / tile, threads_for(elements, call.threads),
               [&](int64_t begin, int64_t end) {
                 double sums[tile];
                 for (int64_t t = begin; t < end; ++t) {
                   int64_t group = t * tile;
                   int n = int(call.groups - group < tile ? call.groups - group : tile);
                   for (size_t k = 0; k < call.tensors.size(); ++k) {
                     tile_dots<F>(call.tensors[k], group, n, scale ? scale + group : nullptr, sums);
                     if (call.tensors[k].length < chunk)  // never -0, as chunk_dot() has it
                       for (int i = 0; i < n; ++i) sums[i] = sums[i] + 0.;
                     for (int i = 0; i < n; ++i)
                       result[group + i] = k == 0 ? sums[i] : result[group + i] + sums[i];
                   }
                 }
               });
}

template <class F>
void squares(const PenaltyCall& call, double* result) {
  if (call.transposed) return for_each_tile_sum<F>(call, nullptr, result);
  group_sums(
      call.tensors, call.groups, call.threads, result,
      [](const NormTensor& tensor, const Line& line) { return line_squares<F>(tensor, line); });
}

// <v, h * scale> of each group.
template <class F>
void dots(const PenaltyCall& call, const double* scale, double* result) {
  if (call.transposed) return for_each_tile_sum<F>(call, scale, result);
  group_sums(call.tensors, call.groups, call.threads, result,
             [&](const NormTensor& tensor, const Line& line) {
               return line_dot<F>(tensor, line, scale[line.group]);
             });
}

// The norm of a group of doubles whose sum of squares overflowed or lost its smaller summands: once
// more, scaled by a power of two.
double rescued_norm(const PenaltyCall& call, int64_t group) {
  double most = 0, h[chunk], buffer[chunk], mask_buffer[chunk];
  auto each_line = [&](const auto& body) {
    for (const NormTensor& tensor : call.tensors)
      for (int64_t element = 0; element < tensor.length; element += chunk) {
        int64_t left = tensor.length - element;
        Line line{group, element, int(left < chunk ? left : chunk), false};
        const double* x = load(tensor.g, tensor.dtype, line, buffer);
        for (int i = 0; i < line.n; ++i) h[i] = x[i];
        if (tensor.mask.groups.data) {
          const double* mask = load(tensor.mask, tensor.dtype, line, mask_buffer);
          masked(x, mask, 1, line.n, h);
        }
        body(line.n);
      }
  };
  each_line([&](int n) {
    for (int i = 0; i < n; ++i) most = absolute(h[i]) > most ? absolute(h[i]) : most;
  });
  if (most == 0 || most > 0x1.fffffffffffffp1023) return most;
  double scale = near_reciprocal(most);
  std::vector<double> sums;
  double total = 0;
  size_t done = 0;
  each_line([&](int n) {
    for (int i = 0; i < n; ++i) h[i] = h[i] * scale;
    sums.push_back(chunk_dot(h, h, n));
  });
  for (const NormTensor& tensor : call.tensors) {
    total += tree_sum(sums.data() + done, chunk_count(tensor.length));
    done += chunk_count(tensor.length);
  }
  return root(total) / scale;
}

// ---------------------------------------------------------------------------------- forward

double coefficient(const PenaltyCall& call, int64_t group) {
  return call.weights ? call.scale * call.weights[group / call.groups_per_weight] : call.scale;
}

template <class Body>
void for_each_chunk_of_groups(const PenaltyCall& call, const Body& body) {
  parallel_for(chunk_count(call.groups), threads_for(call.groups, call.threads),
               [&](int64_t begin, int64_t end) {
                 for (int64_t c = begin; c < end; ++c) {
                   int64_t left = call.groups - c * chunk;
                   body(c, c * chunk, int(left < chunk ? left : chunk));
                 }
               });
}

// From squares to norms, in place, and psi of them.
void norms_and_values(const PenaltyCall& call, int64_t group, int n, double* value) {
  double* norm = call.norms + group;
  double square[chunk];
  for (int i = 0; i < n; ++i) square[i] = norm[i];
  for (int i = 0; i < n; ++i) norm[i] = root(square[i]);
  if (call.is_float64)
    for (int i = 0; i < n; ++i)
      if (square[i] < 0x1p-900 || square[i] > 0x1.fffffffffffffp1023) {
        norm[i] = rescued_norm(call, group + i);
        square[i] = norm[i] * norm[i];
      }
  for (int i = 0; i < n; ++i)
    value[i] = psi_value(call.psi, norm[i], square[i], call.target, call.power);
}

void statistics(const PenaltyCall& call) {
  std::vector<double> sums(call.groups);
  double least = call.norms[0], most = call.norms[0], n = double(call.groups);
  int64_t above = 0;
  for (int64_t i = 0; i < call.groups; ++i) {
    double x = call.norms[i];
    sums[i] = x;
    least = x < least || x != x ? x : least;  // NaN, once seen, stays
    most = x > most || x != x ? x : most;
    above += x > call.target;
  }
  double mean = tree_sum(sums.data(), call.groups) / n;
  for (int64_t i = 0; i < call.groups; ++i) {
    double d = call.norms[i] - mean;
    sums[i] = d * d;
  }
  double variance = tree_sum(sums.data(), call.groups) / n;
  *call.statistics = {mean, root(variance), least, most, double(above) / n};
}

template <class Result>
void set(void* p, int64_t i, Result x, bool is_float64) {
  if (is_float64) static_cast<double*>(p)[i] = x;
  else static_cast<float*>(p)[i] = float(x);
}

void forward(PenaltyCall& call) {
  if (call.is_float64) squares<double>(call, call.norms);
  else squares<float>(call, call.norms);
  std::vector<double> partial(chunk_count(call.groups));
  for_each_chunk_of_groups(call, [&](int64_t c, int64_t group, int n) {
    double value[chunk];
    norms_and_values(call, group, n, value);
    if (call.values) {
      for (int i = 0; i < n; ++i)
        set(call.values, group + i, coefficient(call, group + i) * value[i], call.is_float64);
      return;
    }
    if (call.weights)
      for (int i = 0; i < n; ++i)
        value[i] = call.weights[(group + i) / call.groups_per_weight] * value[i];
    partial[c] = chunk_sum(value, n);
  });
  if (call.result)
    set(call.result, 0, call.scale * tree_sum(partial.data(), int64_t(partial.size())),
        call.is_float64);
  if (call.statistics) statistics(call);
}

// ---------------------------------------------------------------------------------- gradients

double upstream(const PenaltyCall& call, int64_t group) {
  int64_t i = call.elementwise ? group : 0;
  return call.is_float64 ? reinterpret_cast<const double*>(call.upstream)[i]
                         : double(reinterpret_cast<const float*>(call.upstream)[i]);
}

// A line of results: rounded once, and so that store() may round to 16 bits as if it were once.
template <class F>
F rounded(double x, bool odd) {
  if constexpr (sizeof(F) == 8) return x;
  else return odd ? to_odd(x) : float(x);
}

// The factors of each group's gradient: h times first (and, in second order, w times first plus h
// times second); `scale` goes with first and `second_scale` with second, 1 where they are folded
// into these, as they can be for all but doubles.
struct Factors {
  std::vector<double> first, second, scale, second_scale;
};

// out = (first * h * scale) * mask, with one factor for a line or one for each of its items.
template <class F, bool Transposed, bool Masked>
void write_line(const F* x, const F* mask, int n, bool odd, const double* first,
                const double* scale, F* out) {
  auto one = [&](int i) {
    double h = double(x[i]);
    if (Masked) h = h * double(mask[i]);
    if (sizeof(F) == 8) h = h * scale[Transposed ? i : 0];
    double g = first[Transposed ? i : 0] * h;
    return Masked ? g * double(mask[i]) : g;
  };
  if (odd)
    for (int i = 0; i < n; ++i) out[i] = rounded<F>(one(i), true);
  else
    for (int i = 0; i < n; ++i) out[i] = rounded<F>(one(i), false);
}

template <class F, bool Transposed, bool Masked>
void write_second_line(const F* x, const F* v, const F* mask, int n, bool odd, const double* first,
                       const double* second, const double* scale, const double* second_scale,
                       F* out) {
  for (int i = 0; i < n; ++i) {
    int r = Transposed ? i : 0;
    double h = double(x[i]), w = double(v[i]);
    if (Masked) {
      h = h * double(mask[i]);
      w = w * double(mask[i]);
    }
    if (sizeof(F) == 8) {
      h = h * second_scale[r];
      w = w * scale[r];
    }
    double g = fma(first[r], w, second[r] * h);
    out[i] = rounded<F>(Masked ? g * double(mask[i]) : g, odd);
  }
}

template <class F, bool Transposed, bool Masked>
void write_gradient(const NormTensor& tensor, const Line& line, const Factors& f) {
  F buffer[chunk], mask_buffer[chunk], v_buffer[chunk], out_buffer[chunk];
  const F* mask = Masked ? load(tensor.mask, native<F>, line, mask_buffer) : nullptr;
  const F* x = load(tensor.g, tensor.dtype, line, buffer);
  const double *first = &f.first[line.group], *scale = &f.scale[line.group];
  bool odd = item_size(tensor.dtype) == 2;
  store(tensor.out, tensor.dtype, line, out_buffer, [&](F* out) {
    if (f.second.empty())
      return write_line<F, Transposed, Masked>(x, mask, line.n, odd, first, scale, out);
    const double *second = &f.second[line.group], *second_scale = &f.second_scale[line.group];
    const F* v = load(tensor.v, tensor.dtype, line, v_buffer);
    write_second_line<F, Transposed, Masked>(x, v, mask, line.n, odd, first, second, scale,
                                             second_scale, out);
  });
}

template <class F, bool Transposed>
void write_gradient(const NormTensor& tensor, const Line& line, const Factors& f) {
  if (tensor.mask.groups.data) write_gradient<F, Transposed, true>(tensor, line, f);
  else write_gradient<F, Transposed, false>(tensor, line, f);
}

template <class F>
void write_gradients(const PenaltyCall& call, const Factors& f) {
  if (!call.transposed)
    return for_each_line(call.tensors, call.groups, call.threads,
                         [&](size_t k, const Line& line, int64_t) {
                           if (call.tensors[k].out.groups.data)
                             write_gradient<F, false>(call.tensors[k], line, f);
                         });
  for (const NormTensor& tensor : call.tensors) {
    if (!tensor.out.groups.data) continue;
    int64_t tiles = (call.groups + tile - 1) / tile;
    parallel_for(tiles, threads_for(call.groups * tensor.length, call.threads),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t t = begin; t < end; ++t) {
                     int64_t group = t * tile, left = call.groups - group;
                     int n = int(left < tile ? left : tile);
                     for (int64_t element = 0; element < tensor.length; ++element)
                       write_gradient<F, true>(tensor, Line{group, element, n, true}, f);
                   }
                 });
  }
}

void backward(PenaltyCall& call) {
  Factors f;
  f.first.resize(call.groups);
  f.scale.resize(call.groups);
  for_each_chunk_of_groups(call, [&](int64_t, int64_t group, int n) {
    for (int64_t i = group; i < group + n; ++i) {
      GroupFactors r = group_factors(call.psi, call.norms[i], call.target, call.power);
      ScaledFactor first(upstream(call, i) * coefficient(call, i) * r.slope, r.scale);
      f.first[i] = call.is_float64 ? first.factor : first.factor * first.scale;
      f.scale[i] = first.scale;
    }
  });
  if (call.is_float64) write_gradients<double>(call, f);
  else write_gradients<float>(call, f);
}

// Given v, the gradient of <v, gradient> with respect to the upstream and to g.
void second(PenaltyCall& call) {
  Factors f;
  f.first.resize(call.groups);
  f.second.resize(call.groups);
  f.scale.resize(call.groups);
  f.second_scale.resize(call.groups);
  std::vector<double> dot(call.groups), partial(chunk_count(call.groups));
  auto factors = [&](int64_t i) {
    return group_factors(call.psi, call.norms[i], call.target, call.power);
  };
  for_each_chunk_of_groups(call, [&](int64_t, int64_t group, int n) {
    for (int64_t i = group; i < group + n; ++i) f.scale[i] = factors(i).scale;
  });
  if (call.is_float64) dots<double>(call, f.scale.data(), dot.data());
  else dots<float>(call, f.scale.data(), dot.data());
  for_each_chunk_of_groups(call, [&](int64_t c, int64_t group, int n) {
    double value[chunk];
    for (int64_t i = group; i < group + n; ++i) {
      GroupFactors r = factors(i);
      double factor = coefficient(call, i), up = upstream(call, i) * factor;
      value[i - group] = factor * (r.slope * dot[i]);
      ScaledFactor first(up * r.slope, r.scale), bent(up * (r.bend * dot[i]) * r.scale, r.scale);
      f.first[i] = call.is_float64 ? first.factor : first.factor * first.scale;
      f.second[i] = call.is_float64 ? bent.factor : bent.factor * bent.scale;
      f.scale[i] = first.scale;
      f.second_scale[i] = bent.scale;
    }
    if (call.values)
      for (int i = 0; i < n; ++i) set(call.values, group + i, value[i], call.is_float64);
    partial[c] = chunk_sum(value, n);
  });
  if (call.result)
    set(call.result, 0, tree_sum(partial.data(), int64_t(partial.size())), call.is_float64);
  if (call.is_float64) write_gradients<double>(call, f);
  else write_gradients<float>(call, f);
}

}  // namespace

extern const PenaltyKernels FASTGAN_JOIN(penalty_, FASTGAN_ISA);
const PenaltyKernels FASTGAN_JOIN(penalty_, FASTGAN_ISA) = {forward, backward, second};

}  // namespace fastgan
