// The CUDA kernels of the losses: the calls of ../common/loss.h with the roundings of
// ../cpu/loss.cpp. All terms of a call are in one launch, if their tensors have one dtype.
#include "loss_backward.h"
#include "loss_forward.h"

namespace fastgan {
namespace {

// A loss of so few chunks is taken by one block: to find the last of several would take longer.
// One that subtracts means is taken by one block, means and all, if it has at most these.
constexpr unsigned one_block_chunks = 4, one_block_mean_chunks = 8;

// Memory for partial sums, where the blocks' shared memory will not do; counters for many blocks.
template <class F>
void provide(Table<F>& table, int slots, int64_t blocks, const Place& place) {
  int64_t doubles = int64_t(slots) * table.partials;
  if (doubles > 0 && (blocks > 1 || doubles > shared_partials))
    table.partial = reinterpret_cast<double*>(place.scratch(doubles * int64_t(sizeof(double))));
  if (blocks > 1 && slots > 0) table.ticket = place.tickets();
}

// From so many chunks a multiprocessor on, each warp has chunks of its own.
constexpr int64_t steady_chunks = 16;

// Launches a kernel over a table; `per_multi` of its blocks live at once on a multiprocessor.
template <class F, class Kernel>
void run(const std::string& name, Kernel kernel, Table<F>& table, const Place& place,
         int per_multi) {
  if (table.chunks == 0) return;
  int threads = warp;
  while (threads < most_warps * warp && threads * 4 < table.longest) threads *= 2;
  int slots = 0;
  for (signed char s : table.slot) slots += s >= 0;
  bool one = table.means_here || (slots > 0 && table.chunks <= one_block_chunks);
  int64_t blocks = one ? 1 : place.grid(table.chunks, threads, per_multi);
  provide(table, slots, blocks, place);
  launch(name, kernel, blocks, threads, place, table);
}

// The same where a warp takes a chunk: of the terms, or of operands whose means are taken. A mean
// of operands that are not there is 0; without any chunks one warp says so.
template <class F, class Kernel>
void run_by_warps(const std::string& name, Kernel kernel, Table<F>& table, const Place& place,
                  int per_multi) {
  int64_t chunks = table.chunks ? table.chunks : table.mean_chunks ? table.mean_chunks : 1;
  int64_t each = chunks / (4 * int64_t(place.multiprocessors));
  int64_t warps = each < 1 ? 1 : each < place.warps ? each : place.warps;
  int64_t blocks = place.grid((chunks + warps - 1) / warps, int(warps) * warp, per_multi);
  provide(table, 1, blocks, place);
  launch(name, kernel, blocks, int(warps) * warp, place, table);
}

// Means of the mean operands' values or cotangents, in launches of their own.
template <class F>
void launch_means(const Call& call, View Operand::* values, double* means, const Place& place) {
  Tables<F> tables(call);
  for (int j : tables.mean_operands()) {
    const Operand& a = call.operands[j];
    tables.reserve(a.dtype, 1, {&(a.*values), &a.g, &a.v});
    tables.add_mean(j, values);
  }
  tables.finish(place, {});
  for (auto& t : tables.all) {
    t->means = means;
    with_dtype<F>(t->dtype, [&](auto d) {
      constexpr DType D = decltype(d)::value;
      run_by_warps(named("loss_means<", D), loss_means<D>, *t, place, D == DType::float64 ? 2 : 4);
    });
  }
}

template <class F>
bool means_fit(const Tables<F>& tables) {
  if (tables.all.size() != 1) return false;
  const Table<F>& t = *tables.all[0];
  int operands = t.operands, strided = tables.strided;
  int64_t all = 0;
  for (int j : tables.mean_operands()) {
    const Operand& a = tables.call.operands[j];
    if (a.dtype != t.dtype) return false;
    all += chunk_count(a.n);
    ++operands;
    strided += (a.x.dims > 0) + (a.g.dims > 0);
  }
  return t.chunks <= one_block_mean_chunks && all <= one_block_mean_chunks &&
         operands <= most_operands && strided <= most_strided;
}

template <class F>
void launch_forward(Table<F>& table, bool needs_full, const Place& place) {
  with_dtype<F>(table.dtype, [&](auto d) {
    constexpr DType D = decltype(d)::value;
    auto with = [&](auto kind, const char* name) {
      constexpr Kind K = decltype(kind)::value;
      if constexpr (K == steady)
        run_by_warps(named(name, D), loss_forward<K, D>, table, place, forward_blocks(K, D));
      else run(named(name, D), loss_forward<K, D>, table, place, forward_blocks(K, D));
    };
    bool many = table.chunks >= steady_chunks * place.multiprocessors;
    if (!table.plain)
      return with(std::integral_constant<Kind, general>(), "loss_forward<general, ");
    if constexpr (D != DType::float64) {  // rare, and then not in a hurry
      if (!needs_full && many)
        return with(std::integral_constant<Kind, steady>(), "loss_forward<steady, ");
      if (!needs_full) return with(std::integral_constant<Kind, lean>(), "loss_forward<lean, ");
    }
    with(std::integral_constant<Kind, full>(), "loss_forward<full, ");
  });
}

template <class F>
void launch_backward(Table<F>& table, const Place& place) {
  with_dtype<F>(table.dtype, [&](auto d) {
    constexpr DType D = decltype(d)::value;
    if (table.plain && table.write)
      run(named("loss_backward<", D), loss_backward<D>, table, place, D == DType::float64 ? 2 : 4);
    else run(named("loss_backward_general<", D), loss_backward_general<D>, table, place, 1);
  });
}

template <class F>
void forward_in(Call& call, const Place& place) {
  Tables<F> tables(call);
  tables.add_terms();
  bool subtracts_mean = call.spec->subtracts_mean, reduced = call.out.empty(), here = false;
  if (subtracts_mean) {
    here = means_fit(tables);
    if (here)
      for (int j : tables.mean_operands()) tables.add_mean(j, &Operand::x);
    else launch_means<F>(call, &Operand::x, call.means(), place);
  }
  bool keep = reduced && subtracts_mean && call.keep, stats = reduced && call.stats;
  if (!reduced) tables.finish(place, {});
  else if (keep && stats)
    tables.finish(place, {value_sum, gradient_sum, x_sum, y_sum, x_sign, y_sign, right_count});
  else if (stats) tables.finish(place, {value_sum, x_sum, y_sum, x_sign, y_sign, right_count});
  else if (keep) tables.finish(place, {value_sum, gradient_sum});
  else tables.finish(place, {value_sum});
  for (auto& t : tables.all) {
    t->means_here = here;
    t->values = call.buffers ? call.values() : nullptr;
    t->statistics = call.buffers ? call.statistics() : nullptr;
    launch_forward(*t, stats || subtracts_mean, place);
  }
}

template <class F>
void backward_in(Call& call, const Place& place) {
  bool own = call.spec->subtracts_mean && !call.upstream.empty();
  double* constants = nullptr;
  if (own) {  // constants that this upstream gives
    constants = reinterpret_cast<double*>(place.scratch(int64_t(call.operands.size() * 8)));
    Tables<F> sums(call);
    sums.add_terms();
    sums.finish(place, {gradient_sum});
    for (auto& t : sums.all) {
      t->write = false;
      t->constants = constants;
      launch_backward(*t, place);
    }
  }
  Tables<F> tables(call);
  tables.add_terms();
  tables.add_fills();
  tables.finish(place, {});
  for (auto& t : tables.all) {
    if (own) t->constants = constants;
    t->unless_one = call.unless_one;
    launch_backward(*t, place);
  }
}

template <class F>
void second_in(Call& call, const Place& place) {
  double *v_means = nullptr, *constants = nullptr;
  bool subtracts_mean = call.spec->subtracts_mean;
  if (subtracts_mean) {
    int64_t bytes = int64_t(call.operands.size() * 8);
    v_means = reinterpret_cast<double*>(place.scratch(bytes));
    constants = reinterpret_cast<double*>(place.scratch(bytes));
    launch_means<F>(call, &Operand::v, v_means, place);
  }
  auto run_over = [&](bool sums, bool write) {
    Tables<F> tables(call);
    tables.add_terms();
    if (write && subtracts_mean) tables.add_fills();
    if (sums && subtracts_mean) tables.finish(place, {gradient_sum, dot_sum});
    else if (sums) tables.finish(place, {dot_sum});
    else tables.finish(place, {});
    for (auto& t : tables.all) {
      t->v_means = v_means;
      t->write = write;
      if (subtracts_mean) t->constants = constants;
      if (!call.loss) t->slot[dot_sum] = -1;
      with_dtype<F>(t->dtype, [&](auto d) {
        constexpr DType D = decltype(d)::value;
        run(named("loss_second<", D), loss_second<D>, *t, place, 1);
      });
    }
  };
  if (subtracts_mean) {
    run_over(true, false);
    run_over(false, true);
  } else {
    run_over(call.loss, true);
  }
}

template <DType D>
std::string load_kernels_of() {
  if constexpr (D != DType::float64) {
    std::string why = loadable(loss_forward<lean, D>, loss_forward<steady, D>);
    if (!why.empty()) return why;
  }
  return loadable(loss_means<D>, loss_forward<full, D>, loss_forward<general, D>, loss_backward<D>,
                  loss_backward_general<D>, loss_second<D>);
}

}  // namespace

namespace cuda {

std::string loss_unusable() {
  return first_reason<load_kernels_of<DType::float32>, load_kernels_of<DType::float64>,
                      load_kernels_of<DType::float16>, load_kernels_of<DType::bfloat16>>();
}

void loss_forward(Call& call, const Place& place) {
  if (call.is_float64) forward_in<double>(call, place);
  else forward_in<float>(call, place);
}

void loss_backward(Call& call, const Place& place) {
  if (call.is_float64) backward_in<double>(call, place);
  else backward_in<float>(call, place);
}

void loss_second(Call& call, const Place& place) {
  if (call.is_float64) second_in<double>(call, place);
  else second_in<float>(call, place);
}

}  // namespace cuda
}  // namespace fastgan
