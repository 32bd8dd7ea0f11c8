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

// ---------------------------------------------------------------------------------- errors

// The argument that an error names: "x", or "x[2]". Its text is made where an error is.
struct Where {
  const char* name;
  int64_t index = -1;

  std::string text() const {
    return index < 0 ? name : std::string(name) + "[" + std::to_string(index) + "]";
  }
};

[[noreturn]] void refuse(Where where, const std::string& expected, const std::string& got) {
  throw std::invalid_argument(where.text() + ": expected " + expected + ", got " + got);
}
[[noreturn]] void refuse(Where where, const std::string& expected, int64_t got) {
  refuse(where, expected, std::to_string(got));
}

// A number, a string or None as Python writes it; the type of anything else.
std::string described(py::handle o) {
  PyObject* p = o.ptr();
  if (p == Py_None || PyLong_Check(p) || PyFloat_Check(p) || PyUnicode_Check(p)) return py::repr(o);
  return "a " + std::string(Py_TYPE(p)->tp_name);
}

constexpr const char* any_dtype = "float32, float64, float16 or bfloat16";

// `kind` says in words what T is.
template <class T>
T number(Where where, py::handle o, const char* kind = "an integer") {
  try {
    return o.cast<T>();
  } catch (const py::cast_error&) {
    refuse(where, kind, described(o));
  }
}

int code(Where where, py::handle o, int count) {
  int value = number<int>(where, o);
  if (value < 0 || value >= count)
    refuse(where, "a code from 0 to " + std::to_string(count - 1), value);
  return value;
}

// ---------------------------------------------------------------------------------- tensors

// What `learn` was told of torch; held for the life of the process.
struct {
  PyObject *tensor, *parameter, *strided, *dtypes[4];
} torch;

void learn(py::object tensor, py::object parameter, py::object strided, const py::tuple& dtypes) {
  if (dtypes.size() != 4) refuse({"dtypes"}, "4 dtypes", int64_t(dtypes.size()));
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

// -1: a dtype that kernels do not have.
int dtype_code(PyObject* t) {
  py::object d = attribute(t, dtype);
  for (int k = 0; k < 4; ++k)
    if (d.ptr() == torch.dtypes[k]) return k;
  return -1;
}

// The same of an argument, which must be a tensor.
int dtype_code(Where where, PyObject* t) {
  if (!PyObject_HasAttr(t, names[dtype])) refuse(where, "a tensor", described(t));
  return dtype_code(t);
}

DType supported_dtype(Where where, PyObject* t) {
  int found = dtype_code(where, t);
  if (found < 0) refuse(where, any_dtype, std::string(py::str(attribute(t, dtype))));
  return DType(found);
}

void require_dtype(Where where, PyObject* t, DType expected) {
  if (dtype_code(where, t) != int(expected))
    refuse(where, dtype_names[int(expected)], std::string(py::str(attribute(t, dtype))));
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

char* address(Where where, PyObject* t, DType d) {
  int64_t p = integer(call_method(t, data_ptr).ptr());
  if (p == 0) refuse(where, "a tensor with memory", "one without (a null address)");
  if (p % item_size(d))
    refuse(where, "an address aligned to " + std::to_string(item_size(d)) + " bytes", p);
  return reinterpret_cast<char*>(p);
}

// Dimensions [begin, end) of a tensor, those that merge merged.
View dimensions(Where where, const py::object& sizes, const py::object& strides, int64_t begin,
                int64_t end) {
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
      refuse(where, "at most " + std::to_string(max_dims) + " dimensions that do not merge",
             "more");
    w.size[w.dims] = size;
    w.stride[w.dims++] = step;
  }
  if (w.dims == 1 && w.stride[0] == 1) w.dims = 0;
  return w;
}

// Where the elements of a tensor of this dtype lie.
View lie(Where where, PyObject* t, DType known) {
  View w;
  if (call_method(t, is_contiguous).ptr() != Py_True) {
    py::object sizes = attribute(t, shape);
    w = dimensions(where, sizes, call_method(t, stride), 0, PyTuple_Size(sizes.ptr()));
  }
  w.data = address(where, t, known);
  return w;
}

// The same of a tensor that must have this dtype and number of elements; None is an empty view.
View view(Where where, PyObject* t, DType expected, int64_t n) {
  if (t == Py_None) return View();
  require_dtype(where, t, expected);
  int64_t count = integer(call_method(t, numel).ptr());
  if (count != n) refuse(where, std::to_string(n) + " elements", count);
  return lie(where, t, expected);
}

// ---------------------------------------------------------------------------------- losses

std::shared_ptr<Spec> make_spec(const py::list& terms, const std::vector<int>& roles) {
  auto spec = std::make_shared<Spec>();
  int count = int(roles.size());
  for (int j = 0; j < count; ++j) {
    if (roles[j] < 0 || roles[j] > 2) refuse({"roles", j}, "a code from 0 to 2", roles[j]);
    spec->roles.push_back(Role(roles[j]));
  }
  spec->is_mean_operand.resize(count);
  std::vector<bool> used(count), constant(count);
  int64_t number_of_term = -1;
  std::string operands = "one of " + std::to_string(count) + " operands";
  auto use = [&](int j) {
    Where where{"terms", number_of_term};
    if (j < 0 || j >= count) refuse(where, operands, j);
    if (used[j])
      refuse(where, "operands that are in no other term",
             "operand " + std::to_string(j) + " again");
    used[j] = true;
  };
  auto use_constant = [&](int j) {
    if (j >= count) refuse({"terms", number_of_term}, operands, j);
    if (j >= 0) constant[j] = spec->has_constants = true;
  };
  for (py::handle h : terms) {
    Where where{"terms", ++number_of_term};
    if (!PyTuple_Check(h.ptr())) refuse(where, "a tuple", described(h));
    auto t = h.cast<py::tuple>();
    if (t.size() != 14) refuse(where, "14 entries", int64_t(t.size()));
    auto integer = [&](size_t k) { return number<int>(where, t[k]); };
    auto real = [&](size_t k) { return number<double>(where, t[k], "a number"); };
    int phi = code({"phi of terms", number_of_term}, t[0], phi_count);
    int role = code({"role of terms", number_of_term}, t[11], 3);
    Term term = {Phi(phi),    integer(1), integer(2),  integer(3), real(4),
                 real(5),     real(6),    real(7),     real(8),    integer(9),
                 integer(10), Role(role), integer(12), integer(13)};
    use(term.x);
    if (term.y >= 0) use(term.y);
    if (term.y >= 0 && term.mean_operand >= 0) refuse(where, "a pair or a mean operand", "both");
    if (term.mean_operand >= count) refuse(where, operands, term.mean_operand);
    if (term.member < 0) refuse(where, "a member of 0 or more", term.member);
    use_constant(term.factor);
    use_constant(term.label);
    if (term.mean_operand >= 0)
      spec->is_mean_operand[term.mean_operand] = spec->subtracts_mean = true;
    spec->terms.push_back(term);
  }
  if (spec->terms.empty()) refuse({"terms"}, "at least one term", "none");
  for (int j = 0; j < count; ++j) {
    if (constant[j] && (used[j] || spec->is_mean_operand[j]))
      refuse({"roles", j}, "factors and labels apart from other operands", "one that is both");
    if (!used[j] && !spec->is_mean_operand[j] && !constant[j])
      refuse({"roles", j}, "an operand that a term names", "one in no term");
  }
  return spec;
}

// Numbers, one a member, or none for all 1; or a tensor of them, which only a device reads.
void read_weights(Call& call, const py::object& weights) {
  int64_t count;
  if (PyTuple_Check(weights.ptr())) {
    for (py::handle w : weights)
      call.weights.push_back(
          number<double>({"weights", int64_t(call.weights.size())}, w, "a number"));
    count = int64_t(call.weights.size());
  } else {
    Where where{"weights"};
    DType dtype = supported_dtype(where, weights.ptr());
    count = integer(call_method(weights.ptr(), numel).ptr());
    View w = view(where, weights.ptr(), dtype, count);
    if (w.dims) refuse(where, "a contiguous tensor", "one with gaps");
    call.device_weights = w.data;
    call.device_weights_dtype = dtype;
  }
  for (const Term& t : call.spec->terms)
    if (count > 0 && t.member >= count)
      refuse({"weights"}, "at least " + std::to_string(t.member + 1), count);
}

// Factors and labels: as many elements as their term's x, in the loss's dtype, and no gradient.
void check_constants(const Call& call) {
  DType expected = call.is_float64 ? DType::float64 : DType::float32;
  for (const Term& t : call.spec->terms)
    for (int j : {t.factor, t.label}) {
      if (j < 0) continue;
      const Operand& a = call.operands[j];
      if (a.dtype != expected)
        refuse({"x", j}, std::string(dtype_names[int(expected)]) + " for constants",
               dtype_names[int(a.dtype)]);
      if (a.n != call.operands[t.x].n)
        refuse({"x", j}, std::to_string(call.operands[t.x].n) + " elements", a.n);
      if (a.g.data) refuse({"g", j}, "None for constants", "a tensor");
    }
}

// The call on operands x, with g (gradients to write) and v (second order) beside them where those
// are tuples; an entry of theirs may be None, and one of x where `values` is false.
Call make_call(const Spec& spec, const py::tuple& x, const py::object& g, const py::object& v,
               const py::object& weights, int reduction, const py::object& buffers,
               bool values = true) {
  Call call;
  call.spec = &spec;
  const char* operands = values ? "x" : "g";
  if (x.size() != spec.roles.size())
    refuse({operands}, std::to_string(spec.roles.size()) + " operands", int64_t(x.size()));
  auto entry = [&](const char* name, const py::object& list, size_t j) {
    if (list.is_none()) return Py_None;
    if (!PyTuple_Check(list.ptr())) refuse({name}, "a tuple or None", described(list));
    if (size_t(PyTuple_GET_SIZE(list.ptr())) != x.size())
      refuse({name}, "an entry for each of " + std::to_string(x.size()) + " operands",
             PyTuple_GET_SIZE(list.ptr()));
    return PyTuple_GET_ITEM(list.ptr(), j);
  };
  call.operands.resize(x.size());
  for (size_t j = 0; j < x.size(); ++j) {
    Operand& a = call.operands[j];
    PyObject *t = PyTuple_GET_ITEM(x.ptr(), j), *gradient = entry("g", g, j);
    PyObject* any = t != Py_None ? t : gradient;
    Where where{operands, int64_t(j)};
    a.n = 1;
    a.dtype = DType::float32;
    if (values && t == Py_None) refuse(where, "a tensor", "None");
    if (any == Py_None) continue;
    a.dtype = supported_dtype(where, any);
    a.n = integer(call_method(any, numel).ptr());
    if (a.n < 1) refuse(where, "at least one element", "an empty tensor");
    bool is_float64 = a.dtype == DType::float64;
    if (j > 0 && values && is_float64 != call.is_float64)
      refuse(where, call.is_float64 ? "float64 as before" : "no float64 beside another dtype",
             dtype_names[int(a.dtype)]);
    call.is_float64 = call.is_float64 || is_float64;
    if (t != Py_None) a.x = lie(where, t, a.dtype);
    a.g = view({"g", int64_t(j)}, gradient, a.dtype, a.n);
    a.v = view({"v", int64_t(j)}, entry("v", v, j), a.dtype, a.n);
  }
  if (values) check_constants(call);
  for (const Term& t : spec.terms) {
    const Operand& a = call.operands[t.x];
    if (!values || t.y < 0) continue;
    const Operand& y = call.operands[t.y];
    auto size = [](const Operand& of) {
      return std::to_string(of.n) + " elements of " + dtype_names[int(of.dtype)];
    };
    if (y.n != a.n || y.dtype != a.dtype)
      refuse({"x", t.y}, size(a) + " as x[" + std::to_string(t.x) + "], its pair", size(y));
  }
  read_weights(call, weights);
  if (reduction < 0 || reduction > 2) refuse({"reduction"}, "a code from 0 to 2", reduction);
  call.reduction = Reduction(reduction);
  int64_t size = 2 * int64_t(spec.roles.size()) + int64_t(spec.terms.size()) + stat_count;
  if (!buffers.is_none())
    call.buffers =
        reinterpret_cast<double*>(view({"buffers"}, buffers.ptr(), DType::float64, size).data);
  if (spec.subtracts_mean && !call.buffers)
    refuse({"buffers"}, "memory for means, since a term subtracts one", "None");
  return call;
}

DType accumulate(const Call& call) {
  return call.is_float64 ? DType::float64 : DType::float32;
}

std::vector<View> per_term(const char* name, const Call& call, const py::tuple& tensors) {
  std::vector<View> views;
  if (tensors.size() != call.spec->terms.size())
    refuse({name}, "a tensor for each of " + std::to_string(call.spec->terms.size()) + " terms",
           int64_t(tensors.size()));
  for (size_t k = 0; k < tensors.size(); ++k) {
    Where where{name, int64_t(k)};
    views.push_back(view(where, PyTuple_GET_ITEM(tensors.ptr(), k), accumulate(call),
                         call.operands[call.spec->terms[k].x].n));
    if (!views.back().data) refuse(where, "a tensor", "None");
  }
  return views;
}

// `result` is the scalar of a reduced call, or a tuple with a tensor a term of an unreduced one.
void set_result(Call& call, const py::object& result) {
  Where where{"result"};
  if (call.reduction == Reduction::none) {
    if (!PyTuple_Check(result.ptr()))
      refuse(where, "a tuple, since nothing is reduced", described(result));
    call.out = per_term("result", call, result.cast<py::tuple>());
    return;
  }
  call.loss = view(where, result.ptr(), accumulate(call), 1).data;
  if (!call.loss) refuse(where, "a tensor for the reduced loss", "None");
}

void set_upstream(Call& call, const py::tuple& upstream) {
  if (call.reduction == Reduction::none) {
    call.upstream = per_term("upstream", call, upstream);
    return;
  }
  if (upstream.size() != 1)
    refuse({"upstream"}, "one tensor for the reduced loss", int64_t(upstream.size()));
  PyObject* t = PyTuple_GET_ITEM(upstream.ptr(), 0);
  call.scalar_upstream = view({"upstream", 0}, t, accumulate(call), 1).data;
  if (!call.scalar_upstream) refuse({"upstream", 0}, "a tensor", "None");
}

// ---------------------------------------------------------------------------------- groups

PyObject* item(const char* name, const py::object& list, size_t k) {
  if (list.is_none()) return Py_None;
  if (!PyTuple_Check(list.ptr())) refuse({name}, "a tuple or None", described(list));
  if (k >= size_t(PyTuple_GET_SIZE(list.ptr())))
    refuse({name}, "an entry for each tensor", PyTuple_GET_SIZE(list.ptr()));
  return PyTuple_GET_ITEM(list.ptr(), k);
}

// A tensor whose first `outer` dimensions count groups: `groups` of them, of `length` elements
// each.
Grid grid(Where where, PyObject* t, DType expected, int64_t outer, int64_t groups, int64_t length) {
  Grid g;
  if (t == Py_None) return g;
  require_dtype(where, t, expected);
  py::object sizes = attribute(t, shape), strides = call_method(t, stride);
  int64_t dims = PyTuple_Size(sizes.ptr()), count = 1, all = integer(call_method(t, numel).ptr());
  for (int64_t d = 0; d < outer && d < dims; ++d) count *= integer(PyTuple_GetItem(sizes.ptr(), d));
  if (outer > dims || count != groups || all != groups * length)
    refuse(where,
           std::to_string(groups) + " groups of " + std::to_string(length) +
               " elements in the first " + std::to_string(outer) + " dimensions",
           "shape " + std::string(py::str(py::tuple(sizes))));
  g.groups = dimensions(where, sizes, strides, 0, outer);
  g.elements = dimensions(where, sizes, strides, outer, dims);
  g.groups.data = address(where, t, expected);
  return g;
}

// The groups of a tensor and their length; 16-bit and float32 tensors go together.
DType measure(Where where, PyObject* t, int64_t outer, int64_t* groups, int64_t* length) {
  DType dtype = supported_dtype(where, t);
  py::object sizes = attribute(t, shape);
  if (PyTuple_Size(sizes.ptr()) < outer)
    refuse(where, "at least " + std::to_string(outer) + " dimensions", PyTuple_Size(sizes.ptr()));
  *groups = 1;
  for (int64_t d = 0; d < outer; ++d) *groups *= integer(PyTuple_GetItem(sizes.ptr(), d));
  int64_t all = integer(call_method(t, numel).ptr());
  if (all < 1) refuse(where, "at least one element", "an empty tensor");
  *length = all / *groups;
  return dtype;
}

template <class Call>
void same(Where where, Call& call, DType dtype, int64_t groups) {
  bool is_float64 = dtype == DType::float64, first = where.index == 0;
  if (!first && is_float64 != call.is_float64)
    refuse(where, call.is_float64 ? "float64 as before" : "no float64 beside another dtype",
           dtype_names[int(dtype)]);
  if (!first && groups != call.groups)
    refuse(where, std::to_string(call.groups) + " groups as before", groups);
  call.is_float64 = is_float64;
  call.groups = groups;
}

// A contiguous tensor of n elements; null for None.
char* memory(Where where, const py::object& t, DType dtype, int64_t n) {
  View w = view(where, t.ptr(), dtype, n);
  if (w.dims) refuse(where, "a contiguous tensor", "one with gaps");
  return w.data;
}

PenaltyCall make_penalty(const py::tuple& spec, const py::tuple& g, const py::object& masks,
                         const py::object& weights, const py::object& norms) {
  if (spec.size() != 6) refuse({"spec"}, "6 entries", int64_t(spec.size()));
  PenaltyCall call;
  int64_t outer = number<int64_t>({"spec", 4}, spec[4]);
  call.psi = Psi(code({"spec", 0}, spec[0], psi_count));
  call.target = number<double>({"spec", 1}, spec[1], "a number");
  call.power = number<int>({"spec", 2}, spec[2]);
  call.scale = number<double>({"spec", 3}, spec[3], "a number");
  if (call.power < 1 || call.power > max_power)
    refuse({"spec", 2}, "a power from 1 to " + std::to_string(max_power), call.power);
  if (outer < 0) refuse({"spec", 4}, "a number of dimensions", outer);
  for (size_t k = 0; k < g.size(); ++k) {
    PyObject *t = item("g", g, k), *mask = item("masks", masks, k);
    Where where{"g", int64_t(k)};
    NormTensor tensor;
    int64_t groups;
    tensor.dtype = measure(where, t, outer, &groups, &tensor.length);
    same(where, call, tensor.dtype, groups);
    tensor.g = grid(where, t, tensor.dtype, outer, groups, tensor.length);
    tensor.mask =
        grid({"masks", int64_t(k)}, mask, call.is_float64 ? DType::float64 : DType::float32, outer,
             groups, tensor.length);
    call.tensors.push_back(tensor);
  }
  if (call.tensors.empty()) refuse({"g"}, "at least one tensor", "none");
  call.transposed = number<bool>({"spec", 5}, spec[5], "a bool");
  for (const NormTensor& tensor : call.tensors)  // more than a chunk: line after line is as good
    call.transposed = call.transposed && tensor.length <= 1024 && call.groups > 1;
  if (!weights.is_none()) {
    Where where{"weights"};
    require_dtype(where, weights.ptr(), DType::float64);
    int64_t count = integer(call_method(weights.ptr(), numel).ptr());
    if (count < 1 || call.groups % count)
      refuse(where, "a number of weights that divides " + std::to_string(call.groups) + " groups",
             count);
    call.weights = reinterpret_cast<double*>(memory(where, weights, DType::float64, count));
    call.groups_per_weight = call.groups / count;
  }
  call.norms = reinterpret_cast<double*>(memory({"norms"}, norms, DType::float64, call.groups));
  if (!call.norms) refuse({"norms"}, "a tensor for the norms", "None");
  return call;
}

void set_result(PenaltyCall& call, const py::object& result, bool elementwise) {
  DType dtype = call.is_float64 ? DType::float64 : DType::float32;
  if (result.is_none()) return;
  if (elementwise) call.values = memory({"result"}, result, dtype, call.groups);
  else call.result = memory({"result"}, result, dtype, 1);
}

void set_upstream(PenaltyCall& call, const py::object& upstream, bool elementwise) {
  call.elementwise = elementwise;
  DType dtype = call.is_float64 ? DType::float64 : DType::float32;
  call.upstream = memory({"upstream"}, upstream, dtype, elementwise ? call.groups : 1);
  if (!call.upstream) refuse({"upstream"}, "a tensor", "None");
}

void set_grids(const char* name, PenaltyCall& call, const py::tuple& spec,
               const py::object& tensors, Grid NormTensor::* which) {
  for (size_t k = 0; k < call.tensors.size(); ++k) {
    NormTensor& tensor = call.tensors[k];
    tensor.*which = grid({name, int64_t(k)}, item(name, tensors, k), tensor.dtype,
                         spec[4].cast<int64_t>(), call.groups, tensor.length);
  }
}

// `out_name`: what the caller calls `out`.
InterpolateCall make_interpolate(const py::tuple& real, const py::tuple& fake,
                                 const py::object& eps, const py::tuple& out,
                                 const char* out_name) {
  InterpolateCall call;
  for (size_t k = 0; k < real.size(); ++k) {
    TensorPair tensor;
    int64_t groups;
    Where where{"real", int64_t(k)};
    tensor.dtype = measure(where, item("real", real, k), 1, &groups, &tensor.length);
    same(where, call, tensor.dtype, groups);
    auto beside = [&](const char* name, const py::tuple& list) {
      Where place{name, int64_t(k)};
      Grid found = grid(place, item(name, list, k), tensor.dtype, 1, groups, tensor.length);
      if (!found.groups.data) refuse(place, "a tensor", "None");
      return found;
    };
    tensor.real = beside("real", real);
    tensor.fake = beside("fake", fake);
    tensor.out = beside(out_name, out);
    call.tensors.push_back(tensor);
  }
  if (call.tensors.empty()) refuse({"real"}, "at least one tensor", "none");
  call.eps = memory({"eps"}, eps, call.is_float64 ? DType::float64 : DType::float32, call.groups);
  if (!call.eps) refuse({"eps"}, "a tensor", "None");
  return call;
}

}  // namespace
}  // namespace fastgan
