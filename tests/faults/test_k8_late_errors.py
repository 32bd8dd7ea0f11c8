"""K8 and K12: errors that came late, or said too little."""

import copy
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

import fastgan
from fastgan.nn import GradientPenalty, LeCam

from . import plain

X = torch.randn(3, 5, 8)

# ---------------------------------------------------------------------------- attention in a checkpoint


class Block(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.q, self.o, self.kind = nn.Linear(8, 24), nn.Linear(8, 8), kind
        if kind == "layer":
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        if kind == "weights":
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        if self.kind == "layer":
            return self.layer(x)
        if self.kind == "weights":
            return x + self.attention(x, x, x)[0]
        if self.kind == "none":
            return x + self.o(torch.tanh(self.q(x)[..., :8]))
        q, k, v = self.q(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return x + self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Net(nn.Module):
    def __init__(self, kind, checkpointed=True):
        super().__init__()
        self.blocks = nn.ModuleList(Block(kind) for _ in range(2))
        self.head, self.checkpointed = nn.Linear(8, 1), checkpointed

    def forward(self, x):
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpointed else block(x)
        return self.head(x.mean(1))


@pytest.mark.parametrize("kernels", [None, [SDPBackend.MATH], [SDPBackend.FLASH_ATTENTION]])
@pytest.mark.parametrize("prune", [True, False])
@pytest.mark.parametrize("kind", ["none", "function", "layer", "weights"])
def test_a_checkpoint_recomputes_under_the_settings_of_the_forward(kind, prune, kernels):
    """Attention has a second derivative there too, whatever the caller's backward would choose."""
    torch.manual_seed(0)
    d = Net(kind)
    bare = copy.deepcopy(d)
    bare.checkpointed = False
    with sdpa_kernel(kernels) if kernels and kind != "weights" else nullcontext():
        for make in (
            lambda d: fastgan.r1_penalty(d, X, prune=prune),
            lambda d: fastgan.discriminator_step(d, X, -X, loss="hinge", penalty="r1", prune=prune).total,
        ):
            got, want = (make(net) for net in (d, bare))
            assert torch.equal(got, want)
            for a, b in zip(
                *(plain.gradients(v, n.parameters()) for v, n in ((got, d), (want, bare))), strict=True
            ):
                assert torch.equal(a, b)


# ---------------------------------------------------------------------------- names


def test_maps_that_do_not_match_are_named():
    real, fake = (
        [[torch.randn(2, 4), torch.randn(2, 5)], [torch.randn(3)]],
        [[torch.randn(2, 4)] * 2, [torch.randn(3)]],
    )
    with pytest.raises(
        ValueError, match=r"real_features\[0\]\[1\] and fake_features\[0\]\[1\]: expected one shape"
    ):
        fastgan.feature_matching_loss(real, fake)
    with pytest.raises(ValueError, match=r"tensors\[1\]\[0\] and tensors\[1\]\[1\]: expected one shape"):
        fastgan.reduce_terms([fastgan.term("abs")] * 2, [(X, X), (X, X[:2])])


def test_info_says_why_there_is_no_extension():
    code = (
        "import sys, pathlib\n"
        "import importlib.util as u\n"
        "class Without:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.startswith('fastgan._native'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}')\n"
        "sys.meta_path.insert(0, Without())\n"
        "import fastgan\n"
        "print(fastgan.info()['backends']['cpu'])\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "the compiled extension is not there" in out
    assert "docs/install.md" in out
    assert "circular" not in out


# ---------------------------------------------------------------------------- numbers that no float can hold

HUGE = 10**5000
D = nn.Linear(8, 1)
CALLS = {
    "term": lambda n: fastgan.term("relu", weight=n),
    "margin": lambda n: fastgan.discriminator_loss(X, X, "hinge", margin=n),
    "targets": lambda n: fastgan.discriminator_loss(X, X, "lsgan", targets=(0, n, 1)),
    "weights": lambda n: fastgan.discriminator_loss([X], [X], weights=[n]),
    "label": lambda n: fastgan.discriminator_loss(X, X, real_target=n),
    "penalty": lambda n: fastgan.r1_penalty(D, X, weight=n),
    "negative": lambda n: fastgan.r1_penalty(D, X, weight=-n),
    "target": lambda n: fastgan.norm_penalty(X, target=n),
    "power": lambda n: fastgan.norm_penalty(X, "power", power=n),
    "sigma": lambda n: fastgan.gradient_penalty(D, X, None, kind="r1-approx", sigma=n),
    "interval": lambda n: GradientPenalty("r1", interval=n),
    "part": lambda n: GradientPenalty("r1", part=n),
    "LeCam": lambda n: LeCam(n),
    "decay": lambda n: LeCam(decay=n),
    "adaptive": lambda n: fastgan.adaptive_weight(X, X, weight=n),
    "clip": lambda n: fastgan.clip_weights_(D, n),
    "curriculum": lambda n: fastgan.curriculum_weights(3, n),
    "features": lambda n: fastgan.feature_matching_loss(X, X, weights=n),
    "pac": lambda n: fastgan.gradient_norm(X, pac=n),
    "batch_dim": lambda n: fastgan.gradient_norm(X, batch_dim=n),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_number_that_no_float_can_hold(name):
    with pytest.raises(ValueError, match="expected") as found:
        CALLS[name](HUGE)
    assert len(str(found.value)) < 300


@pytest.mark.parametrize("group", ["x", 3, True, object(), -100])
def test_a_process_group_that_is_none(group):
    with pytest.raises(TypeError, match=r"process_group: expected a torch\.distributed\.ProcessGroup"):
        fastgan.discriminator_loss(X, X, relativistic="average", process_group=group)


def test_a_group_without_this_rank():
    if not dist.is_available():
        pytest.skip("torch was built without distributed")
    with pytest.raises(TypeError, match="to which this rank does not belong"):
        fastgan.generator_loss(X, X, relativistic="average", process_group=dist.GroupMember.NON_GROUP_MEMBER)


# ---------------------------------------------------------------------------- lazy layers


def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(4), nn.LeakyReLU(0.2), nn.LazyLinear(1))


@pytest.mark.parametrize("prune", [True, False])
def test_lazy_layers_get_their_shapes_in_a_penalty(prune):
    d = lazy()
    torch.manual_seed(0)
    first = fastgan.r1_penalty(d, X, prune=prune)
    assert torch.equal(fastgan.r1_penalty(d, X, prune=prune), first)
    first.backward()
    fastgan.discriminator_step(lazy(), X, -X, penalty=["r1", "wgan-gp"], prune=prune).total.backward()


def test_lazy_layers_cannot_be_clipped():
    with pytest.raises(ValueError, match=r"module_or_parameters: expected parameters that have values.*lazy layer"):
        fastgan.clip_weights_(lazy(), 0.01)


# ---------------------------------------------------------------------------- one default weight


@pytest.mark.parametrize("kind", ["r1", "r2", "wgan-gp", "dragan", "wgan-lp", "wgan-div", "r1-approx"])
def test_one_default_weight_per_kind(kind):
    """K11: whichever way a penalty is asked for."""
    x, d = torch.randn(4, 8), nn.Linear(8, 1)

    def drawn(call):
        torch.manual_seed(0)
        return call().detach()

    want = drawn(lambda: fastgan.gradient_penalty(d, x, -x, kind=kind))
    assert torch.equal(drawn(lambda: GradientPenalty(kind)(d, x, -x)), want)
    assert torch.equal(drawn(lambda: fastgan.discriminator_step(d, x, -x, penalty=kind).penalty), want)
    weight = 1.0 if kind in ("r1", "r2") else 10.0
    assert GradientPenalty(kind).weight == weight
    assert torch.equal(drawn(lambda: fastgan.gradient_penalty(d, x, -x, kind=kind, weight=weight)), want)
    if kind in ("r1", "r2"):
        function = {"r1": fastgan.r1_penalty, "r2": fastgan.r2_penalty}[kind]
        assert torch.equal(function(d, -x if kind == "r2" else x), want)
