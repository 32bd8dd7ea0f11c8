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

// The type of a dtype's arithmetic; that of its derivatives in losses (../common/loss.h).
template <DType D>
using Arithmetic = std::conditional_t<D == DType::float64, double, float>;
template <DType D>
using Derivative = std::conditional_t<D == DType::float32, float, double>;

template <class F>
constexpr DType native = sizeof(F) == 8 ? DType::float64 : DType::float32;

template <class T, int n>
struct alignas(n * sizeof(T) < 16 ? n * sizeof(T) : 16) Vec {
  T v[n];
};

// Neighbours as they lie in memory.
template <DType D, int count>
using Raw = Vec<uint32_t, count* int(item_size(D)) / 4>;

// ---------------------------------------------------------------------------------- conversion

// The bits of two numbers in 16 bits, a's first. As narrow() rounds, but for what a NaN carries.
template <DType D>
FASTGAN_DEVICE uint32_t narrow_two(float a, float b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  uint32_t both;
  if constexpr (D == DType::float16)
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(b), "f"(a));
  else asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(b), "f"(a));
  return both;
#else
  if constexpr (D == DType::float16)
    return narrow<Half>(a).raw | uint32_t(narrow<Half>(b).raw) << 16;
  else return narrow<BFloat16>(a).raw | uint32_t(narrow<BFloat16>(b).raw) << 16;
#endif
}

template <DType D>
FASTGAN_DEVICE float widen_bits(uint16_t b) {
  if constexpr (D == DType::bfloat16) return widen(BFloat16{b});
#ifdef __CUDA_ARCH__
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(b));
  return x;
#else
  return widen(Half{b});
#endif
}

template <DType D, int count>
FASTGAN_DEVICE Raw<D, count> pack(const Arithmetic<D> (&v)[count]) {
  Raw<D, count> raw;
#pragma unroll
  for (int k = 0; k < count; ++k) {
    if constexpr (D == DType::float64) {
      uint64_t b = bits<uint64_t>(v[k]);
      raw.v[2 * k] = uint32_t(b);
      raw.v[2 * k + 1] = uint32_t(b >> 32);
    } else if constexpr (D == DType::float32) {
      raw.v[k] = bits<uint32_t>(v[k]);
    } else if (k % 2 == 0) {
      raw.v[k / 2] = narrow_two<D>(v[k], v[k + 1]);
    }
  }
  return raw;
}

template <DType D, int count>
FASTGAN_DEVICE void unpack(const Raw<D, count>& raw, Arithmetic<D> (&v)[count]) {
#pragma unroll
  for (int k = 0; k < count; ++k) {
    if constexpr (D == DType::float64)
      v[k] = bits<double>(uint64_t(raw.v[2 * k]) | uint64_t(raw.v[2 * k + 1]) << 32);
    else if constexpr (D == DType::float32) v[k] = bits<float>(raw.v[k]);
    else v[k] = widen_bits<D>(uint16_t(raw.v[k / 2] >> (k % 2 * 16)));
  }
}

// Where a double operation takes as long as 32 or 64 others; to convert a float to a double is one.
#if defined(FASTGAN_SIM)
constexpr bool doubles_are_slow = true;
#elif defined(__CUDA_ARCH__)
constexpr bool doubles_are_slow =
    __CUDA_ARCH__ == 750 || (__CUDA_ARCH__ > 800 && __CUDA_ARCH__ < 900) || __CUDA_ARCH__ >= 1200;
#else
constexpr bool doubles_are_slow = false;
#endif

// Doubles of several floats: there by integers, unless one is infinite, NaN or denormal.
template <int n>
FASTGAN_DEVICE void to_doubles(const float (&v)[n], double (&d)[n]) {
  bool usual = doubles_are_slow;
  if constexpr (doubles_are_slow) {
#pragma unroll
    for (float x : v) {
      uint32_t magnitude = bits<uint32_t>(x) & 0x7fffffffu;
      usual = usual && (magnitude == 0 || magnitude - 0x00800000u < 0x7f000000u);
    }
  }
#pragma unroll
  for (int i = 0; i < n; ++i) {
    if (usual) {
      uint32_t b = bits<uint32_t>(v[i]), magnitude = b & 0x7fffffffu;
      uint32_t high = (b & 0x80000000u) | (magnitude ? (magnitude >> 3) + 0x38000000u : 0u);
      d[i] = bits<double>(uint64_t(high) << 32 | b << 29);
    } else {
      d[i] = double(v[i]);
    }
  }
}
template <int n>
FASTGAN_DEVICE void to_doubles(const double (&v)[n], double (&d)[n]) {
#pragma unroll
  for (int i = 0; i < n; ++i) d[i] = v[i];
}
// Of `n` from `first` on.
template <int first, class F, int all, int n>
FASTGAN_DEVICE void some_to_doubles(const F (&v)[all], double (&d)[n]) {
  F some[n];
#pragma unroll
  for (int i = 0; i < n; ++i) some[i] = v[first + i];
  to_doubles(some, d);
}

// ---------------------------------------------------------------------------------- runs

// A run of elements start, start + 1, ... of a tensor.
struct Run {
  char* data;
  const Strides* strides;  // null: the run lies at `data` without gaps
  int64_t start;
  bool vector;  // and is aligned to 16 bytes
};

template <DType D>
FASTGAN_DEVICE Run run_of(char* data, const Strides* strides, int64_t start) {
  if (strides) return {data, strides, start, false};
  data += start * item_size(D);
  return {data, nullptr, 0, reinterpret_cast<uintptr_t>(data) % 16 == 0};
}

// An element's bits: of 8, 4 or 2 bytes.
template <DType D>
using Bits = std::conditional_t<item_size(D) == 8, uint64_t,
                                std::conditional_t<item_size(D) == 4, uint32_t, uint16_t>>;

// The address of an element; strides null: the tensor lies without gaps.
template <DType D>
FASTGAN_DEVICE Bits<D>* element(char* data, const Strides* strides, int64_t at) {
  return reinterpret_cast<Bits<D>*>(data) + (strides ? offset_of(*strides, at) : at);
}
template <DType D>
FASTGAN_DEVICE Bits<D>* element(const Run& run, int at) {
  return element<D>(run.data, run.strides, run.start + at);
}

// The same with less code where there are many of it.
FASTGAN_CALLED int64_t offset_called(const Strides& s, int64_t at) {
  return offset_of(s, at);
}
template <DType D>
FASTGAN_DEVICE Bits<D>* any_element(char* data, const Strides* strides, int64_t at) {
  return reinterpret_cast<Bits<D>*>(data) + (strides ? offset_called(*strides, at) : at);
}

// An element's number, and its bits for a number.
template <DType D>
FASTGAN_DEVICE Arithmetic<D> number(Bits<D> b) {
  if constexpr (item_size(D) == 2) return widen_bits<D>(b);
  else return bits<Arithmetic<D>>(b);
}
template <DType D>
FASTGAN_DEVICE Bits<D> bits_of(Arithmetic<D> x) {
  if constexpr (item_size(D) == 2) return uint16_t(narrow_two<D>(x, 0.f));
  else return bits<Bits<D>>(x);
}

// What has gaps: element by element, 0 past the end. The words move up by one element a time, so
// that a short loop will do (an index that varies would need memory).
template <DType D, int count>
FASTGAN_DEVICE Raw<D, count> fetch_each(const Run& run, int at, int n) {
  Raw<D, count> raw{};
  constexpr int words = int(sizeof raw / 4), step = words / count;
#pragma unroll 1
  for (int k = 0; k < count; ++k) {
    uint64_t b = at + k < n ? *element<D>(run, at + k) : 0;
    if constexpr (step == 0) {
#pragma unroll
      for (int i = 0; i < words - 1; ++i) raw.v[i] = raw.v[i] >> 16 | raw.v[i + 1] << 16;
      raw.v[words - 1] = raw.v[words - 1] >> 16 | uint32_t(b) << 16;
    } else {
#pragma unroll
      for (int i = 0; i < words - step; ++i) raw.v[i] = raw.v[i + step];
      raw.v[words - step] = uint32_t(b);
      if constexpr (step == 2) raw.v[words - 1] = uint32_t(b >> 32);
    }
  }
  return raw;
}

template <DType D, int count>
FASTGAN_DEVICE void put_each(const Run& run, int at, int n, Raw<D, count> raw) {
  constexpr int words = int(sizeof raw / 4), step = words / count;
#pragma unroll 1
  for (int k = 0; k < count; ++k) {
    if (at + k >= n) return;
    Bits<D>* to = element<D>(run, at + k);
    if constexpr (step == 0) {
      *to = uint16_t(raw.v[0]);
#pragma unroll
      for (int i = 0; i < words - 1; ++i) raw.v[i] = raw.v[i] >> 16 | raw.v[i + 1] << 16;
      raw.v[words - 1] >>= 16;
    } else {
      if constexpr (step == 2) *to = uint64_t(raw.v[0]) | uint64_t(raw.v[1]) << 32;
      else *to = raw.v[0];
#pragma unroll
      for (int i = 0; i < words - step; ++i) raw.v[i] = raw.v[i + step];
    }
  }
}

// 16 or 8 bytes of a tensor. Their addresses come out of a table, so that the compiler must be told
// that they are of global memory; and no kernel reads what it writes.
template <int words>
FASTGAN_DEVICE Vec<uint32_t, words> load(const char* p) {
#ifdef FASTGAN_SIM
  cusim::moved(4 * words, 0);
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
  cusim::moved(0, 4 * words);
  *reinterpret_cast<Vec<uint32_t, words>*>(p) = v;
#else
  size_t to = __cvta_generic_to_global(p);
  if constexpr (words == 4)
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(v.v[0]), "r"(v.v[1]),
                 "r"(v.v[2]), "r"(v.v[3]));
  else asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(v.v[0]), "r"(v.v[1]));
#endif
}

// All words of `raw` from or to memory.
template <int words>
FASTGAN_DEVICE Vec<uint32_t, words> load_words(const char* p) {
  Vec<uint32_t, words> raw;
  constexpr int piece = words < 4 ? words : 4;
#pragma unroll
  for (int i = 0; i < words; i += piece) {
    Vec<uint32_t, piece> part = load<piece>(p + 4 * i);
#pragma unroll
    for (int k = 0; k < piece; ++k) raw.v[i + k] = part.v[k];
  }
  return raw;
}

template <int words>
FASTGAN_DEVICE void store_words(char* p, const Vec<uint32_t, words>& raw) {
  constexpr int piece = words < 4 ? words : 4;
#pragma unroll
  for (int i = 0; i < words; i += piece) {
    Vec<uint32_t, piece> part;
#pragma unroll
    for (int k = 0; k < piece; ++k) part.v[k] = raw.v[i + k];
    store<piece>(p + 4 * i, part);
  }
}

// The same one by one, where they are fewer or not aligned: `left` of them, 0 past the end.
template <DType D, int count>
FASTGAN_DEVICE Raw<D, count> load_each(const char* from, int left) {
  Raw<D, count> raw{};
  const Bits<D>* p = reinterpret_cast<const Bits<D>*>(from);
#pragma unroll
  for (int i = 0; i < count; ++i) {
    uint64_t b = i < left ? p[i] : 0;
    if constexpr (item_size(D) == 2) raw.v[i / 2] |= uint32_t(b) << (i % 2 * 16);
    else raw.v[i * item_size(D) / 4] = uint32_t(b);
    if constexpr (item_size(D) == 8) raw.v[2 * i + 1] = uint32_t(b >> 32);
  }
  return raw;
}

template <DType D, int count>
FASTGAN_DEVICE void store_each(char* to, int left, const Raw<D, count>& raw) {
  Bits<D>* p = reinterpret_cast<Bits<D>*>(to);
#pragma unroll
  for (int i = 0; i < count; ++i) {
    if (i >= left) return;
    if constexpr (item_size(D) == 2) p[i] = uint16_t(raw.v[i / 2] >> (i % 2 * 16));
    else if constexpr (item_size(D) == 4) p[i] = raw.v[i];
    else p[i] = uint64_t(raw.v[2 * i]) | uint64_t(raw.v[2 * i + 1]) << 32;
  }
}

// `count` elements from `at` on, of a run that has n; 0 past the end.
template <DType D, int count>
FASTGAN_DEVICE Raw<D, count> fetch(const Run& run, int at, int n) {
  const char* from = run.data + at * item_size(D);
  if (run.vector && at + count <= n) return load_words<sizeof(Raw<D, count>) / 4>(from);
  return run.strides ? fetch_each<D, count>(run, at, n) : load_each<D, count>(from, n - at);
}

template <DType D, int count>
FASTGAN_DEVICE void put(const Run& run, int at, int n, const Raw<D, count>& raw) {
  char* to = run.data + at * item_size(D);
  if (run.vector && at + count <= n) store_words(to, raw);
  else if (run.strides) put_each<D, count>(run, at, n, raw);
  else store_each<D, count>(to, n - at, raw);
}

// ---------------------------------------------------------------------------------- compilers

// x, which the compiler has to have made by here. Else it would make it after loads into the
// registers of what it is made of, which would have to be copied first.
template <class F>
FASTGAN_DEVICE F fixed(F x) {
#ifndef FASTGAN_SIM
  if constexpr (sizeof(F) == 8) asm volatile("" : "+d"(x));
  else asm volatile("" : "+f"(x));
#endif
  return x;
}

// A place of four numbers in shared memory, in one register.
template <class F>
class InShared {
 public:
  FASTGAN_DEVICE explicit InShared(F* place) {
#ifdef FASTGAN_SIM
    place_ = place;
#else
    place_ = unsigned(__cvta_generic_to_shared(place));
    asm volatile("" : "+r"(place_));  // else it is worked out wherever it is used
#endif
  }
  // The sum of two places, and of two the one that this is not.
  FASTGAN_DEVICE uintptr_t sum(const InShared& other) const {
    return uintptr_t(place_) + uintptr_t(other.place_);
  }
  FASTGAN_DEVICE InShared other_of(uintptr_t both) const {
    InShared other = *this;
#ifdef FASTGAN_SIM
    other.place_ = reinterpret_cast<F*>(both - uintptr_t(place_));
#else
    other.place_ = unsigned(both) - place_;
#endif
    return other;
  }
  FASTGAN_DEVICE F* generic() const {
#ifdef FASTGAN_SIM
    return place_;
#else
    return static_cast<F*>(__cvta_shared_to_generic(place_));
#endif
  }
  FASTGAN_DEVICE void store(const F (&v)[4]) const {
#ifdef FASTGAN_SIM
    for (int i = 0; i < 4; ++i) place_[i] = v[i];
#else
    if constexpr (sizeof(F) == 8) {
      asm volatile("st.shared.v2.f64 [%0], {%1, %2};" ::"r"(place_), "d"(v[0]), "d"(v[1])
                   : "memory");
      asm volatile("st.shared.v2.f64 [%0], {%1, %2};" ::"r"(place_ + 16), "d"(v[2]), "d"(v[3])
                   : "memory");
    } else {
      asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(place_), "f"(v[0]), "f"(v[1]),
                   "f"(v[2]), "f"(v[3])
                   : "memory");
    }
#endif
  }

 private:
#ifdef FASTGAN_SIM
  F* place_;
#else
  unsigned place_;
#endif
};

}  // namespace fastgan
