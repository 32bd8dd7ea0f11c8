// What a call hands to the kernels: a list of terms over a list of operands.
//
//   loss = sum over terms t of  c_t * sum_i ( phi_t(scale * z_i + shift) + linear * z_i )
//   z    = x,  x - y (paired)  or  x - mean(m);   c_t = weight (/ n for a mean)
//
// A term may have a factor w and a label y for each element, constants that get no gradient; then
// it sums  w_i * ( phi_t(scale * z_i + shift) + linear * y_i * z_i ).
//
// An operand is x or y of at most one term, and may be the mean operand m, the factor or the label
// of any number. The order of all sums is fixed (tree.h), and so is every rounding; every
// implementation follows them:
//
//   unit gradient   u_i  = fma(c * scale, phi'_i, c * linear)     (c formed in double)
//   through a mean  K    = -(1/n) * sum of the u of its terms     (float64, then rounded)
//   gradient        g_i  = upstream * (u_i + K)                   for a scalar upstream
//                   g_i  = upstream_i * u_i + K'                  for an elementwise one
//
// A label multiplies linear and c * linear (Coefficients::labelled), a factor the value, u_i and
// the second derivative.
//
// Each line is rounded in the operand's dtype, with one exception: of 16-bit operands z, u, K, g
// and second derivatives are double, and g alone is rounded, once. Their values and z in statistics
// are float, as those of float32 operands are.
#pragma once
#include <string>
#include <vector>

#include "dtype.h"
#include "phi.h"
#include "view.h"

namespace fastgan {

enum class Role : int { none = 0, real = 1, fake = 2 };

struct Term {
  Phi phi;
  int x, y, mean_operand;  // operand numbers; -1: none
  double scale, shift, linear, weight;
  double threshold;  // statistics: right where side * (z - threshold) > 0; side 0: not counted
  int side;
  int member;                   // which of the call's weights multiplies it
  Role role;                    // which of loss_real and loss_fake it adds to
  int factor = -1, label = -1;  // operand numbers of constants per element; -1: none
};

struct Spec {
  std::vector<Term> terms;
  std::vector<Role> roles;  // one an operand
  std::vector<bool> is_mean_operand;
  bool subtracts_mean = false;
  bool has_constants = false;  // whether any term has a factor or a label
};

struct Operand {
  DType dtype;
  int64_t n;
  View x;  // values
  View g;  // gradient to write
  View v;  // second order: what the gradient's gradient is
};

enum class Reduction : int { none = 0, sum = 1, mean = 2 };

// The statistics of one call, each of real and then of fake, in the order of Python's LossStats.
struct LossStatistics {
  double loss[2], mean[2], sign[2], accuracy[2];
};
constexpr int stat_count = sizeof(LossStatistics) / sizeof(double);

// What the terms and the operands of a role add up to.
struct RoleTotals {
  double loss, sum, sign, right, n, counted;

  // The sums over an operand's elements; of these the `right` ones count if the term has a side.
  FASTGAN_HD void add(double its_sum, double its_sign, double its_right, double elements,
                      bool has_side) {
    sum += its_sum;
    sign += its_sign;
    n += elements;
    right += has_side ? its_right : 0.;
    counted += has_side ? elements : 0.;
  }
  // As number r of LossStatistics: NaN where there are no such logits.
  FASTGAN_HD void write(LossStatistics* to, int r) const {
    to->loss[r] = loss;
    to->mean[r] = sum / n;
    to->sign[r] = sign / n;
    to->accuracy[r] = right / counted;
  }
};

struct Call {
  const Spec* spec;
  std::vector<Operand> operands;
  std::vector<View> out;       // a term: unreduced values (forward), gradient of upstream (second)
  std::vector<View> upstream;  // a term: elementwise upstream; empty for a reduced loss
  const void* scalar_upstream = nullptr;  // reduced: null stands for 1
  std::vector<double> weights;            // a member; empty: all 1
  const char* device_weights = nullptr;   // CUDA: the same in the device's memory
  DType device_weights_dtype = DType::float32;
  Reduction reduction;
  bool is_float64 = false;  // the loss is float64, else float32
  bool stats = false;
  bool keep = false;        // forward: a backward will follow and need K
  bool unless_one = false;  // CUDA's backward: forward wrote the gradients for an upstream of 1
  void* loss = nullptr;     // reduced forward; second: gradient of the upstream
  // Python's LossBuffers, from forward for backward: the mean of each mean operand, and K of each;
  // then a value per term, and the statistics. May be null where there are no means or statistics.
  double* buffers = nullptr;
  int threads = 1;

  double* means() const {
    return buffers;
  }
  double* constants() const {
    return buffers + operands.size();
  }
  double* values() const {
    return buffers + 2 * operands.size();
  }
  LossStatistics* statistics() const {
    return reinterpret_cast<LossStatistics*>(values() + spec->terms.size());
  }
};

struct LossKernels {
  const char* isa;
  void (*forward)(Call&);
  void (*backward)(Call&);
  void (*second)(Call&);
  bool (*rescale)(Call&);  // unit gradients in g to gradients, in place; false: not possible
};

}  // namespace fastgan
