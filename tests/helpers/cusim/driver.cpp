// Calls the CUDA kernels on the CPU and compares them with the CPU kernels, bit by bit: a program,
// because sanitizers want to be there from its start. driver FAMILY runs that family's cases in the
// order of CUSIM_ORDER; it prints what differs and returns 1.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "cuda/place.h"

namespace fastgan {

extern const LossKernels loss_generic;
extern const PenaltyKernels penalty_generic;
extern const InterpolateKernels interpolate_generic;

namespace {

bool failed = false;

// Memory that is exactly as large as it says, and that nothing has written to.
struct Block {
  std::unique_ptr<char, void (*)(void*)> memory;
  int64_t bytes;

  explicit Block(int64_t bytes)
      : memory(static_cast<char*>(malloc(size_t(bytes))), free), bytes(bytes) {
    memset(memory.get(), 0xff, size_t(bytes));
  }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(memory.get());
  }
};

Block random(int64_t n, DType dtype, unsigned seed) {
  Block b(n * item_size(dtype));
  uint32_t state = seed * 2654435761u + 12345u;
  for (int64_t i = 0; i < n; ++i) {
    state = state * 1664525u + 1013904223u;
    // Of many sizes, so that sums in another order are others.
    float x = float(int32_t(state) >> 8) * std::ldexp(1.f, -20 - int(state >> 3 & 15));
    if (dtype == DType::float64) b.as<double>()[i] = x;
    else if (dtype == DType::float32) b.as<float>()[i] = x;
    else if (dtype == DType::float16) b.as<Half>()[i] = narrow<Half>(x);
    else b.as<BFloat16>()[i] = narrow<BFloat16>(x);
  }
  return b;
}

View view_of(const Block& b) {
  View w;
  w.data = b.as<char>();
  return w;
}

Grid grid_of(const Block& b, int64_t groups, int64_t length) {
  Grid g;
  g.groups.data = b.as<char>();
  g.groups.dims = 1;
  g.groups.size[0] = groups;
  g.groups.stride[0] = length;
  return g;
}

// A device of two multiprocessors, whose memory a call gives back when it is over.
struct Device {
  std::vector<Block> given;
  Block counters{ticket_count * int64_t(sizeof(unsigned))};
  Place place;

  explicit Device(int warps) {
    memset(counters.memory.get(), 0, size_t(counters.bytes));
    place.multiprocessors = 2;
    place.warps = warps;
    place.scratch = [this](int64_t bytes) {
      given.emplace_back(bytes);
      return given.back().memory.get();
    };
    place.tickets = [this] { return counters.as<unsigned>(); };
  }
  ~Device() {
    for (int k = 0; k < ticket_count; ++k)
      if (counters.as<unsigned>()[k]) {
        printf("a counter is not 0 again\n");
        failed = true;
      }
  }
};

void compare(const std::string& what, const Block& got, const Block& want) {
  if (!memcmp(got.memory.get(), want.memory.get(), size_t(want.bytes))) return;
  printf("%s differs\n", what.c_str());
  failed = true;
}

// ---------------------------------------------------------------------------------- losses

struct LossCase {
  DType dtype;
  int64_t n, fake_n;
  bool paired, subtracts_mean, stats;
  bool masked = false;  // with a factor and a label for the term on real
};

// Everything that one call of each kernel writes.
std::vector<Block> loss_results(const LossCase& c, const Place* place) {
  Spec spec;
  spec.roles = {Role::real, Role::fake};
  spec.is_mean_operand = {c.subtracts_mean, c.subtracts_mean};
  spec.subtracts_mean = c.subtracts_mean;
  Phi phi = Phi::softplus;
  auto term = [&](int x, int y, int mean_operand, double scale) {
    spec.terms.push_back(
        {phi, x, y, mean_operand, scale, 0.25, 0., 1., 0., 1, 0, x ? Role::fake : Role::real});
  };
  term(0, c.paired ? 1 : -1, c.subtracts_mean ? 1 : -1, -1.);
  if (!c.paired) term(1, -1, c.subtracts_mean ? 0 : -1, 1.);
  bool is_float64 = c.dtype == DType::float64;
  DType constants = is_float64 ? DType::float64 : DType::float32;
  Block factor = random(c.n, constants, 7), label = random(c.n, constants, 8);
  if (c.masked) {
    spec.terms[0].factor = 2;
    spec.terms[0].label = 3;
    spec.terms[0].linear = -0.5;
    spec.roles.resize(4);
    spec.is_mean_operand.resize(4);
    spec.has_constants = true;
  }
  size_t buffer = 8 * (2 * spec.roles.size() + 2 + stat_count);
  Block real = random(c.n, c.dtype, 1), fake = random(c.fake_n, c.dtype, 2),
        v = random(c.n, c.dtype, 3), w = random(c.fake_n, c.dtype, 4);
  int64_t size = is_float64 ? 8 : 4;
  std::vector<Block> out;
  for (int pass = 0; pass < 3; ++pass)  // forward; gradients of backward; and of second order
    for (int k = 0; k < 2; ++k)
      out.emplace_back(pass == 0 ? (k ? buffer : size) : (k ? c.fake_n : c.n) * item_size(c.dtype));
  out.emplace_back(size);
  memset(out[1].memory.get(), 0, buffer);
  Block upstream(size);
  if (is_float64) *upstream.as<double>() = 1.5;
  else *upstream.as<float>() = 1.5f;
  Call call;
  call.spec = &spec;
  call.operands = {{c.dtype, c.n, view_of(real), {}, {}},
                   {c.dtype, c.fake_n, view_of(fake), {}, {}}};
  if (c.masked)
    for (const Block* b : {&factor, &label})
      call.operands.push_back({constants, c.n, view_of(*b), {}, {}});
  call.reduction = Reduction::mean;
  call.is_float64 = is_float64;
  call.buffers = out[1].as<double>();
  call.loss = out[0].memory.get();
  call.keep = true;
  call.stats = c.stats;
  if (place) cuda::loss_forward(call, *place);
  else loss_generic.forward(call);
  call.scalar_upstream = upstream.memory.get();
  for (int k = 0; k < 2; ++k) call.operands[k].g = view_of(out[2 + k]);
  if (place) cuda::loss_backward(call, *place);
  else loss_generic.backward(call);
  for (int k = 0; k < 2; ++k) call.operands[k].g = view_of(out[4 + k]);
  call.operands[0].v = view_of(v);
  call.operands[1].v = view_of(w);
  call.loss = out[6].memory.get();
  if (place) cuda::loss_second(call, *place);
  else loss_generic.second(call);
  return out;
}

void losses() {
  for (DType dtype : {DType::float32, DType::float64, DType::float16, DType::bfloat16})
    for (const LossCase& c :
         {LossCase{dtype, 1, 1, true, false, true}, LossCase{dtype, 4099, 1030, false, true, true},
          LossCase{dtype, 9001, 700, false, false, false},
          LossCase{dtype, 40003, 1, false, true, false},
          LossCase{dtype, 5003, 900, false, true, false, true}})
      for (int warps : {1, 3, 8}) {
        Device device(warps);
        std::vector<Block> want = loss_results(c, nullptr), got = loss_results(c, &device.place);
        for (size_t k = 0; k < want.size(); ++k)
          compare("loss, dtype " + std::to_string(int(dtype)) + ", n " + std::to_string(c.n) +
                      ", result " + std::to_string(k),
                  got[k], want[k]);
      }
}

// ---------------------------------------------------------------------------------- groups

std::vector<Block> penalty_results(DType dtype, int64_t groups, int64_t length,
                                   const Place* place) {
  bool is_float64 = dtype == DType::float64;
  int64_t size = is_float64 ? 8 : 4, n = groups * length;
  Block g = random(n, dtype, 5), v = random(n, dtype, 6), upstream(size);
  if (is_float64) *upstream.as<double>() = 0.5;
  else *upstream.as<float>() = 0.5f;
  std::vector<Block> out;
  out.emplace_back(groups * 8);  // norms
  out.emplace_back(size);
  out.emplace_back(norm_stat_count * 8);
  out.emplace_back(n * item_size(dtype));
  out.emplace_back(n * item_size(dtype));
  out.emplace_back(size);
  PenaltyCall call;
  NormTensor tensor{};
  tensor.dtype = dtype;
  tensor.length = length;
  tensor.g = grid_of(g, groups, length);
  call.tensors = {tensor};
  call.groups = groups;
  call.transposed = false;
  call.psi = Psi::two_sided;
  call.target = 1;
  call.power = 2;
  call.scale = 1. / double(groups);
  call.is_float64 = is_float64;
  call.norms = out[0].as<double>();
  call.result = out[1].memory.get();
  call.statistics = out[2].as<NormStatistics>();
  if (place) cuda::penalty_forward(call, *place);
  else penalty_generic.forward(call);
  call.result = nullptr;
  call.statistics = nullptr;
  call.upstream = upstream.memory.get();
  call.tensors[0].out = grid_of(out[3], groups, length);
  if (place) cuda::penalty_backward(call, *place);
  else penalty_generic.backward(call);
  call.result = out[5].memory.get();
  call.tensors[0].v = grid_of(v, groups, length);
  call.tensors[0].out = grid_of(out[4], groups, length);
  if (place) cuda::penalty_second(call, *place);
  else penalty_generic.second(call);
  return out;
}

std::vector<Block> point_results(DType dtype, int64_t groups, int64_t length, const Place* place) {
  bool is_float64 = dtype == DType::float64;
  int64_t n = groups * length;
  Block real = random(n, dtype, 7), fake = random(n, dtype, 8), upstream = random(n, dtype, 9),
        eps = random(groups, is_float64 ? DType::float64 : DType::float32, 10);
  std::vector<Block> out;
  for (int k = 0; k < 3; ++k) out.emplace_back(n * item_size(dtype));
  out.emplace_back(groups * (is_float64 ? 8 : 4));
  InterpolateCall call;
  TensorPair tensor{};
  tensor.dtype = dtype;
  tensor.length = length;
  tensor.real = grid_of(real, groups, length);
  tensor.fake = grid_of(fake, groups, length);
  tensor.out = grid_of(out[0], groups, length);
  call.tensors = {tensor};
  call.groups = groups;
  call.eps = eps.memory.get();
  call.is_float64 = is_float64;
  if (place) cuda::interpolate_forward(call, *place);
  else interpolate_generic.forward(call);
  call.tensors[0].out = grid_of(upstream, groups, length);
  call.tensors[0].real_grad = grid_of(out[1], groups, length);
  call.tensors[0].fake_grad = grid_of(out[2], groups, length);
  call.eps_grad = out[3].memory.get();
  if (place) cuda::interpolate_backward(call, *place);
  else interpolate_generic.backward(call);
  return out;
}

template <class Results>
void groups(const std::string& family, Results results) {
  for (DType dtype : {DType::float32, DType::float64, DType::float16, DType::bfloat16})
    for (auto [groups, length] :
         {std::pair<int64_t, int64_t>{1, 1}, {40, 3}, {5, 1031}, {2, 20001}})
      for (int warps : {1, 3, 8}) {
        Device device(warps);
        std::vector<Block> want = results(dtype, groups, length, nullptr),
                           got = results(dtype, groups, length, &device.place);
        for (size_t k = 0; k < want.size(); ++k)
          compare(family + ", dtype " + std::to_string(int(dtype)) + ", " + std::to_string(groups) +
                      " groups of " + std::to_string(length) + ", result " + std::to_string(k),
                  got[k], want[k]);
      }
}

}  // namespace
}  // namespace fastgan

int main(int count, char** arguments) {
  std::string family = count > 1 ? arguments[1] : "";
  try {
    if (family == "loss") fastgan::losses();
    if (family == "penalty") fastgan::groups(family, fastgan::penalty_results);
    if (family == "interpolate") fastgan::groups(family, fastgan::point_results);
  } catch (const std::exception& error) {
    printf("%s\n", error.what());
    return 2;
  }
  return fastgan::failed;
}
