// Where the elements of a tensor lie.
#pragma once
#include <cstdint>

namespace fastgan {

constexpr int max_dims = 16;

// In the order of their logical index; strides count elements.
struct View {
  char* data = nullptr;
  int dims = 0;  // 0: contiguous
  int64_t size[max_dims], stride[max_dims];
};

// The same elements in the order in which they lie, for work that takes each by itself; the view
// as it is where there are gaps or elements share their place.
inline View in_memory_order(const View& w) {
  bool seen[max_dims] = {};
  int64_t inner = 1;
  for (int k = 0; k < w.dims; ++k) {
    int next = -1;
    for (int d = 0; d < w.dims; ++d)
      if (!seen[d] && (w.size[d] == 1 || w.stride[d] == inner)) next = d;
    if (next < 0) return w;
    seen[next] = true;
    inner *= w.size[next];
  }
  View flat;
  flat.data = w.data;
  return flat;
}

}  // namespace fastgan
