// The fixed tree of every sum: chunks of 1,024 elements in logical order, each 8 rows of 128 lanes;
// a lane adds its rows in order, lanes are added two neighbours at a time, and the chunks' sums are
// summed the same way. Missing elements are 0. Nothing of it depends on threads or layout.
#pragma once
#ifdef __AVX__
#include <immintrin.h>
#endif

#include <cstdint>

namespace fastgan {
namespace {

constexpr int chunk = 1024, lanes = 128;

inline int64_t chunk_count(int64_t n) {
  return (n + chunk - 1) / chunk;
}

#ifdef __AVX__
// Two steps of fold() on 16 lanes at a time: compilers do not find the shuffles by themselves.
inline void fold_twice(double* lane, int width) {
  for (int j = 0; j < width; j += 4) {
    const double* p = lane + 4 * j;
    __m256d ab = _mm256_hadd_pd(_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4));
    __m256d cd = _mm256_hadd_pd(_mm256_loadu_pd(p + 8), _mm256_loadu_pd(p + 12));
    __m256d low = _mm256_permute2f128_pd(ab, cd, 0x20), high = _mm256_permute2f128_pd(ab, cd, 0x31);
    _mm256_storeu_pd(lane + j, _mm256_add_pd(low, high));
  }
}
#endif

inline double fold(double* lane, int used = lanes) {
  int width = used / 2;
#ifdef __AVX__
  for (; width >= 8; width /= 4) fold_twice(lane, width / 2);
#endif
  for (; width >= 1; width /= 2)
    for (int j = 0; j < width; ++j) lane[j] = lane[2 * j] + lane[2 * j + 1];
  return lane[0];
}

template <class T>
double chunk_sum(const T* v, int n) {
  double lane[lanes];
  if (n == chunk) {
    for (int j = 0; j < lanes; ++j) {
      double s = v[j];
#pragma GCC unroll 7
      for (int row = lanes; row < chunk; row += lanes) s += v[row + j];
      lane[j] = s;
    }
    return fold(lane);
  }
  for (int j = 0; j < lanes; ++j) lane[j] = 0;
  for (int row = 0; row < n; row += lanes)
    for (int j = 0; j < (n - row < lanes ? n - row : lanes); ++j) lane[j] += v[row + j];
  return fold(lane);
}

// Sum of the n chunk sums at v, which are overwritten.
inline double tree_sum(double* v, int64_t n) {
  while (n > 1) {
    int64_t count = chunk_count(n);
    for (int64_t c = 0; c < count; ++c)
      v[c] = chunk_sum(v + c * chunk, int(n - c * chunk < chunk ? n - c * chunk : chunk));
    n = count;
  }
  return n ? v[0] : 0.;
}

}  // namespace
}  // namespace fastgan
