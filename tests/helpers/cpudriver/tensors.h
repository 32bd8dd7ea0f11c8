// Tensors whose memory is as large as a kernel may touch, and not a byte larger.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/dtype.h"
#include "common/penalty.h"
#include "threads.h"

namespace fastgan {

inline int failures = 0;

inline void fail(const std::string& what) {
  if (++failures <= 20) printf("%s\n", what.c_str());
}

// ---------------------------------------------------------------------------------- where they lie

enum class Layout { contiguous, shifted, strided, window, permuted, expanded };
constexpr Layout layouts[] = {Layout::contiguous, Layout::shifted,  Layout::strided,
                              Layout::window,     Layout::permuted, Layout::expanded};

using Dims = std::vector<std::pair<int64_t, int64_t>>;  // sizes and strides

// Where the elements of a tensor lie, in logical order; those of a plain one are all inner.
struct Spread {
  Dims outer, inner;
  int64_t shift = 0;  // elements before the first

  int64_t count() const {
    int64_t n = 1;
    for (const Dims* dims : {&outer, &inner})
      for (auto [size, stride] : *dims) n *= size;
    return n;
  }
  int64_t extent() const {
    int64_t last = shift;
    for (const Dims* dims : {&outer, &inner})
      for (auto [size, stride] : *dims) last += (size - 1) * stride;
    return last + 1;
  }
  // body(number, offset) of each element, in logical order.
  template <class Body>
  void each(const Body& body) const {
    Dims all = outer;
    all.insert(all.end(), inner.begin(), inner.end());
    std::vector<int64_t> index(all.size());
    auto [row, step] = all.back();
    int64_t n = count(), from = shift;
    for (int64_t i = 0; i < n; i += row) {
      for (int64_t k = 0; k < row; ++k) body(i + k, from + k * step);
      for (size_t d = all.size() - 1; d-- > 0;) {
        from += all[d].second;
        if (++index[d] < all[d].first) break;
        from -= index[d] * all[d].second;
        index[d] = 0;
      }
    }
  }
};

// The largest factor of n that is not above its root.
inline int64_t factor_of(int64_t n) {
  int64_t a = int64_t(std::sqrt(double(n)));
  while (n % a) --a;
  return a;
}

inline Spread plain(int64_t n, Layout layout) {
  int64_t a = factor_of(n), b = factor_of(n / a), c = n / a / b;
  switch (layout) {
    case Layout::contiguous: return {{}, {{n, 1}}};
    case Layout::shifted: return {{}, {{n, 1}}, 1};
    case Layout::strided: return {{}, {{n, 3}}};
    case Layout::window: return {{}, {{a, n / a + 3}, {n / a, 1}}};
    case Layout::permuted: return {{}, {{a, 1}, {b, a * c}, {c, a}}};
    default: return a == 1 ? Spread{{}, {{n, 0}}} : Spread{{}, {{a, 0}, {n / a, 1}}};
  }
}

inline Spread grouped(int64_t groups, int64_t length, Layout layout) {
  int64_t a = factor_of(groups), b = groups / a, rows = factor_of(length), row = length / rows;
  switch (layout) {
    case Layout::contiguous: return {{{groups, length}}, {{length, 1}}};
    case Layout::shifted: return {{{groups, length}}, {{length, 1}}, 1};
    case Layout::strided: return {{{groups, 2 * length + 1}}, {{length, 2}}};
    case Layout::window: return {{{groups, rows * (row + 3)}}, {{rows, row + 3}, {row, 1}}};
    case Layout::permuted: return {{{a, b * length}, {b, 1}}, {{length, b}}};  // pixels of images
    default:
      if (length > 1) return {{{groups, 0}}, {{length, 1}}};
      return {{{groups, 1}}, {{length, 0}}};
  }
}

// As the extension has it: without dimensions of one element, and none where there are no gaps.
inline View view_of(char* data, const Dims& dims) {
  View w;
  w.data = data;
  for (auto [size, stride] : dims) {
    if (size == 1) continue;
    w.size[w.dims] = size;
    w.stride[w.dims++] = stride;
  }
  if (w.dims == 1 && w.stride[0] == 1) w.dims = 0;
  return w;
}

// ---------------------------------------------------------------------------------- memory

// A tensor that kernels read, or write: only its elements, and those in memory of its own.
class Tensor {
 public:
  Tensor(std::string name, DType dtype, Spread spread, bool is_result)
      : name(std::move(name)),
        is_result(is_result),
        dtype_(dtype),
        spread_(std::move(spread)),
        bytes_(size_t(spread_.extent() * item_size(dtype))),
        memory_(static_cast<char*>(malloc(bytes_)), free) {
    memset(memory_.get(), dirt, bytes_);
  }

  std::string name;
  bool is_result;

  template <class T = char>
  T* data() const {
    return reinterpret_cast<T*>(memory_.get() + spread_.shift * item_size(dtype_));
  }
  View view() const {
    return view_of(data(), spread_.inner);
  }
  Grid grid() const {
    Grid g;
    g.groups = view_of(data(), spread_.outer);
    g.elements = view_of(nullptr, spread_.inner);
    return g;
  }

  // Numbers of many sizes, so that sums in another order are others.
  void fill(unsigned seed, double scale) {
    uint32_t state = seed * 2654435761u + 12345u;
    spread_.each([&](int64_t, int64_t at) {
      state = state * 1664525u + 1013904223u;
      set(at, scale * double(int32_t(state) >> 8) / double(1u << (14 + (state >> 3 & 15))));
    });
    keep();
  }
  void fill(double x) {
    set(spread_.shift, x);
    keep();
  }

  // The elements, side by side.
  std::vector<char> elements() const {
    size_t size = size_t(item_size(dtype_));
    std::vector<char> out(size_t(spread_.count()) * size);
    spread_.each([&](int64_t i, int64_t at) {
      memcpy(&out[size_t(i) * size], memory_.get() + size_t(at) * size, size);
    });
    return out;
  }
  // Whether nothing was written but the elements of a result.
  bool is_sound() const {
    if (!is_result) return !memcmp(memory_.get(), before_.data(), bytes_);
    if (spread_.count() == spread_.extent()) return true;
    size_t size = size_t(item_size(dtype_));
    std::vector<char> rest(memory_.get(), memory_.get() + bytes_);
    spread_.each([&](int64_t, int64_t at) { memset(&rest[size_t(at) * size], dirt, size); });
    return std::count(rest.begin(), rest.end(), char(dirt)) == int64_t(bytes_);
  }

 private:
  DType dtype_;
  Spread spread_;
  size_t bytes_;
  std::unique_ptr<char, void (*)(void*)> memory_;
  std::vector<char> before_;

  void keep() {
    before_.assign(memory_.get(), memory_.get() + bytes_);
  }
  void set(int64_t at, double x) {
    char* p = memory_.get() + at * item_size(dtype_);
    switch (dtype_) {
      case DType::float64: *reinterpret_cast<double*>(p) = x; break;
      case DType::float32: *reinterpret_cast<float*>(p) = float(x); break;
      case DType::float16: *reinterpret_cast<Half*>(p) = narrow<Half>(float(x)); break;
      default: *reinterpret_cast<BFloat16*>(p) = narrow<BFloat16>(float(x));
    }
  }
};

struct Result {
  std::string name;
  std::vector<char> bytes;
};

// The tensors of some calls.
class Tensors {
 public:
  Tensor& given(const std::string& name, DType dtype, const Spread& spread, double scale = 1) {
    Tensor& t = add(name, dtype, spread, false);
    t.fill(unsigned(all_.size()), scale);
    return t;
  }
  Tensor& written(const std::string& name, DType dtype, const Spread& spread) {
    return add(name, dtype, spread, true);
  }
  Tensor& scalar(const std::string& name, DType dtype, double x) {
    Tensor& t = add(name, dtype, plain(1, Layout::contiguous), false);
    t.fill(x);
    return t;
  }
  // What was written; says so where that was not as it should be.
  std::vector<Result> results(const std::string& of) const {
    std::vector<Result> list;
    for (const auto& t : all_) {
      if (!t->is_sound()) fail(of + ": " + t->name + " is written where it may not be");
      if (t->is_result) list.push_back({t->name, t->elements()});
    }
    return list;
  }

 private:
  std::vector<std::unique_ptr<Tensor>> all_;

  Tensor& add(const std::string& name, DType dtype, const Spread& spread, bool is_result) {
    all_.push_back(std::make_unique<Tensor>(name, dtype, spread, is_result));
    return *all_.back();
  }
};

// Results are laid out as their tensors are, unless these share elements.
inline Layout of_results(Layout layout) {
  return layout == Layout::expanded ? Layout::contiguous : layout;
}

}  // namespace fastgan
