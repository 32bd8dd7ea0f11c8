// Bringing lines of elements from tensors of any dtype and strides into L1 and back.
#pragma once
#include <type_traits>

#include "../common/dtype.h"
#include "../common/view.h"

#define FASTGAN_STRING_(x) #x
#define FASTGAN_STRING(x) FASTGAN_STRING_(x)
#define FASTGAN_JOIN_(a, b) a##b
#define FASTGAN_JOIN(a, b) FASTGAN_JOIN_(a, b)

namespace fastgan {
namespace {

// copy(k, address) for k in [0, n): elements start, start + 1, ... of a strided view at `data`.
template <int64_t item, class Copy>
void walk(const View& w, char* data, int64_t start, int n, const Copy& copy) {
  int64_t index[max_dims];
  char* p = data;
  for (int d = w.dims - 1; d >= 0; --d) {
    index[d] = start % w.size[d];
    start /= w.size[d];
    p += index[d] * w.stride[d] * item;
  }
  int last = w.dims - 1;
  int64_t step = w.stride[last] * item;
  for (int k = 0; k < n;) {
    int64_t run = w.size[last] - index[last];
    if (run > n - k) run = n - k;
    if (step == item)  // known when compiled: the loop vectorises
      for (int64_t i = 0; i < run; ++i) copy(k + int(i), p + i * item);
    else
      for (int64_t i = 0; i < run; ++i) copy(k + int(i), p + i * step);
    k += int(run);
    p += run * step;
    index[last] += run;
    for (int d = last; d > 0 && index[d] == w.size[d]; --d) {
      p += (w.stride[d - 1] - w.size[d] * w.stride[d]) * item;
      index[d] = 0;
      ++index[d - 1];
    }
  }
}

template <class T, class F>
const F* load_as(const View& w, char* data, int64_t start, int n, F* buffer) {
  if (w.dims == 0) {
    const T* p = reinterpret_cast<const T*>(data) + start;
    if constexpr (std::is_same_v<T, F>) return p;
    for (int i = 0; i < n; ++i) buffer[i] = F(widen(p[i]));
    return buffer;
  }
  walk<sizeof(T)>(w, data, start, n, [&](int k, const char* p) {
    buffer[k] = F(widen(*reinterpret_cast<const T*>(p)));
  });
  return buffer;
}

template <class F>
const F* load(const View& w, char* data, DType dtype, int64_t start, int n, F* buffer) {
  switch (dtype) {
    case DType::float32: return load_as<float>(w, data, start, n, buffer);
    case DType::float64: return load_as<double>(w, data, start, n, buffer);
    case DType::float16: return load_as<Half>(w, data, start, n, buffer);
    default: return load_as<BFloat16>(w, data, start, n, buffer);
  }
}

// Where a result of type F may be written: in place, else into the buffer that store() empties.
template <class F>
F* place(const View& w, char* data, DType dtype, int64_t start, F* buffer) {
  bool direct = w.dims == 0 && dtype == (sizeof(F) == 8 ? DType::float64 : DType::float32);
  return direct ? reinterpret_cast<F*>(data) + start : buffer;
}

template <class T, class F>
void store_as(const View& w, char* data, int64_t start, int n, const F* v) {
  auto cast = [](F x) {
    if constexpr (std::is_same_v<T, F>) return x;
    else if constexpr (std::is_same_v<F, double> && sizeof(T) == 2) return narrow<T>(to_odd(x));
    else return narrow<T>(float(x));
  };
  if (w.dims == 0) {
    T* p = reinterpret_cast<T*>(data) + start;
    if (reinterpret_cast<const void*>(p) != v)
      for (int i = 0; i < n; ++i) p[i] = cast(v[i]);
    return;
  }
  walk<sizeof(T)>(w, data, start, n,
                  [&](int k, char* p) { *reinterpret_cast<T*>(p) = cast(v[k]); });
}

template <class F>
void store(const View& w, char* data, DType dtype, int64_t start, int n, const F* v) {
  switch (dtype) {
    case DType::float32: return store_as<float>(w, data, start, n, v);
    case DType::float64:
      if constexpr (sizeof(F) == 8) store_as<double>(w, data, start, n, v);
      return;
    case DType::float16: return store_as<Half>(w, data, start, n, v);
    default: return store_as<BFloat16>(w, data, start, n, v);
  }
}

// The same of a view at its own address.
template <class F>
const F* load(const View& w, DType dtype, int64_t start, int n, F* buffer) {
  return load(w, w.data, dtype, start, n, buffer);
}
template <class F>
F* place(const View& w, DType dtype, int64_t start, F* buffer) {
  return place(w, w.data, dtype, start, buffer);
}
template <class F>
void store(const View& w, DType dtype, int64_t start, int n, const F* v) {
  store(w, w.data, dtype, start, n, v);
}

template <class F>
constexpr DType native = sizeof(F) == 8 ? DType::float64 : DType::float32;

}  // namespace
}  // namespace fastgan
