// Tensors as the kernels see them: fetching and putting several neighbouring elements at once.
#pragma once
#include "../common/dtype.h"
#include "../common/view.h"
#include "device.h"

namespace fastgan {

// Sizes and strides of what is not contiguous, in elements. More dimensions than these do not come:
// fastgan/backends/cuda.py copies such tensors first.
constexpr int device_dims = 6;
struct Strides {
  int dims;
  uint32_t size[device_dims];
  int64_t stride[device_dims];
};

inline Strides strides_of(const View& w) {
  if (w.dims > device_dims)
    throw std::invalid_argument("a tensor has more than 6 dimensions that do not merge");
  Strides s;
  s.dims = w.dims;
  double all = 1;
  for (int d = 0; d < device_dims; ++d) {
    s.size[d] = d < w.dims ? uint32_t(w.size[d]) : 1;
    all *= d < w.dims ? double(w.size[d]) : 1.;
    s.stride[d] = d < w.dims ? w.stride[d] : 0;
  }
  if (all > 0x7fffffff) throw std::invalid_argument("a tensor with gaps has over 2^31 elements");
  return s;
}

// In 32 bits, as the hardware divides: larger tensors with gaps do not come either.
FASTGAN_DEVICE int64_t offset_of(const Strides& s, int64_t at) {
  int64_t sum = 0;
  uint32_t index = uint32_t(at);
#pragma unroll 1
  for (int d = s.dims - 1; d > 0; --d) {
    uint32_t q = index / s.size[d];
    sum += int64_t(index - q * s.size[d]) * s.stride[d];
    index = q;
  }
  return sum + int64_t(index) * s.stride[0];
}

// A run of elements start, start + 1, ... of a tensor.
struct Run {
  char* data;
  const Strides* strides;  // null: the run lies at `data` without gaps
  int64_t start;
  DType dtype;
  bool vector;  // and is aligned to 16 bytes
};

FASTGAN_DEVICE Run run_of(char* data, DType dtype, const Strides* strides, int64_t start) {
  if (strides) return {data, strides, start, dtype, false};
  data += start * item_size(dtype);
  return {data, nullptr, 0, dtype, reinterpret_cast<uintptr_t>(data) % 16 == 0};
}

// The address of an element.
template <class T>
FASTGAN_DEVICE T* element(const Run& run, int at) {
  T* p = reinterpret_cast<T*>(run.data);
  return p + (run.strides ? offset_of(*run.strides, run.start + at) : at);
}

template <class T, int n>
struct alignas(n * sizeof(T) < 16 ? n * sizeof(T) : 16) Vec {
  T v[n];
};

// Neighbours as they lie in memory, before their dtype is looked at: so a fetch need not wait for
// what it fetches. F is the type of the arithmetic; of 16-bit elements half the words are used.
template <class F, int count>
using Raw = Vec<uint32_t, count* int(sizeof(F)) / 4>;

template <class F, int count>
FASTGAN_DEVICE Raw<F, count> pack(const F (&v)[count], DType dtype) {
  Raw<F, count> raw{};
#pragma unroll
  for (int k = 0; k < count; ++k) {
    if constexpr (sizeof(F) == 8) {
      uint64_t b = bits<uint64_t>(v[k]);
      raw.v[2 * k] = uint32_t(b);
      raw.v[2 * k + 1] = uint32_t(b >> 32);
    } else if (dtype == DType::float32) {
      raw.v[k] = bits<uint32_t>(v[k]);
    } else {
      uint32_t b = dtype == DType::float16 ? narrow<Half>(v[k]).raw : narrow<BFloat16>(v[k]).raw;
      raw.v[k / 2] |= b << (k % 2 * 16);
    }
  }
  return raw;
}

template <class F, int count>
FASTGAN_DEVICE void unpack(const Raw<F, count>& raw, DType dtype, F (&v)[count]) {
#pragma unroll
  for (int k = 0; k < count; ++k) {
    if constexpr (sizeof(F) == 8) {
      v[k] = bits<double>(uint64_t(raw.v[2 * k]) | uint64_t(raw.v[2 * k + 1]) << 32);
    } else if (dtype == DType::float32) {
      v[k] = bits<float>(raw.v[k]);
    } else {
      uint16_t b = uint16_t(raw.v[k / 2] >> (k % 2 * 16));
      v[k] = dtype == DType::float16 ? widen(Half{b}) : widen(BFloat16{b});
    }
  }
}

// What is not aligned, strided or at an edge: element by element, 0 past the end. The words move up
// by one element a time, so that a short loop will do (an index that varies would need memory).
template <class F, int count>
FASTGAN_DEVICE Raw<F, count> fetch_each(const Run& run, int at, int n) {
  Raw<F, count> raw{};
  constexpr int words = int(sizeof raw / 4), step = words / count;
  bool half = item_size(run.dtype) == 2;
#pragma unroll 1
  for (int k = 0; k < count; ++k) {
    uint64_t b = 0;
    if (at + k < n) {
      if constexpr (sizeof(F) == 8) b = bits<uint64_t>(*element<double>(run, at + k));
      else
        b = half ? element<Half>(run, at + k)->raw : bits<uint32_t>(*element<float>(run, at + k));
    }
    if (half) {
#pragma unroll
      for (int i = 0; i < count / 2 - 1; ++i) raw.v[i] = raw.v[i] >> 16 | raw.v[i + 1] << 16;
      raw.v[count / 2 - 1] = raw.v[count / 2 - 1] >> 16 | uint32_t(b) << 16;
      continue;
    }
#pragma unroll
    for (int i = 0; i < words - step; ++i) raw.v[i] = raw.v[i + step];
    raw.v[words - step] = uint32_t(b);
    if constexpr (step == 2) raw.v[words - 1] = uint32_t(b >> 32);
  }
  return raw;
}

template <class F, int count>
FASTGAN_DEVICE void put_each(const Run& run, int at, int n, Raw<F, count> raw) {
  constexpr int words = int(sizeof raw / 4), step = words / count;
  bool half = item_size(run.dtype) == 2;
#pragma unroll 1
  for (int k = 0; k < count; ++k) {
    if (at + k >= n) return;
    if (half) {
      *element<Half>(run, at + k) = Half{uint16_t(raw.v[0])};
#pragma unroll
      for (int i = 0; i < count / 2 - 1; ++i) raw.v[i] = raw.v[i] >> 16 | raw.v[i + 1] << 16;
      raw.v[count / 2 - 1] >>= 16;
      continue;
    }
    if constexpr (sizeof(F) == 8)
      *element<double>(run, at + k) = bits<double>(uint64_t(raw.v[0]) | uint64_t(raw.v[1]) << 32);
    else *element<float>(run, at + k) = bits<float>(raw.v[0]);
#pragma unroll
    for (int i = 0; i < words - step; ++i) raw.v[i] = raw.v[i + step];
  }
}

// 16 or 8 bytes of a tensor. Their addresses come out of a table, so that the compiler must be told
// that they are of global memory; and no kernel reads what it writes.
template <int words>
FASTGAN_DEVICE Vec<uint32_t, words> load(const char* p) {
#ifdef FASTGAN_SIM
  return *reinterpret_cast<const Vec<uint32_t, words>*>(p);
#else
  if constexpr (words == 4) {
    uint4 w = __ldg(reinterpret_cast<const uint4*>(p));
    return {w.x, w.y, w.z, w.w};
  } else {
    uint2 w = __ldg(reinterpret_cast<const uint2*>(p));
    return {w.x, w.y};
  }
#endif
}

template <int words>
FASTGAN_DEVICE void store(char* p, const Vec<uint32_t, words>& v) {
#ifdef FASTGAN_SIM
  *reinterpret_cast<Vec<uint32_t, words>*>(p) = v;
#else
  size_t to = __cvta_generic_to_global(p);
  if constexpr (words == 4)
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(v.v[0]), "r"(v.v[1]),
                 "r"(v.v[2]), "r"(v.v[3]));
  else asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(v.v[0]), "r"(v.v[1]));
#endif
}

// All words of `raw` from or to memory, or the half of them that 16-bit elements use.
template <int words, int all>
FASTGAN_DEVICE void load_words(const char* p, Vec<uint32_t, all>& raw) {
  constexpr int piece = words < 4 ? words : 4;
#pragma unroll
  for (int i = 0; i < words; i += piece) {
    Vec<uint32_t, piece> part = load<piece>(p + 4 * i);
#pragma unroll
    for (int k = 0; k < piece; ++k) raw.v[i + k] = part.v[k];
  }
}

template <int words, int all>
FASTGAN_DEVICE void store_words(char* p, const Vec<uint32_t, all>& raw) {
  constexpr int piece = words < 4 ? words : 4;
#pragma unroll
  for (int i = 0; i < words; i += piece) {
    Vec<uint32_t, piece> part;
#pragma unroll
    for (int k = 0; k < piece; ++k) part.v[k] = raw.v[i + k];
    store<piece>(p + 4 * i, part);
  }
}

// `count` elements from `at` on, of a run that has n.
template <class F, int count>
FASTGAN_DEVICE Raw<F, count> fetch(const Run& run, int at, int n) {
  if (!run.vector || at + count > n) return fetch_each<F, count>(run, at, n);
  const char* p = run.data + at * item_size(run.dtype);
  constexpr int words = count * int(sizeof(F)) / 4;
  Raw<F, count> raw{};
  if constexpr (sizeof(F) == 8) load_words<words>(p, raw);
  else if (run.dtype == DType::float32) load_words<words>(p, raw);
  else load_words<words / 2>(p, raw);
  return raw;
}

template <class F, int count>
FASTGAN_DEVICE void put(const Run& run, int at, int n, const F (&v)[count]) {
  Raw<F, count> raw = pack(v, run.dtype);
  if (!run.vector || at + count > n) return put_each<F, count>(run, at, n, raw);
  char* p = run.data + at * item_size(run.dtype);
  constexpr int words = count * int(sizeof(F)) / 4;
  if constexpr (sizeof(F) == 8) store_words<words>(p, raw);
  else if (run.dtype == DType::float32) store_words<words>(p, raw);
  else store_words<words / 2>(p, raw);
}

template <class F>
constexpr DType native = sizeof(F) == 8 ? DType::float64 : DType::float32;

// body(first element, elements of each run as they lie there) for this thread's part of the rows of
// 128 lanes of a chunk; the next row's are on their way meanwhile. Of a run that is not there, 0.
// (A pointer that may be null would put the runs into memory.)
template <class F, int count, int runs, class Body>
FASTGAN_DEVICE void for_each_row(const Run (&run)[runs], const bool (&there)[runs], int lane0,
                                 int n, const Body& body) {
  constexpr int row = 128;
  Raw<F, count> next[runs] = {};
#pragma unroll 1
  for (int at = lane0 - row; at < n; at += row) {
    Raw<F, count> now[runs];
#pragma unroll
    for (int r = 0; r < runs; ++r) {
      now[r] = next[r];
      if (there[r] && at + row < n) next[r] = fetch<F, count>(run[r], at + row, n);
    }
    if (at >= 0) body(at, now);  // else nothing is there yet
  }
}

}  // namespace fastgan
