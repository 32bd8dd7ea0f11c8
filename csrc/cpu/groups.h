// Tensors as groups of elements: lines of them in L1, and work shared out over lines.
//
// A line is up to a chunk of elements of one group, or, transposed, the same element of up to a
// tile of neighbouring groups. Transposed lines suit groups of few elements far apart, such as the
// channels of a pixel.
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
  int64_t group, element;
  int n;
  bool transposed;

  // Of a grid, the view along which this line runs, and where in it the line starts.
  const View& along(const Grid& grid) const {
    return transposed ? grid.groups : grid.elements;
  }
  int64_t start() const {
    return transposed ? group : element;
  }
  char* data(const Grid& grid, DType dtype) const {
    int64_t from = transposed ? offset(grid.elements, element) : offset(grid.groups, group);
    return grid.groups.data + from * item_size(dtype);
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

// body(tensor number, line) over all elements, by groups.
template <class Tensor, class Body>
void for_each_line(const std::vector<Tensor>& tensors, int64_t groups, int threads,
                   const Body& body) {
  std::vector<int64_t> first{0};
  int64_t elements = 0;
  for (const Tensor& p : tensors) {
    first.push_back(first.back() + groups * chunk_count(p.length));
    elements += groups * p.length;
  }
  parallel_for(first.back(), threads_for(elements, threads), [&](int64_t begin, int64_t end) {
    size_t k = 0;
    for (int64_t c = begin; c < end; ++c) {
      while (c >= first[k + 1]) ++k;
      int64_t chunks = chunk_count(tensors[k].length), group = (c - first[k]) / chunks;
      int64_t element = (c - first[k]) % chunks * chunk, left = tensors[k].length - element;
      body(k, Line{group, element, int(left < chunk ? left : chunk), false}, c);
    }
  });
}

// Sum over a group's elements, in the order of the tree, of squares or products: sum(tensor, line)
// of each chunk, then the chunks of a tensor, then the tensors.
template <class Tensor, class Sum>
void group_sums(const std::vector<Tensor>& tensors, int64_t groups, int threads, double* result,
                const Sum& sum) {
  int64_t lines = 0;
  for (const Tensor& p : tensors) lines += groups * chunk_count(p.length);
  std::vector<double> partial(lines);
  for_each_line(tensors, groups, threads, [&](size_t k, const Line& line, int64_t number) {
    partial[number] = sum(tensors[k], line);
  });
  double* next = partial.data();
  for (size_t k = 0; k < tensors.size(); ++k) {
    int64_t chunks = chunk_count(tensors[k].length);
    for (int64_t group = 0; group < groups; ++group, next += chunks) {
      double s = tree_sum(next, chunks);
      result[group] = k == 0 ? s : result[group] + s;
    }
  }
}

// The lanes of groups side by side: add(element, sum, first) adds an element's products to the sums
// of a tile, in the order in which fold() and chunk_sum() would. At most a chunk of elements per
// group.
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
