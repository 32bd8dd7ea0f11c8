"""fastgan.compat: HiFi-GAN, BigVGAN, AudioCraft and ParallelWaveGAN against their formulas."""

import pytest
import torch
from torch import nn

from bench.baselines import audiocraft as peer_audiocraft
from bench.baselines import hifigan as peer_hifigan
from bench.baselines import parallelwavegan as peer_pwg
from fastgan.compat import audiocraft, bigvgan, cut, cyclegan, hifigan, parallelwavegan, pix2pix
from tests.helpers import adapters
from tests.helpers.adapters import DTYPES

MODULES = [(hifigan, peer_hifigan), (audiocraft, peer_audiocraft), (parallelwavegan, peer_pwg)]
NAMES = [(ours, peer, n) for ours, peer in MODULES for n in adapters.public(peer) if callable(getattr(peer, n))]

# The kinks of least squares, hinge and L1, their neighbours, and what is large.
EDGES = [1.0, 0.0, -1.0, 2.0, 1.0078125, -0.9921875, 30.0, -30.0, 1e4, -1e4, -0.0]


@pytest.fixture(autouse=True)
def _one_thread(_poison):
    torch.set_num_threads(1)  # the tensors are small, and more threads would only wait for each other


@pytest.mark.parametrize(("ours", "peer", "name"), NAMES, ids=lambda x: getattr(x, "__name__", x))
def test_names_and_signatures(ours, peer, name):
    adapters.same_interface(getattr(ours, name), getattr(peer, name))
    assert name in ours.__all__


def compare(ours, peer, *inputs, **options):
    """The sums of AudioCraft begin in the default dtype, which is float64 for the truth."""
    return adapters.compare(ours, peer, inputs, truth=adapters.widened(peer), **options)


@pytest.mark.parametrize(("module", "other"), [(bigvgan, hifigan), (cut, cyclegan), (pix2pix, cyclegan)])
def test_other_names_of_the_same_module(module, other):
    assert other.__all__
    assert set(module.__all__) == set(other.__all__)
    for name in other.__all__:
        assert getattr(module, name) is getattr(other, name)


def logits(dtype, seed=0, edges=True):
    """One tensor of each of a vocoder's shapes: periods (N, 1, T, p), scales (N, T), and less usual ones."""
    torch.manual_seed(seed)
    shapes = [(2, 1, 7, 3), (2, 31), (3,), (4, 1), ()]
    found = [(2 * torch.randn(shape)).to(dtype) for shape in shapes]
    found.append(torch.randn(5, 2, 6).to(dtype).permute(2, 0, 1)[::2])
    if edges:
        found.append(torch.tensor(EDGES).to(dtype))
    return found


def fmaps(dtype, seed=0):
    """Feature maps of three discriminators; the second seed's coincide with the first's at places."""
    torch.manual_seed(seed)
    found = [
        [torch.randn(shape) for shape in shapes] for shapes in ([(2, 4, 9), (2, 6, 5, 2), (2, 7)], [(3,), (2, 2)])
    ]
    for maps in found:
        for x in maps:
            x.view(-1)[:2] = torch.tensor([0.5, -2.0])
    found.append([torch.randn(4, 6).t(), torch.randn(8)[::2]])
    return adapters.mapped(found, lambda x: x.to(dtype))


# ---------------------------------------------------------------------------------- HiFi-GAN


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("edges", [False, True])
def test_hifigan_discriminator(dtype, edges):
    compare(
        hifigan.discriminator_loss,
        peer_hifigan.discriminator_loss,
        logits(dtype, 0, edges),
        logits(dtype, 1, edges),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("edges", [False, True])
def test_hifigan_generator(dtype, edges):
    compare(hifigan.generator_loss, peer_hifigan.generator_loss, logits(dtype, 0, edges))


@pytest.mark.parametrize("dtype", DTYPES)
def test_hifigan_features(dtype):
    compare(hifigan.feature_loss, peer_hifigan.feature_loss, fmaps(dtype, 0), fmaps(dtype, 1))


def test_hifigan_gives_floats_and_tensors():
    loss, reals, fakes = hifigan.discriminator_loss([torch.zeros(4)] * 3, [torch.ones(4)] * 3)
    assert (loss.item(), reals, fakes) == (6.0, [1.0] * 3, [1.0] * 3)
    assert all(type(x) is float for x in reals + fakes)
    x = torch.tensor([0.0, 3.0], requires_grad=True)
    loss, parts = hifigan.generator_loss([x, 2 * x])
    parts[1].backward(retain_graph=True)
    assert x.grad.tolist() == [-2.0, 10.0]
    x.grad = None
    loss.backward()
    assert x.grad.tolist() == [-3.0, 12.0]


@pytest.mark.parametrize(("n", "m"), [(3, 5), (5, 3), (1, 1)])
def test_hifigan_cuts_to_the_shorter(n, m):
    real, fake = logits(torch.float32, 0)[:n], logits(torch.float32, 1)[:m]
    compare(hifigan.discriminator_loss, peer_hifigan.discriminator_loss, real, fake)
    real, fake = fmaps(torch.float32, 0)[: n - 2] or [[]], fmaps(torch.float32, 1)[: m - 2] or [[]]
    compare_or_zero(hifigan.feature_loss, peer_hifigan.feature_loss, real, fake)
    fake = [maps[:2] for maps in fmaps(torch.float32, 1)]
    compare(hifigan.feature_loss, peer_hifigan.feature_loss, fmaps(torch.float32, 0), fake)


def compare_or_zero(ours, peer, *inputs):
    if all(adapters.flat(side) for side in inputs):
        compare(ours, peer, *inputs)
    else:
        assert ours(*inputs) == peer(*inputs) == 0
        assert type(ours(*inputs)) is int


def test_hifigan_empty():
    for mine, theirs in [
        (hifigan.discriminator_loss([], []), (0, [], [])),
        (hifigan.generator_loss([]), (0, [])),
        (hifigan.feature_loss([], []), 0),
        (hifigan.feature_loss([[]], [[]]), 0),
    ]:
        assert mine == theirs
        assert adapters.skeleton(mine) == adapters.skeleton(theirs)


def test_hifigan_of_a_tensor():
    """Its rows are taken as a list of them."""
    compare(hifigan.generator_loss, peer_hifigan.generator_loss, torch.randn(3, 1, 9))


def test_hifigan_unequal_batches():
    compare(
        hifigan.discriminator_loss, peer_hifigan.discriminator_loss, [torch.randn(4, 1, 9)], [torch.randn(7, 1, 9)]
    )


def test_hifigan_takes_tuples():
    real, fake = tuple(logits(torch.float32, 0)), tuple(logits(torch.float32, 1))
    compare(hifigan.discriminator_loss, peer_hifigan.discriminator_loss, real, fake)
    compare(
        hifigan.feature_loss,
        peer_hifigan.feature_loss,
        tuple(map(tuple, fmaps(torch.float32, 0))),
        fmaps(torch.float32, 1),
    )


def test_hifigan_reaches_the_real_side():
    real, fake = torch.zeros(4, requires_grad=True), torch.ones(4, requires_grad=True)
    hifigan.feature_loss([[real]], [[fake]]).backward()
    assert real.grad.tolist() == [-0.5] * 4
    assert fake.grad.tolist() == [0.5] * 4


# ---------------------------------------------------------------------------------- ParallelWaveGAN


def last_means(x, average):
    """The size of the means that the generator's hinge adds, of which some are negative."""
    if isinstance(x, torch.Tensor):
        return x.abs().mean()
    sizes = [m[-1].abs().mean() if isinstance(m, (list, tuple)) else m.abs().mean() for m in x]
    return sum(sizes) / (len(sizes) if average else 1)


def members(container, dtype, seed):
    """What a discriminator of that kind gives back."""
    found = logits(dtype, seed)
    if container == "tensor":
        return found[0]
    if container == "kinks":
        return found[-1]
    if container == "feature maps":
        maps = fmaps(dtype, seed)
        return [maps[0], tuple(maps[1]), found[1]]
    return {"list": found[:4], "tuple": tuple(found), "one": found[1:2]}[container]


CONTAINERS = ["tensor", "kinks", "list", "tuple", "one", "feature maps"]
PWG = [(average, loss_type) for average in (True, False) for loss_type in ("mse", "hinge")]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize(("average", "loss_type"), PWG)
def test_pwg_adversarial(dtype, container, average, loss_type):
    x, y = members(container, dtype, 0), members(container, dtype, 1)
    compare(
        parallelwavegan.GeneratorAdversarialLoss(average, loss_type),
        peer_pwg.GeneratorAdversarialLoss(average, loss_type),
        x,
        scale=lambda x: last_means(x, average) if loss_type == "hinge" else None,
    )
    compare(
        parallelwavegan.DiscriminatorAdversarialLoss(average, loss_type),
        peer_pwg.DiscriminatorAdversarialLoss(average, loss_type),
        x,
        y,
    )


def test_pwg_cuts_to_the_shorter():
    x, y = members("list", torch.float32, 0), members("list", torch.float32, 1)
    for average in (True, False):
        ours, peer = (m.DiscriminatorAdversarialLoss(average) for m in (parallelwavegan, peer_pwg))
        compare(ours, peer, x[:3], y)
        compare(ours, peer, x, y[:2])
        ours, peer = (m.FeatureMatchLoss(average_by_discriminators=average) for m in (parallelwavegan, peer_pwg))
        x_maps, y_maps = fmaps(torch.float32, 0), fmaps(torch.float32, 1)
        compare(ours, peer, x_maps[:2], y_maps)
        compare(ours, peer, [x_maps[0][:2], *x_maps[1:]], [y_maps[0][:2], *y_maps[1:]])


def test_pwg_shares_a_tie_of_the_minimum():
    x = torch.tensor([1.0, 1.0, 0.0, 2.0], requires_grad=True)
    y = torch.tensor([-1.0, -1.0, 0.0, -2.0], requires_grad=True)
    real, fake = parallelwavegan.DiscriminatorAdversarialLoss(loss_type="hinge")(y, x)
    (real + fake).backward()
    assert x.grad.tolist() == [-0.125, -0.125, -0.25, 0.0]
    assert y.grad.tolist() == [0.125, 0.125, 0.25, 0.0]


def test_pwg_takes_fake_first_and_returns_real_first():
    real, fake = parallelwavegan.DiscriminatorAdversarialLoss()(torch.full((3,), 5.0), torch.full((3,), 1.0))
    assert (real.item(), fake.item()) == (0.0, 25.0)


def test_pwg_defaults_and_refusals():
    default = parallelwavegan.GeneratorAdversarialLoss()([torch.zeros(3), torch.full((3,), 3.0)])
    assert default.item() == 2.5
    for name in ("GeneratorAdversarialLoss", "DiscriminatorAdversarialLoss"):
        with pytest.raises(AssertionError):
            getattr(parallelwavegan, name)(loss_type="wgan")
    with pytest.raises(Exception):  # noqa: B017 (the peer's is an UnboundLocalError)
        parallelwavegan.GeneratorAdversarialLoss()([])
    with pytest.raises(Exception):  # noqa: B017
        parallelwavegan.DiscriminatorAdversarialLoss()([], [])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layers", [True, False])
@pytest.mark.parametrize("discriminators", [True, False])
@pytest.mark.parametrize("final", [True, False])
def test_pwg_features(dtype, layers, discriminators, final):
    options = (layers, discriminators, final)
    ours, peer = parallelwavegan.FeatureMatchLoss(*options), peer_pwg.FeatureMatchLoss(*options)
    compare(ours, peer, fmaps(dtype, 0), fmaps(dtype, 1))


def test_pwg_features_real_side_is_detached():
    fake, real = torch.zeros(4, requires_grad=True), torch.ones(4, requires_grad=True)
    parallelwavegan.FeatureMatchLoss()([[fake, fake]], [[real, real]]).backward()
    assert fake.grad.tolist() == [-0.25] * 4
    assert real.grad is None


@pytest.mark.parametrize("average", [False, True])
def test_pwg_features_of_a_discriminator_without_maps(average):
    """It counts 0, as in the trainer (which raises for the first one, if layers are averaged)."""
    one, two = [torch.zeros(3)], [torch.zeros(3), torch.ones(3)]
    ours, peer = (
        m.FeatureMatchLoss(average_by_layers=False, average_by_discriminators=average)
        for m in (parallelwavegan, peer_pwg)
    )
    for fake, real in (([two, one], [[x + 1 for x in two], one]), ([one], [one])):
        got, want = ours(fake, real), peer(fake, real)
        assert type(got) is type(want)
        assert float(got) == float(want)
    assert parallelwavegan.FeatureMatchLoss(average_by_discriminators=average)([one], [one]) == 0.0
    assert parallelwavegan.FeatureMatchLoss(include_final_outputs=True)([one], [one]).item() == 0.0


# ---------------------------------------------------------------------------------- AudioCraft

CRITERIA = [n for n in adapters.public(peer_audiocraft) if n.endswith("_loss")]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CRITERIA)
def test_audiocraft_criteria(dtype, name):
    for x in logits(dtype):
        if x.dim() == 0:
            continue  # the trainer's target cannot be expanded to it
        scale = (lambda x: x.abs().mean()) if name == "hinge_loss" else None
        compare(getattr(audiocraft, name), getattr(peer_audiocraft, name), x, scale=scale)


@pytest.mark.parametrize("name", ["mse_loss", "hinge_loss", "hinge2_loss"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_audiocraft_generator_of_nothing(name, dtype):
    loss = getattr(audiocraft, name)(torch.zeros(0, 3, dtype=dtype, requires_grad=True))
    assert (loss.shape, loss.dtype, loss.tolist(), loss.requires_grad) == ((1,), torch.float32, [0.0], False)


def test_audiocraft_names():
    assert audiocraft.ADVERSARIAL_LOSSES == ["mse", "hinge", "hinge2"]
    assert audiocraft.AdvLossType
    assert audiocraft.FeatLossType
    x = torch.tensor([-3.0, 0.0, 0.5, 4.0])
    for role in ("adv", "real", "fake"):
        mine, theirs = (getattr(m, f"get_{role}_criterion") for m in (audiocraft, peer_audiocraft))
        for loss_type in audiocraft.ADVERSARIAL_LOSSES:
            assert mine(loss_type)(x) == theirs(loss_type)(x)
        with pytest.raises(AssertionError):
            mine("wgan")


def test_audiocraft_shares_a_tie_of_the_minimum():
    for name, at, slope in [
        ("hinge_real_loss", 1.0, -0.5),
        ("hinge_fake_loss", -1.0, 0.5),
        ("hinge2_loss", 1.0, -0.5),
    ]:
        x = torch.tensor([at], requires_grad=True)
        getattr(audiocraft, name)(x).backward()
        assert x.grad.item() == slope


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normalize", [True, False])
def test_audiocraft_features(dtype, normalize):
    fake, real = adapters.flat(fmaps(dtype, 0)), adapters.flat(fmaps(dtype, 1))
    ours, peer = (m.FeatureMatchingLoss(normalize=normalize) for m in (audiocraft, peer_audiocraft))
    compare(ours, peer, fake, real)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.L1Loss(reduction="sum"), lambda x, y: (x * y).mean()])
def test_audiocraft_features_of_another_loss(normalize, loss):
    fake, real = adapters.flat(fmaps(torch.float32, 0)), adapters.flat(fmaps(torch.float32, 1))
    ours, peer = (m.FeatureMatchingLoss(loss, normalize) for m in (audiocraft, peer_audiocraft))
    torch.testing.assert_close(ours(fake, real), peer(fake, real), rtol=1e-6, atol=1e-6)


def test_audiocraft_features_default_and_refusals():
    ours = audiocraft.FeatureMatchingLoss()
    assert ours([torch.zeros(3), torch.zeros(3)], [torch.ones(3), torch.full((3,), 4.0)]).item() == 2.5
    x = torch.zeros(3)
    for fake, real in [([], []), ([x], [x, x]), ([x, x], [x]), ([x], [torch.zeros(4)]), ([x[None]], [x])]:
        with pytest.raises(AssertionError):
            ours(fake, real)


class Adversary(nn.Module):
    """Two discriminators with their feature maps; `seen` records who came, and with a graph or not."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second = nn.Conv1d(1, 4, 5), nn.Conv1d(4, 1, 3, stride=2)
        self.other = nn.Conv1d(1, 1, 7)
        self.seen = []

    def forward(self, x):
        self.seen.append((x.detach().clone(), x.requires_grad, self.first.weight.requires_grad))
        h = torch.tanh(self.first(x))
        return [self.second(h), self.other(x)], [[h], [torch.tanh(self.other(x)), h]]


def own_loss(x):
    return x.square().mean() + x.mean()


def adversarial(module, loss_type, features, normalize, optimizer=torch.optim.Adam):
    adversary = Adversary()
    adversary.other.bias.requires_grad_(False)
    own = loss_type == "own"
    return module.AdversarialLoss(
        adversary,
        optimizer(adversary.parameters(), lr=0.1),
        loss=own_loss if own else module.get_adv_criterion(loss_type),
        loss_real=own_loss if own else module.get_real_criterion(loss_type),
        loss_fake=module.get_fake_criterion("mse" if own else loss_type),
        loss_feat=module.FeatureMatchingLoss(nn.MSELoss() if own else nn.L1Loss()) if features else None,
        normalize=normalize,
    )


@pytest.mark.parametrize("loss_type", ["mse", "hinge", "hinge2", "own"])
@pytest.mark.parametrize("features", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
def test_audiocraft_adversarial_loss(loss_type, features, normalize):
    torch.manual_seed(0)
    fake, real = torch.randn(2, 1, 20), torch.randn(2, 1, 20)
    found = []
    for module in (audiocraft, peer_audiocraft):
        it = adversarial(module, loss_type, features, normalize)
        x, y = fake.clone().requires_grad_(), real.clone().requires_grad_()
        steps = [it.train_adv(x, y).item() for _ in range(3)]
        assert (x.grad, y.grad) == (None, None)
        it.optimizer.zero_grad()
        adv, feat = it(x, y)
        assert (adv.shape, feat.shape, adv.dtype, feat.dtype) == ((), (), torch.float32, torch.float32)
        (adv + 3 * feat).backward()
        assert all(p.grad is None for p in it.adversary.parameters())
        assert [n for n, p in it.adversary.named_parameters() if not p.requires_grad] == ["other.bias"]
        found.append(([*steps, adv.item(), feat.item()], x.grad, y.grad, it.adversary))
    (ours, x, y, mine), (peers, x_peer, y_peer, theirs) = found
    assert ours == pytest.approx(peers, rel=1e-5, abs=1e-6)
    torch.testing.assert_close(x, x_peer, rtol=1e-4, atol=1e-6)
    assert (y is None) == (y_peer is None)
    if y is not None:
        torch.testing.assert_close(y, y_peer, rtol=1e-4, atol=1e-6)
    for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
    for (a, *flags), (b, *peer_flags) in zip(mine.seen, theirs.seen, strict=True):
        assert a.equal(b)
        assert flags == peer_flags


def test_audiocraft_adversarial_loss_order():
    it = adversarial(audiocraft, "hinge", True, True)
    fake, real = torch.zeros(1, 1, 20), torch.ones(1, 1, 20)
    it.train_adv(fake, real)
    it(fake, real)
    assert [x.mean().item() for x, *_ in it.adversary.seen] == [0.0, 1.0, 0.0, 1.0]


def test_audiocraft_without_features_the_second_is_zero():
    _, feat = adversarial(audiocraft, "mse", False, True)(torch.randn(1, 1, 20), torch.randn(1, 1, 20))
    assert feat.item() == 0.0
    assert not feat.requires_grad


def test_audiocraft_state_dict_has_the_optimizer():
    it, other, peer = (adversarial(m, "mse", True, True) for m in (audiocraft, audiocraft, peer_audiocraft))
    it.train_adv(torch.randn(1, 1, 20), torch.randn(1, 1, 20))
    assert list(it.state_dict()) == list(peer.state_dict())
    other.load_state_dict(it.state_dict())
    moments = next(iter(other.optimizer.state_dict()["state"].values()))
    assert moments["step"] == 1
    for p, q in zip(it.parameters(), other.parameters(), strict=True):
        assert p.equal(q)
    peer.load_state_dict(it.state_dict())
    outer = nn.ModuleDict({"adv": it})
    assert "adv.optimizer" in outer.state_dict()
    outer.load_state_dict(outer.state_dict())


@pytest.mark.parametrize(
    "output",
    [
        ((), []),
        (torch.zeros(1), []),
        ([1.0], []),
        ([], ()),
        ([], [torch.zeros(1)]),
        ([], [(torch.zeros(1),)]),
        ([], [[1]]),
    ],
)
def test_audiocraft_checks_the_adversary(output):
    adversary = nn.Linear(1, 1)
    it = adversarial(audiocraft, "mse", True, True)
    adversary.forward = lambda x: output
    it.adversary = adversary
    with pytest.raises(AssertionError):
        it.get_adversary_pred(torch.zeros(1, 1))


# ---------------------------------------------------------------------------------- AudioCraft's balancer

WEIGHTS = {"l1": 0.1, "msspec": 2.0, "adv": 4.0}


def balanced(module, dtype, options, calls=4):
    """Effective losses, gradients of the layer before and metrics of several calls, of different sizes."""
    torch.manual_seed(5)
    layer = nn.Conv1d(1, 2, 3).to(dtype)
    beside = torch.ones((), dtype=dtype, requires_grad=True)
    balancer, found = module.Balancer(**{"weights": dict(WEIGHTS), **options}), []
    for k in range(calls):
        x = layer(torch.randn(3 + k, 1, 9).to(dtype))
        losses = {
            "l1": x.abs().mean(),
            "msspec": 30 * (k + 1) * x.square().mean(),
            "adv": -(beside * x).sin().sum(),
        }
        layer.zero_grad()
        loss = balancer.backward(losses, x)
        assert (loss.dtype, loss.shape, loss.requires_grad) == (dtype, (), False)
        found.append((loss, layer.weight.grad, layer.bias.grad, balancer.metrics))
    assert beside.grad is None  # only what lies before the balancer's input is trained
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"monitor": True},
        {"balance_grads": False, "monitor": True},
        {"per_batch_item": False, "monitor": True},
        {"total_norm": 3.0, "ema_decay": 0.5},
        {"weights": {"l1": 0.0, "msspec": 1.0, "adv": 2.0}, "monitor": True},
        {"total_norm": 0.0, "ema_decay": 0.0, "epsilon": 0.1, "monitor": True},
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_audiocraft_balancer(options, dtype):
    ours, peers = (balanced(m, dtype, options) for m in (audiocraft, peer_audiocraft))
    rtol = 1e-5 if dtype is torch.float32 else 1e-12
    for (loss, *grads, metrics), (loss_peer, *grads_peer, metrics_peer) in zip(ours, peers, strict=True):
        torch.testing.assert_close(loss, loss_peer, rtol=rtol, atol=0)
        for g, peer in zip(grads, grads_peer, strict=True):
            torch.testing.assert_close(g, peer, rtol=rtol, atol=rtol * peer.abs().max().item())
        assert metrics == pytest.approx(metrics_peer, rel=rtol)
        assert list(metrics) == ([f"ratio_{name}" for name in WEIGHTS] if options.get("monitor") else [])
        assert all(type(v) is float for v in metrics.values())


def test_audiocraft_balancer_reads_its_options_at_each_call():
    found = []
    for module in (audiocraft, peer_audiocraft):
        balancer = module.Balancer({"a": 1.0, "b": 1.0})
        grads = []
        for k in range(3):
            x = torch.tensor([[1.0, 2.0], [3.0, 5.0]], requires_grad=True)
            balancer.backward({"a": x.square().sum(), "b": x.sin().sum()}, x)
            grads.append(x.grad)
            balancer.weights["b"] = 7.0
            balancer.total_norm, balancer.balance_grads = 2.0, k == 0
        found.append(torch.stack(grads))
    torch.testing.assert_close(*found)
    assert not found[0][1].equal(found[0][0])


def test_audiocraft_balancer_without_weights_and_after_an_overflow():
    x = torch.ones(2, 3, requires_grad=True)
    with pytest.raises(AssertionError, match="weights: expected a positive sum"):
        audiocraft.Balancer({"a": 0.0}).backward({"a": x.sum()}, x)
    balancer = audiocraft.Balancer({"a": 1.0})
    for factor in (1.0, float("inf"), 2.0):
        x.grad = None
        balancer.backward({"a": factor * x.sum()}, x)
    assert x.grad.isfinite().all()
