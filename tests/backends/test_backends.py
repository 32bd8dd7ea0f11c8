"""Which kernels serve a call, and how one chooses."""

import contextlib
import os
import subprocess
import sys
import types

import pytest
import torch

import fastgan
from fastgan import _checks, _info, backends
from fastgan.backends import cpu, cuda, native, reference, verdicts
from fastgan.backends.specs import LossSpec
from fastgan.ops import loss


def python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    return done.stdout + done.stderr


@pytest.mark.usefixtures("python_way")
def test_auto_uses_the_cpu_kernels(monkeypatch):
    calls = []
    forward = cpu.BACKEND.loss_forward
    monkeypatch.setattr(cpu.BACKEND, "loss_forward", lambda *a, **k: calls.append("cpu") or forward(*a, **k))
    monkeypatch.setattr(
        reference, "evaluate", lambda *a, _f=reference.evaluate: calls.append("reference") or _f(*a)
    )
    x = torch.zeros(3)
    fastgan.generator_loss(x)
    with fastgan.backend("reference"):
        fastgan.generator_loss(x)
        with fastgan.backend("cpu"):
            fastgan.generator_loss(x)
        fastgan.generator_loss(x)
    fastgan.generator_loss(x)
    assert calls == ["cpu", "reference", "cpu", "reference", "cpu"]


def test_the_best_instruction_set_is_taken():
    out = python("from fastgan.backends import cpu; print(cpu.native.isa() == cpu.native.isas()[0])")
    assert out.strip().endswith("True")


@pytest.mark.parametrize("name", ["cuda", "triton"])
def test_backends_that_are_not_there_say_so(name):
    why = fastgan.info()["backends"][name]
    if why == "ready":
        why = "the tensors are on cpu"
    with fastgan.backend(name), pytest.raises(RuntimeError, match="cannot serve") as caught:
        fastgan.generator_loss(torch.zeros(3))
    assert f"backend '{name}' cannot serve this call: {why}" in str(caught.value)


def test_environment_variable():
    code = "import fastgan, torch; print(fastgan.info()['FASTGAN_BACKEND'], fastgan.generator_loss(torch.zeros(2)).item())"
    assert python(code, FASTGAN_BACKEND="reference").startswith("reference 0.693147")
    assert "FASTGAN_BACKEND: expected one of auto" in python(code, FASTGAN_BACKEND="gpu")


def test_without_the_extension():
    """As after an install with no compiler: everything works on the reference, and info says why."""
    code = (
        "import sys; sys.modules['fastgan._native'] = None\n"
        "import fastgan, torch\n"
        "r = torch.zeros(2, requires_grad=True)\n"
        "loss, stats = fastgan.discriminator_loss(r, r, 'hinge', return_stats=True)\n"
        "loss.backward(); print(loss.item(), stats.real_accuracy.item(), r.grad.tolist())\n"
        "print(torch.compile(fastgan.generator_loss, fullgraph=True, backend='eager')(r).item())\n"
        "print(fastgan.info()['backends']['cpu'], fastgan.info()['auto uses'])\n"
        "with fastgan.backend('cpu'): fastgan.generator_loss(r)"
    )
    out = python(code)
    assert "2.0 0.0 [0.0, 0.0]" in out
    assert "0.69314" in out
    assert "the compiled extension is not there" in out
    assert "'CPU tensors': 'reference'" in out
    assert "RuntimeError: backend 'cpu' cannot serve this call: the compiled extension is not there" in out


def test_without_torch():
    out = python("import sys; sys.modules['torch'] = None\nimport fastgan")
    assert "ImportError: fastgan needs PyTorch" in out


def test_info():
    done = subprocess.run([sys.executable, "-m", "fastgan", "info"], capture_output=True, text=True, check=True)
    for line in (
        f"fastgan: {fastgan.__version__}",
        "native: built",
        "compiler:",
        "cpu: ready",
        "cuda: ",
    ):
        assert line in done.stdout
    assert fastgan.info()["auto uses"]["CPU tensors"] == "cpu"
    done = subprocess.run(
        [sys.executable, "-m", "fastgan", "nonsense"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2


def test_threads_come_from_torchs_runtime():
    """The extension brings no OpenMP of its own, and small calls stay on the calling thread."""
    libraries = subprocess.run(["ldd", cpu.native.__file__], capture_output=True, text=True, check=True).stdout
    assert "omp" not in libraries
    assert "torch" not in libraries


def test_curriculum():
    weights = fastgan.curriculum_weights
    assert weights(1, 0.0) == weights(1, 1.0) == (1.0,)
    assert weights(3, 0.0) == (1.0, 0.0, 0.0)
    assert weights(3, 0.5) == (0.0, 1.0, 0.0)
    assert weights(3, 1.0) == (0.0, 0.0, 1.0)
    assert weights(3, 0.625) == (0.0, 0.75, 0.25)
    for step in range(101):
        w = weights(5, step / 100)
        assert sum(w) == pytest.approx(1.0, abs=1e-15)
        assert min(w) >= 0
        assert sum(v > 0 for v in w) <= 2


def test_clip_weights():
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2).double())
    with torch.no_grad():
        net[0].weight[0, 0] = float("nan")
        net[0].weight[0, 1] = float("inf")
    want = [p.detach().clamp(-0.1, 0.1) for p in net.parameters()]
    version = net[0].bias._version
    fastgan.clip_weights_(net, 0.1)
    for p, w in zip(net.parameters(), want, strict=True):
        torch.testing.assert_close(p.detach(), w, rtol=0, atol=0, equal_nan=True)
        assert p.requires_grad
    assert net[0].bias._version > version
    fastgan.clip_weights_(net[1].parameters(), (0.0, 0.05))
    assert net[1].weight.min() == 0.0
    one = torch.tensor([3.0, -3.0])
    fastgan.clip_weights_(one, 2)
    assert one.tolist() == [2.0, -2.0]
    fastgan.clip_weights_([], 1.0)


@pytest.mark.usefixtures("python_way")
def test_calls_stay_small():
    """What a graph keeps alive: the logits and, until the first backward, one gradient each."""
    assert not hasattr(loss.Loss(LossSpec((), ())), "__dict__")
    r = torch.randn(10, requires_grad=True)
    result = fastgan.generator_loss(r)
    op = result.grad_fn.op
    assert [g.shape for g in op.unit_gradients] == [r.shape]
    result.backward(retain_graph=True)
    assert op.unit_gradients is None


class OnDevice:
    """Stands for a CUDA tensor where there is none."""

    is_cuda, is_cpu, is_meta = True, False, False
    device = torch.device("cuda:1")

    def get_device(self):
        return 1


def test_cuda_is_chosen_by_what_the_device_can(monkeypatch):
    """A device that the kernels cannot use is served by the reference; asked for by name it raises and says why."""
    tensors = (OnDevice(),)
    monkeypatch.setattr(cuda, "unusable", lambda device: {1: None, 2: "the NVIDIA driver is too old"}[device])
    monkeypatch.setattr(backends.named("triton"), "unusable", lambda kind, index: "Triton is not there")
    assert backends.get(tensors, 2) is cuda.BACKEND
    with fastgan.backend("cuda"):
        assert backends.get(tensors, 2) is cuda.BACKEND
    with (
        fastgan.backend("cpu"),
        pytest.raises(RuntimeError, match="cannot serve this call: the tensors are on cuda:1"),
    ):
        backends.get(tensors, 2)
    with fastgan.backend("reference"):
        assert backends.get(tensors, 2).name == "reference"
    monkeypatch.setattr(OnDevice, "device", torch.device("cuda:2"))
    monkeypatch.setattr(_checks, "_said", set())
    with pytest.warns(
        RuntimeWarning, match="served by plain PyTorch, which is slower .cuda: the NVIDIA driver is too old"
    ):
        assert backends.get(tensors, 2).name == "reference"
    with fastgan.backend("cuda"), pytest.raises(RuntimeError, match="cannot serve this call: the NVIDIA driver is"):
        backends.get(tensors, 2)


def test_a_reason_that_may_pass_is_not_kept(monkeypatch):
    """The extension raises it; one that it returns, and "usable", stand for the process."""
    answers = [RuntimeError("out of memory"), RuntimeError("an operation queued earlier failed"), ""]
    answers += ["there is no CUDA device 5", RuntimeError("asked once too often")]

    def ask(device):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(native, "native", types.SimpleNamespace(cuda_forward=None, cuda_unusable=ask))
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    check = verdicts.lasting(cuda.unusable.__wrapped__)
    assert check(4) == "out of memory"
    assert check(4) == "an operation queued earlier failed"
    assert check(4) is check(4) is None
    assert check(5) == check(5) == "there is no CUDA device 5"
    assert len(answers) == 1


def test_cuda_launches_on_the_tensors_own_device(monkeypatch):
    guarded, calls = [], []

    class Guard:
        def __init__(self, device):
            guarded.append(device)

        def __enter__(self):
            monkeypatch.setattr(torch.cuda, "current_device", lambda: guarded[-1])

        def __exit__(self, *_):
            monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)

    module = types.SimpleNamespace(
        cuda_forward=lambda *arguments: calls.append((torch.cuda.current_device(), arguments)),
        cuda_unusable=lambda device: f"no {torch.cuda.current_device()}",
    )
    monkeypatch.setattr(torch.cuda, "device", Guard)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(cuda, "current_stream", lambda device: 70 + device)
    kernels = cuda.Cuda(module, "cuda_")
    kernels._launch("forward", OnDevice(), "argument")
    ((device, (argument, where)),) = calls
    assert (device, argument, where[:2], guarded) == (1, "argument", (1, 71), [1])
    monkeypatch.setattr(OnDevice, "get_device", lambda self: 0)
    kernels._launch("forward", OnDevice(), "argument")
    assert calls[-1][0] == 0
    assert guarded == [1]
    monkeypatch.setattr(native, "native", module)
    assert cuda.unusable.__wrapped__(3) == "no 3"
    monkeypatch.setattr(torch.version, "hip", "6.0")
    assert "NVIDIA" in cuda.unusable.__wrapped__(3)


@pytest.mark.skipif(native.native is None, reason="the compiled kernels are not there")
def test_info_of_a_build_that_left_an_earlier_extension(monkeypatch):
    """As after `FASTGAN_NATIVE=0 pip install -e .` in a folder that was built: the extension still serves."""
    monkeypatch.setattr(_info, "build_facts", lambda: {"native": "not built: FASTGAN_NATIVE=0"})
    assert (
        fastgan.info()["build"]["native"] == "built by an earlier build; the last one: not built: FASTGAN_NATIVE=0"
    )
