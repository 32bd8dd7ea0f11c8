"""How Triton kernels are launched, as far as it can be seen without a device: a driver that only takes notes."""

import contextlib
import ctypes
import math
import os
import subprocess
import sys
import types

import pytest
import torch

import fastgan
from fastgan import backends
from fastgan.backends import cuda, nodes, verdicts
from tests.helpers import ROOT
from tests.helpers.calls import losses, norms, points

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("launches nothing under TRITON_INTERPRET=1", allow_module_level=True)

from fastgan.triton_kernels import groups, launch, loss  # noqa: E402

from fastgan.backends import triton as ft  # noqa: E402
from tests.helpers.precompile import recording  # noqa: E402


class Driver:
    """An H100 that loads and launches on paper."""

    def __init__(self):
        self.launches = []
        self.device, self.stream = 0, 77
        driver = self

        class Launcher:
            def __init__(self, source, metadata):
                self.names = source.fn.arg_names
                self.signature = source.signature

            def __call__(self, x, y, z, stream, function, packed, launch_metadata, enter, leave, *arguments):
                assert len(arguments) == len(self.names)
                driver.launches.append(types.SimpleNamespace(
                    grid=(x, y, z), stream=stream, function=function, hooks=(enter, leave), arguments=arguments,
                    signature=self.signature,
                ))  # fmt: skip

        self.launcher_cls = Launcher
        self.utils = types.SimpleNamespace(
            load_binary=lambda name, *_: (1, f"{name}'s handle", 32, 0, 1024),
            get_device_properties=lambda device: {"max_shared_mem": 232448, "warpSize": 32},
            unload_module=lambda module: None,
        )

    def get_current_device(self):
        return self.device

    def get_current_stream(self, device):
        return self.stream + device

    def get_current_target(self):
        return triton.backends.compiler.GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self):
        return torch.device("cuda", self.device)

    def answered_by(self, call):
        """Another launcher, which calls `call(*everything)`."""
        self.launcher_cls = type("Launcher", (self.launcher_cls,), {"__call__": lambda self, *given: call(*given)})


@pytest.fixture
def driver(monkeypatch):
    from triton.runtime import driver as config

    made = Driver()
    monkeypatch.setattr(launch, "_handles", {})
    monkeypatch.setattr(launch._state, "by_handle", True)
    monkeypatch.setattr(config, "_active", made)
    monkeypatch.setattr(backends, "get", lambda tensors, scanned=-1: ft.BACKEND)
    with nodes.off():
        yield made
    launch._handles.clear()


def test_a_loss_is_one_launch_and_its_backward_another(driver):
    x, y = torch.zeros(100, requires_grad=True), torch.ones(100, requires_grad=True)
    loss = fastgan.discriminator_loss(x, y)
    assert [(n.function, n.grid, n.stream) for n in driver.launches] == [("loss_sums's handle", (1, 1, 1), 77)]
    loss.backward()
    assert [(n.function, n.grid) for n in driver.launches[1:]] == [("loss_elements's handle", (2, 1, 1))]


def test_what_is_large_takes_one_more(driver):
    x, y = torch.zeros(100_000), torch.ones(100_000)
    fastgan.discriminator_loss(x, y)
    functions = [(n.function, n.grid[0]) for n in driver.launches]
    assert functions == [("loss_sums's handle", 2 * 98), ("loss_finish's handle", 1)]


def test_a_level_of_the_tree_is_one_more(driver):
    """Past a million elements; several programs share it."""
    fastgan.discriminator_loss(torch.zeros(3_000_000), torch.ones(70))
    functions = [(n.function, n.grid[0]) for n in driver.launches]
    assert functions == [("loss_sums's handle", 733 + 1), ("loss_shrink's handle", 1), ("loss_finish's handle", 1)]


def test_lists_are_one_launch(driver):
    fastgan.discriminator_loss([torch.zeros(500)] * 8, [torch.ones(500)] * 8)
    assert len(driver.launches) == 1
    fastgan.discriminator_loss([torch.zeros(5000)] * 8, [torch.ones(5000)] * 8)
    assert [n.grid[0] for n in driver.launches[1:]] == [16 * 5, 1]


@contextlib.contextmanager
def noting():
    """(kernel's name, programs, constants by name, warps) of each launch; nothing is compiled."""
    noted = []

    def launched(fn, programs, arguments, constants, warps):
        named = dict(zip(fn.arg_names[len(arguments) :], constants, strict=True))
        noted.append((fn.__name__, programs, named, warps))

    with recording({}) as patch:
        patch.setattr(launch, "launch", launched)
        patch.setattr(backends, "get", lambda tensors, scanned=-1: ft.BACKEND)
        yield noted


def names(call):
    """The names of the kernels that a call launches."""
    with noting() as noted:
        call()
    return [name for name, *_ in noted]


def test_one_warp_for_both_terms_of_a_small_loss():
    x, y = torch.zeros(64), torch.ones(64)
    with noting() as noted:
        fastgan.discriminator_loss(x, y)
        fastgan.discriminator_loss(x, y, return_stats=True)
        fastgan.discriminator_loss(x, y, relativistic="average", return_stats=True)
    assert [(name, programs, warps) for name, programs, _, warps in noted] == [("loss_sums", 1, 1)] * 3
    assert [named["SIDE_BY_SIDE"] for _, _, named, _ in noted] == [True, True, False]


def lists(count, shape=(60,)):
    return [[torch.full(shape, 0.5 * k) for _ in range(count)] for k in range(2)]


@pytest.mark.parametrize(
    "call",
    [
        lambda n: losses(*lists(n), return_stats=True),
        lambda n: losses(*lists(n), relativistic="average", return_stats=True),
        lambda n: losses(*lists(n, (9000,)), relativistic="paired"),
        lambda n: losses(*lists(n), reduction="none", real_mask=[torch.ones(60)] * n),
        lambda n: norms(lists(n, (3, 60))[0]),
        lambda n: norms([torch.ones(3, 7, 20, 40).transpose(1, 3)] * n),
        lambda n: points(*(tuple(v) for v in lists(n, (3, 60)))),
    ],
    ids=["stats", "average", "paired", "mask", "norms", "strided norms", "points"],
)
def test_a_longer_list_compiles_nothing_new(call):
    found = {}
    with recording(found) as patch:
        patch.setattr(backends, "get", lambda tensors, scanned=-1: ft.BACKEND)
        call(5)()
        compiled = len(found)
        for count in (6, 7, 8):
            call(count)()
    assert len(found) == compiled > 0


def test_every_kernel_of_a_list_takes_the_arguments_of_its_length(driver):
    """What is launched is what was compiled: the handle's key does not say how long the tuples are."""
    for count in (5, 7):
        fastgan.generator_loss([torch.zeros(60)] * count)
    assert len(launch._handles) == 1
    kinds = [noted.signature for noted in driver.launches]
    assert kinds[0] == kinds[1]
    for noted in driver.launches:
        assert [len(noted.arguments[k]) for k in range(2)] == [
            len(noted.signature[k]) for k in ("addresses", "constants")
        ]


@pytest.mark.parametrize(
    ("shape", "sums"),
    [
        ((64, 8), ["group_sums"]),
        ((64, 3, 64, 64), ["group_sums"]),
        ((128, 3, 32, 32), ["group_sums"]),
        ((1000, 3, 32, 32), ["group_sums"]),
        ((129, 10_000), ["group_sums", "shrink"]),
        ((5, 200_000), ["group_sums"]),
        ((64, 300_000), ["group_sums", "shrink"]),
    ],
)
def test_launches_of_norms(shape, sums):
    """Sums over groups, then all that is made of them."""
    g = torch.zeros(1).expand(shape)
    assert names(lambda: fastgan.norm_penalty(g)) == [*sums, "penalty_groups"]
    assert names(norms(g))[len(sums) + 1 :] == ["penalty_gradient", *sums, "penalty_groups", "penalty_gradient"]
    statistics = [] if shape[0] <= 128 else ["penalty_statistics"]
    assert names(lambda: fastgan.norm_penalty(g, return_stats=True)) == [*sums, "penalty_groups", *statistics]


def test_launches_of_norms_of_a_list():
    gs = [torch.zeros(1).expand(16, 200 * 4**k) for k in range(4)]
    assert names(lambda: fastgan.norm_penalty(gs)) == ["group_sums", "penalty_groups"]
    assert names(lambda: fastgan.norm_penalty(gs, over="batch")) == ["group_sums", "penalty_groups"]
    gs = [torch.zeros(1).expand(1, n) for n in (1_300_000, 10_000, 10_000)]  # one is of more than a chunk of chunks
    assert names(lambda: fastgan.norm_penalty(gs)) == ["group_sums", *["shrink"] * 4, "penalty_groups"]


def test_arguments_are_integers_of_64_bits(driver):
    norms(torch.ones(4, 3, 8, 8), return_stats=True)()
    losses(torch.zeros(3000), torch.ones(3000), relativistic="average", return_stats=True)()
    for noted in driver.launches:
        for name, given in zip(noted.signature, noted.arguments, strict=True):
            kind = noted.signature[name]
            if kind == "constexpr":
                continue
            flat, kinds = (given, kind) if isinstance(given, tuple) else ((given,), (kind,))
            assert set(kinds) == {"i64"}
            assert len(flat) == len(kinds)
            assert all(type(v) is int and -(2**63) <= v < 2**63 for v in flat), name


def test_addresses_are_those_of_the_tensors(driver):
    x, y = torch.zeros(64), torch.ones(64)
    fastgan.discriminator_loss(x, y)
    addresses = driver.launches[0].arguments[0]
    assert (addresses[0], addresses[8]) == (x.data_ptr(), y.data_ptr())


def test_kernels_are_kept_by_what_they_were_compiled_for(driver):
    """Sizes and addresses do not matter; dtypes, alignment, devices do."""
    base = torch.zeros(2048)
    for x in (base[:64], base[4:1000], base[:1]):
        fastgan.generator_loss(x)
    assert len(launch._handles) == 1
    fastgan.generator_loss(base[1:65])  # not at 16 bytes
    assert len(launch._handles) == 2
    fastgan.generator_loss(base[:64].bfloat16())
    assert len(launch._handles) == 3
    driver.device = 1
    fastgan.generator_loss(base[:64])
    assert len(launch._handles) == 4
    assert driver.launches[-1].stream == 78


def test_profilers_see_launches(driver):
    seen = []
    triton.knobs.runtime.launch_enter_hook.add(seen.append)
    try:
        fastgan.generator_loss(torch.zeros(64))
    finally:
        triton.knobs.runtime.launch_enter_hook.remove(seen.append)
    hook = driver.launches[-1].hooks[0]
    assert hook is triton.knobs.runtime.launch_enter_hook
    fastgan.generator_loss(torch.zeros(64))
    assert driver.launches[-1].hooks == (None, None)


def test_an_ordinary_launch_where_the_compiler_is_called_otherwise(driver, monkeypatch):
    def gone(*arguments, **options):
        raise TypeError("compile() has changed")

    calls = []
    monkeypatch.setattr(launch, "compiled", gone)
    monkeypatch.setattr(
        triton.runtime.JITFunction, "run", lambda self, *a, **k: calls.append((self.__name__, k)), raising=True
    )
    fastgan.generator_loss(torch.zeros(64))
    ((name, options),) = calls
    assert name == "loss_sums"
    assert options["enable_fp_fusion"] is False
    assert options["num_warps"] == 1
    assert options["grid"] == (1,)


@pytest.fixture
def ordinary(monkeypatch):
    """The arguments of ordinary launches, which launch nothing."""
    calls = []
    monkeypatch.setattr(triton.runtime.JITFunction, "run", lambda self, *a, grid, warmup, **k: calls.append(a))
    return calls


@pytest.mark.parametrize("error", [TypeError, AttributeError, ValueError])
def test_ordinary_launches_where_a_handle_is_run_otherwise(driver, ordinary, error):
    """From the first refusal on, which may come late."""
    handles = []

    def run(*given):
        handles.append(given)
        if len(handles) == 2:
            raise error("function takes 12 arguments")

    driver.answered_by(run)
    for count in range(5):
        fastgan.generator_loss(torch.zeros(64))
        assert (len(handles), len(ordinary)) == (min(count + 1, 2), max(count, 0))


def test_what_an_ordinary_launch_raises_too_is_not_of_handles(driver, monkeypatch):
    def run(*given, **options):
        raise ValueError("a hook of somebody's")

    driver.answered_by(run)
    monkeypatch.setattr(triton.runtime.JITFunction, "run", run)
    with pytest.raises(ValueError, match="of somebody's"):
        fastgan.generator_loss(torch.zeros(64))
    assert launch._state.by_handle


def test_other_errors_of_a_launch_are_raised(driver, ordinary):
    def run(*given):
        raise RuntimeError("Triton Error [CUDA]: invalid argument")

    driver.answered_by(run)
    with pytest.raises(RuntimeError, match="invalid argument"):
        fastgan.generator_loss(torch.zeros(64))
    assert not ordinary


def test_no_specialisation_in_an_ordinary_launch():
    """1 and multiples of 16 are numbers like others there too."""
    for parameter in groups.shrink.params[:4]:
        assert parameter.do_not_specialize, parameter.name


# ---------------------------------------------------------------------------------- the trial


def write(address, *numbers):
    (ctypes.c_float * len(numbers)).from_address(address)[:] = numbers


def compute(arguments, gradient=(-0.25, -0.05960146)):
    """What the trial's kernels write, for the arguments of a launch."""
    addresses, _, memory = arguments[:3]
    if memory[loss.RESULT.value]:
        write(memory[loss.RESULT.value], 0.4100376)
    else:
        write(addresses[2], *gradient)


class Machine:
    """A device whose verdict is asked for; its memory is the CPU's."""

    def __init__(self, monkeypatch):
        self.capturing = False
        module = types.SimpleNamespace(
            device=lambda index: contextlib.nullcontext(), is_current_stream_capturing=lambda: self.capturing
        )
        small = ft._small_loss
        monkeypatch.setattr(torch, "get_device_module", lambda device: module)
        monkeypatch.setattr(ft, "_small_loss", lambda logits, device: small(logits, torch.device("cpu")))
        self.unusable = verdicts.lasting(ft.unusable.__wrapped__)


@pytest.fixture
def machine(driver, monkeypatch):
    driver.answered_by(lambda *given: compute(given[9:]))
    return Machine(monkeypatch)


def test_the_trial_launches_and_reads_the_results(driver, machine):
    launched = []
    driver.answered_by(lambda *given: launched.append(given[4]) or compute(given[9:]))
    assert machine.unusable("cuda", 0) is None
    assert launched == ["loss_sums's handle", "loss_elements's handle"]
    assert machine.unusable("cuda", 0) is None
    assert len(launched) == 2, "once a device"


def test_the_trials_numbers_are_right():
    logits, (value, *gradient) = ft._TRIAL
    x = torch.tensor(logits, requires_grad=True, dtype=torch.float64)
    expected = fastgan.generator_loss(x)
    expected.backward()
    assert math.isclose(value, expected.item(), rel_tol=1e-6)
    assert all(math.isclose(g, e, rel_tol=1e-6) for g, e in zip(gradient, x.grad.tolist(), strict=True))


@pytest.mark.parametrize(
    "run", [lambda *given: None, lambda *given: compute(given[9:], (0.25, 0.05960146))], ids=["nothing", "a sign"]
)
def test_wrong_results_are_a_verdict(driver, machine, run):
    driver.answered_by(run)
    why = machine.unusable("cuda", 0)
    assert why.startswith("Triton cannot run: a small loss and its gradient came out as (")
    assert "not as (0.41003" in why
    driver.answered_by(lambda *given: compute(given[9:]))
    launch._handles.clear()
    assert machine.unusable("cuda", 0) == why


@pytest.mark.parametrize("changed", ["run", "compile"])
def test_the_trial_of_a_changed_triton(driver, machine, monkeypatch, changed):
    """Ordinary launches pass it."""

    def gone(*given, **options):
        raise TypeError(f"{changed}() has changed")

    monkeypatch.setattr(triton.runtime.JITFunction, "run", lambda self, *a, grid, warmup, **k: compute(a))
    if changed == "run":
        driver.answered_by(gone)
    else:
        monkeypatch.setattr(launch, "compiled", gone)
    assert machine.unusable("cuda", 0) is None
    assert not launch._state.by_handle


def test_nothing_is_launched_or_kept_during_a_capture(driver, machine):
    launched = []
    driver.answered_by(lambda *given: launched.append(given))
    machine.capturing = True
    assert machine.unusable("cuda", 0) is None
    assert not launched, "results cannot be read during a capture"
    machine.capturing = False
    assert "came out as" in machine.unusable("cuda", 0)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("Tried to allocate 2.00 MiB"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("Triton Error [CUDA]: operation not permitted when stream is capturing"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
    ],
    ids=["torch", "triton", "capture", "earlier work"],
)
def test_errors_that_may_pass_are_not_kept(driver, machine, error):
    good = driver.utils.load_binary

    def load_binary(*arguments):
        raise error

    driver.utils.load_binary = load_binary
    assert machine.unusable("cuda", 0) == f"Triton cannot run: {error}"
    driver.utils.load_binary = good
    assert machine.unusable("cuda", 0) is None


def test_errors_that_stay_are_kept(driver, machine):
    def load_binary(*arguments):
        raise RuntimeError("0 active drivers")

    good, driver.utils.load_binary = driver.utils.load_binary, load_binary
    why = machine.unusable("cuda", 0)
    driver.utils.load_binary = good
    assert machine.unusable("cuda", 0) == why == "Triton cannot run: 0 active drivers"


class Watching(torch.overrides.TorchFunctionMode):
    """A mode that sees functions, and might replace them."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", ["grad", "vmap", "fake", "functions"])
def test_the_trial_inside_of_a_transform(machine, mode):
    """Its tensors are plain ones even where the call that asks for it is traced or transformed."""
    found = []

    def ask(x):
        found.append(machine.unusable("cuda", 0))
        return x.sum()

    if mode == "fake":
        with torch._subclasses.FakeTensorMode():
            ask(torch.zeros(3))
    elif mode == "functions":
        with Watching() as watching:
            ask(torch.zeros(3))
        assert torch.tensor not in watching.seen
    else:
        getattr(torch.func, mode)(ask)(torch.zeros(3, 3) if mode == "vmap" else torch.zeros(3))
    assert found == [None]


def test_the_current_device_in_every_torch():
    older = types.SimpleNamespace(current_device_idx=lambda: 3)
    newer = types.SimpleNamespace(current_device_idx=lambda: 0, current_device_index=lambda: 4)
    assert (ft._index_function(older)(), ft._index_function(newer)()) == (3, 4)


# ---------------------------------------------------------------------------------- which backend


def python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    return done.stdout + done.stderr


def test_without_triton():
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import fastgan, torch\n"
        "print(fastgan.generator_loss(torch.zeros(2)).item(), fastgan.info()['backends']['triton'])\n"
        "with fastgan.backend('triton'): fastgan.generator_loss(torch.zeros(2))"
    )
    out = python(code)
    assert "0.6931" in out
    assert "pip install 'triton>=3.6'" in out
    assert "backend 'triton' cannot serve this call: Triton is not there" in out


def test_importing_fastgan_does_not_import_triton():
    out = python(
        "import fastgan, torch, sys; fastgan.generator_loss(torch.zeros(2)); print('fastgan.triton' in sys.modules)"
    )
    assert out.strip().endswith("False")


def test_without_the_extension():
    """The kernels need no compiled code of fastgan's."""
    code = (
        "import sys; sys.modules['fastgan._native'] = None\n"
        "import fastgan, torch\n"
        "from tests.helpers import interpreted\n"
        "r, f = torch.ones(3, requires_grad=True), torch.zeros(3)\n"
        "with fastgan.backend('triton'):\n"
        "    loss, stats = fastgan.discriminator_loss(r, f, 'hinge', return_stats=True)\n"
        "    penalty, norms = fastgan.norm_penalty(torch.ones(2, 4), return_stats=True)\n"
        "loss.backward(); print(loss.item(), stats.real_accuracy.item(), r.grad.tolist(), penalty.item(), norms.norm_max.item())"
    )
    out = python(code, TRITON_INTERPRET="1", PYTHONPATH=str(ROOT))
    assert "1.0 1.0 [-0.0, -0.0, -0.0] 1.0 2.0" in out


def accelerator(kind):
    """A tensor that says it is on such a device."""
    t = torch.zeros(3)

    class There(torch.Tensor):
        is_cpu = False
        is_cuda = kind == "cuda"
        is_meta = False
        device = torch.device(kind, 0)

    return t.as_subclass(There)


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_auto_on_accelerators(kind, monkeypatch):
    """Triton where the extension has no kernels, and the reference where Triton cannot run either."""
    monkeypatch.setattr(cuda, "unusable", lambda index: "no CUDA kernels")
    monkeypatch.setattr(backends, "_PLAIN", (torch.Tensor, type(t := accelerator(kind))))
    monkeypatch.setattr(ft, "unusable", lambda kind, index: None)
    assert backends.get((t,)) is ft.BACKEND
    monkeypatch.setattr(ft, "unusable", lambda kind, index: "no compiler")
    assert backends.get((t,)).name == "reference"
    with fastgan.backend("triton"):
        monkeypatch.setattr(ft, "missing", lambda: None)
        with pytest.raises(RuntimeError, match="cannot serve this call: no compiler"):
            backends.get((t,))


def test_auto_does_not_fail_where_triton_does(monkeypatch):
    """A driver or a compiler that is not there is a reason, not an error."""

    def broken(*arguments):
        raise RuntimeError("0 active drivers")

    monkeypatch.setattr(ft, "_trial", broken)
    why = ft.unusable.__wrapped__("cuda", 0)
    assert why.startswith("Triton cannot run")
