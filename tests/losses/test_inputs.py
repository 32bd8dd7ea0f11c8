"""Bad input: one clear error at the call that names the argument, what came and what is needed."""

import numpy as np
import pytest
import torch

import fastgan

D, G = fastgan.discriminator_loss, fastgan.generator_loss
ok = torch.zeros(4)


def quantized():
    return torch.quantize_per_tensor(torch.zeros(4), 0.1, 0, torch.qint8)


CASES = [
    (lambda: D(np.zeros(4), ok), TypeError, r"real_logits: expected a torch\.Tensor or a sequence of them, got ndarray"),
    (lambda: D(ok, 1.0), TypeError, "fake_logits: expected a torch.Tensor or a sequence of them, got float"),
    (lambda: D(ok, None), TypeError, "fake_logits: expected a torch.Tensor or a sequence of them, got NoneType"),
    (lambda: D([ok, 3.0], [ok, ok]), TypeError, "real_logits: .*got float"),
    (lambda: D(ok.int(), ok.int()), TypeError, r"real_logits: expected float32, .*, got torch\.int32"),
    (lambda: D(ok, ok.bool()), TypeError, r"fake_logits: expected float32, .*, got torch\.bool"),
    (lambda: D(ok.cfloat(), ok), TypeError, r"real_logits: expected float32, .*, got torch\.complex64"),
    (lambda: G(ok.to(torch.float8_e4m3fn)), TypeError, r"fake_logits: expected float32, .*, got torch\.float8"),
    (lambda: G(quantized()), TypeError, r"fake_logits: expected float32, .*, got torch\.qint8"),
    (lambda: G(ok.to_sparse()), TypeError, "fake_logits: expected a dense tensor, got a sparse_coo one"),
    (lambda: G(torch.nested.nested_tensor([ok, ok])), TypeError, "fake_logits: expected a dense tensor, got a nested one"),
    (lambda: G(torch.empty(0)), ValueError, r"fake_logits: expected at least one element, got shape \(0,\)"),
    (lambda: D(ok, torch.empty(3, 0)), ValueError, r"fake_logits: expected at least one element, got shape \(3, 0\)"),
    (lambda: D(ok, ok.double()), TypeError, r"expected one dtype, got torch\.float32 and torch\.float64"),
    (lambda: D(ok, ok.to("meta")), ValueError, "real_logits and fake_logits: expected one device, got cpu and meta"),
    (lambda: D([ok, ok.double()], [ok, ok.double()]), TypeError, "expected no mix of float64 with others"),
    (lambda: D(ok[:, None], ok, relativistic="paired"), ValueError, r"got \(4, 1\) and \(4,\) \(a paired loss never"),
    (lambda: D(ok[:, None], ok, "ranking"), ValueError, r"expected one shape, got \(4, 1\) and \(4,\)"),
    (lambda: D(ok[:, None], ok, reduction="none"), ValueError, r"expected one shape, got \(4, 1\) and \(4,\)"),
    (lambda: G(ok, ok[:2], relativistic="paired"), ValueError, r"expected one shape, got \(4,\) and \(2,\)"),
    (lambda: D([], []), ValueError, "real_logits: expected at least one tensor, got an empty list"),
    (lambda: D([ok], [ok, ok]), ValueError, "real_logits and fake_logits: expected as many members, got 1 and 2"),
    (lambda: D([ok], ok), TypeError, "real_logits and fake_logits: expected two tensors or two sequences, got list and Tensor"),
    (lambda: G(ok, relativistic="average"), ValueError, "real_logits: expected logits for relativistic='average', got None"),
    (lambda: D(ok, ok, "hing"), ValueError, "loss: unknown name 'hing'; did you mean 'hinge'"),
    (lambda: D(ok, ok, None), ValueError, "loss: unknown name None"),
    (lambda: D(ok, ok, relativistic="pair"), ValueError, "relativistic: expected None, 'paired' or 'average', got 'pair'"),
    (lambda: D(ok, ok, reduction="avg"), ValueError, "reduction: expected 'mean', 'sum' or 'none', got 'avg'"),
    (lambda: D(ok, ok, real_target=1.1), ValueError, r"real_target: expected a number in \[0, 1\], got 1\.1"),
    (lambda: D(ok, ok, fake_target=-0.1), ValueError, r"fake_target: expected a number in \[0, 1\], got -0\.1"),
    (lambda: D(ok, ok, fake_target=float("nan")), ValueError, "fake_target: expected a number in"),
    (lambda: D(ok, ok, real_target="1"), TypeError, "real_target: expected a number, got str"),
    (lambda: D(ok, ok, "hinge", margin=float("inf")), ValueError, "margin: expected a finite number, got inf"),
    (lambda: D(ok, ok, "hinge", margin=None), TypeError, "margin: expected a number, got NoneType"),
    (lambda: D(ok, ok, "lsgan", targets=(0, 1)), ValueError, "targets: expected three numbers"),
    (lambda: D(ok, ok, "hinge", real_target=0.9), ValueError, "real_target: has no effect on loss 'hinge'"),
    (lambda: D(ok, ok, "wgan", margin=2.0), ValueError, "margin: has no effect on loss 'wasserstein'"),
    (lambda: D([ok, ok], [ok, ok], weights=[1.0]), ValueError, "weights: expected one for each of 2 members, got 1"),
    (lambda: D([ok], [ok], weights=2.0), TypeError, "weights: expected a sequence of numbers or a 1-D tensor, got float"),
    (lambda: D(ok, ok, "lsgan", targets=1.0), TypeError, "targets: expected three numbers .*, got float"),
    (lambda: D(ok, ok, "lsgan", targets=(0, [1], 1)), TypeError, "targets: expected a number, got list"),
    (lambda: D(ok, ok, "hinge", margin=[1.0]), TypeError, "margin: expected a number, got list"),
    (lambda: D(ok, ok, ["hinge"]), ValueError, "loss: unknown name"),
    (lambda: D([ok], [ok], weights=["a"]), TypeError, "weights: expected a number, got str"),
    (lambda: D([ok], [ok], weights=torch.ones(1, 1)), ValueError, "weights: expected a 1-D tensor on cpu, got shape \\(1, 1\\)"),
    (lambda: D([ok], [ok], weights=torch.ones(1, requires_grad=True)), ValueError, "weights: expected constants"),
    (lambda: D(ok, ok, reduction="none", return_stats=True), ValueError, "return_stats: expected reduction"),
    (lambda: D(ok, ok, process_group=1), ValueError, "process_group: expected relativistic='average', got None"),
    (lambda: fastgan.term("sigmoid"), ValueError, "phi: expected one of identity, .*, got 'sigmoid'"),
    (lambda: fastgan.term("relu", scale=None), TypeError, "scale: expected a number, got NoneType"),
    (lambda: fastgan.term("relu", shift=float("nan")), ValueError, "shift: expected a finite number, got nan"),
    (lambda: fastgan.reduce_terms([], []), ValueError, "terms and tensors: expected as many of each, at least 1"),
    (lambda: fastgan.reduce_terms(["relu"], [ok]), TypeError, "terms: expected fastgan.term, got str"),
    (lambda: fastgan.reduce_terms([fastgan.term("abs")], [(ok, ok[:2])]), ValueError, r"tensors\[0\]\[0\] and tensors\[0\]\[1\]: expected one shape"),
    (lambda: fastgan.reduce_terms([fastgan.term("abs")], [(ok, ok, ok)]), ValueError, "a tensor or a pair, got 3 tensors"),
    (lambda: fastgan.clip_weights_(torch.nn.Linear(2, 2), 0.0), ValueError, "bound: expected a positive number"),
    (lambda: fastgan.clip_weights_([ok.int()], 1.0), TypeError, r"expected floating-point tensors, got torch\.int32"),
    (lambda: fastgan.clip_weights_([1.0], 1.0), TypeError, "expected floating-point tensors, got float"),
    (lambda: fastgan.curriculum_weights(0, 0.5), ValueError, "num_critics: expected an integer of at least 1, got 0"),
    (lambda: fastgan.curriculum_weights(3, 1.5), ValueError, r"progress: expected a number in \[0, 1\], got 1\.5"),
    (lambda: fastgan.backend("gpu"), ValueError, "backend: expected one of auto, cpu, cuda, triton, reference, got 'gpu'"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(CASES)))
def test_bad_input(number):
    call, kind, message = CASES[number]
    with pytest.raises(kind, match=message):
        call()


def test_a_dtensor_is_refused():
    class DTensor(torch.Tensor):
        pass

    with pytest.raises(TypeError, match="fake_logits: expected a plain tensor, got a DTensor"):
        G(torch.zeros(3).as_subclass(DTensor))


def test_subclasses_and_other_devices_go_to_the_reference():
    class Tagged(torch.Tensor):
        pass

    x = torch.randn(5)
    assert G(x.as_subclass(Tagged)).item() == pytest.approx(G(x).item(), rel=1e-6)
    assert G(x.to("meta")).device.type == "meta"
    with fastgan.backend("cpu"):
        with pytest.raises(
            RuntimeError, match=r"backend 'cpu' cannot serve this call: a tensor subclass \(Tagged\)"
        ):
            G(x.as_subclass(Tagged))
        with pytest.raises(RuntimeError, match="cannot serve this call: the tensors are on meta"):
            G(x.to("meta"))
    with torch._subclasses.FakeTensorMode() as mode:
        assert G(mode.from_tensor(x)).shape == ()


def test_parameters_are_logits_too():
    p = torch.nn.Parameter(torch.zeros(3))
    with fastgan.backend("cpu"):
        G(p).backward()
    assert p.grad is not None


def test_the_binding_checks_what_it_is_given():
    """Nothing that Python could pass by mistake reaches a kernel."""
    from fastgan.backends import cpu

    native = cpu.native
    term = (1, 0, -1, -1, 1.0, 0.0, 0.0, 1.0, 0.0, 1, 0, 0)
    spec = native.Spec([term], [0])
    loss = torch.empty(())

    def forward(x=ok, g=None, result=loss, weights=(), reduction=2, aux=None, stats=False, spec=spec):
        native.forward(spec, (x,), g, result, weights, reduction, aux, stats, False, 1)

    forward()
    bad = [
        (lambda: forward(x=torch.empty(4, device="meta")), "null address"),
        (lambda: forward(x=ok.int()), "unsupported dtype"),
        (lambda: forward(x=torch.empty(0)), "no elements"),
        (lambda: forward(x=None), "an operand is missing"),
        (lambda: forward(g=(torch.empty(3),)), "unexpected number of elements"),
        (lambda: forward(g=(ok.double(),)), "unexpected dtype"),
        (lambda: forward(g=()), "a gradient an operand"),
        (lambda: forward(result=None), "needs memory"),
        (lambda: forward(result=torch.empty((), dtype=torch.float64)), "unexpected dtype"),
        (lambda: forward(result=(), reduction=0), "a tensor a term"),
        (lambda: forward(reduction=7), "unknown reduction"),
        (lambda: forward(stats=True), "statistics need memory"),
        (lambda: forward(aux=torch.empty(3, dtype=torch.float64)), "unexpected number of elements"),
        (lambda: forward(spec=native.Spec([(*term[:10], 3, 0)], [0]), weights=(1.0,)), "too few weights"),
        (lambda: forward(spec=native.Spec([term, (1, 1, *term[2:])], [0, 0])), "wrong number of operands"),
        (lambda: native.Spec([term], [0, 0]), "an operand is in no term"),
        (lambda: native.Spec([], [0]), "there is no term"),
        (lambda: native.Spec([term[:4]], [0]), "12 entries"),
        (lambda: native.Spec([(9, *term[1:])], [0]), "unknown phi code 9"),
        (lambda: native.Spec([(1, 5, *term[2:])], [0]), "an operand that is not there"),
        (lambda: native.Spec([term, term], [0]), "x or y of one term only"),
        (lambda: native.Spec([(1, 0, 1, 0, *term[4:])], [0, 0]), "paired or subtracts a mean, not both"),
        (lambda: native.Spec([term], [5]), "unknown role code 5"),
        (lambda: native.learn(1, 2, 3, (4,)), "four dtypes"),
    ]
    for call, message in bad:
        with pytest.raises(ValueError, match=message):
            call()
    odd = torch.frombuffer(bytearray(32), dtype=torch.float32, offset=1, count=4)
    with pytest.raises(ValueError, match="not aligned"):
        forward(x=odd)
