// Elements of a term on the device: reading and writing four neighbours, and what the functions of
// ../common/phi.h make of them.
#pragma once
#include "loss_table.h"

namespace fastgan {
namespace {

// ---------------------------------------------------------------------------------- a term

// How a linear part is treated: as none, as one that may be 0, as one that is not 0.
enum Linear { no, maybe, yes };

// A term's function as types have it.
template <Phi P, Linear L>
struct Form {
  static constexpr Phi phi = P;
  static constexpr Linear linear = L;
};

// Which forms a kernel tells apart. A plain table's has no rare phi. What has no linear part is as
// what has one of 0, but that its value takes fewer steps, which counts for usual losses, and that
// the identity's rounds differently.
enum Forms { gradients_only, any_values, fast_values };

template <Forms which, Phi P, class F, class Body>
FASTGAN_DEVICE auto with_form_of(const TermEntry<F>& t, const Body& body) {
  constexpr bool usual = P == Phi::softplus || P == Phi::relu || P == Phi::square;
  constexpr bool apart =
      (which != gradients_only && P == Phi::identity) || (which == fast_values && usual);
  if constexpr (apart) {
    if (t.linear == 0) return body(Form<P, no>());
    return body(Form<P, which == fast_values ? yes : maybe>());
  } else {
    return body(Form<P, maybe>());
  }
}

// body(form) for the form of a term.
template <Forms which, bool plain, class F, class Body>
FASTGAN_DEVICE auto with_form(const TermEntry<F>& t, const Body& body) {
#define FASTGAN_CASE(name)                                                                        \
  case Phi::name:                                                                                 \
    if constexpr (!(plain && is_rare(Phi::name))) return with_form_of<which, Phi::name>(t, body); \
    break;
  switch (Phi(t.phi)) { FASTGAN_PHIS(FASTGAN_CASE) }
#undef FASTGAN_CASE
  __builtin_unreachable();
}

FASTGAN_DEVICE double read_weight(const char* weights, DType dtype, int member) {
  switch (dtype) {
    case DType::float32: return reinterpret_cast<const float*>(weights)[member];
    case DType::float64: return reinterpret_cast<const double*>(weights)[member];
    case DType::float16: return widen(reinterpret_cast<const Half*>(weights)[member]);
    default: return widen(reinterpret_cast<const BFloat16*>(weights)[member]);
  }
}

// w, or w / n, with the member's weight where that lies on the device.
template <class F>
FASTGAN_CALLED double weighted(const Table<F>& table, const TermEntry<F>& t) {
  double c = t.weight * read_weight(table.weights, table.weights_dtype, t.member);
  return table.mean ? c / double(table.operand[t.x].n) : c;
}
template <class F>
FASTGAN_DEVICE double coefficient(const Table<F>& table, const TermEntry<F>& t) {
  return table.weights ? weighted(table, t) : t.coefficient;
}

template <class T, class F>
FASTGAN_DEVICE Coefficients<T> coefficients(const Table<F>& table, const TermEntry<F>& t) {
  if constexpr (sizeof(T) == sizeof(F))
    if (!table.weights) return t.k;
  return coefficients_of<T>(t.scale, t.shift, t.linear, coefficient(table, t));
}

// A float64 constant whose part below the last bit of F counts as well.
template <class F>
struct Split {
  F hi = 0, lo = 0;
  FASTGAN_DEVICE explicit Split(double c) : hi(F(c)), lo(c - c == 0 ? F(c - double(F(c))) : F(0)) {}
  FASTGAN_DEVICE F below(F x) const {
    return (x - hi) - lo;
  }
};

// The mean that a term subtracts, or 0.
template <class F>
FASTGAN_DEVICE double mean_of(const Table<F>& table, const TermEntry<F>& t) {
  return t.mean_operand >= 0 ? table.means[t.mean_operand] : 0.;
}

// ---------------------------------------------------------------------------------- chunks

// How many neighbours a thread takes at a time: four of a plain table.
FASTGAN_HD constexpr int width_of(bool plain) {
  return plain ? 4 : 1;
}

// A thread's elements of a chunk: `at` and the next ones, if the chunk has so many.
template <int width>
struct Piece {
  int64_t start;
  int n, at;
  bool aligned;

  FASTGAN_DEVICE Piece(unsigned chunk_number, int64_t all, bool aligned)
      : start(int64_t(chunk_number) * chunk), at(int(threadIdx.x) * width), aligned(aligned) {
    n = all - start < chunk ? int(all - start) : chunk;
  }
  FASTGAN_DEVICE bool has(int i) const {
    return at + i < n;
  }
  // Whether it is one access to memory.
  FASTGAN_DEVICE bool whole() const {
    return aligned && has(width - 1);
  }
};

// body(a thread's elements) until the block has all of the chunk: once, if they are four.
template <int width, class Body>
FASTGAN_DEVICE void for_each_piece(Piece<width> p, const Body& body) {
  if constexpr (width == 4) {
    body(p);
  } else {
#pragma unroll 1
    for (; p.at < p.n; p.at += int(blockDim.x)) body(p);
  }
}

// The bits of four numbers with the other sign.
template <DType D>
FASTGAN_DEVICE Raw<D, 4> negated(Raw<D, 4> raw) {
  constexpr int words = sizeof raw / 4;
#pragma unroll
  for (int i = 0; i < words; ++i) {
    if constexpr (item_size(D) == 2) raw.v[i] ^= 0x80008000u;
    else if (item_size(D) == 4 || i % 2) raw.v[i] ^= 0x80000000u;
  }
  return raw;
}

template <DType D>
FASTGAN_DEVICE Raw<D, 4> read_four(const char* data, const Piece<4>& p) {
  const char* from = data + (p.start + p.at) * item_size(D);
  if (p.whole()) return load_words<sizeof(Raw<D, 4>) / 4>(from);
  return load_each<D, 4>(from, p.n - p.at);
}

template <DType D>
FASTGAN_DEVICE void write_four(char* data, const Piece<4>& p, const Raw<D, 4>& raw) {
  char* to = data + (p.start + p.at) * item_size(D);
  if (p.whole()) store_words(to, raw);
  else store_each<D, 4>(to, p.n - p.at, raw);
}

// A thread's elements of a tensor; 0 past its end.
template <DType D, int width, class F>
FASTGAN_DEVICE void read(const Table<F>& table, char* data, int strides, const Piece<width>& p,
                         Arithmetic<D> (&v)[width]) {
  if constexpr (width == 1) {
    v[0] = p.has(0) ? number<D>(*any_element<D>(data, table.find(strides), p.start + p.at)) : 0;
  } else {
    unpack<D, 4>(read_four<D>(data, p), v);
  }
}

template <DType D, int width, class F>
FASTGAN_DEVICE void write(const Table<F>& table, char* data, int strides, const Piece<width>& p,
                          const Arithmetic<D> (&v)[width]) {
  if constexpr (width == 1) {
    if (p.has(0)) *any_element<D>(data, table.find(strides), p.start + p.at) = bits_of<D>(v[0]);
  } else {
    write_four<D>(data, p, pack<D, 4>(v));
  }
}

// Calls body(a term, its next chunk that is this block's, or this warp's), which takes all of them
// and returns the first chunk behind these that is; and so on for all terms. u: the first chunk of
// all.
template <class F, class Body>
FASTGAN_DEVICE void for_each_term(const Table<F>& table, unsigned u, const Body& body) {
  int low = 0, high = table.terms;  // u belongs to one of [low, high)
  while (high - low > 1) {
    int middle = (low + high) / 2;
    if (table.term[middle].first_chunk <= u) low = middle;
    else high = middle;
  }
  for (int k = low; k < table.terms && u < table.chunks; ++k)
    if (u < table.term[k].last_chunk) u = body(table.term[k], u);
}

// A thread's way over a plain table's term: four elements of a chunk of its block's after the
// other. What it reads next is on its way while the elements before are used.
template <DType D>
class Walk {
 public:
  using F = Arithmetic<D>;

  FASTGAN_DEVICE Walk(const Table<F>& table, const TermEntry<F>& t, unsigned first)
      : paired_(t.y >= 0), u_(first), end_(t.last_chunk) {
    const OperandEntry &a = table.operand[t.x], &b = table.operand[paired_ ? t.y : t.x];
    int at = int(threadIdx.x) * 4, over = int(a.n % chunk);
    offset_ = (int64_t(first - t.first_chunk) * chunk + at) * item_size(D);
    x_ = a.x;
    y_ = b.x;
    gx_ = a.g;
    gy_ = paired_ ? b.g : nullptr;
    left_ = (over ? over : chunk) - at;
    cut_ = !t.aligned ? 0 : left_ >= 4 ? end_ : end_ - 1;
    start(u_);
    x_ += step();
    y_ += step();
  }

  FASTGAN_DEVICE bool done() const {
    return u_ >= end_;
  }
  FASTGAN_DEVICE unsigned chunk_number() const {
    return u_;
  }
  // How many elements the chunk at hand has.
  FASTGAN_DEVICE int count() const {
    return u_ + 1 < end_ ? chunk : left_ + int(threadIdx.x) * 4;
  }
  FASTGAN_DEVICE bool writes() const {
    return gx_ || gy_;
  }
  // The elements at hand: x - y, or x; 0 past the end.
  FASTGAN_DEVICE void take(F (&z)[4]) {
    F x[4], y[4];
    unpack<D, 4>(next_x_, x);
    unpack<D, 4>(next_y_, y);
#pragma unroll
    for (int i = 0; i < 4; ++i) z[i] = fixed(x[i] - y[i]);  // y is 0 where there is none
    start(u_ + gridDim.x);
  }
  // The same as they lie there, y 0 where there is none.
  FASTGAN_DEVICE void again(Raw<D, 4>& x, Raw<D, 4>& y) const {
    int64_t at = offset_ - int(step());
    x = load_each<D, 4>(x_ + at, left(u_));
    y = paired_ ? load_each<D, 4>(y_ + at, left(u_)) : Raw<D, 4>{};
  }
  // Writes the gradients at hand, that of y being the negative of x's.
  FASTGAN_DEVICE void write(const Raw<D, 4>& g) const {
    if (gx_) put_(gx_, g);
    if (gy_) put_(gy_, negated<D>(g));
  }
  FASTGAN_DEVICE void advance() {
    u_ += gridDim.x;
    offset_ += step();
  }

 private:
  // How far a block's next chunk is, in bytes.
  FASTGAN_DEVICE static unsigned step() {
    return gridDim.x * unsigned(chunk * item_size(D));
  }
  // How many elements the thread has in chunk u, from 4 on all.
  FASTGAN_DEVICE int left(unsigned u) const {
    return u + 1 < end_ ? 4 : left_;
  }
  // Gets the elements of chunk u on their way.
  FASTGAN_DEVICE void start(unsigned u) {
    constexpr int words = sizeof(Raw<D, 4>) / 4;
    if (u < cut_) {
      next_x_ = load_words<words>(x_ + offset_);
      if (paired_) next_y_ = load_words<words>(y_ + offset_);
    } else if (u < end_) {
      next_x_ = load_each<D, 4>(x_ + offset_, left(u));
      if (paired_) next_y_ = load_each<D, 4>(y_ + offset_, left(u));
    }
  }
  FASTGAN_DEVICE void put_(char* to, const Raw<D, 4>& g) const {
    if (u_ < cut_) store_words(to + offset_, g);
    else store_each<D, 4>(to + offset_, left(u_), g);
  }

  const char *x_, *y_;  // once some elements are there: of the chunk after the one at hand
  char *gx_, *gy_;
  int64_t offset_;  // in bytes: the place of the elements at hand
  bool paired_;
  unsigned u_, end_, cut_;  // cut_: the first chunk whose elements are taken one by one
  int left_;                // how many the thread has in the last one, from 4 on all; or below 0
  Raw<D, 4> next_x_{}, next_y_{};
};

// Any table's.
template <DType D, int width>
FASTGAN_DEVICE void read_operands(const Table<Arithmetic<D>>& table,
                                  const TermEntry<Arithmetic<D>>& t, const Piece<width>& p,
                                  Arithmetic<D> (&x)[width], Arithmetic<D> (&y)[width]) {
  auto get = [&](int number, Arithmetic<D>(&to)[width]) {
    const OperandEntry& a = table.operand[number];
    read<D>(table, a.x, a.x_strides, p, to);
  };
  get(t.x, x);
#pragma unroll
  for (Arithmetic<D>& v : y) v = 0;
  if (t.y >= 0) get(t.y, y);
}

// ---------------------------------------------------------------------------------- functions

// e^-|a| as functions of it in T want it; F is the type of other element maths.
template <Phi P, class F, class T>
FASTGAN_DEVICE auto decay_for(T a) {
  if constexpr (!Function<P>::uses_decay) return Pair<T>{};
  else if constexpr (sizeof(T) != sizeof(F)) return fine_decay(a);
  else return decay(a);
}

template <Phi P, class F, class T>
using DecayFor = decltype(decay_for<P, F>(T()));

// The factor and label of a thread's one element.
template <DType D>
struct PerElement {
  using F = Arithmetic<D>;
  F factor[1] = {}, label[1] = {};
  bool has_factor, has_label;

  FASTGAN_DEVICE PerElement(const Table<F>& table, const TermEntry<F>& t, const Piece<1>& p)
      : has_factor(t.factor_operand >= 0), has_label(t.label_operand >= 0 && t.linear != 0) {
    if (has_factor) get(table, t.factor_operand, p, factor);
    if (has_label) get(table, t.label_operand, p, label);
  }
  FASTGAN_DEVICE static void get(const Table<F>& table, int number, const Piece<1>& p, F (&to)[1]) {
    const OperandEntry& a = table.operand[number];
    read<native<F>>(table, a.x, a.x_strides, p, to);
  }
  template <class T>
  FASTGAN_DEVICE void multiply(T (&v)[1]) const {
    if (has_factor) v[0] = T(factor[0]) * v[0];
  }
};

struct NothingPerElement {
  FASTGAN_DEVICE NothingPerElement() {}
  template <class F>
  FASTGAN_DEVICE NothingPerElement(const Table<F>&, const TermEntry<F>&) {}
  template <class F, int width>
  FASTGAN_DEVICE NothingPerElement(const Table<F>&, const TermEntry<F>&, const Piece<width>&) {}
  template <class T, int width>
  FASTGAN_DEVICE void multiply(T (&)[width]) const {}
};

// The coefficients of a thread's i-th element.
template <Phi P, class T>
FASTGAN_DEVICE const Coefficients<T>& at_element(const Coefficients<T>& k, const NothingPerElement&,
                                                 int) {
  return k;
}
template <Phi P, class T, DType D>
FASTGAN_DEVICE Coefficients<T> at_element(const Coefficients<T>& k, const PerElement<D>& own,
                                          int i) {
  return own.has_label ? k.template labelled<P>(T(own.label[i])) : k;
}

// What is made of a thread's elements: `z` and coefficients of type T, elements of D. Own:
// PerElement or nothing.
template <class Form, DType D, class Own, class T = Arithmetic<D>>
struct Evaluation {
  using F = Arithmetic<D>;
  static constexpr Phi phi = Form::phi;
  // As of a label that may be 0.
  static constexpr bool vary = Form::linear == maybe || !std::is_same_v<Own, NothingPerElement>;
  static constexpr int width = width_of(std::is_same_v<Own, NothingPerElement>);
  T z[width];
  DecayFor<phi, F, T> u[width];

  FASTGAN_DEVICE void start(const Coefficients<T>& k, const Own& own) {
#pragma unroll
    for (int i = 0; i < width; ++i)
      u[i] = decay_for<phi, F>(at_element<phi>(k, own, i).argument(z[i]));
  }
  FASTGAN_DEVICE void values(const Coefficients<T>& k, const Own& own, T (&value)[width]) const {
#pragma unroll
    for (int i = 0; i < width; ++i)
      value[i] = term_value<phi, Form::linear != no, vary>(z[i], at_element<phi>(k, own, i), u[i]);
    own.multiply(value);
  }
  FASTGAN_DEVICE void gradients(const Coefficients<T>& k, const Own& own, T (&g)[width]) const {
#pragma unroll
    for (int i = 0; i < width; ++i)
      g[i] = term_gradient<phi, true>(z[i], at_element<phi>(k, own, i), u[i]);
    own.multiply(g);
  }
  FASTGAN_DEVICE void curvatures(const Coefficients<T>& k, const Own& own, T (&g)[width]) const {
#pragma unroll
    for (int i = 0; i < width; ++i)
      g[i] = term_curvature<phi>(z[i], at_element<phi>(k, own, i), u[i]);
    own.multiply(g);
  }
};

}  // namespace
}  // namespace fastgan
