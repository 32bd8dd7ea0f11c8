// Tensors as rows of elements: lines of them in L1, and work shared out over lines.
//
// A line is up to a chunk of elements of one row, or, across, the same element of up to a tile of
// neighbouring rows. Across is how rows of few elements far apart are read, as the channels of a
// pixel.
#pragma once
#include <vector>

#include "../common/penalty.h"
#include "memory.h"
#include "parallel.h"
#include "tree.h"

namespace fastgan {
namespace {

constexpr int tile = 256;

inline int64_t offset(const View& w, int64_t index) {
  if (w.dims == 0) return index;
  int64_t sum = 0;
  for (int d = w.dims - 1; d >= 0; --d) {
    sum += index % w.size[d] * w.stride[d];
    index /= w.size[d];
  }
  return sum;
}

struct Line {
  int64_t row, element;
  int n;
  bool across;

  // Of a grid, the view along which this line runs, and where in it the line starts.
  const View& along(const Grid& grid) const {
    return across ? grid.rows : grid.elements;
  }
  int64_t start() const {
    return across ? row : element;
  }
  char* data(const Grid& grid, DType dtype) const {
    int64_t from = across ? offset(grid.elements, element) : offset(grid.rows, row);
    return grid.rows.data + from * item_size(dtype);
  }
};

template <class F>
const F* load(const Grid& grid, DType dtype, const Line& line, F* buffer) {
  return load(line.along(grid), line.data(grid, dtype), dtype, line.start(), line.n, buffer);
}

// write(place) fills a line of F, which is then stored; 16-bit tensors take F = float.
template <class F, class Write>
void store(const Grid& grid, DType dtype, const Line& line, F* buffer, const Write& write) {
  const View& along = line.along(grid);
  char* data = line.data(grid, dtype);
  F* p = place(along, data, dtype, line.start(), buffer);
  write(p);
  store(along, data, dtype, line.start(), line.n, p);
}

inline int threads_for(int64_t elements, int threads) {
  int64_t most = elements / 16384;  // a thread is worth some 16,000 elements
  return int(most < 1 ? 1 : most < threads ? most : threads);
}

// body(part number, line) over all elements, by rows.
template <class Part, class Body>
void for_each_line(const std::vector<Part>& parts, int64_t rows, int threads, const Body& body) {
  std::vector<int64_t> first{0};
  int64_t elements = 0;
  for (const Part& p : parts) {
    first.push_back(first.back() + rows * chunk_count(p.length));
    elements += rows * p.length;
  }
  parallel_for(first.back(), threads_for(elements, threads), [&](int64_t begin, int64_t end) {
    size_t k = 0;
    for (int64_t c = begin; c < end; ++c) {
      while (c >= first[k + 1]) ++k;
      int64_t chunks = chunk_count(parts[k].length), row = (c - first[k]) / chunks;
      int64_t element = (c - first[k]) % chunks * chunk, left = parts[k].length - element;
      body(k, Line{row, element, int(left < chunk ? left : chunk), false}, c);
    }
  });
}

// Sum over a row's elements, in the order of the tree, of squares or products: sum(part, line) of
// each chunk, then the chunks of a tensor, then the tensors.
template <class Part, class Sum>
void row_sums(const std::vector<Part>& parts, int64_t rows, int threads, double* result,
              const Sum& sum) {
  int64_t lines = 0;
  for (const Part& p : parts) lines += rows * chunk_count(p.length);
  std::vector<double> partial(lines);
  for_each_line(parts, rows, threads, [&](size_t k, const Line& line, int64_t number) {
    partial[number] = sum(parts[k], line);
  });
  double* next = partial.data();
  for (size_t k = 0; k < parts.size(); ++k) {
    int64_t chunks = chunk_count(parts[k].length);
    for (int64_t row = 0; row < rows; ++row, next += chunks) {
      double s = tree_sum(next, chunks);
      result[row] = k == 0 ? s : result[row] + s;
    }
  }
}

// The lanes of rows side by side: add(element, sum, first) adds an element's products to the sums
// of a tile, in the order in which fold() and chunk_sum() would. At most a chunk of elements a row.
template <class Add>
void tile_sums(int64_t length, int n, double* result, const Add& add) {
  double level[8][tile];
  unsigned taken = 0;
  auto join = [&](int k, double* sum) {
    for (int i = 0; i < n; ++i) sum[i] = level[k][i] + sum[i];
    taken &= ~(1u << k);
  };
  double* sum = result;
  for (int64_t lane = 0; lane < length && lane < lanes; ++lane) {
    for (int64_t element = lane; element < length; element += lanes)
      add(element, sum, element == lane);
    int k = 0;
    for (; taken >> k & 1; ++k) join(k, sum);
    for (int i = 0; i < n; ++i) level[k][i] = sum[i];
    taken |= 1u << k;
  }
  int k = 0;
  while (!(taken >> k & 1)) ++k;
  for (int i = 0; i < n; ++i) sum[i] = level[k][i];
  taken &= ~(1u << k);
  while (taken) {
    ++k;
    if (taken >> k & 1) join(k, sum);
  }
}

}  // namespace
}  // namespace fastgan
