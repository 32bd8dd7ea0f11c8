// What a call hands to the kernels of norms and penalties: tensors seen as groups of elements.
//
//   penalty = scale * sum over groups i of  w_i * psi(n_i),    n_i = || h_i ||,  h = mask * g
//   psi     = (n - k)^2,  max(n - k, 0)^2  or  n^p
//
// A group is a sample, a pixel or the whole batch, over one tensor or several. The square of a norm
// is the sum of h^2 over the fixed tree of tree.h (a tensor after the other), each square added by
// an fma in double; the sum over groups is taken over the same tree. The gradient, with s a power
// of two near 1 / n and m = n * s, is
//
//   g_ij = upstream * scale * w_i * (psi'(n_i) / m_i) * (h_ij * s_i) * mask_ij
//
// in double throughout and rounded once, to the tensor's dtype; of doubles each step is rounded. s
// goes to the factor where that is at least 1 and n is large, so that tiny elements beside huge
// ones keep their gradient. Nothing that is representable overflows or underflows on the way, with
// three exceptions for doubles: where psi' itself does (n^p with n^(p-1) out of range); second
// derivatives of n^p, p > 2, below 1e-100; and, in second order, summands of <v, h * s> where h * s
// underflows. A group of zeros has a gradient of zeros, to every order (n^2 has its true second
// derivative).
#pragma once
#include <vector>

#include "dtype.h"
#include "list.h"
#include "view.h"

namespace fastgan {

// A new psi comes at the end; psi.h says what is made of it.
#define FASTGAN_PSIS(X) \
  X(two_sided)          \
  X(one_sided)          \
  X(power)

enum class Psi : int { FASTGAN_PSIS(FASTGAN_CODE) };
constexpr const char* psi_names[] = {FASTGAN_PSIS(FASTGAN_NAME)};
constexpr int psi_count = sizeof psi_names / sizeof *psi_names, max_power = 16;

// A tensor as groups of elements. The data's address stands in `groups`.
struct Grid {
  View groups, elements;
};

struct NormTensor {  // one of the tensors over which a norm is taken
  DType dtype;
  int64_t length;  // elements per group
  Grid g;          // values
  Grid mask;       // a factor on them, float32 (float64 for float64 values); may be absent
  Grid v;          // second order: what the gradient's gradient is
  Grid out;        // gradient to write
};

// The statistics of norms, in the order of Python's PenaltyStats: the deviation is a population's,
// `above` the share of groups above the target.
struct NormStatistics {
  double mean, deviation, least, greatest, above;
};
constexpr int norm_stat_count = sizeof(NormStatistics) / sizeof(double);

struct PenaltyCall {
  std::vector<NormTensor> tensors;
  int64_t groups;
  bool transposed;  // neighbouring groups have their elements side by side: read groups of them
  Psi psi;
  double target;  // k
  int power;      // p
  double scale;
  const double* weights = nullptr;  // one for every groups_per_weight groups; null: all 1
  int64_t groups_per_weight = 1;
  double* norms = nullptr;  // one per group: forward writes, backward and second read
  char* values = nullptr;   // unreduced: one per group; null: reduced
  void* result = nullptr;   // reduced forward; second: gradient of the upstream
  NormStatistics* statistics = nullptr;
  const char* upstream = nullptr;  // a scalar, or one per group
  bool elementwise = false;        // one per group
  bool is_float64 = false;         // results are float64, else float32
  int threads = 1;
};

struct PenaltyKernels {
  void (*forward)(PenaltyCall&);
  void (*backward)(PenaltyCall&);
  void (*second)(PenaltyCall&);
};

// Interpolation between samples: out = e * real + (1 - e) * fake, with one e per group. In float32
// (double for float64) as fma(e, real, (1 - e) * fake), and real where the two are equal.
struct TensorPair {  // one pair of tensors
  DType dtype;
  int64_t length;
  Grid real, fake, out;       // out: written by forward, the upstream in backward
  Grid real_grad, fake_grad;  // each may be absent
};

struct InterpolateCall {
  std::vector<TensorPair> tensors;
  int64_t groups;
  const char* eps = nullptr;  // one per group, float32 (float64 for float64 tensors)
  char* eps_grad = nullptr;   // sum of upstream * (real - fake) over a group's fixed tree
  bool is_float64 = false;
  int threads = 1;
};

struct InterpolateKernels {
  void (*forward)(InterpolateCall&);
  void (*backward)(InterpolateCall&);
};

}  // namespace fastgan
