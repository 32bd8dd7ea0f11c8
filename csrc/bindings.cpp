// The Python module fastgan._native: reads the arguments, picks the instruction set or the device,
// and calls the kernels. A build with several CUDA toolkits makes one for each, with other names.
#include "common/interface.h"
#include "python_args.h"

namespace fastgan {

// The kernels of one instruction set.
struct Kernels {
  const LossKernels& loss;
  const PenaltyKernels& penalty;
  const InterpolateKernels& interpolate;
};

#define FASTGAN_KERNELS(isa)                         \
  extern const LossKernels loss_##isa;               \
  extern const PenaltyKernels penalty_##isa;         \
  extern const InterpolateKernels interpolate_##isa; \
  static const Kernels kernels_##isa = {loss_##isa, penalty_##isa, interpolate_##isa}
FASTGAN_KERNELS(generic);
#ifdef __x86_64__
FASTGAN_KERNELS(v3);
FASTGAN_KERNELS(v4);
#endif

namespace {

// ---------------------------------------------------------------------------------- instruction
// sets

std::vector<const Kernels*> supported() {
  std::vector<const Kernels*> all;
#ifdef __x86_64__
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    all.push_back(&kernels_v4);
  // A processor with these has the rest of x86-64-v3 too, which not every compiler can ask for.
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("bmi2"))
    all.push_back(&kernels_v3);
#endif
  all.push_back(&kernels_generic);
  return all;
}

const Kernels* current = supported().front();

std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const Kernels* k : supported()) names.push_back(k->loss.isa);
  return names;
}

void set_isa(const std::string& name) {
  for (const Kernels* k : supported())
    if (name == k->loss.isa) {
      current = k;
      return;
    }
  std::string known;
  for (const std::string& each : isas()) known += (known.empty() ? "" : ", ") + each;
  refuse({"isa"}, "one that this processor has (" + known + ")", "'" + name + "'");
}

// ---------------------------------------------------------------------------------- where

int64_t elements(const Call& call) {
  int64_t n = 0;
  for (const Operand& a : call.operands) n += a.n;
  return n;
}

template <class Groups>
int64_t elements(const Groups& call) {
  int64_t n = 0;
  for (const auto& tensor : call.tensors) n += call.groups * tensor.length;
  return n;
}

// On the CPU, with so many threads.
struct OnCpu {
  using Argument = int;
  static constexpr const char* argument = "threads";

  // Letting go of the interpreter costs more than a small call takes.
  template <class C, class Run>
  static auto run(C& call, int threads, Run kernel) {
    call.threads = threads;
    if (elements(call) < 16384) return kernel(call);
    py::gil_scoped_release release;
    return kernel(call);
  }
  static void loss_forward(Call& call, int t) {
    run(call, t, current->loss.forward);
  }
  static void loss_backward(Call& call, int t) {
    run(call, t, current->loss.backward);
  }
  static void loss_second(Call& call, int t) {
    run(call, t, current->loss.second);
  }
  static void penalty_forward(PenaltyCall& call, int t) {
    run(call, t, current->penalty.forward);
  }
  static void penalty_backward(PenaltyCall& call, int t) {
    run(call, t, current->penalty.backward);
  }
  static void penalty_second(PenaltyCall& call, int t) {
    run(call, t, current->penalty.second);
  }
  static void interpolate_forward(InterpolateCall& call, int t) {
    run(call, t, current->interpolate.forward);
  }
  static void interpolate_backward(InterpolateCall& call, int t) {
    run(call, t, current->interpolate.backward);
  }
};

#ifdef FASTGAN_WITH_CUDA
// Launch shapes other than a device's own, for tests and measurements; 0: the device's.
struct {
  int warps = 0, blocks_per_multi = 0, multiprocessors = 0;
} launch_shape;

void set_shape(int warps, int blocks_per_multi, int multiprocessors) {
  if (warps < 0 || warps > 8 || blocks_per_multi < 0 || multiprocessors < 0)
    throw std::invalid_argument("cuda_shape: expected 0 to 8 warps and nothing negative, got " +
                                std::to_string(warps) + ", " + std::to_string(blocks_per_multi) +
                                ", " + std::to_string(multiprocessors));
  launch_shape = {warps, blocks_per_multi, multiprocessors};
}

void set_shape_of(int device, Place& place) {
  place.multiprocessors =
      launch_shape.multiprocessors ? launch_shape.multiprocessors : cuda::multiprocessors(device);
  if (launch_shape.warps) place.warps = launch_shape.warps;
  if (launch_shape.blocks_per_multi) place.blocks_per_multi = launch_shape.blocks_per_multi;
}

// On a device: (its number, a stream's handle, empty, zeros). The last two are functions that give
// a tensor with so many bytes on the device, for work on that stream.
class OnCuda {
 public:
  using Argument = py::tuple;
  static constexpr const char* argument = "where";

  explicit OnCuda(const py::tuple& where) {
    if (where.size() != 4)
      refuse({"where"}, "device, stream and two functions", int64_t(where.size()));
    device = number<int>({"where", 0}, where[0]);
    auto stream = number<uint64_t>({"where", 1}, where[1]);
    empty = where[2];
    zeros = where[3];
    place.stream = reinterpret_cast<void*>(stream);
    set_shape_of(device, place);
    place.scratch = [this](int64_t bytes) { return reinterpret_cast<char*>(memory(empty, bytes)); };
    place.tickets = [this] { return tickets(); };
    place.release = [] { return static_cast<void*>(PyEval_SaveThread()); };
    place.acquire = [](void* state) { PyEval_RestoreThread(static_cast<PyThreadState*>(state)); };
  }
  OnCuda(const OnCuda&) = delete;

  Place place;

#define FASTGAN_ON_CUDA(kernel, Call)                      \
  static void kernel(Call& call, const py::tuple& where) { \
    cuda::kernel(call, OnCuda(where).place);               \
  }
  FASTGAN_ON_CUDA(loss_forward, Call)
  FASTGAN_ON_CUDA(loss_backward, Call)
  FASTGAN_ON_CUDA(loss_second, Call)
  FASTGAN_ON_CUDA(penalty_forward, PenaltyCall)
  FASTGAN_ON_CUDA(penalty_backward, PenaltyCall)
  FASTGAN_ON_CUDA(penalty_second, PenaltyCall)
  FASTGAN_ON_CUDA(interpolate_forward, InterpolateCall)
  FASTGAN_ON_CUDA(interpolate_backward, InterpolateCall)
#undef FASTGAN_ON_CUDA

 private:
  int device;
  py::object empty, zeros;
  std::vector<py::object> held;  // until everything is launched: what comes later on the stream may
                                 // have the memory then

  uintptr_t memory(const py::object& allocate, int64_t bytes) {
    held.push_back(allocate(bytes));
    auto p = uintptr_t(integer(call_method(held.back().ptr(), data_ptr).ptr()));
    if (p == 0 || p % 16)
      throw std::runtime_error(
          "where: expected functions that give memory aligned to 16 bytes, got address " +
          std::to_string(p));
    return p;
  }

  // Counters at 0. A stream has its own for life: launches on it come one after another, and each
  // leaves them at 0. A launch that is captured runs whenever, and wherever, its graph is replayed:
  // it has counters of its own, which the graph sets to 0 before it. So has a launch for whose
  // stream there are none.
  unsigned* tickets() {
    unsigned* own = nullptr;
    {
      py::gil_scoped_release release;  // it may allocate, and waits for other threads that do
      own = cuda::counters_of(device, place.stream);
    }
    if (own) return own;
    return reinterpret_cast<unsigned*>(memory(zeros, ticket_count * int64_t(sizeof(unsigned))));
  }
};
#endif

// ---------------------------------------------------------------------------------- calls

// Each is offered for the CPU and for CUDA; `where` says on how many threads, or on which stream.

template <class On>
void forward(const Spec& spec, const py::tuple& x, const py::object& g, const py::object& result,
             const py::object& weights, int reduction, const py::object& buffers, bool stats,
             bool keep, const typename On::Argument& where) {
  Call call = make_call(spec, x, g, py::none(), weights, reduction, buffers);
  set_result(call, result);
  call.stats = stats;
  call.keep = keep;
  if (stats && !call.buffers) refuse({"buffers"}, "memory for the statistics", "None");
  On::loss_forward(call, where);
}

template <class On>
void backward(const Spec& spec, const py::tuple& x, const py::object& g, const py::tuple& upstream,
              const py::object& weights, int reduction, const py::object& buffers,
              const typename On::Argument& where) {
  Call call = make_call(spec, x, g, py::none(), weights, reduction, buffers);
  set_upstream(call, upstream);
  On::loss_backward(call, where);
}

template <class On>
void second(const Spec& spec, const py::tuple& x, const py::object& g, const py::object& v,
            const py::tuple& upstream, const py::object& result, const py::object& weights,
            int reduction, const py::object& buffers, const typename On::Argument& where) {
  Call call = make_call(spec, x, g, v, weights, reduction, buffers);
  set_upstream(call, upstream);
  set_result(call, result);
  On::loss_second(call, where);
}

#ifdef FASTGAN_WITH_CUDA
// As backward, of gradients that forward wrote for an upstream of 1; where it is 1 they stay.
void cuda_rescale(const Spec& spec, const py::tuple& x, const py::object& g,
                  const py::tuple& upstream, const py::object& weights, int reduction,
                  const py::object& buffers, const py::tuple& where) {
  Call call = make_call(spec, x, g, py::none(), weights, reduction, buffers);
  set_upstream(call, upstream);
  call.unless_one = true;
  OnCuda::loss_backward(call, where);
}
#endif

bool rescale(const Spec& spec, const py::tuple& g, const py::tuple& upstream,
             const py::object& buffers, int threads) {
  py::tuple nothing(g.size());
  for (size_t j = 0; j < g.size(); ++j) nothing[j] = py::none();
  Call call =
      make_call(spec, nothing, g, py::none(), py::tuple(), int(Reduction::mean), buffers, false);
  set_upstream(call, upstream);
  return OnCpu::run(call, threads, current->loss.rescale);
}

template <class On>
void penalty_forward(const py::tuple& spec, const py::tuple& g, const py::object& masks,
                     const py::object& weights, const py::object& norms, const py::object& result,
                     bool elementwise, const py::object& statistics,
                     const typename On::Argument& where) {
  PenaltyCall call = make_penalty(spec, g, masks, weights, norms);
  set_result(call, result, elementwise);
  if (!statistics.is_none())
    call.statistics = reinterpret_cast<NormStatistics*>(
        memory({"statistics"}, statistics, DType::float64, norm_stat_count));
  On::penalty_forward(call, where);
}

template <class On>
void penalty_backward(const py::tuple& spec, const py::tuple& g, const py::object& masks,
                      const py::object& weights, const py::object& norms,
                      const py::object& upstream, bool elementwise, const py::object& out,
                      const typename On::Argument& where) {
  PenaltyCall call = make_penalty(spec, g, masks, weights, norms);
  set_upstream(call, upstream, elementwise);
  set_grids("out", call, spec, out, &NormTensor::out);
  On::penalty_backward(call, where);
}

template <class On>
void penalty_second(const py::tuple& spec, const py::tuple& g, const py::object& masks,
                    const py::object& weights, const py::object& norms, const py::object& upstream,
                    bool elementwise, const py::tuple& v, const py::object& out,
                    const py::object& result, const typename On::Argument& where) {
  PenaltyCall call = make_penalty(spec, g, masks, weights, norms);
  set_upstream(call, upstream, elementwise);
  set_result(call, result, elementwise);
  set_grids("v", call, spec, v, &NormTensor::v);
  for (size_t k = 0; k < call.tensors.size(); ++k)
    if (!call.tensors[k].v.groups.data) refuse({"v", int64_t(k)}, "a tensor", "None");
  set_grids("out", call, spec, out, &NormTensor::out);
  On::penalty_second(call, where);
}

template <class On>
void interpolate_forward(const py::tuple& real, const py::tuple& fake, const py::object& eps,
                         const py::tuple& out, const typename On::Argument& where) {
  InterpolateCall call = make_interpolate(real, fake, eps, out, "out");
  On::interpolate_forward(call, where);
}

template <class On>
void interpolate_backward(const py::tuple& real, const py::tuple& fake, const py::object& eps,
                          const py::tuple& upstream, const py::tuple& real_grads,
                          const py::tuple& fake_grads, const py::object& eps_grad,
                          const typename On::Argument& where) {
  InterpolateCall call = make_interpolate(real, fake, eps, upstream, "upstream");
  for (size_t k = 0; k < call.tensors.size(); ++k) {
    TensorPair& tensor = call.tensors[k];
    auto gradient = [&](const char* name, const py::tuple& list) {
      return grid({name, int64_t(k)}, item(name, list, k), tensor.dtype, 1, call.groups,
                  tensor.length);
    };
    tensor.real_grad = gradient("real_grads", real_grads);
    tensor.fake_grad = gradient("fake_grads", fake_grads);
  }
  call.eps_grad = memory({"eps_grad"}, eps_grad, call.is_float64 ? DType::float64 : DType::float32,
                         call.groups);
  On::interpolate_backward(call, where);
}

// ---------------------------------------------------------------------------------- to other code

#ifdef FASTGAN_WITH_CUDA
const CudaKernels cuda_kernels = {
    cuda::loss_forward,        cuda::loss_backward,        cuda::loss_second,
    cuda::penalty_forward,     cuda::penalty_backward,     cuda::penalty_second,
    cuda::interpolate_forward, cuda::interpolate_backward, set_shape_of,
    cuda::counters_of,
};
const CudaKernels* const own_cuda_kernels = &cuda_kernels;
#else
const CudaKernels* const own_cuda_kernels = nullptr;
#endif

const Interface interface = {
    []() -> const LossKernels& { return current->loss; },
    []() -> const PenaltyKernels& { return current->penalty; },
    []() -> const InterpolateKernels& { return current->interpolate; },
    own_cuda_kernels,
};

template <int n>
py::tuple name_tuple(const char* const (&list)[n]) {
  py::tuple all(n);
  for (int k = 0; k < n; ++k) all[size_t(k)] = py::str(list[k]);
  return all;
}

template <class On>
void define(py::module_& m, const std::string& prefix) {
  // Names are for the signature in the error of an argument of the wrong type.
  auto def = [&](const char* name, auto f, auto... arguments) {
    m.def((prefix + name).c_str(), f, py::arg(arguments)..., py::arg(On::argument));
  };
  def("forward", &forward<On>, "spec", "x", "g", "result", "weights", "reduction", "buffers",
      "stats", "keep");
  def("backward", &backward<On>, "spec", "x", "g", "upstream", "weights", "reduction", "buffers");
  def("second", &second<On>, "spec", "x", "g", "v", "upstream", "result", "weights", "reduction",
      "buffers");
  def("penalty_forward", &penalty_forward<On>, "spec", "g", "masks", "weights", "norms", "result",
      "elementwise", "statistics");
  def("penalty_backward", &penalty_backward<On>, "spec", "g", "masks", "weights", "norms",
      "upstream", "elementwise", "out");
  def("penalty_second", &penalty_second<On>, "spec", "g", "masks", "weights", "norms", "upstream",
      "elementwise", "v", "out", "result");
  def("interpolate_forward", &interpolate_forward<On>, "real", "fake", "eps", "out");
  def("interpolate_backward", &interpolate_backward<On>, "real", "fake", "eps", "upstream",
      "real_grads", "fake_grads", "eps_grad");
}

}  // namespace
}  // namespace fastgan

#ifndef FASTGAN_MODULE
#define FASTGAN_MODULE _native
#endif
PYBIND11_MODULE(FASTGAN_MODULE, m, py::mod_gil_not_used()) {
  using namespace fastgan;
  m.doc() = "fastgan's compiled kernels; fastgan/backends/native.py calls them.";
  m.attr("phis") = name_tuple(phi_names);
  m.attr("psis") = name_tuple(psi_names);
  m.attr("interface") = py::capsule(&interface, interface_name);
  m.attr("headers") = FASTGAN_HEADERS;
  m.attr("stat_count") = stat_count;
  m.attr("norm_stat_count") = norm_stat_count;
  py::class_<Spec, std::shared_ptr<Spec>>(m, "Spec", py::module_local())
      .def(py::init(&make_spec), py::arg("terms"), py::arg("roles"));
  intern_names();
  m.def("learn", &learn, py::arg("tensor"), py::arg("parameter"), py::arg("strided"),
        py::arg("dtypes"));
  m.def("scan", &scan, py::arg("tensors"));
  m.def("isas", &isas, "Instruction sets that this processor and build have, best first.");
  m.def("isa", [] { return std::string(current->loss.isa); });
  m.def("set_isa", &set_isa, py::arg("isa"));
  m.def("rescale", &rescale, py::arg("spec"), py::arg("g"), py::arg("upstream"), py::arg("buffers"),
        py::arg("threads"));
  define<OnCpu>(m, "");
#ifdef FASTGAN_WITH_CUDA
  define<OnCuda>(m, "cuda_");
  m.def("cuda_rescale", &cuda_rescale, py::arg("spec"), py::arg("x"), py::arg("g"),
        py::arg("upstream"), py::arg("weights"), py::arg("reduction"), py::arg("buffers"),
        py::arg("where"));
  m.def("cuda_unusable", &cuda::unusable, py::call_guard<py::gil_scoped_release>());
  m.def("cuda_versions", &cuda::versions);
  m.def("cuda_shape", &set_shape, py::arg("warps"), py::arg("blocks_per_multi"),
        py::arg("multiprocessors"));
#endif
}
