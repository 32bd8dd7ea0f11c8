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

// How a device runs a kernel.
struct Shape {
  int warps, blocks_per_multi, multiprocessors;
};
// One block; as a kernel has it; several blocks, each with several chunks.
constexpr Shape shapes[] = {{1, 1, 1}, {3, 0, 2}, {8, 2, 1}};

// A device whose memory a call gives back when it is over.
struct Device {
  std::vector<Block> given;
  Block counters{ticket_count * int64_t(sizeof(unsigned))};
  Place place;

  explicit Device(const Shape& shape) {
    memset(counters.memory.get(), 0, size_t(counters.bytes));
    place.multiprocessors = shape.multiprocessors;
    place.blocks_per_multi = shape.blocks_per_multi;
    place.warps = shape.warps;
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

// A term that subtracts nothing, one that subtracts its fake from its real, or each the other's
// mean.
enum Form { alone, paired, average };

struct LossCase {
  std::vector<DType> dtypes;  // of real and fake, and of further pairs of them
  int64_t n, fake_n;
  Form form;
  bool stats = false;
  bool masked = false;  // with a factor and a label for each element of reals
  bool reduced = true;  // else a value and an upstream for each element
  bool ahead = false;   // on a device forward writes gradients, and backward changes these
  int shift = 0;        // elements by which tensors are out of line
  float upstream = 1.5f;
};

// The memory of a call of each kernel, and what is asked for.
class LossCall {
 public:
  explicit LossCall(const LossCase& c) : c_(c) {
    call.spec = &spec;
    call.is_float64 = c.dtypes[0] == DType::float64;
    spec.subtracts_mean = c.form == average;
    spec.has_constants = c.masked;
    for (DType dtype : c.dtypes) add_pair(dtype);
    if (c.masked) add_constants();
    call.reduction = c.reduced ? Reduction::mean : Reduction::none;
    call.keep = true;
    call.stats = c.stats;
    size_t room = 8 * (2 * spec.roles.size() + spec.terms.size() + stat_count);
    call.buffers = written(int64_t(room)).as<double>();
    memset(call.buffers, 0, room);
    // Written by no kernel where nothing is reduced.
    call.loss = c.reduced ? written(size()).memory.get() : nullptr;
    gradients_ = views(nullptr, true);
  }

  void forward(const Place* place) {
    if (!c_.reduced) call.out = per_term();
    bool writes = place && c_.ahead;
    if (writes) set(&Operand::g, gradients_);
    if (place) cuda::loss_forward(call, *place);
    else loss_generic.forward(call);
    call.out.clear();
  }
  void backward(const Place* place) {
    if (c_.reduced) call.scalar_upstream = filled(c_.upstream).memory.get();
    else
      for (const Term& t : spec.terms)
        call.upstream.push_back(view_of(kept(random(call.operands[t.x].n, wide(), 9))));
    set(&Operand::g, gradients_);
    call.unless_one = place && c_.ahead;
    if (place) cuda::loss_backward(call, *place);
    else loss_generic.backward(call);
    call.unless_one = false;
  }
  void second(const Place* place) {
    set(&Operand::g, views(nullptr, true));
    set(&Operand::v, views("v", false));
    if (c_.reduced) call.loss = written(size()).memory.get();
    else call.out = per_term();
    if (place) cuda::loss_second(call, *place);
    else loss_generic.second(call);
  }

  std::vector<Block> results;  // all that kernels write

 private:
  const LossCase& c_;
  Spec spec;
  Call call;
  std::vector<Block> given_;
  std::vector<View> gradients_;

  DType wide() const {
    return call.is_float64 ? DType::float64 : DType::float32;
  }
  int64_t size() const {
    return item_size(wide());
  }
  Block& written(int64_t bytes) {
    results.emplace_back(bytes);
    return results.back();
  }
  Block& kept(Block b) {
    given_.push_back(std::move(b));
    return given_.back();
  }
  Block& filled(float x) {
    Block& b = kept(Block(size()));
    if (call.is_float64) *b.as<double>() = x;
    else *b.as<float>() = x;
    return b;
  }
  View tensor(const Block& b, DType dtype) const {
    View w = view_of(b);
    w.data += c_.shift * item_size(dtype);
    return w;
  }
  View made(int64_t n, DType dtype, unsigned seed) {
    return tensor(kept(random(n + c_.shift, dtype, seed)), dtype);
  }

  void add_pair(DType dtype) {
    int real = int(call.operands.size()), fake = real + 1;
    int64_t fake_n = c_.form == paired ? c_.n : c_.fake_n;
    call.operands.push_back({dtype, c_.n, made(c_.n, dtype, unsigned(real)), {}, {}});
    call.operands.push_back({dtype, fake_n, made(fake_n, dtype, unsigned(fake)), {}, {}});
    spec.roles.insert(spec.roles.end(), {Role::real, Role::fake});
    spec.is_mean_operand.insert(spec.is_mean_operand.end(), 2, c_.form == average);
    auto term = [&](int x, int y, double scale) {
      spec.terms.push_back({Phi::softplus, x, y, c_.form == average ? real + fake - x : -1, scale,
                            0.25, 0., 1., 0., 1, 0, x == real ? Role::real : Role::fake});
    };
    term(real, c_.form == paired ? fake : -1, -1.);
    if (c_.form != paired) term(fake, -1, 1.);
  }
  void add_constants() {
    for (Term& t : spec.terms) {
      if (t.role != Role::real) continue;
      t.linear = -0.5;
      for (int* number : {&t.factor, &t.label}) {
        *number = int(call.operands.size());
        call.operands.push_back(
            {wide(), c_.n, made(c_.n, wide(), 70u + unsigned(*number)), {}, {}});
        spec.roles.push_back(Role::none);
        spec.is_mean_operand.push_back(false);
      }
    }
  }

  // A tensor for each real and fake: results, or numbers.
  std::vector<View> views(const char* given, bool results_too) {
    std::vector<View> list;
    for (size_t j = 0; j < 2 * c_.dtypes.size(); ++j) {
      const Operand& a = call.operands[j];
      int64_t n = a.n + c_.shift;
      list.push_back(tensor(results_too ? written(n * item_size(a.dtype))
                                        : kept(random(n, a.dtype, 30u + unsigned(j) + *given)),
                            a.dtype));
    }
    return list;
  }
  void set(View Operand::* which, const std::vector<View>& list) {
    for (size_t j = 0; j < list.size(); ++j) call.operands[j].*which = list[j];
  }
  std::vector<View> per_term() {
    std::vector<View> list;
    for (const Term& t : spec.terms)
      list.push_back(view_of(written(call.operands[t.x].n * size())));
    return list;
  }
};

// Everything that one call of each kernel writes.
std::vector<Block> loss_results(const LossCase& c, const Place* place) {
  LossCall call(c);
  call.forward(place);
  call.backward(place);
  call.second(place);
  return std::move(call.results);
}

std::vector<LossCase> loss_cases() {
  std::vector<LossCase> cases;
  for (DType dtype : {DType::float32, DType::float64, DType::float16, DType::bfloat16}) {
    std::vector<LossCase> its = {
        {{dtype}, 1, 1, paired, true},
        {{dtype}, 4099, 1030, average, true},
        {{dtype}, 9001, 700, alone},
        {{dtype}, 40003, 1, average},
        {{dtype}, 5003, 900, average, false, true},
        {{dtype}, 5003, 900, average, false, false, false},
        {{dtype}, 6147, 0, paired, true},
        {{dtype}, 6147, 2500, alone, false, false, true, false, 1},
    };
    // Forward writes gradients; of float16 it does so for nobody, but it can.
    for (float upstream : {1.f, 1.5f}) {
      its.push_back({{dtype}, 9003, 2050, alone, false, false, true, true, 0, upstream});
      its.push_back({{dtype}, 5121, 0, paired, false, true, true, true, 0, upstream});
    }
    cases.insert(cases.end(), its.begin(), its.end());
  }
  std::vector<DType> several = {DType::float32, DType::bfloat16, DType::float16, DType::float32};
  cases.push_back({several, 2050, 129, alone, true});
  cases.push_back({several, 1500, 130, average, true});
  return cases;
}

// So many chunks that their sums have a tree of several levels, behind a term of one chunk.
const LossCase large{{DType::float32}, 5, 1024 * 1024 + 1025, alone};

void compare_losses(const LossCase& c, const Shape& shape) {
  Device device(shape);
  std::vector<Block> want = loss_results(c, nullptr), got = loss_results(c, &device.place);
  for (size_t k = 0; k < want.size(); ++k)
    compare("loss, dtype " + std::to_string(int(c.dtypes[0])) + ", n " + std::to_string(c.n) +
                ", result " + std::to_string(k),
            got[k], want[k]);
}

void losses() {
  for (const LossCase& c : loss_cases())
    for (const Shape& shape : shapes) compare_losses(c, shape);
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
      for (const Shape& shape : shapes) {
        Device device(shape);
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
    if (family == "levels") fastgan::compare_losses(fastgan::large, fastgan::shapes[1]);
    if (family == "penalty") fastgan::groups(family, fastgan::penalty_results);
    if (family == "interpolate") fastgan::groups(family, fastgan::point_results);
  } catch (const std::exception& error) {
    printf("%s\n", error.what());
    return 2;
  }
  return fastgan::failed;
}
