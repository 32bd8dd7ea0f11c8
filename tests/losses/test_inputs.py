"""Bad input: one clear error at the call that names the argument, what came and what is needed."""

import re

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
    (lambda: D(ok, None, "ranking"), ValueError, "fake_logits: expected logits for loss 'ranking', got None"),
    (lambda: D([ok], [None]), TypeError, "fake_logits: expected a torch.Tensor or a sequence of them, got NoneType"),
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
    (lambda: D(ok, ok, lambda r, f: r), TypeError, "loss: expected a name, got function .a step takes a function of logits"),
    (lambda: D(ok, ok, "Hinge"), ValueError, "loss: unknown name 'Hinge'; did you mean 'hinge'"),
    (lambda: D(ok, ok, "mse"), ValueError, "loss: unknown name 'mse'; did you mean 'least_squares'"),
    (lambda: D(ok, ok, "vanilla"), ValueError, "did you mean 'nonsaturating'"),
    (lambda: D(ok, ok, "RaGAN"), ValueError, "did you mean relativistic='average'"),
    (lambda: D(ok, ok, "wgan-gp"), ValueError, "did you mean 'wasserstein' and a penalty, 'wgan-gp'"),
    (lambda: D(ok, ok, "qqq"), ValueError, r"loss: unknown name 'qqq' \(known: "),
    (lambda: D((ok, [ok]), (ok, [ok])), TypeError, r"real_logits: expected a torch.Tensor or a sequence of them, got list within one \(a step's output="),
    (lambda: D(ok, ok, None), ValueError, r"loss: unknown name None \(known: "),
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
    """K12: nothing that Python could pass by mistake reaches a kernel; errors name the argument, and both sides."""
    from fastgan.backends import cpu

    native = cpu.native
    term = (1, 0, -1, -1, 1.0, 0.0, 0.0, 1.0, 0.0, 1, 0, 0, -1, -1)
    spec = native.Spec([term], [0])
    loss = torch.empty(())

    def forward(x=ok, g=None, result=loss, weights=(), reduction=2, aux=None, stats=False, spec=spec):
        native.forward(spec, (x,), g, result, weights, reduction, aux, stats, False, 1)

    def backward(upstream):
        native.backward(spec, (ok,), (torch.empty_like(ok),), upstream, (), 2, None, 1)

    def spec_of(*terms):
        return native.Spec(list(terms), [0] * len(terms))

    forward()
    bad = [
        (lambda: forward(x=torch.empty(4, device="meta")), "x[0]: expected a tensor with memory, got one without"),
        (lambda: forward(x=3.0), "x[0]: expected a tensor, got 3.0"),
        (lambda: forward(x=ok.int()), "x[0]: expected float32, float64, float16 or bfloat16, got torch.int32"),
        (lambda: forward(x=torch.empty(0)), "x[0]: expected at least one element, got an empty tensor"),
        (lambda: forward(x=None), "x[0]: expected a tensor, got None"),
        (lambda: forward(g=(torch.empty(3),)), f"g[0]: expected {ok.numel()} elements, got 3"),
        (lambda: forward(g=(ok.double(),)), "g[0]: expected float32, got torch.float64"),
        (lambda: forward(g=()), "g: expected an entry for each of 1 operands, got 0"),
        (lambda: forward(g=[ok]), "g: expected a tuple or None, got a list"),
        (lambda: forward(result=None), "result: expected a tensor for the reduced loss, got None"),
        (
            lambda: forward(result=torch.empty((), dtype=torch.float64)),
            "result: expected float32, got torch.float64",
        ),
        (lambda: forward(result=(), reduction=0), "result: expected a tensor for each of 1 terms, got 0"),
        (lambda: forward(reduction=0), "result: expected a tuple, since nothing is reduced, got a Tensor"),
        (lambda: forward(reduction=7), "reduction: expected a code from 0 to 2, got 7"),
        (lambda: forward(stats=True), "buffers: expected memory for the statistics, got None"),
        (lambda: forward(aux=torch.empty(3, dtype=torch.float64)), "buffers: expected 11 elements, got 3"),
        (
            lambda: forward(spec=spec_of((*term[:10], 3, *term[11:])), weights=(1.0,)),
            "weights: expected at least 4, got 1",
        ),
        (lambda: forward(weights=("a", 1.0)), "weights[0]: expected a number, got 'a'"),
        (
            lambda: forward(weights=ok.int()),
            "weights: expected float32, float64, float16 or bfloat16, got torch.int32",
        ),
        (lambda: forward(spec=spec_of(term, (1, 1, *term[2:]))), "x: expected 2 operands, got 1"),
        (
            lambda: forward(spec=spec_of((1, 0, -1, 0, *term[4:]))),
            "buffers: expected memory for means, since a term",
        ),
        (
            lambda: native.Spec([term], [0, 0]),
            "roles[1]: expected an operand that a term names, got one in no term",
        ),
        (lambda: native.Spec([], [0]), "terms: expected at least one term, got none"),
        (lambda: native.Spec([3], [0]), "terms[0]: expected a tuple, got 3"),
        (lambda: spec_of(term[:4]), "terms[0]: expected 14 entries, got 4"),
        (lambda: spec_of((9, *term[1:])), "phi of terms[0]: expected a code from 0 to 8, got 9"),
        (lambda: spec_of((1.5, *term[1:])), "phi of terms[0]: expected an integer, got 1.5"),
        (lambda: spec_of((*term[:4], "a", *term[5:])), "terms[0]: expected a number, got 'a'"),
        (lambda: spec_of((*term[:11], 3, -1, -1)), "role of terms[0]: expected a code from 0 to 2, got 3"),
        (lambda: spec_of((1, 5, *term[2:])), "terms[0]: expected one of 1 operands, got 5"),
        (
            lambda: native.Spec([term, term], [0]),
            "terms[1]: expected operands that are in no other term, got operand 0",
        ),
        (
            lambda: native.Spec([(1, 0, 1, 0, *term[4:])], [0, 0]),
            "terms[0]: expected a pair or a mean operand, got both",
        ),
        (lambda: native.Spec([term], [5]), "roles[0]: expected a code from 0 to 2, got 5"),
        (lambda: native.learn(1, 2, 3, (4,)), "dtypes: expected 4 dtypes, got 1"),
        (lambda: native.set_isa("v9"), "isa: expected one that this processor has ("),
        (lambda: backward(()), "upstream: expected one tensor for the reduced loss, got 0"),
        (lambda: backward((None,)), "upstream[0]: expected a tensor, got None"),
        (lambda: backward((loss.double(),)), "upstream[0]: expected float32, got torch.float64"),
    ]
    odd = torch.frombuffer(bytearray(32), dtype=torch.float32, offset=1, count=4)
    bad.append((lambda: forward(x=odd), "x[0]: expected an address aligned to 4 bytes, got "))
    for call, message in bad:
        with pytest.raises(ValueError, match=re.escape(message)):
            call()
    with pytest.raises(TypeError, match="upstream: tuple, weights: object, reduction: "):
        backward(3)


def test_the_binding_checks_pairs():
    """K12: the argument at fault is named, what came, and what is needed."""
    from fastgan.backends import cpu

    native = cpu.native
    spec = native.Spec([(1, 0, 1, -1, 1.0, 0.0, 0.0, 1.0, 0.0, 1, 0, 0, -1, -1)], [0, 0])

    def forward(x, y):
        native.forward(spec, (x, y), None, torch.empty(()), (), 2, None, False, False, 1)

    for y, message in (
        (torch.zeros(3), "x[1]: expected 4 elements of float32 as x[0], its pair, got 3 elements of float32"),
        (torch.zeros(4).half(), "got 4 elements of float16"),
        (torch.zeros(4).double(), "x[1]: expected no float64 beside another dtype, got float64"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            forward(torch.zeros(4), y)


def test_the_binding_checks_groups():
    """K12: so in penalties and interpolation."""
    from fastgan.backends import cpu

    native = cpu.native
    g, norms, one = torch.ones(2, 3), torch.empty(2, dtype=torch.float64), torch.empty(())
    copy, halves = torch.ones(2, 3), torch.full((2,), 0.5)
    spec = (0, 1.0, 2, 1.0, 1, False)

    def forward(g=(g,), masks=None, weights=None, norms=norms, result=one, spec=spec, statistics=None):
        native.penalty_forward(spec, g, masks, weights, norms, result, False, statistics, 1)

    def second(upstream=one, v=(g,), out=(g,)):
        native.penalty_second(spec, (g,), None, None, norms, upstream, False, v, out, one, 1)

    def interpolate(real=(g,), fake=(g,), eps=halves, out=(copy,)):
        native.interpolate_forward(real, fake, eps, out, 1)

    def back(upstream=(g,), real=(None,), fake=(None,), eps_grad=None):
        native.interpolate_backward((g,), (g,), torch.rand(2), upstream, real, fake, eps_grad, 1)

    def changed(k, value):
        return lambda: forward(spec=(*spec[:k], value, *spec[k + 1 :]))

    forward()
    second()
    interpolate()
    back()
    wide = torch.zeros(2, dtype=torch.float64)
    for call, message in [
        (lambda: forward(g=()), "g: expected at least one tensor, got none"),
        (lambda: forward(g=(3,)), "g[0]: expected a tensor, got 3"),
        (lambda: forward(g=(g.int(),)), "g[0]: expected float32, float64, float16 or bfloat16, got torch.int32"),
        (lambda: forward(g=(torch.tensor(1.0),)), "g[0]: expected at least 1 dimensions, got 0"),
        (lambda: forward(g=(g[:, :0],)), "g[0]: expected at least one element, got an empty tensor"),
        (lambda: forward(g=(g, g.double())), "g[1]: expected no float64 beside another dtype, got float64"),
        (lambda: forward(g=(g, torch.ones(3, 3))), "g[1]: expected 2 groups as before, got 3"),
        (
            lambda: forward(masks=(g[:1],)),
            "masks[0]: expected 2 groups of 3 elements in the first 1 dimensions, got shape",
        ),
        (lambda: forward(masks=()), "masks: expected an entry for each tensor, got 0"),
        (lambda: forward(masks=[g]), "masks: expected a tuple or None, got a list"),
        (lambda: forward(masks=(g.bool(),)), "masks[0]: expected float32, got torch.bool"),
        (lambda: forward(weights=one), "weights: expected float64, got torch.float32"),
        (
            lambda: forward(weights=wide.repeat(2)),
            "weights: expected a number of weights that divides 2 groups, got 4",
        ),
        (lambda: forward(norms=None), "norms: expected a tensor for the norms, got None"),
        (lambda: forward(norms=wide[:1]), "norms: expected 2 elements, got 1"),
        (lambda: forward(norms=wide.repeat(2)[::2]), "norms: expected a contiguous tensor, got one with gaps"),
        (lambda: forward(result=wide), "result: expected float32, got torch.float64"),
        (lambda: forward(statistics=wide), "statistics: expected 5 elements, got 2"),
        (lambda: forward(spec=spec[:3]), "spec: expected 6 entries, got 3"),
        (changed(0, 7), "spec[0]: expected a code from 0 to 2, got 7"),
        (changed(1, "a"), "spec[1]: expected a number, got 'a'"),
        (changed(2, 17), "spec[2]: expected a power from 1 to 16, got 17"),
        (changed(4, -1), "spec[4]: expected a number of dimensions, got -1"),
        (lambda: second(upstream=None), "upstream: expected a tensor, got None"),
        (lambda: second(v=(None,)), "v[0]: expected a tensor, got None"),
        (lambda: second(out=(g[:1],)), "out[0]: expected 2 groups of 3 elements"),
        (lambda: interpolate(real=()), "real: expected at least one tensor, got none"),
        (lambda: interpolate(fake=(None,)), "fake[0]: expected a tensor, got None"),
        (lambda: interpolate(fake=(g.half(),)), "fake[0]: expected float32, got torch.float16"),
        (lambda: interpolate(out=()), "out: expected an entry for each tensor, got 0"),
        (lambda: interpolate(eps=None), "eps: expected a tensor, got None"),
        (lambda: interpolate(eps=torch.rand(3)), "eps: expected 2 elements, got 3"),
        (lambda: back(upstream=(g[:1],)), "upstream[0]: expected 2 groups of 3 elements"),
        (lambda: back(real=()), "real_grads: expected an entry for each tensor, got 0"),
        (lambda: back(fake=(g[:1],)), "fake_grads[0]: expected 2 groups of 3 elements"),
        (lambda: back(eps_grad=torch.rand(3)), "eps_grad: expected 2 elements, got 3"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            call()
