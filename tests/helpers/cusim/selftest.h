// What selftest.cpp calls of selftest.cu.
#pragma once
#include "cusim.h"

enum class Fault {
  none,
  missing_barrier,
  missing_fence,
  early_fence,
  missing_second_fence,
  global_overrun,
  shared_overrun,
  missing_warp_barrier,
  divergent_barrier,
  early_return,
  deadlock,
  shuffle_outside,
  unwritten_shared,
};

struct Table {
  double factor[2048];
};

constexpr int collective_results = 14;

cudaError_t sum(const float* x, int n, double* partial, unsigned* ticket, double* out, int blocks,
                Fault fault);
cudaError_t collectives(int64_t* out, Fault fault);  // 64 threads
cudaError_t scale(const Table& table, const float* x, float* y, dim3 grid, dim3 block);
cudaError_t faulty(int* out, Fault fault);  // 64 threads
cudaError_t nothing(int* out, int blocks, int threads);
cudaError_t barriers(int n, int blocks, int threads);
