// The Python module fastgan._nodes: nodes of autograd in C++ over the kernels of fastgan._native.
// Its functions return None where anything is unusual: fastgan then takes its way through Python.
#include "nodes.h"

#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pybind.h>

#ifndef FASTGAN_TORCH
#define FASTGAN_TORCH "unknown"
#endif

namespace fastgan {
namespace {

uint64_t served = 0;  // devices whose CUDA kernels are known to run, a bit each

bool read(PyObject* sequence, Tensors& tensors) {
  Reference list(PySequence_Fast(sequence, "tensors: expected a sequence"));
  PyObject** items = PySequence_Fast_ITEMS(list.get());
  Py_ssize_t count = PySequence_Fast_GET_SIZE(list.get());
  tensors.reserve(size_t(count));
  for (Py_ssize_t k = 0; k < count; ++k) {
    if (!THPVariable_CheckTypeExact(Py_TYPE(items[k]))) return false;
    tensors.push_back(THPVariable_Unpack(items[k]));
  }
  return count > 0;
}

// Whether nodes serve these tensors as things are.
bool serves(const Tensors& x) {
  if (!known.native || !state_is_usual()) return false;
  bool grad = false, inference = false;
  for (const Tensor& t : x) {
    grad = grad || t.requires_grad();
    inference = inference || t.is_inference();
    if (has_tangent(t)) return false;
  }
  if (grad && inference && at::GradMode::is_enabled()) return false;  // autograd saves none
  if (x[0].is_cpu()) return true;
  int device = x[0].get_device();
  return known.native->cuda && device >= 0 && device < 64 && (served >> device & 1);
}

template <class Plan>
const std::shared_ptr<const Plan>& plan_in(PyObject* capsule) {
  void* found = PyCapsule_GetPointer(capsule, typeid(Plan).name());
  if (!found) throw python_error();
  return *static_cast<std::shared_ptr<const Plan>*>(found);
}

template <class Plan>
PyObject* make_plan(PyObject*, PyObject* text) {
  HANDLE_TH_ERRORS
  const char* words = PyUnicode_AsUTF8(text);
  if (!words) throw python_error();
  auto* plan = new std::shared_ptr<const Plan>(plan_of<Plan>(words));
  return PyCapsule_New(plan, typeid(Plan).name(), [](PyObject* capsule) {
    delete static_cast<std::shared_ptr<const Plan>*>(
        PyCapsule_GetPointer(capsule, typeid(Plan).name()));
  });
  END_HANDLE_TH_ERRORS
}

bool count_is(Py_ssize_t got, Py_ssize_t least, Py_ssize_t most, const char* signature) {
  if (got >= least && got <= most) return true;
  PyErr_Format(PyExc_TypeError, "expected %s, got %zd arguments", signature, got);
  return false;
}

PyObject* loss(PyObject*, PyObject* const* given, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  if (!count_is(count, 2, 4, "loss(plan, tensors, statistics=False, values=False)")) return nullptr;
  LossKind kind(plan_in<LossPlan>(given[0]));
  kind.statistics = count > 2 && PyObject_IsTrue(given[2]) == 1;
  kind.values = count > 3 && PyObject_IsTrue(given[3]) == 1;
  Tensors x;
  State state;
  if (!read(given[1], x) || !kind.fits(x, Tensor()) || !serves(x)) Py_RETURN_NONE;
  Tensors results = run<Loss>(kind, x, state);
  if (!kind.statistics && !kind.values) return THPVariable_Wrap(std::move(results[0]));
  return tuple_of({results[0], state.extra});
  END_HANDLE_TH_ERRORS
}

PyObject* penalty(PyObject*, PyObject* const* given, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  if (!count_is(count, 2, 2, "penalty(plan, tensors)")) return nullptr;
  PenaltyKind kind(plan_in<PenaltyPlan>(given[0]));
  Tensors x;
  State state;
  if (!read(given[1], x) || !kind.fits(x, Tensor()) || !serves(x)) Py_RETURN_NONE;
  Tensors results = run<Penalty>(kind, x, state);
  return tuple_of({results[0], state.extra});
  END_HANDLE_TH_ERRORS
}

PyObject* interpolate(PyObject*, PyObject* tensors) {
  HANDLE_TH_ERRORS
  PointsKind kind;
  Tensors x;
  State state;
  if (!read(tensors, x) || !kind.fits(x, Tensor()) || !serves(x)) Py_RETURN_NONE;
  return tuple_of(run<Points>(kind, x, state));
  END_HANDLE_TH_ERRORS
}

// As fastgan._native's: -1 where anything about the tensors wants a closer look; else whether one
// requires grad, plus 2 where they are on a CUDA device.
PyObject* scan(PyObject*, PyObject* tensors) {
  HANDLE_TH_ERRORS
  Tensors x;
  if (!read(tensors, x)) return PyLong_FromLong(PySequence_Size(tensors) == 0 ? 0 : -1);
  if (!all_usual(x)) return PyLong_FromLong(-1);
  bool grad = false;
  for (const Tensor& t : x) grad = grad || t.requires_grad();
  return PyLong_FromLong(int(grad) + (x[0].is_cpu() ? 0 : 2));
  END_HANDLE_TH_ERRORS
}

PyObject* nothing(PyObject*, PyObject* tensors) {
  HANDLE_TH_ERRORS
  Tensors x;
  if (!read(tensors, x)) Py_RETURN_NONE;
  return THPVariable_Wrap(Nothing::apply(at::TensorList(x))[0]);
  END_HANDLE_TH_ERRORS
}

PyObject* serve(PyObject*, PyObject* device) {
  long index = PyLong_AsLong(device);
  if (index == -1 && PyErr_Occurred()) return nullptr;
  if (index >= 0 && index < 64) served |= uint64_t(1) << index;
  Py_RETURN_NONE;
}

// learn(interface, backward, second, stream_of)
PyObject* learn(PyObject*, PyObject* const* given, Py_ssize_t count) {
  if (!count_is(count, 4, 4, "learn(interface, backward, second, stream_of)")) return nullptr;
  void* interface = PyCapsule_GetPointer(given[0], interface_name);
  if (!interface) return nullptr;
  known.native = static_cast<const Interface*>(interface);
  python_backward = Py_NewRef(given[1]);
  python_second = Py_NewRef(given[2]);
  known.stream_of = Py_NewRef(given[3]);
  Py_RETURN_NONE;
}

template <class F>
PyCFunction fast(F f) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(f));
}

PyMethodDef methods[] = {
    {"loss", fast(loss), METH_FASTCALL,
     "loss(plan, tensors, statistics=False, values=False): the loss, or (loss, buffers)"},
    {"penalty", fast(penalty), METH_FASTCALL, "penalty(plan, tensors): (penalty, norms)"},
    {"interpolate", interpolate, METH_O, "interpolate(tensors): points between real and fake"},
    {"loss_plan", make_plan<LossPlan>, METH_O, "What `loss` takes, of a text."},
    {"penalty_plan", make_plan<PenaltyPlan>, METH_O, "What `penalty` takes, of a text."},
    {"scan", scan, METH_O, "As fastgan._native.scan."},
    {"nothing", nothing, METH_O, "A node that does nothing: what a node costs at least."},
    {"serve", serve, METH_O, "CUDA kernels run on the device of this number."},
    {"learn", fast(learn), METH_FASTCALL, "learn(interface, backward, second, stream_of)"},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                          "fastgan._nodes",
                          "Nodes of autograd in C++; fastgan/ops/nodes.py calls them.",
                          -1,
                          methods,
                          nullptr,
                          nullptr,
                          nullptr,
                          nullptr};

}  // namespace
}  // namespace fastgan

PyMODINIT_FUNC PyInit__nodes() {
  PyObject* module = PyModule_Create(&fastgan::definition);
  if (!module) return nullptr;
  if (PyModule_AddStringConstant(module, "headers", FASTGAN_HEADERS) < 0 ||
      PyModule_AddStringConstant(module, "torch", FASTGAN_TORCH) < 0) {
    Py_DECREF(module);
    return nullptr;
  }
  return module;
}
