// The dtypes of tensors, and exact conversion between 16-bit storage and float.
#pragma once
#include "math.h"

namespace fastgan {

enum class DType : int { float32 = 0, float64 = 1, float16 = 2, bfloat16 = 3 };

constexpr const char* dtype_names[] = {"float32", "float64", "float16", "bfloat16"};

FASTGAN_HD constexpr int64_t item_size(DType t) {
  return t == DType::float64 ? 8 : t == DType::float32 ? 4 : 2;
}

struct Half {
  uint16_t raw;
};
struct BFloat16 {
  uint16_t raw;
};

FASTGAN_HD float widen(float x) {
  return x;
}
FASTGAN_HD double widen(double x) {
  return x;
}
FASTGAN_HD float widen(BFloat16 x) {
  return bits<float>(uint32_t(x.raw) << 16);
}
FASTGAN_HD float widen(Half x) {
  uint32_t sign = uint32_t(x.raw & 0x8000) << 16, rest = uint32_t(x.raw & 0x7fff) << 13;
  // Read as a float the exponent is 112 too small; a multiplication mends it, denormals included.
  float magnitude = bits<float>(rest) * 0x1p112f;
  uint32_t special = bits<uint32_t>(magnitude) | 0x7f800000u;
  return bits<float>(sign | (rest >= 0x0f800000u ? special : bits<uint32_t>(magnitude)));
}

// To the nearest, ties to even, NaN kept.
template <class T>
FASTGAN_HD T narrow(float x);

template <>
FASTGAN_HD float narrow<float>(float x) {
  return x;
}
template <>
FASTGAN_HD BFloat16 narrow<BFloat16>(float x) {
  uint32_t u = bits<uint32_t>(x), rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  return {uint16_t(x != x ? 0x7fc0u : rounded)};
}
template <>
FASTGAN_HD Half narrow<Half>(float x) {
  uint32_t u = bits<uint32_t>(x), sign = (u >> 16) & 0x8000u, magnitude = u & 0x7fffffffu;
  uint32_t normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - (112u << 23)) >> 13;
  // The spacing of floats just above 0.5 is that of denormal halves.
  uint32_t denormal = bits<uint32_t>(absolute(x) + 0.5f) - bits<uint32_t>(0.5f);
  uint32_t finite = magnitude < 0x38800000u ? denormal : normal;
  uint32_t rounded = magnitude >= 0x47800000u ? 0x7c00u : finite;
  return {uint16_t(sign | (magnitude > 0x7f800000u ? 0x7e00u : rounded))};
}

// To a float such that narrowing it again is as rounding x once: where x is no float, its two
// neighbours that are have one with an odd last bit, and this is it.
FASTGAN_HD float to_odd(double x) {
  float f = float(x);
  uint32_t u = bits<uint32_t>(f);
  u -= absolute(double(f)) > absolute(x) ? 1u : 0u;
  return bits<float>(double(f) == x ? u : u | 1u);
}

}  // namespace fastgan
