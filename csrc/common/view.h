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

}  // namespace fastgan
