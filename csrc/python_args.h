// Reads what Python hands over: tensors by their Python methods, checked, as the structures of a
// call. No torch in here: a tensor is an address, a dtype code, sizes and strides. bindings.cpp is
// the one file that includes this, since pybind11 takes seconds to compile.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>

#include "common/loss.h"
#include "common/penalty.h"

namespace py = pybind11;

namespace fastgan {
namespace {

// ---------------------------------------------------------------------------------- tensors

// What `learn` was told of torch; held for the life of the process.
struct {
  PyObject *tensor, *parameter, *strided, *dtypes[4];
} torch;

void learn(py::object tensor, py::object parameter, py::object strided, const py::tuple& dtypes) {
  if (dtypes.size() != 4) throw std::invalid_argument("four dtypes are needed");
  torch.tensor = tensor.release().ptr();
  torch.parameter = parameter.release().ptr();
  torch.strided = strided.release().ptr();
  for (int k = 0; k < 4; ++k) torch.dtypes[k] = py::object(dtypes[k]).release().ptr();
}

enum Name {
  data_ptr,
  numel,
  is_contiguous,
  stride,
  shape,
  dtype,
  layout,
  is_cpu,
  is_cuda,
  get_device,
  is_nested,
  is_neg,
  requires_grad,
  name_count
};
PyObject* names[name_count];

void intern_names() {
  const char* text[] = {"data_ptr",  "numel",  "is_contiguous", "stride",  "shape",
                        "dtype",     "layout", "is_cpu",        "is_cuda", "get_device",
                        "is_nested", "is_neg", "requires_grad"};
  for (int k = 0; k < name_count; ++k) names[k] = PyUnicode_InternFromString(text[k]);
}

py::object checked(PyObject* o) {
  if (!o) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(o);
}
py::object call_method(PyObject* t, Name name) {
  return checked(PyObject_CallMethodNoArgs(t, names[name]));
}
py::object attribute(PyObject* t, Name name) {
  return checked(PyObject_GetAttr(t, names[name]));
}

int64_t integer(PyObject* o) {
  long long v = PyLong_AsLongLong(o);
  if (v == -1 && PyErr_Occurred()) throw py::error_already_set();
  return v;
}

int dtype_code(PyObject* t) {
  py::object d = attribute(t, dtype);
  for (int k = 0; k < 4; ++k)
    if (d.ptr() == torch.dtypes[k]) return k;
  return -1;
}

// -1 where anything about the tensors wants a closer look; else whether one of them requires grad,
// plus 2 where they are on a CUDA device. Here all is well: plain dense tensors on one device, not
// empty, of one supported dtype.
int scan(const py::tuple& tensors) {
  bool grad = false;
  int first = -1;
  int64_t place = -2;
  for (py::handle h : tensors) {
    PyObject* t = h.ptr();
    PyObject* type = reinterpret_cast<PyObject*>(Py_TYPE(t));
    if (type != torch.tensor && type != torch.parameter) return -1;
    int code = dtype_code(t);
    if (code < 0 || (first >= 0 && code != first)) return -1;
    first = code;
    int64_t device = -1, count = integer(call_method(t, numel).ptr());
    if (attribute(t, is_cpu).ptr() != Py_True) {
      if (attribute(t, is_cuda).ptr() != Py_True) return -1;
      device = integer(call_method(t, get_device).ptr());
      // What has gaps may have more of them than the kernels' tables hold.
      if (call_method(t, is_contiguous).ptr() != Py_True &&
          (count > 0x7fffffff || PyTuple_Size(attribute(t, shape).ptr()) > 6))
        return -1;
    }
    if (place != -2 && device != place) return -1;
    place = device;
    if (attribute(t, layout).ptr() != torch.strided || attribute(t, is_nested).ptr() == Py_True ||
        call_method(t, is_neg).ptr() == Py_True || count == 0)
      return -1;
    grad = grad || attribute(t, requires_grad).ptr() == Py_True;
  }
  return int(grad) + (place >= 0 ? 2 : 0);
}

char* address(PyObject* t, DType d) {
  int64_t p = integer(call_method(t, data_ptr).ptr());
  if (p == 0) throw std::invalid_argument("a tensor has no memory (a null address)");
  if (p % item_size(d))
    throw std::invalid_argument("a tensor's address is not aligned to its dtype");
  return reinterpret_cast<char*>(p);
}

// Dimensions [begin, end) of a tensor, those that merge merged.
View dimensions(const py::object& sizes, const py::object& strides, int64_t begin, int64_t end) {
  View w;
  for (int64_t d = begin; d < end; ++d) {
    int64_t size = integer(PyTuple_GetItem(sizes.ptr(), d)),
            step = integer(PyTuple_GetItem(strides.ptr(), d));
    if (size == 1) continue;
    int k = w.dims - 1;
    if (k >= 0 && w.stride[k] == size * step) {
      w.size[k] *= size;
      w.stride[k] = step;
      continue;
    }
    if (w.dims == max_dims)
      throw std::invalid_argument("a tensor has too many dimensions that do not merge");
    w.size[w.dims] = size;
    w.stride[w.dims++] = step;
  }
  if (w.dims == 1 && w.stride[0] == 1) w.dims = 0;
  return w;
}

// Where the elements of a tensor of this dtype lie.
View lie(PyObject* t, DType known) {
  View w;
  if (call_method(t, is_contiguous).ptr() != Py_True) {
    py::object sizes = attribute(t, shape);
    w = dimensions(sizes, call_method(t, stride), 0, PyTuple_Size(sizes.ptr()));
  }
  w.data = address(t, known);
  return w;
}

// The same of a tensor that must have this dtype and number of elements; None is an empty view.
View view(PyObject* t, DType expected, int64_t n) {
  if (t == Py_None) return View();
  if (dtype_code(t) != int(expected))
    throw std::invalid_argument("a tensor has an unexpected dtype");
  if (integer(call_method(t, numel).ptr()) != n)
    throw std::invalid_argument("a tensor has an unexpected number of elements");
  return lie(t, expected);
}

// ---------------------------------------------------------------------------------- losses

std::shared_ptr<Spec> make_spec(const py::list& terms, const std::vector<int>& roles) {
  auto spec = std::make_shared<Spec>();
  int count = int(roles.size());
  for (int r : roles) {
    if (r < 0 || r > 2) throw std::invalid_argument("unknown role code " + std::to_string(r));
    spec->roles.push_back(Role(r));
  }
  spec->is_mean_operand.resize(count);
  std::vector<bool> used(count);
  auto use = [&](int j) {
    if (j < 0 || j >= count)
      throw std::invalid_argument("a term names an operand that is not there");
    if (used[j]) throw std::invalid_argument("an operand may be x or y of one term only");
    used[j] = true;
  };
  for (py::handle h : terms) {
    auto t = h.cast<py::tuple>();
    if (t.size() != 12) throw std::invalid_argument("a term needs 12 entries");
    Term term;
    int phi = t[0].cast<int>(), role = t[11].cast<int>();
    if (phi < 0 || phi >= phi_count)
      throw std::invalid_argument("unknown phi code " + std::to_string(phi));
    if (role < 0 || role > 2)
      throw std::invalid_argument("unknown role code " + std::to_string(role));
    term = {Phi(phi),
            t[1].cast<int>(),
            t[2].cast<int>(),
            t[3].cast<int>(),
            t[4].cast<double>(),
            t[5].cast<double>(),
            t[6].cast<double>(),
            t[7].cast<double>(),
            t[8].cast<double>(),
            t[9].cast<int>(),
            t[10].cast<int>(),
            Role(role)};
    use(term.x);
    if (term.y >= 0) use(term.y);
    if (term.y >= 0 && term.mean_operand >= 0)
      throw std::invalid_argument("a term is paired or subtracts a mean, not both");
    if (term.mean_operand >= count || term.member < 0)
      throw std::invalid_argument("a term names an operand that is not there");
    if (term.mean_operand >= 0)
      spec->is_mean_operand[term.mean_operand] = spec->subtracts_mean = true;
    spec->terms.push_back(term);
  }
  if (spec->terms.empty()) throw std::invalid_argument("there is no term");
  for (int j = 0; j < count; ++j)
    if (!used[j] && !spec->is_mean_operand[j])
      throw std::invalid_argument("an operand is in no term");
  return spec;
}

// Numbers, one a member, or none for all 1; or a tensor of them, which only a device reads.
void read_weights(Call& call, const py::object& weights) {
  int64_t count;
  if (PyTuple_Check(weights.ptr())) {
    for (py::handle w : weights) call.weights.push_back(w.cast<double>());
    count = int64_t(call.weights.size());
  } else {
    int code = dtype_code(weights.ptr());
    if (code < 0) throw std::invalid_argument("weights have an unsupported dtype");
    count = integer(call_method(weights.ptr(), numel).ptr());
    View w = view(weights.ptr(), DType(code), count);
    if (w.dims) throw std::invalid_argument("weights that are not contiguous");
    call.device_weights = w.data;
    call.device_weights_dtype = DType(code);
  }
  for (const Term& t : call.spec->terms)
    if (count > 0 && t.member >= count) throw std::invalid_argument("too few weights");
}

// The call on operands x, with g (gradients to write) and v (second order) beside them where those
// are tuples; an entry of theirs may be None, and one of x where `values` is false.
Call make_call(const Spec& spec, const py::tuple& x, const py::object& g, const py::object& v,
               const py::object& weights, int reduction, const py::object& buffers,
               bool values = true) {
  Call call;
  call.spec = &spec;
  if (x.size() != spec.roles.size()) throw std::invalid_argument("wrong number of operands");
  auto entry = [&](const py::object& list, size_t j) {
    if (list.is_none()) return Py_None;
    if (!PyTuple_Check(list.ptr()) || size_t(PyTuple_GET_SIZE(list.ptr())) != x.size())
      throw std::invalid_argument("a gradient an operand is needed");
    return PyTuple_GET_ITEM(list.ptr(), j);
  };
  call.operands.resize(x.size());
  for (size_t j = 0; j < x.size(); ++j) {
    Operand& a = call.operands[j];
    PyObject *t = PyTuple_GET_ITEM(x.ptr(), j), *gradient = entry(g, j);
    PyObject* any = t != Py_None ? t : gradient;
    a.n = 1;
    a.dtype = DType::float32;
    if (any == Py_None) {
      if (values) throw std::invalid_argument("an operand is missing");
      continue;
    }
    int code = dtype_code(any);
    if (code < 0) throw std::invalid_argument("a tensor has an unsupported dtype");
    a.dtype = DType(code);
    a.n = integer(call_method(any, numel).ptr());
    if (a.n < 1) throw std::invalid_argument("an operand has no elements");
    bool is_float64 = a.dtype == DType::float64;
    if (j > 0 && values && is_float64 != call.is_float64)
      throw std::invalid_argument("float64 beside another dtype");
    call.is_float64 = call.is_float64 || is_float64;
    if (t != Py_None) a.x = lie(t, a.dtype);
    a.g = view(gradient, a.dtype, a.n);
    a.v = view(entry(v, j), a.dtype, a.n);
  }
  for (const Term& t : spec.terms) {
    const Operand& a = call.operands[t.x];
    if (values && t.y >= 0 && (call.operands[t.y].n != a.n || call.operands[t.y].dtype != a.dtype))
      throw std::invalid_argument("a pair differs in size or dtype");
  }
  read_weights(call, weights);
  if (reduction < 0 || reduction > 2) throw std::invalid_argument("unknown reduction code");
  call.reduction = Reduction(reduction);
  int64_t size = 2 * int64_t(spec.roles.size()) + int64_t(spec.terms.size()) + stat_count;
  if (!buffers.is_none())
    call.buffers = reinterpret_cast<double*>(view(buffers.ptr(), DType::float64, size).data);
  if (spec.subtracts_mean && !call.buffers)
    throw std::invalid_argument("a term that subtracts a mean needs memory for means");
  return call;
}

DType accumulate(const Call& call) {
  return call.is_float64 ? DType::float64 : DType::float32;
}

std::vector<View> per_term(const Call& call, const py::tuple& tensors) {
  std::vector<View> views;
  if (tensors.size() != call.spec->terms.size())
    throw std::invalid_argument("a tensor a term is needed");
  for (size_t k = 0; k < tensors.size(); ++k)
    views.push_back(view(PyTuple_GET_ITEM(tensors.ptr(), k), accumulate(call),
                         call.operands[call.spec->terms[k].x].n));
  return views;
}

// `result` is the scalar of a reduced call, or a tuple with a tensor a term of an unreduced one.
void set_result(Call& call, const py::object& result) {
  if (call.reduction == Reduction::none) call.out = per_term(call, result.cast<py::tuple>());
  else call.loss = view(result.ptr(), accumulate(call), 1).data;
  if (call.reduction != Reduction::none && !call.loss)
    throw std::invalid_argument("a reduced loss needs memory");
}

void set_upstream(Call& call, const py::tuple& upstream) {
  if (call.reduction == Reduction::none) call.upstream = per_term(call, upstream);
  else if (upstream.size() == 1)
    call.scalar_upstream = view(PyTuple_GET_ITEM(upstream.ptr(), 0), accumulate(call), 1).data;
  if (call.reduction != Reduction::none && !call.scalar_upstream)
    throw std::invalid_argument("an upstream is missing");
}

// ---------------------------------------------------------------------------------- groups

PyObject* item(const py::object& list, size_t k) {
  if (list.is_none()) return Py_None;
  if (!PyTuple_Check(list.ptr()) || k >= size_t(PyTuple_GET_SIZE(list.ptr())))
    throw std::invalid_argument("a tuple with an entry a tensor is needed");
  return PyTuple_GET_ITEM(list.ptr(), k);
}

// A tensor whose first `outer` dimensions count groups: `groups` of them, of `length` elements
// each.
Grid grid(PyObject* t, DType expected, int64_t outer, int64_t groups, int64_t length) {
  Grid g;
  if (t == Py_None) return g;
  if (dtype_code(t) != int(expected))
    throw std::invalid_argument("a tensor has an unexpected dtype");
  py::object sizes = attribute(t, shape), strides = call_method(t, stride);
  int64_t dims = PyTuple_Size(sizes.ptr()), count = 1, all = integer(call_method(t, numel).ptr());
  for (int64_t d = 0; d < outer && d < dims; ++d) count *= integer(PyTuple_GetItem(sizes.ptr(), d));
  if (outer > dims || count != groups || all != groups * length)
    throw std::invalid_argument("a tensor has an unexpected shape");
  g.groups = dimensions(sizes, strides, 0, outer);
  g.elements = dimensions(sizes, strides, outer, dims);
  g.groups.data = address(t, expected);
  return g;
}

// The groups of a tensor and their length; 16-bit and float32 tensors go together.
DType measure(PyObject* t, int64_t outer, int64_t* groups, int64_t* length) {
  int code = dtype_code(t);
  if (code < 0) throw std::invalid_argument("a tensor has an unsupported dtype");
  py::object sizes = attribute(t, shape);
  *groups = 1;
  for (int64_t d = 0; d < outer; ++d) *groups *= integer(PyTuple_GetItem(sizes.ptr(), d));
  int64_t all = integer(call_method(t, numel).ptr());
  if (all < 1) throw std::invalid_argument("a tensor has no elements");
  *length = all / *groups;
  return DType(code);
}

template <class Call>
void same(Call& call, bool first, DType dtype, int64_t groups) {
  bool is_float64 = dtype == DType::float64;
  if (!first && (is_float64 != call.is_float64 || groups != call.groups))
    throw std::invalid_argument("tensors differ in dtype or groups");
  call.is_float64 = is_float64;
  call.groups = groups;
}

// A contiguous tensor of n elements; null for None.
char* memory(const py::object& t, DType dtype, int64_t n) {
  View w = view(t.ptr(), dtype, n);
  if (w.dims) throw std::invalid_argument("a tensor that must be contiguous is not");
  return w.data;
}

PenaltyCall make_penalty(const py::tuple& spec, const py::tuple& g, const py::object& masks,
                         const py::object& weights, const py::object& norms) {
  if (spec.size() != 6) throw std::invalid_argument("a penalty needs 6 entries");
  PenaltyCall call;
  int psi = spec[0].cast<int>();
  int64_t outer = spec[4].cast<int64_t>();
  call.target = spec[1].cast<double>();
  call.power = spec[2].cast<int>();
  call.scale = spec[3].cast<double>();
  if (psi < 0 || psi >= psi_count || call.power < 1 || call.power > max_power || outer < 0)
    throw std::invalid_argument("a penalty's psi, power or dimensions are out of range");
  call.psi = Psi(psi);
  for (size_t k = 0; k < g.size(); ++k) {
    PyObject *t = item(g, k), *mask = item(masks, k);
    NormTensor tensor;
    int64_t groups;
    tensor.dtype = measure(t, outer, &groups, &tensor.length);
    same(call, k == 0, tensor.dtype, groups);
    tensor.g = grid(t, tensor.dtype, outer, groups, tensor.length);
    tensor.mask =
        grid(mask, call.is_float64 ? DType::float64 : DType::float32, outer, groups, tensor.length);
    call.tensors.push_back(tensor);
  }
  if (call.tensors.empty()) throw std::invalid_argument("there is no tensor");
  call.transposed = spec[5].cast<bool>();
  for (const NormTensor& tensor : call.tensors)  // more than a chunk: line after line is as good
    call.transposed = call.transposed && tensor.length <= 1024 && call.groups > 1;
  if (!weights.is_none()) {
    int64_t count = integer(call_method(weights.ptr(), numel).ptr());
    if (count < 1 || call.groups % count)
      throw std::invalid_argument("weights do not fit the groups");
    call.weights = reinterpret_cast<double*>(memory(weights, DType::float64, count));
    call.groups_per_weight = call.groups / count;
  }
  call.norms = reinterpret_cast<double*>(memory(norms, DType::float64, call.groups));
  if (!call.norms) throw std::invalid_argument("norms need memory");
  return call;
}

void set_result(PenaltyCall& call, const py::object& result, bool elementwise) {
  DType dtype = call.is_float64 ? DType::float64 : DType::float32;
  if (result.is_none()) return;
  if (elementwise) call.values = memory(result, dtype, call.groups);
  else call.result = memory(result, dtype, 1);
}

void set_upstream(PenaltyCall& call, const py::object& upstream, bool elementwise) {
  call.elementwise = elementwise;
  DType dtype = call.is_float64 ? DType::float64 : DType::float32;
  call.upstream = memory(upstream, dtype, elementwise ? call.groups : 1);
  if (!call.upstream) throw std::invalid_argument("an upstream is missing");
}

void set_grids(PenaltyCall& call, const py::tuple& spec, const py::object& tensors,
               Grid NormTensor::* which) {
  for (size_t k = 0; k < call.tensors.size(); ++k) {
    NormTensor& tensor = call.tensors[k];
    tensor.*which =
        grid(item(tensors, k), tensor.dtype, spec[4].cast<int64_t>(), call.groups, tensor.length);
  }
}

InterpolateCall make_interpolate(const py::tuple& real, const py::tuple& fake,
                                 const py::object& eps, const py::tuple& out) {
  InterpolateCall call;
  for (size_t k = 0; k < real.size(); ++k) {
    TensorPair tensor;
    int64_t groups;
    tensor.dtype = measure(item(real, k), 1, &groups, &tensor.length);
    same(call, k == 0, tensor.dtype, groups);
    tensor.real = grid(item(real, k), tensor.dtype, 1, groups, tensor.length);
    tensor.fake = grid(item(fake, k), tensor.dtype, 1, groups, tensor.length);
    tensor.out = grid(item(out, k), tensor.dtype, 1, groups, tensor.length);
    if (!tensor.fake.groups.data || !tensor.out.groups.data)
      throw std::invalid_argument("a tensor is missing");
    call.tensors.push_back(tensor);
  }
  if (call.tensors.empty()) throw std::invalid_argument("there is no tensor");
  call.eps = memory(eps, call.is_float64 ? DType::float64 : DType::float32, call.groups);
  if (!call.eps) throw std::invalid_argument("eps is missing");
  return call;
}

}  // namespace
}  // namespace fastgan
