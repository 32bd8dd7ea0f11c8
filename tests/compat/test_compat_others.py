"""fastgan.compat: trainers of tables, distillation and control against their formulas.

Their names and signatures, and look-alikes of them, are tested in test_compat_pictures.py.
"""

import functools
import types

import pytest
import torch
from torch import nn

from fastgan import compat
from tests.helpers import adapters
from tests.helpers.adapters import DTYPES, compare, sample
from tests.helpers.patching import both, loaded, own, peer, scaled


@pytest.fixture(autouse=True)
def _one_thread(_poison):
    torch.set_num_threads(1)  # the tensors are small, and more threads would only wait for each other


@pytest.fixture
def modules(monkeypatch):
    """Makes modules that are loaded as long as the test."""
    yield from loaded(monkeypatch)


# ---------------------------------------------------------------------------------- CTGAN


class PacCritic(nn.Module):
    """CTGAN's critic, smooth or of leaky relus, with dropout that is drawn after the points."""

    def __init__(self, pac=4, columns=3, bent=True, dtype=torch.float64):
        super().__init__()
        draw = torch.Generator().manual_seed(11)
        self.first, self.second = nn.Linear(pac * columns, 6, dtype=dtype), nn.Linear(6, 1, dtype=dtype)
        for p in self.parameters():
            p.data.copy_(torch.randn(p.shape, generator=draw, dtype=torch.float64) / 3)
        self.pacdim, self.bent, self.dropout = pac * columns, bent, nn.Dropout(0.5)

    def forward(self, rows):
        h = self.first(rows.view(-1, self.pacdim))
        return self.second(self.dropout(nn.functional.leaky_relu(h, 0.2) if self.bent else torch.tanh(h)))


@pytest.mark.parametrize("bent", [False, True])
@pytest.mark.parametrize("pac", [1, 4])
@pytest.mark.parametrize("options", [{}, {"lambda_": 0.3}])
def test_ctgan_penalty(bent, pac, options):
    """The same draws, also those of the dropout; and gradients for the data."""

    def call(module):
        return lambda net, r, f: module.calc_gradient_penalty(net, r, f, "cpu", pac, **options)

    torch.manual_seed(2)
    data = torch.randn(8, 3, dtype=torch.float64), torch.randn(8, 3, dtype=torch.float64)
    ours, theirs = call(compat.ctgan), call(peer("ctgan"))
    adapters.same_penalty(ours, theirs, data, lambda: PacCritic(pac, bent=bent))
    torch.manual_seed(6)
    alone = ours(PacCritic(pac, bent=bent), *data)  # rows without a graph, where the trainer's raises
    torch.manual_seed(6)
    assert adapters.close(
        alone, theirs(PacCritic(pac, bent=bent), data[0], data[1].clone().requires_grad_()), 1e-12
    )


def test_ctgan_rows_that_fill_no_pack():
    for module in (compat.ctgan, peer("ctgan")):
        with pytest.raises((ValueError, RuntimeError)):
            module.calc_gradient_penalty(PacCritic(), *torch.randn(2, 10, 3, dtype=torch.float64), pac=4)


def test_ctgan_patched_in_its_class(modules):
    """The trainer's call, by a method; the generator behind the fake rows gets its gradient."""
    method = own("ctgan")["calc_gradient_penalty"]
    critic = type("Discriminator", (PacCritic,), {"calc_gradient_penalty": method})
    module = modules("ctgan.synthesizers.ctgan", Discriminator=critic)
    found = []
    for patched in (False, True):
        if patched:
            name = "ctgan.synthesizers.ctgan.Discriminator.calc_gradient_penalty"
            assert compat.patch("ctgan") == [name]
        torch.manual_seed(3)
        net, noise = module.Discriminator(), torch.randn(8, 3, dtype=torch.float64)
        real, scale = torch.randn(8, 3, dtype=torch.float64), torch.ones(3, dtype=torch.float64, requires_grad=True)
        penalty = net.calc_gradient_penalty(real, noise * scale, "cpu", 4)
        found.append([penalty, *torch.autograd.grad(penalty, [scale, *net.parameters()], allow_unused=True)])
    for a, b in zip(*found, strict=True):
        assert adapters.close(0 if a is None else a, 0 if b is None else b, 1e-10)


# ---------------------------------------------------------------------------------- FastGen, Model Optimizer

HEADS = [("fastgen", "gan_loss_generator"), ("fastgen", "gan_loss_discriminator"), ("modelopt", "gan_gen_loss")]
HEADS += [("modelopt", "gan_disc_loss"), ("modelopt", "r1_loss")]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["Nx1", "transposed", "edges"])
@pytest.mark.parametrize(("trainer", "name"), HEADS)
def test_heads(dtype, layout, trainer, name):
    inputs = [sample(layout, dtype, k) for k in range(1 if "gen" in name else 2)]
    inputs = [x.view(-1, 1) if x.dim() == 1 else x for x in inputs]
    more = {"scale": lambda *xs: sum(x.square().mean() for x in xs)} if name == "r1_loss" else {}
    compare(*both(trainer, name), tuple(inputs), more=2.0, **more)


@pytest.mark.parametrize(("trainer", "name"), HEADS)
def test_heads_want_two_dimensions(trainer, name):
    """r1_loss wants one shape instead."""
    shapes = [(3, 2), (3, 2, 2)][: 1 if "gen" in name else 2][::-1]
    for loss in both(trainer, name):
        with pytest.raises(AssertionError, match="shape"):
            loss(*[torch.randn(s) for s in (shapes if len(shapes) == 2 else [(3, 2, 2)])])


# ---------------------------------------------------------------------------------- amp-rsl-rl

METHODS = ["compute_grad_pen", "compute_loss", "expert_loss", "policy_loss", "wgan_loss"]


class Motions(nn.Module):
    """amp-rsl-rl's discriminator, with the trainer's methods or the adapter's."""

    def __init__(self, module, loss_type="BCEWithLogits", minibatch_std=True):
        super().__init__()
        draw = torch.Generator().manual_seed(4)
        width = 5 + minibatch_std
        self.trunk = nn.Sequential(nn.Linear(6, 5, dtype=torch.float64), nn.ReLU())
        self.linear = nn.Linear(width, 1, dtype=torch.float64)
        for p in self.parameters():
            p.data.copy_(torch.randn(p.shape, generator=draw, dtype=torch.float64))
        self.amp_normalizer, self.device, self.eta_wgan = torch.tanh, "cpu", 0.3
        self.loss_type, self.use_minibatch_std = loss_type, minibatch_std
        self.loss_fun = nn.BCEWithLogitsLoss() if loss_type == "BCEWithLogits" else None
        for name in METHODS:
            setattr(self, name, functools.partial(getattr(module, name), self))

    def _minibatch_std_scalar(self, h):
        return h.std(dim=0, unbiased=False).mean().expand(len(h), 1)

    def forward(self, x):
        h = self.trunk(x)
        s = [self._minibatch_std_scalar(h)] if self.use_minibatch_std else []
        return self.linear(torch.cat([h, *s], dim=-1))


@pytest.mark.parametrize("loss_type", ["BCEWithLogits", "Wasserstein"])
@pytest.mark.parametrize("minibatch_std", [False, True])
@pytest.mark.parametrize("options", [{}, {"lambda_": 0.4}])
def test_amp_rsl_rl_loss_and_penalty(loss_type, minibatch_std, options):
    """The loss, the penalty, the draws, and gradients of both for parameters and samples."""
    found = []
    for module in (compat.amp_rsl_rl, peer("amp_rsl_rl")):
        net = Motions(module, loss_type, minibatch_std)
        torch.manual_seed(5)
        states = [torch.randn(7, 3, dtype=torch.float64, requires_grad=True) for _ in range(4)]
        expert, policy = tuple(states[:2]), tuple(states[2:])
        scores = [net(torch.cat(x, -1)) for x in (policy, expert)]
        loss, penalty = net.compute_loss(*scores, expert, policy, **options)
        drawn = torch.rand(2)
        grads = torch.autograd.grad(loss, [*net.parameters(), *states], allow_unused=True)
        penalised = torch.autograd.grad(penalty, [*net.parameters(), *states], allow_unused=True)
        assert [g is None for g in penalised[-4:]] == [True] * 4
        found.append([loss, penalty, drawn, *grads, *penalised])
    for a, b in zip(*found, strict=True):
        assert (a is None) == (b is None) or not torch.as_tensor(0.0 if a is None else a).any()
        assert adapters.close(0 if a is None else a, 0 if b is None else b, 1e-10)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["policy_loss", "expert_loss", "wgan_loss"])
def test_amp_rsl_rl_losses(dtype, name):
    self = types.SimpleNamespace(loss_fun=nn.BCEWithLogitsLoss(), device="cpu", eta_wgan=0.5, loss_type="?")
    inputs = tuple(sample("Nx1", dtype, k) for k in range(2 if name == "wgan_loss" else 1))
    ours, theirs = (functools.partial(f, self) for f in both("amp_rsl_rl", name))
    if name == "wgan_loss" and dtype in (torch.float16, torch.bfloat16):
        assert ours(*inputs).dtype is theirs(*inputs).dtype  # a tanh in 16 bits comes before the kernels
        return
    compare(ours, theirs, inputs, more=40.0, scale=lambda *xs: torch.tensor(2.0))


def test_amp_rsl_rl_of_another_type():
    self = types.SimpleNamespace(loss_fun=None, device="cpu", loss_type="Hinge")
    state = (torch.randn(3, 2), torch.randn(3, 2))
    for module in (compat.amp_rsl_rl, peer("amp_rsl_rl")):
        with pytest.raises(TypeError):
            module.policy_loss(self, torch.randn(3, 1))
        with pytest.raises(ValueError, match="Hinge"):
            module.compute_grad_pen(self, state, state)


def test_amp_rsl_rl_patched_in_its_class(modules):
    place = "amp_rsl_rl.networks.discriminator"
    theirs = {n: own("amp_rsl_rl")[n] for n in METHODS}
    module = modules(place, Discriminator=type("Discriminator", (), dict(theirs)))
    assert set(compat.patch("amp_rsl_rl")) == {f"{place}.Discriminator.{n}" for n in theirs}
    assert all(vars(module.Discriminator)[n] is getattr(compat.amp_rsl_rl, n) for n in theirs)
    compat.unpatch("amp_rsl_rl")
    theirs["compute_grad_pen"] = scaled(theirs["compute_grad_pen"])
    modules(place, Discriminator=type("Discriminator", (), theirs))
    with pytest.raises(RuntimeError, match=r"Discriminator\.compute_grad_pen: differs from fastgan's"):
        compat.patch("amp_rsl_rl")


# ---------------------------------------------------------------------------------- one graph

LOGITS = [torch.linspace(-2, 2, 12).view(4, 1, 3, 1), torch.linspace(3, -1, 12).view(4, 1, 3, 1)]
AVERAGES = types.SimpleNamespace(logits_real_ema=0.1, logits_fake_ema=-0.2)
TRACED = {
    "seed_voken": lambda m, r, f: m.non_saturate_discriminator_loss(r, f) + m.lecam_reg(r, f, AVERAGES),
    "titok": lambda m, r, f: m.compute_lecam_loss(r.mean(), f.mean(), r.new_zeros(1), r.new_ones(1)),
    "rae": lambda m, r, f: m.hinge_d_loss(r, f) + m.vanilla_g_loss(f, "sum"),
    "unitok": lambda m, r, f: m.softplus_loss(r) + m.hinge_loss(-f),
    "fastgen": lambda m, r, f: m.gan_loss_discriminator(r.flatten(1), f.flatten(1)),
    "modelopt": lambda m, r, f: m.r1_loss(r, f) + m.gan_gen_loss(f.flatten(1)),
    "neosr": lambda m, r, f: m.gan_loss("huber")(r, True, is_disc=True) + m.gan_loss("mse")(f, True),
    "trainner_redux": lambda m, r, f: m.GANLoss(1.0)(r, True, is_disc=True) + m.GANLoss(1.0, "hinge")(f, True),
}


@pytest.mark.filterwarnings("ignore:Dynamo detected a call")
@pytest.mark.parametrize("trainer", TRACED)
def test_in_one_graph_of_torch_compile(trainer):
    """Values and gradients are the eager ones."""
    module, found = getattr(compat, trainer), []
    torch.compiler.reset()
    for wrap in (lambda f: f, lambda f: torch.compile(f, backend="aot_eager", fullgraph=True)):
        real, fake = (x.clone().requires_grad_() for x in LOGITS)
        loss = wrap(lambda r, f: TRACED[trainer](module, r, f))(real, fake)
        found.append([loss, *torch.autograd.grad(loss, [real, fake], allow_unused=True)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)
