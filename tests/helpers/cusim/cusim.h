// CUDA kernels on the CPU, for tests: any C++ compiler reads a .cu file behind this header, and
// launch() runs it: a fiber a CUDA thread, all of them on the calling thread, in an order that can
// be chosen and repeated. It works plain and with -fsanitize=address, undefined or thread, and
// stops with a message where threads wait for each other in vain.
//
// It is stricter than a GPU: a barrier has to be reached by every thread of the block at the same
// line, and a warp's collective by every lane that its mask names; a thread that has returned
// cannot take part. Shuffles and votes order no memory, and atomics are relaxed. Spinning on what
// another thread or block writes is not supported: it would never end.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__

// A variable in shared memory: FASTGAN_SHARED(double, sums, [8][32]), FASTGAN_SHARED(bool, last, ).
#define FASTGAN_SHARED(type, name, dims)                                              \
  typedef type name##_in_shared_memory dims;                                          \
  static char name##_declaration;                                                     \
  name##_in_shared_memory& name = *static_cast<name##_in_shared_memory*>(cusim::slot( \
      &name##_declaration, sizeof(name##_in_shared_memory), alignof(name##_in_shared_memory)))

// A large parameter of a kernel, FASTGAN_GRID_CONSTANT(Call) call: a reference here, because a
// parameter by value (for nvcc: const __grid_constant__ type) is copied for each thread.
#define FASTGAN_GRID_CONSTANT(type) const type&

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

typedef struct CUstream_st* cudaStream_t;
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719,
};

namespace cusim {

// forward and reverse: of the threads that can go on, the first or the last, as far as it can get;
// random: any of them; mixed: the same with up to four blocks under way together, and a change
// of threads at every atomic operation and fence. Blocks are started in that order too.
enum Order { forward = 0, reverse = 1, random = 2, mixed = 3 };

// Holds from the next launch on. Each launch starts again from the seed. Without a call, the first
// launch reads the variable CUSIM_ORDER: fwd, rev, rand:SEED or mix:SEED.
void set_order(int order, uint64_t seed);

// Whether launches are written down (cusim_record, below), and a kernel's argument for that.
extern bool recording, recording_only;
struct Argument {
  const void* data;
  size_t size, alignment;
};
void record(const void* kernel, dim3 grid, dim3 block, const Argument* arguments, int count);

// Why a launch failed that did not return cudaSuccess, the last such; "" if there was none.
const char* last_message();

// Where a thread waits.
struct Site {
  const char* file;
  int line;
};
#define CUSIM_CALLER cusim::Site site = {__builtin_FILE(), __builtin_LINE()}

struct Position {
  uint3 thread, block;
  dim3 block_size, grid_size;
  int lane;
};
extern Position here;  // of the running thread

cudaError_t run(const char* name, dim3 grid, dim3 block, void (*body)(const void*),
                const void* arguments);
int barrier(bool predicate, Site site);  // how many threads said true
void warp_barrier(unsigned mask, Site site);
unsigned ballot(unsigned mask, bool predicate, Site site);
uint64_t shuffle(unsigned mask, uint64_t value, int source, Site site);
void before_atomic();
void after_atomic(const void* address);
void fence();
void* slot(const void* declaration, size_t size, size_t alignment);

// Writes down a launch. Each argument is seen as the type of its parameter.
template <class... P>
void record_launch(void (*kernel)(P...), dim3 grid, dim3 block,
                   const typename std::decay<P>::type&... arguments) {
  Argument list[] = {{&arguments, sizeof arguments, alignof(typename std::decay<P>::type)}..., {}};
  record(reinterpret_cast<const void*>(kernel), grid, block, list, int(sizeof...(P)));
}

// Told by a kernel how many bytes of global memory a thread reads and writes.
void moved(int read, int written);

// Told by a kernel that a thread takes so many gradients of 16 bits from doubles.
void in_double(int count);

// Runs the whole grid. Each argument is bound once and every thread's call of the kernel reads it.
template <class... P, class... A>
cudaError_t launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block,
                   A&&... arguments) {
  static_assert(sizeof...(P) == sizeof...(A), "as many arguments as the kernel has parameters");
  if (recording) record_launch(kernel, grid, block, arguments...);
  if (recording_only) return cudaSuccess;
  auto call = [&] { kernel(static_cast<P>(arguments)...); };
  auto body = [](const void* f) { (*static_cast<const decltype(call)*>(f))(); };
  return run(name, grid, block, body, &call);
}

template <class T>
T shuffle_value(unsigned mask, T value, int source, Site site) {
  static_assert(std::is_arithmetic<T>::value && (sizeof(T) == 4 || sizeof(T) == 8), "as in CUDA");
  uint64_t raw = 0;
  memcpy(&raw, &value, sizeof value);
  raw = shuffle(mask, raw, source, site);
  memcpy(&value, &raw, sizeof value);
  return value;
}

// The type of a value that must not take part in deducing T.
template <class T>
using Same = typename std::enable_if<true, T>::type;

}  // namespace cusim

// From now on the launches are appended to this file; null: no longer. Each is a line, "distance of
// the kernel from cusim_record, grid, block, size", and that many bytes: the parameters as they lie
// on a GPU.
extern "C" void cusim_record(const char* path);
// Whether they are written down instead of being run.
extern "C" void cusim_record_only(bool only);

inline const uint3& threadIdx = cusim::here.thread;
inline const uint3& blockIdx = cusim::here.block;
inline const dim3& blockDim = cusim::here.block_size;
inline const dim3& gridDim = cusim::here.grid_size;
constexpr int warpSize = 32;

inline void __syncthreads(CUSIM_CALLER) {
  cusim::barrier(false, site);
}
inline int __syncthreads_or(int predicate, CUSIM_CALLER) {
  return cusim::barrier(predicate != 0, site) != 0;
}
inline int __syncthreads_count(int predicate, CUSIM_CALLER) {
  return cusim::barrier(predicate != 0, site);
}
inline void __syncwarp(unsigned mask = ~0u, CUSIM_CALLER) {
  cusim::warp_barrier(mask, site);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, CUSIM_CALLER) {
  return cusim::ballot(mask, predicate != 0, site);
}
inline int __any_sync(unsigned mask, int predicate, CUSIM_CALLER) {
  return cusim::ballot(mask, predicate != 0, site) != 0;
}
inline int __all_sync(unsigned mask, int predicate, CUSIM_CALLER) {
  return cusim::ballot(mask, predicate != 0, site) == mask;
}

// A lane whose source lies behind its group of width lanes gets its own value.
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, CUSIM_CALLER) {
  int first = cusim::here.lane & ~(width - 1);
  return cusim::shuffle_value(mask, value, first + (source & (width - 1)), site);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int flip, int width = 32, CUSIM_CALLER) {
  int lane = cusim::here.lane, last = lane | (width - 1), source = lane ^ (flip & 31);
  return cusim::shuffle_value(mask, value, source > last ? lane : source, site);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, CUSIM_CALLER) {
  int lane = cusim::here.lane, last = lane | (width - 1), source = lane + int(delta & 31);
  return cusim::shuffle_value(mask, value, source > last ? lane : source, site);
}

// Of integers only: the sum of floating-point numbers would depend on the order of threads.
template <class T>
T atomicAdd(T* address, cusim::Same<T> value) {
  static_assert(std::is_same<T, int>::value || std::is_same<T, unsigned>::value, "integers only");
  cusim::before_atomic();
  T old = __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
  cusim::after_atomic(address);
  return old;
}
template <class T>
T atomicExch(T* address, cusim::Same<T> value) {
  static_assert(std::is_same<T, int>::value || std::is_same<T, unsigned>::value, "integers only");
  cusim::before_atomic();
  T old = __atomic_exchange_n(address, value, __ATOMIC_RELAXED);
  cusim::after_atomic(address);
  return old;
}
inline void __threadfence() {
  cusim::fence();
}

template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcg(const T* p) {
  return *p;
}
template <class T>
T __ldcs(const T* p) {
  return *p;
}
template <class T>
void __stcg(T* p, cusim::Same<T> value) {
  *p = value;
}
template <class T>
void __stcs(T* p, cusim::Same<T> value) {
  *p = value;
}
