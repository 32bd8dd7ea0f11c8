// Tables: the form in which a call reaches the kernels of the losses, as a parameter of the launch.
#pragma once
#include <cstring>
#include <memory>
#include <vector>

#include "../common/loss.h"
#include "sums.h"

namespace fastgan {
namespace {

constexpr int most_terms = 64, most_operands = 64, most_strided = 16;

// The sums that are taken of a term, over its chunks.
enum Sum { value_sum, gradient_sum, x_sum, y_sum, x_sign, y_sign, right_count, dot_sum, sum_count };
constexpr int forward_sums = 7;

struct OperandEntry {
  char *x, *g, *v;  // g: gradient to write, or null; v as in ../common/loss.h
  int64_t n;
  int number;                                   // in the call
  unsigned first_chunk, first_partial;          // where its mean is taken
  signed char x_strides, g_strides, v_strides;  // in Table::strided; -1: contiguous
  unsigned char role;
  bool is_mean_operand;
};

// Of a term on the device. Without a linear part, what stands for it adds to a gradient without a
// trace: so all gradients are of one form.
template <class F>
FASTGAN_HD Coefficients<F> coefficients_of(double scale, double shift, double linear,
                                           double coefficient) {
  Coefficients<F> k(scale, shift, linear, coefficient);
  if (linear == 0) k.slope_linear = F(-0.);
  return k;
}

template <class F>
struct TermEntry {
  Coefficients<F> k;
  double scale, shift, linear, weight;  // k is formed of these where the weight is on the device
  double coefficient;                   // and this is the weight, divided by n for a mean
  F factor, threshold;
  char* out;  // unreduced: value (forward), gradient of the upstream (second)
  const char* upstream;
  int64_t mean_operand_n;
  unsigned first_chunk, last_chunk, first_partial;  // the last is the next term's first
  int number, mean_operand, member;                 // in the call; mean operand -1: none
  signed char x, y, side;                           // operands of the table; y -1: none
  signed char out_strides, upstream_strides;
  signed char factor_operand, label_operand;  // of the table; -1: none
  unsigned char phi, role;
  bool fill, first_of_mean, last_of_mean;  // fill: x is a mean operand and nothing else
  bool aligned;  // four neighbours of each tensor lie so that they are one access to memory
};

// What several launches of one call hand on.
struct Totals {
  double loss;
  RoleTotals of[3];
};

template <class F>
struct Table {
  int terms, operands, mean_operands;
  unsigned chunks, mean_chunks;
  int64_t longest;   // elements of a term
  bool first, last;  // launch of the call
  bool reduced, mean, means_here, sums, write;
  bool plain;       // no tensor has gaps, no phi is rare, nothing but logits comes per element
  bool unless_one;  // backward: nothing is to be done for an upstream of 1
  DType dtype;      // of all terms, or of the operands whose mean is taken
  signed char slot[sum_count];  // where the partial sums of a kind lie; -1: not taken
  unsigned partials;            // a slot
  double* partial;              // null: in shared memory
  unsigned* ticket;
  double *means, *constants, *values, *v_means;
  LossStatistics* statistics;
  Totals* totals;
  const char* weights;  // on the device, one a member; or null
  DType weights_dtype;
  const F* scalar_upstream;
  F* result;
  signed char mean_operand[most_operands];  // operands of the table whose mean is taken here
  OperandEntry operand[most_operands];
  TermEntry<F> term[most_terms];
  Strides strided[most_strided];

  FASTGAN_HD const Strides* find(int k) const {
    return k < 0 ? nullptr : strided + k;
  }
};

constexpr int shared_partials = 512;

// The tables of a call, as many as its operands need.
template <class F>
struct Tables {
  const Call& call;
  std::vector<std::unique_ptr<Table<F>>> all;
  std::vector<int> terms_of_mean;  // that are still to come
  std::vector<bool> seen_mean;
  int strided = 0;

  explicit Tables(const Call& call) : call(call) {
    terms_of_mean.resize(call.operands.size());
    seen_mean.resize(call.operands.size());
    for (const Term& t : call.spec->terms)
      if (t.mean_operand >= 0) ++terms_of_mean[t.mean_operand];
  }

  Table<F>& table() {
    return *all.back();
  }

  void open(DType dtype) {
    all.push_back(std::make_unique<Table<F>>());
    Table<F>& t = table();
    memset(static_cast<void*>(&t), 0, sizeof t);
    memset(t.slot, -1, sizeof t.slot);
    t.dtype = dtype;
    t.plain = true;
    strided = 0;
  }

  // Makes room for what a term, of this dtype, brings along.
  void reserve(DType dtype, int operands, std::initializer_list<const View*> views) {
    int more = 0;
    for (const View* w : views) more += w && w->data && w->dims > 0;
    if (all.empty() || table().dtype != dtype || table().terms == most_terms ||
        table().operands + operands > most_operands || strided + more > most_strided)
      open(dtype);
    for (const View* w : views)
      if (w && w->data) table().plain = table().plain && w->dims == 0;
  }

  signed char strides(const View& w) {
    if (!w.data || w.dims == 0) return -1;
    table().strided[strided] = strides_of(w);
    return static_cast<signed char>(strided++);
  }

  signed char operand(int j, View Operand::* values = &Operand::x) {
    Table<F>& t = table();
    for (int k = 0; k < t.operands; ++k)
      if (t.operand[k].number == j) return static_cast<signed char>(k);
    const Operand& a = call.operands[j];
    OperandEntry& e = t.operand[t.operands];
    e.x = (a.*values).data;
    e.g = a.g.data;
    e.v = a.v.data;
    e.n = a.n;
    e.number = j;
    e.x_strides = strides(a.*values);
    e.g_strides = strides(a.g);
    e.v_strides = strides(a.v);
    e.role = static_cast<unsigned char>(call.spec->roles[j]);
    e.is_mean_operand = call.spec->is_mean_operand[j];
    return static_cast<signed char>(t.operands++);
  }

  // How many chunks and partial sums an operand has; adds them to the counts.
  static void count(const Operand& a, unsigned* chunks, unsigned* partials) {
    int64_t its = chunk_count(a.n), u = *chunks + its, p = *partials + level_space(its);
    if (u > 0x7fffffff || p > 0x7fffffff) throw std::invalid_argument("too many elements");
    *chunks = unsigned(u);
    *partials = unsigned(p);
  }

  double weight(const Term& t) const {
    return call.weights.empty() ? t.weight : t.weight * call.weights[t.member];
  }

  void add(int number) {
    const Term& t = call.spec->terms[number];
    const Operand &a = call.operands[t.x], *b = t.y >= 0 ? &call.operands[t.y] : nullptr;
    const View* out = call.out.empty() ? nullptr : &call.out[number];
    const View* up = call.upstream.empty() ? nullptr : &call.upstream[number];
    auto constant = [&](int j) { return j >= 0 ? &call.operands[j].x : nullptr; };
    reserve(a.dtype, (b ? 2 : 1) + (t.factor >= 0) + (t.label >= 0),
            {&a.x, &a.g, &a.v, b ? &b->x : nullptr, b ? &b->g : nullptr, b ? &b->v : nullptr, out,
             up, constant(t.factor), constant(t.label)});
    double w = weight(t), c = call.reduction == Reduction::mean ? w / double(a.n) : w;
    Table<F>& to = table();
    TermEntry<F>& e = to.term[to.terms++];
    e.k = coefficients_of<F>(t.scale, t.shift, t.linear, c);
    e.scale = t.scale;
    e.shift = t.shift;
    e.linear = t.linear;
    e.weight = w;
    e.coefficient = c;
    e.factor = F(c);
    e.threshold = F(t.threshold);
    e.out = out ? out->data : nullptr;
    e.upstream = up ? up->data : nullptr;
    e.number = number;
    e.mean_operand = t.mean_operand;
    e.member = t.member;
    e.x = operand(t.x);
    e.y = t.y >= 0 ? operand(t.y) : -1;
    e.factor_operand = t.factor >= 0 ? operand(t.factor) : -1;
    e.label_operand = t.label >= 0 ? operand(t.label) : -1;
    e.side = static_cast<signed char>(t.side);
    e.out_strides = out ? strides(*out) : -1;
    e.upstream_strides = up ? strides(*up) : -1;
    e.aligned = aligned(a) && (!b || aligned(*b));
    e.phi = static_cast<unsigned char>(t.phi);
    e.role = static_cast<unsigned char>(t.role);
    if (t.mean_operand >= 0) {
      e.mean_operand_n = call.operands[t.mean_operand].n;
      e.first_of_mean = !seen_mean[t.mean_operand];
      e.last_of_mean = --terms_of_mean[t.mean_operand] == 0;
      seen_mean[t.mean_operand] = true;
    }
    // As paired ones have, a term of operands whose mean is subtracted elsewhere has two constants.
    bool two = b && (call.spec->is_mean_operand[t.x] || call.spec->is_mean_operand[t.y]);
    to.plain = to.plain && !two && !out && !up && t.factor < 0 && t.label < 0 && !is_rare(t.phi);
    place(a, e);
  }

  // The gradient of an operand that is a mean operand only.
  void fill(int j) {
    const Operand& a = call.operands[j];
    reserve(a.dtype, 1, {&a.x, &a.g, &a.v});
    Table<F>& to = table();
    TermEntry<F>& e = to.term[to.terms++];
    e.fill = true;
    e.mean_operand = e.y = -1;
    e.x = operand(j);
    e.aligned = aligned(a);
    place(a, e);
  }

  static bool aligned(const Operand& a) {
    auto bytes = uintptr_t(4 * item_size(a.dtype));
    auto is = [&](const View& w) {
      return reinterpret_cast<uintptr_t>(w.data) % (bytes < 16 ? bytes : 16) == 0;
    };
    return is(a.x) && is(a.g);
  }

  void place(const Operand& a, TermEntry<F>& e) {
    Table<F>& to = table();
    e.first_chunk = to.chunks;
    e.first_partial = to.partials;
    count(a, &to.chunks, &to.partials);
    e.last_chunk = to.chunks;
    if (a.n > to.longest) to.longest = a.n;
  }

  void add_terms() {
    for (size_t k = 0; k < call.spec->terms.size(); ++k) add(int(k));
  }

  void add_fills() {
    std::vector<bool> has_term(call.operands.size());
    for (const Term& t : call.spec->terms) {
      has_term[t.x] = true;
      if (t.y >= 0) has_term[t.y] = true;
    }
    for (size_t j = 0; j < call.operands.size(); ++j)
      if (!has_term[j] && call.operands[j].g.data) fill(int(j));
  }

  // An operand whose mean is to be taken.
  void add_mean(int j, View Operand::* values) {
    Table<F>& t = table();
    signed char k = operand(j, values);
    t.mean_operand[t.mean_operands++] = k;
    t.operand[k].first_chunk = t.mean_chunks;
    t.operand[k].first_partial = t.partials;
    if (t.operand[k].x) count(call.operands[j], &t.mean_chunks, &t.partials);
  }

  std::vector<int> mean_operands() const {
    std::vector<int> list;
    for (size_t j = 0; j < call.operands.size(); ++j)
      if (call.spec->is_mean_operand[j]) list.push_back(int(j));
    return list;
  }

  // What all tables have in common, and which sums to take.
  void finish(const Place& place, std::initializer_list<Sum> sums) {
    Totals* totals = all.size() > 1 && sums.size()
                         ? reinterpret_cast<Totals*>(place.scratch(sizeof(Totals)))
                         : nullptr;
    for (auto& t : all) {
      t->first = t == all.front();
      t->last = t == all.back();
      t->reduced = call.out.empty();
      t->mean = call.reduction == Reduction::mean;
      t->means = call.buffers ? call.means() : nullptr;
      t->constants = call.buffers ? call.constants() : nullptr;
      t->weights = call.device_weights;
      t->weights_dtype = call.device_weights_dtype;
      t->scalar_upstream = static_cast<const F*>(call.scalar_upstream);
      t->result = static_cast<F*>(call.loss);
      t->totals = totals;
      signed char slot = 0;
      for (Sum s : sums) t->slot[s] = slot++;
      t->sums = slot > 0;
      t->write = true;
    }
  }
};

}  // namespace
}  // namespace fastgan
