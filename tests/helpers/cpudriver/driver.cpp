// Calls the CPU kernels with numbers of threads, layouts and instruction sets, and compares what
// they write, bit by bit: a program, because sanitizers want to be there from its start. driver
// FAMILY runs that family's cases; it prints what differs and returns 1.
#include "common/loss.h"
#include "tensors.h"

namespace fastgan {

#define FASTGAN_KERNELS(isa)                 \
  extern const LossKernels loss_##isa;       \
  extern const PenaltyKernels penalty_##isa; \
  extern const InterpolateKernels interpolate_##isa
FASTGAN_KERNELS(generic);
#ifdef WITH_V3
FASTGAN_KERNELS(v3);
#endif

namespace {

struct Kernels {
  const char* isa;
  const LossKernels& loss;
  const PenaltyKernels& penalty;
  const InterpolateKernels& interpolate;
};

// The first is what the others are compared with.
std::vector<Kernels> instruction_sets() {
  std::vector<Kernels> sets{{"generic", loss_generic, penalty_generic, interpolate_generic}};
#ifdef WITH_V3
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("bmi2"))
    sets.push_back({"v3", loss_v3, penalty_v3, interpolate_v3});
#endif
  return sets;
}

#ifdef ONLY_THREADS  // for ThreadSanitizer, which has nothing to say of one
constexpr bool only_threads = true;
#else
constexpr bool only_threads = false;
#endif

int64_t calls = 0;
constexpr DType dtypes[] = {DType::float32, DType::float64, DType::float16, DType::bfloat16};

DType wide(DType dtype) {
  return dtype == DType::float64 ? dtype : DType::float32;
}

// Options of a case: bits that vary from one to the next.
struct Options {
  unsigned bits;

  explicit Options(unsigned number) : bits(number * 2654435761u >> 16) {}
  bool operator[](int k) const {
    return bits >> k & 1;
  }
};

template <class Case>
std::vector<Result> results(const Case& c, const Kernels& kernels, int threads) {
  ++calls;
  dirt = static_cast<unsigned char>(0x33 + 41 * calls);
  soil();
  return c.run(kernels, threads, c.text() + ", " + kernels.isa + ", " + std::to_string(threads));
}

void compare(const std::string& of, const std::vector<Result>& got,
             const std::vector<Result>& want) {
  for (size_t k = 0; k < want.size(); ++k)
    if (got[k].bytes != want[k].bytes) fail(of + ": " + want[k].name + " differs");
}

// Tries a case in a layout; all give the bits of one thread, generic kernels and contiguous memory
// (where elements share their memory, their own).
template <class Case>
void try_layouts(Case c) {
  if (only_threads && c.elements() < 16384) return;
  std::vector<Kernels> sets = instruction_sets();
  std::vector<Result> want;
  for (Layout layout : layouts) {
    c.layout = layout;
    if (c.elements() > 50000 && layout == Layout::window) continue;
    if (layout == Layout::contiguous || layout == Layout::expanded)
      want = results(c, sets.front(), 1);
    for (const Kernels& kernels : sets)
      for (int threads : {1, 2, 3, 8}) {
        if (c.elements() < 4000 && threads < 3) continue;  // too few for a second thread
        if (only_threads && threads == 1) continue;
        compare(c.text() + ", " + kernels.isa + ", " + std::to_string(threads),
                results(c, kernels, threads), want);
      }
  }
}

template <class Case>
std::string described(const Case& c, int64_t n, int64_t m) {
  std::string text;
  for (int64_t number : {int64_t(c.dtype), n, m, int64_t(c.layout), int64_t(c.options.bits)})
    text += (text.empty() ? "case " : " ") + std::to_string(number);
  return text;
}

// ---------------------------------------------------------------------------------- losses

// A term that subtracts nothing, one that subtracts its fake from its real, each the other's mean,
// or one alone that subtracts the mean of the fake.
enum class Form { alone, paired, average, lopsided };
constexpr Form forms[] = {Form::alone, Form::paired, Form::average, Form::lopsided};

struct LossCase {
  DType dtype;
  int64_t n, fake_n;
  Form form;
  Phi phi;
  Options options;
  Layout layout = Layout::contiguous;

  bool reduced() const {
    return options[0] || options[1];
  }
  bool masked() const {
    return options[2];
  }
  bool sparse() const {  // some gradients are not wanted, or not given
    return options[3];
  }
  bool statistics() const {
    return reduced() && options[4];
  }
  bool several() const {
    return options[5];
  }
  double upstream() const {
    return options[6] ? 1. : 1.5;
  }
  int64_t elements() const {
    return n + fake_n;
  }
  std::string text() const {
    return "form " + std::to_string(int(form)) + ", phi " + std::to_string(int(phi)) + ", " +
           described(*this, n, fake_n);
  }
  std::vector<Result> run(const Kernels& kernels, int threads, const std::string& of) const;
};

class LossCalls {
 public:
  LossCalls(const LossCase& c, const LossKernels& kernels, int threads)
      : c_(c), kernels_(kernels), wide_(wide(c.dtype)) {
    call_.spec = &spec_;
    call_.is_float64 = c.dtype == DType::float64;
    call_.threads = threads;
    call_.reduction = c.reduced() ? Reduction::mean : Reduction::none;
    call_.keep = true;
    call_.stats = c.statistics();
    spec_.subtracts_mean = c.form == Form::average || c.form == Form::lopsided;
    add_pair(c.dtype);
    if (c.several()) add_pair(c.dtype == DType::float32 ? DType::bfloat16 : c.dtype);
    if (c.masked()) add_constants();
    if (c.options[7]) call_.weights = {0.75};
    add_buffers();
  }

  std::vector<Result> all(const std::string& of) {
    forward();
    backward();
    second();
    return tensors_.results(of);
  }

 private:
  const LossCase& c_;
  const LossKernels& kernels_;
  DType wide_;
  Tensors tensors_;
  Spec spec_;
  Call call_;
  size_t pairs_ = 0;  // operands that are no constants

  void add_pair(DType dtype) {
    int real = int(call_.operands.size()), fake = real + 1;
    int64_t fake_n = c_.form == Form::paired ? c_.n : c_.fake_n;
    bool means = spec_.subtracts_mean;
    for (int64_t n : {c_.n, fake_n})
      call_.operands.push_back(
          {dtype, n, tensors_.given("x", dtype, plain(n, c_.layout)).view(), {}, {}});
    spec_.roles.insert(spec_.roles.end(), {Role::real, Role::fake});
    spec_.is_mean_operand.insert(spec_.is_mean_operand.end(), {c_.form == Form::average, means});
    auto term = [&](int x, int y, double scale, Role role) {
      spec_.terms.push_back(
          {c_.phi, x, y, means ? real + fake - x : -1, scale, 0.25, 0., 1., 0.125, 1, 0, role});
    };
    term(real, c_.form == Form::paired ? fake : -1, -1., Role::real);
    if (c_.form == Form::alone || c_.form == Form::average) term(fake, -1, 1., Role::fake);
    pairs_ = call_.operands.size();
  }
  void add_constants() {
    spec_.has_constants = true;
    for (Term& t : spec_.terms) {
      if (t.role != Role::real) continue;
      t.linear = -0.5;
      int64_t n = call_.operands[size_t(t.x)].n;
      for (int* number : {&t.factor, &t.label}) {
        *number = int(call_.operands.size());
        call_.operands.push_back(
            {wide_, n, tensors_.given("constants", wide_, plain(n, c_.layout)).view(), {}, {}});
        spec_.roles.push_back(Role::none);
        spec_.is_mean_operand.push_back(false);
      }
    }
  }
  // Of what comes back only that is compared which is always written.
  void add_buffers() {
    int64_t n = int64_t(2 * call_.operands.size() + spec_.terms.size());
    n += c_.statistics() ? stat_count : 0;
    call_.buffers =
        tensors_.written("buffers", DType::float64, plain(n, Layout::contiguous)).data<double>();
    memset(call_.buffers, 0, size_t(n) * sizeof(double));
  }

  bool absent(size_t operand) const {
    return c_.sparse() && operand % 2 == 1;
  }
  void gradients(const char* name) {
    for (size_t j = 0; j < pairs_; ++j) {
      Operand& a = call_.operands[j];
      a.g = View();
      if (!absent(j))
        a.g = tensors_.written(name, a.dtype, plain(a.n, of_results(c_.layout))).view();
    }
  }
  void outputs(const char* name) {
    if (c_.reduced())
      call_.loss = tensors_.written(name, wide_, plain(1, Layout::contiguous)).data();
    else
      for (const Term& t : spec_.terms)
        call_.out.push_back(
            tensors_
                .written(name, wide_, plain(call_.operands[size_t(t.x)].n, of_results(c_.layout)))
                .view());
  }

  void forward() {
    outputs("value");
    if (c_.reduced()) gradients("rescaled");
    kernels_.forward(call_);
    call_.out.clear();
    call_.loss = nullptr;
  }
  // Both ways to gradients: by changing those that forward wrote, and anew.
  void backward() {
    if (c_.reduced()) {
      call_.scalar_upstream = tensors_.scalar("upstream", wide_, c_.upstream()).data();
      kernels_.rescale(call_);
    } else {
      for (const Term& t : spec_.terms)
        call_.upstream.push_back(
            tensors_.given("upstream", wide_, plain(call_.operands[size_t(t.x)].n, c_.layout))
                .view());
    }
    gradients("gradient");
    kernels_.backward(call_);
  }
  void second() {
    gradients("second");
    outputs("gradient of the upstream");
    for (size_t j = 0; j < pairs_; ++j) {
      Operand& a = call_.operands[j];
      // Of pairs each in its turn has none.
      if (!absent(j + j / 2)) a.v = tensors_.given("v", a.dtype, plain(a.n, c_.layout)).view();
    }
    kernels_.second(call_);
  }
};

std::vector<Result> LossCase::run(const Kernels& kernels, int threads,
                                  const std::string& of) const {
  return LossCalls(*this, kernels.loss, threads).all(of);
}

void losses() {
  unsigned number = 0;
  auto tried = [&](DType dtype, int64_t n, int64_t fake_n, Form form) {
    ++number;
    try_layouts(LossCase{dtype, n, fake_n, form, Phi(number % phi_count), Options(number)});
  };
  for (DType dtype : dtypes) {
    for (int64_t n : {1, 2, 127, 128, 129, 1023, 1024, 1025, 2048, 4099, 40003})
      for (Form form : forms) tried(dtype, n, n == 2 ? 1029 : n - n / 3, form);
    // Enough for threads to share means and what forward wrote.
    tried(dtype, 140000, 3, Form::average);
  }
}

// ---------------------------------------------------------------------------------- groups

struct GroupCase {
  DType dtype;
  int64_t groups, length;
  Options options;
  Layout layout = Layout::contiguous;

  std::vector<int64_t> lengths() const {
    if (options[0]) return {length, (length + 1) / 2, 1};
    return {length};
  }
  // Only groups that share elements have no results of their own to be laid out the same way.
  Spread spread(int64_t n) const {
    return grouped(groups, n, layout);
  }
  Spread results_spread(int64_t n) const {
    return grouped(groups, n, of_results(layout));
  }
  int64_t elements() const {
    return groups * length;
  }
  std::string text() const {
    return described(*this, groups, length);
  }
};

struct PenaltyCase : GroupCase {
  explicit PenaltyCase(GroupCase c) : GroupCase(c) {}

  bool reduced() const {
    return options[1];
  }
  // As the extension decides of channels; other layouts suit it as well.
  bool transposed() const {
    return length <= 1024 && groups > 1 && (layout == Layout::permuted || options[2]);
  }
  // So large or small that squares of doubles are out of range.
  double scale() const {
    return dtype != DType::float64 || !options[3] ? 1 : options[4] ? 1e200 : 1e-200;
  }
  void choose(PenaltyCall& call, Tensors& tensors) const {
    call.groups = groups;
    call.transposed = transposed();
    call.psi = Psi(options.bits % psi_count);
    call.power = 1 + int(options.bits / 8 % 4);
    call.target = 1;
    call.scale = reduced() ? 1. / double(groups) : 1;
    call.is_float64 = dtype == DType::float64;
    call.elementwise = !reduced();
    if (!options[5]) return;
    call.groups_per_weight = options[6] ? 3 : 1;
    int64_t weights = (groups + call.groups_per_weight - 1) / call.groups_per_weight;
    call.weights =
        tensors.given("weights", DType::float64, plain(weights, Layout::contiguous)).data<double>();
  }
  void add_tensors(PenaltyCall& call, Tensors& tensors) const {
    for (int64_t n : lengths()) {
      NormTensor t{};
      t.dtype = dtype;
      t.length = n;
      t.g = tensors.given("g", dtype, spread(n), scale()).grid();
      if (options[7]) {
        Layout of_mask = options[8] ? Layout::expanded : layout;
        t.mask = tensors.given("mask", wide(dtype), grouped(groups, n, of_mask)).grid();
      }
      call.tensors.push_back(t);
    }
  }
  void results_to(PenaltyCall& call, Tensors& tensors, const char* name) const {
    Tensor& t =
        tensors.written(name, wide(dtype), plain(reduced() ? 1 : groups, Layout::contiguous));
    if (reduced()) call.result = t.data();
    else call.values = t.data();
  }
  // Of several tensors one gets no gradient.
  void gradients_to(PenaltyCall& call, Tensors& tensors, const char* name) const {
    for (size_t k = 0; k < call.tensors.size(); ++k)
      if (k != 1)
        call.tensors[k].out =
            tensors.written(name, dtype, results_spread(call.tensors[k].length)).grid();
  }
  std::vector<Result> run(const Kernels& kernels, int threads, const std::string& of) const {
    Tensors tensors;
    PenaltyCall call;
    choose(call, tensors);
    call.threads = threads;
    add_tensors(call, tensors);
    Spread each = plain(groups, Layout::contiguous),
           five = plain(norm_stat_count, Layout::contiguous);
    call.norms = tensors.written("norms", DType::float64, each).data<double>();
    if (options[9])
      call.statistics = tensors.written("statistics", DType::float64, five).data<NormStatistics>();
    results_to(call, tensors, "value");
    kernels.penalty.forward(call);
    call.values = nullptr;
    call.result = nullptr;
    call.upstream = reduced() ? tensors.scalar("upstream", wide(dtype), 0.5).data()
                              : tensors.given("upstream", wide(dtype), each).data();
    gradients_to(call, tensors, "gradient");
    kernels.penalty.backward(call);
    for (NormTensor& t : call.tensors) t.v = tensors.given("v", dtype, spread(t.length)).grid();
    gradients_to(call, tensors, "second");
    results_to(call, tensors, "gradient of the upstream");
    kernels.penalty.second(call);
    return tensors.results(of);
  }
};

struct PointsCase : GroupCase {
  explicit PointsCase(GroupCase c) : GroupCase(c) {}

  std::vector<Result> run(const Kernels& kernels, int threads, const std::string& of) const {
    Tensors tensors;
    InterpolateCall call;
    Spread each = plain(groups, Layout::contiguous);
    call.groups = groups;
    call.is_float64 = dtype == DType::float64;
    call.threads = threads;
    call.eps = tensors.given("eps", wide(dtype), each).data();
    for (int64_t n : lengths()) {
      TensorPair t{};
      t.dtype = dtype;
      t.length = n;
      t.real = tensors.given("real", dtype, spread(n)).grid();
      t.fake = tensors.given("fake", dtype, spread(n)).grid();
      t.out = tensors.written("points", dtype, results_spread(n)).grid();
      call.tensors.push_back(t);
    }
    kernels.interpolate.forward(call);
    for (TensorPair& t : call.tensors) {
      t.out = tensors.given("upstream", dtype, spread(t.length)).grid();
      if (options[1])
        t.real_grad = tensors.written("real's", dtype, results_spread(t.length)).grid();
      if (options[2])
        t.fake_grad = tensors.written("fake's", dtype, results_spread(t.length)).grid();
    }
    if (options[3]) call.eps_grad = tensors.written("of eps", wide(dtype), each).data();
    kernels.interpolate.backward(call);
    return tensors.results(of);
  }
};

template <class Case>
void all_groups() {
  constexpr std::pair<int64_t, int64_t> shapes[] = {
      {1, 1},    {2, 127},  {3, 128},   {2, 129},   {127, 2},   {128, 3},
      {255, 1},  {256, 3},  {257, 2},   {1, 1023},  {3, 1024},  {2, 1025},
      {1025, 2}, {3, 4099}, {1, 40003}, {8, 17001}, {40003, 4}, {20, 1024},
  };
  unsigned number = 0;
  for (DType dtype : dtypes)
    for (auto [groups, length] : shapes)
      for (int k = 0; k < (groups * length < 4000 ? 4 : 2); ++k)
        try_layouts(Case(GroupCase{dtype, groups, length, Options(++number)}));
}

}  // namespace
}  // namespace fastgan

int main(int count, char** arguments) {
  std::string family = count > 1 ? arguments[1] : "";
  if (family == "loss") fastgan::losses();
  if (family == "penalty") fastgan::all_groups<fastgan::PenaltyCase>();
  if (family == "interpolate") fastgan::all_groups<fastgan::PointsCase>();
  printf("%lld calls of %s\n", static_cast<long long>(fastgan::calls), family.c_str());
  return fastgan::failures > 0;
}
