"""The generator's step: the same gradients as the trainer's own, and none for the discriminator."""

import copy
import functools
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import fastgan
from fastgan.nn import AdaptiveWeight, DiscriminatorLoss, GeneratorLoss, LossBalancer

STEP = fastgan.generator_step


class Net(nn.Module):
    """A conditional discriminator that returns logits and feature maps."""

    def __init__(self, drop=0.0):
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.ModuleList([nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)])
        self.last = nn.Conv2d(8, 1, 3)
        self.by_class = nn.Embedding(5, 8)
        self.drop = nn.Dropout(drop)
        self.seen = []

    def forward(self, x, labels=None, scale=1.0):
        self.seen.append((x, torch.is_grad_enabled()))
        maps = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            maps.append(x)
        if labels is not None:
            x = x * self.by_class(labels)[:, :, None, None]
        return scale * self.last(self.drop(x)), maps


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.body = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.SiLU())
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, z):
        return self.last(self.body(z))


@pytest.fixture
def case():
    torch.manual_seed(5)
    net, generator = Net().double(), Generator().double()
    z, real = torch.randn(2, 4, 8, 8, dtype=torch.float64), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    yield net, generator, z, real
    assert all(p.requires_grad for p in net.parameters())
    assert all(p.grad is None for p in net.parameters())


def gradients(total, generator):
    return torch.autograd.grad(total, list(generator.parameters()))


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def close(a, b, tolerance=1e-12):
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


def features(result):
    return result[1]


# ---------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("loss", ["nonsaturating", "saturating", "hinge", "least_squares", "wasserstein"])
def test_a_name(case, loss):
    """To the last bit the gradients of the step in which nothing is frozen."""
    net, generator, z, _ = case
    step = STEP(net, generator(z), loss=loss, output=0)
    fake = generator(z)
    own = fastgan.generator_loss(net(fake)[0], loss=loss)
    assert same(gradients(step.total, generator), gradients(own, generator))
    assert torch.equal(step.loss, own.detach())
    assert (step.feature_matching, step.weights, step.real_logits) == (None, None, None)
    assert not step.fake_logits.requires_grad


@pytest.mark.parametrize("form", ["paired", "average"])
def test_relativistic(case, form):
    net, generator, z, real = case
    loss = GeneratorLoss("nonsaturating", relativistic=form)
    step = STEP(net, generator(z), real, loss=loss, output=0)
    assert [grad for _, grad in net.seen] == [False, True]
    own = fastgan.generator_loss(net(generator(z))[0], net(real)[0].detach(), relativistic=form)
    assert same(gradients(step.total, generator), gradients(own, generator))
    assert torch.equal(step.real_logits, net(real)[0].detach())
    with pytest.raises(ValueError, match="real_logits: expected logits for relativistic"):
        STEP(net, generator(z), loss=loss, output=0)


def test_a_function(case):
    net, generator, z, real = case
    seen = []

    def loss(fake, real):
        seen.append(real)
        return F.softplus(-fake).mean()

    STEP(net, generator(z), loss=loss, output=0)
    STEP(net, generator(z), real, loss=loss, output=0)
    assert seen[0] is None
    assert not seen[1].requires_grad


def test_real_is_not_looked_at_in_vain(case):
    net, generator, z, real = case
    STEP(net, generator(z), real, loss="hinge", output=0)
    STEP(net, generator(z), real, loss=GeneratorLoss("hinge"), output=0)
    assert len(net.seen) == 2


def test_lists():
    nets = [Net().double() for _ in range(3)]
    generator = Generator().double()
    z = torch.randn(2, 4, 8, 8, dtype=torch.float64)

    def logits(x):
        return [net(x)[0] for net in nets]

    step = STEP(logits, generator(z), loss="lsgan")
    own = sum(((net(generator(z))[0] - 1) ** 2).mean() for net in nets)
    close(gradients(step.total, generator), gradients(own, generator))
    assert len(step.fake_logits) == 3
    step.total.detach()
    assert all(p.grad is None for net in nets for p in net.parameters())


@pytest.mark.parametrize("factor", [2.0, functools.partial(fastgan.feature_matching_loss, weights=2.0)])
def test_feature_matching(case, factor):
    net, generator, z, real = case
    step = STEP(net, generator(z), real, loss="hinge", output=0, features=features, feature_matching=factor)
    logits, maps = net(generator(z))
    matched = 2 * sum((f - r.detach()).abs().mean() for f, r in zip(maps, net(real)[1], strict=True))
    close([step.loss, step.feature_matching, step.total], [-logits.mean(), matched, matched - logits.mean()])
    close(gradients(step.total, generator), gradients(matched - logits.mean(), generator))


def test_outputs_on_real_that_are_known(case):
    """Those of the discriminator's step, where its optimizer has not stepped yet."""
    net, generator, z, real = case
    options = {"output": 0, "features": 1, "feature_matching": 1.0, "loss": GeneratorLoss(relativistic="paired")}
    own = STEP(net, generator(z), real, **options)
    kept = fastgan.discriminator_step(net, real, generator(z).detach(), output=0, keep_outputs=True).real_outputs
    net.seen.clear()
    step = STEP(net, generator(z), real_outputs=kept, **options)
    assert len(net.seen) == 1
    assert same(gradients(step.total, generator), gradients(own.total, generator))
    step = STEP(net, generator(z), real_outputs=net(real), **options)  # with a graph, which is not gone through
    step.total.backward()
    generator.zero_grad()


def test_conditional_arguments(case):
    net, generator, z, real = case
    labels, others = torch.tensor([0, 3]), torch.tensor([2, 2])
    loss = GeneratorLoss(relativistic="paired")
    step = STEP(net, generator(z), real, labels, loss=loss, output=0, real_args=(others,), scale=2.0)
    own = fastgan.generator_loss(
        net(generator(z), labels, scale=2.0)[0], net(real, others, scale=2.0)[0].detach(), relativistic="paired"
    )
    assert same(gradients(step.total, generator), gradients(own, generator))


def test_what_the_generator_is_made_of_is_not_frozen():
    """An embedding that both networks use gets the gradient that it gets in a step where nothing is frozen."""
    net, generator = Net().double(), Generator().double()
    z = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    labels = torch.tensor([0, 3])

    def fake():
        return generator(z) + net.by_class(labels).mean()

    step = STEP(net, fake(), None, labels, output=0)
    own = fastgan.generator_loss(net(fake(), labels)[0])
    shared = net.by_class.weight
    assert torch.equal(*(torch.autograd.grad(t, shared)[0] for t in (step.total, own)))
    step = STEP(lambda x: net(x, labels), fake(), output=0)
    step.total.backward()
    assert shared.grad is not None
    assert net.last.weight.grad is None


@pytest.mark.parametrize("reentrant", [True, False])
def test_what_is_behind_a_checkpoint_of_the_generator_is_not_frozen(reentrant):
    net, generator = Net().double(), Generator().double()
    z = torch.randn(2, 4, 8, 8, dtype=torch.float64, requires_grad=True)
    shared = generator.last = net.layers[0]  # 3 to 8 channels
    first, last = nn.Conv2d(8, 3, 1).double(), nn.Conv2d(8, 3, 1).double()

    def fake():
        def inner(z):
            return last(shared(first(generator.body(z))))

        return checkpoint(inner, z, use_reentrant=reentrant)

    STEP(net, fake(), output=0).total.backward()
    got, shared.weight.grad = shared.weight.grad, None
    assert net.last.weight.grad is None
    fastgan.generator_loss(net(fake())[0]).backward()
    assert torch.equal(got, shared.weight.grad)


def test_functions_freeze_what_they_refer_to(case):
    net, generator, z, _ = case
    STEP(lambda x: net(x)[0], generator(z)).total.backward()
    STEP(functools.partial(net, scale=2.0), generator(z), output=0).total.backward()


def test_a_value_without_gradients(case):
    net, generator, z, _ = case
    with torch.no_grad():
        step = STEP(net, generator(z), output=0, loss="hinge")
    assert not step.total.requires_grad


def test_reconstructions_are_added(case):
    net, generator, z, real = case
    fake = generator(z)
    l1, l2 = (fake - real).abs().mean(), (fake - real).square().mean()
    step = STEP(net, fake, loss="hinge", output=0, reconstruction={"l1": l1, "l2": l2})
    close([step.total], [l1 + l2 - net(fake)[0].mean()])


# ---------------------------------------------------------------------------------- balanced


def vqgans_own(net, generator, z, real, weight):
    """As taming-transformers has it."""
    fake = generator(z)
    rec, adversarial = (fake - real).abs().mean(), -net(fake)[0].mean()
    layer = generator.last.weight
    (a,) = torch.autograd.grad(rec, layer, retain_graph=True)
    (b,) = torch.autograd.grad(adversarial, layer, retain_graph=True)
    factor = (a.norm() / (b.norm() + 1e-4)).clamp(0, 1e4).detach() * weight
    return rec + factor * adversarial, factor


@pytest.mark.parametrize("layer", ["weight", "function"])
def test_the_adaptive_weight(case, layer):
    net, generator, z, real = case
    own, factor = vqgans_own(net, generator, z, real, 0.8)
    weight = generator.last.weight
    balance = AdaptiveWeight(weight if layer == "weight" else lambda: weight, weight=0.8)
    fake = generator(z)
    rec = (fake - real).abs().mean()
    step = STEP(net, fake, loss="hinge", output=0, reconstruction=rec, balance=balance)
    close([step.total, step.weights["adversarial"]], [own, factor])
    close(gradients(step.total, generator), gradients(own, generator))
    assert step.weights["reconstruction"] == 1


def test_the_discriminator_is_walked_once(case):
    """And so is what the reconstruction is computed with: VQGAN goes through both twice."""
    net, generator, z, real = case
    counts = {"net": 0, "perceptual": 0}

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, name):
            ctx.name = name
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            counts[ctx.name] += 1
            return g, None

    fake = generator(z)
    rec = (Counted.apply(fake, "perceptual") - real).abs().mean()
    balance = AdaptiveWeight(generator.last.weight)
    step = STEP(
        lambda x: net(Counted.apply(x, "net")), fake, output=0, reconstruction={"l1": rec, "l2": rec**2},
        balance=balance,
    )  # fmt: skip
    step.total.backward()
    assert counts == {"net": 1, "perceptual": 1}
    generator.zero_grad()


def test_norms_at_the_output(case):
    net, generator, z, real = case
    fake = generator(z)
    rec, adversarial = (fake - real).abs().mean(), -net(fake)[0].mean()
    norms = [torch.autograd.grad(t, fake, retain_graph=True)[0].norm() for t in (rec, adversarial)]
    step = STEP(net, fake, loss="hinge", output=0, reconstruction=rec, balance=AdaptiveWeight(eps=0.0))
    close([step.weights["adversarial"]], [norms[0] / norms[1]])


def test_what_a_loss_depends_on_beside_fake_gets_its_gradient(case):
    """LDM's logvar, or an encoder behind a commitment loss."""
    net, generator, z, real = case
    logvar = torch.zeros((), dtype=torch.float64, requires_grad=True)

    def losses():
        hidden = generator.body(z)
        fake = generator.last(hidden)
        return fake, (fake - real).abs().mean() / logvar.exp() + logvar + hidden.square().mean()

    fake, rec = losses()
    step = STEP(net, fake, loss="hinge", output=0, reconstruction=rec, balance=AdaptiveWeight(weight=0.5))
    inputs = [logvar, *generator.parameters()]
    got = torch.autograd.grad(step.total, inputs)
    fake, rec = losses()
    own = torch.autograd.grad(rec - step.weights["adversarial"] * net(fake)[0].mean(), inputs)
    close(got, own)


def encodecs_own(weights, decay=0.999, total_norm=1.0, eps=1e-12):
    """EnCodec's balancer, of a history of gradients by loss: the gradient that is sent back at each step."""
    sums, counts = dict.fromkeys(weights, 0.0), dict.fromkeys(weights, 0.0)

    def send(grads):
        for name, g in grads.items():
            sums[name] = sums[name] * decay + g.flatten(1).norm(dim=1).mean()
            counts[name] = counts[name] * decay + 1
        total = sum(weights[name] for name in grads)
        return sum(
            weights[name] / total * total_norm * g / (eps + sums[name] / counts[name]) for name, g in grads.items()
        )

    return send


def test_the_balancer(case):
    """Several steps, one of them without the adversarial loss; averages follow."""
    net, generator, z, real = case
    weights = {"adversarial": 3.0, "feature_matching": 2.0, "l1": 1.0}
    balance, own = LossBalancer(weights, decay=0.9).double(), encodecs_own(weights, 0.9)
    for k in range(4):
        balance.train(k % 2 == 0)  # averages move in either mode
        fake = generator(z + k)
        l1 = (fake - real).abs().mean()
        logits, maps = net(fake)
        matched = sum((f - r.detach()).abs().mean() for f, r in zip(maps, net(real)[1], strict=True))
        losses = {"adversarial": -logits.mean(), "feature_matching": matched, "l1": l1}
        if k == 2:
            del losses["adversarial"], losses["feature_matching"]
            total = balance({"l1": l1}, fake).total
        else:
            total = STEP(
                net, fake, real, loss="hinge", output=0, features=1, feature_matching=1.0,
                reconstruction={"l1": l1}, balance=balance,
            ).total  # fmt: skip
        sent = own({name: torch.autograd.grad(t, fake, retain_graph=True)[0] for name, t in losses.items()})
        close(torch.autograd.grad(total, fake, retain_graph=True), [sent], 1e-9)
    assert set(balance.state_dict()) == {"sums", "counts", "_extra_state"}


def test_a_balancer_that_does_not_rescale(case):
    net, generator, z, real = case
    fake = generator(z)
    l1 = (fake - real).abs().mean()
    balance = LossBalancer({"adversarial": 3.0, "l1": 0.5}, rescale=False)
    step = STEP(net, fake, loss="hinge", output=0, reconstruction={"l1": l1}, balance=balance)
    close([step.total], [0.5 * l1 - 3 * net(fake)[0].mean()], 1e-6)


def test_weights_may_be_set_anew_in_another_order(case):
    _, generator, z, real = case
    found = []
    for weights in ({"l1": 1.0, "l2": 2.0}, {"l2": 2.0, "l1": 1.0}):
        balance = LossBalancer({"l1": 1.0, "l2": 2.0}, decay=0.5)
        for k in range(2):
            fake = generator(z + k)
            scales = balance({"l1": (fake - real).abs().mean(), "l2": (fake - real).square().sum()}, fake).weights
            balance.weights = weights
        found.append((scales, balance.get_extra_state()))
    assert found[0] == found[1]


def test_an_overflow_leaves_the_averages(case):
    _, generator, z, real = case
    balance = LossBalancer({"l1": 1.0})
    fake = generator(z)
    balance({"l1": (fake - real).abs().mean()}, fake)
    before = balance.sums.clone()
    balance({"l1": (fake * float("inf")).sum()}, fake)
    assert torch.equal(balance.sums, before)


def test_averages_stay_in_float32_and_with_their_names(case):
    _, generator, z, real = case
    balance = LossBalancer({"l1": 1.0, "l2": 2.0}).bfloat16()
    fake = generator(z)
    for _ in range(300):
        balance({"l1": (fake - real).abs().mean()}, fake)
    assert balance.sums.dtype == torch.float32
    assert balance.counts[0] > 256
    other = LossBalancer({"l2": 2.0, "l1": 1.0})
    other.load_state_dict(balance.state_dict())
    assert other.counts.tolist() == balance.counts.flip(0).tolist()
    with pytest.raises(ValueError, match="state_dict: expected averages of"):
        LossBalancer({"l1": 1.0, "mel": 1.0}).load_state_dict(balance.state_dict())
    assert copy.deepcopy(balance).counts.tolist() == balance.counts.tolist()


def test_a_factor_that_is_not_finite_in_16_bits():
    """Of a loss of small gradients in float16; and so is a GradScaler's."""
    fake = torch.full((4,), 1e-6, dtype=torch.float16, requires_grad=True)
    losses = {"l1": (fake.float() * 2e-6).sum()}
    total = LossBalancer({"l1": 1.0}, per_sample=False)(losses, fake).total
    (g,) = torch.autograd.grad(total, fake, retain_graph=True)
    torch.testing.assert_close(g.float(), torch.full((4,), 0.5), rtol=1e-2, atol=0)
    (g,) = torch.autograd.grad(total * 65536.0, fake, retain_graph=True)
    torch.testing.assert_close(g.float(), torch.full((4,), 32768.0), rtol=1e-2, atol=0)


def test_results_in_which_tensors_cannot_be_found(case):
    net, generator, z, real = case

    class Result(dict):
        pass

    with pytest.raises(TypeError, match="real_outputs: expected the discriminator to return tensors in lists"):
        STEP(
            lambda x: Result(logits=net(x)[0]), generator(z), real_outputs=Result(logits=net(real)[0]),
            loss=GeneratorLoss(relativistic="paired"), output="logits",
        )  # fmt: skip


def test_a_scaled_backward(case):
    """As of a GradScaler: what comes from above is a factor on what is sent."""
    net, generator, z, real = case
    own, _ = vqgans_own(net, generator, z, real, 1.0)
    fake = generator(z)
    rec = (fake - real).abs().mean()
    step = STEP(
        net, fake, loss="hinge", output=0, reconstruction=rec, balance=AdaptiveWeight(generator.last.weight)
    )
    close(gradients(step.total * 4, generator), [4 * g for g in gradients(own, generator)])
    with pytest.raises(RuntimeError, match="create_graph"):
        torch.autograd.grad(STEP(
            net, fake, loss="hinge", output=0, reconstruction=(fake - real).abs().mean(), balance=AdaptiveWeight()
        ).total, fake, create_graph=True)  # fmt: skip


# ---------------------------------------------------------------------------------- refusals


def test_errors(case):
    net, generator, z, real = case
    fake = generator(z)
    l1 = (fake - real).abs().mean()
    hooked = generator(z)
    hooked.register_hook(lambda g: g)
    retained = generator(z)
    retained.retain_grad()
    tokens = generator.body(z)
    halves = generator(z).chunk(2)
    labels = torch.zeros(6, dtype=torch.int64)
    refused = [
        (TypeError, "discriminator: expected a module", (3, fake), {}),
        (TypeError, "loss: expected a name", (net, fake), {"loss": 3}),
        (ValueError, "loss: unknown", (net, fake), {"loss": "hinges", "output": 0}),
        (ValueError, "loss: expected a loss of the generator, got a DiscriminatorLoss", (net, fake), {"loss": DiscriminatorLoss()}),
        (TypeError, "loss: expected a scalar", (net, fake), {"loss": lambda f, r: f, "output": 0}),
        (ValueError, "fake: expected samples with a graph", (net, fake.detach()), {"output": 0}),
        (ValueError, "fake: expected samples with a graph", (net, fake.detach()), {"output": 0, "reconstruction": l1}),
        (ValueError, "features: expected which part", (net, fake, real), {"feature_matching": 1.0}),
        (ValueError, "features: has no effect without", (net, fake, real), {"features": 1}),
        (ValueError, "real: expected samples for feature_matching", (net, fake), {"features": 1, "feature_matching": 1.0, "output": 0}),
        (ValueError, "real: expected tensors that need no gradient", (net, fake, fake), {"features": 1, "feature_matching": 1.0, "output": 0}),
        (TypeError, "real_args: expected a tuple", (net, fake), {"real_args": 3, "output": 0}),
        (ValueError, "real_args: has no effect", (net, fake), {"real_args": (), "output": 0}),
        (ValueError, "real_args: has no effect", (net, fake, real), {"real_args": (), "real_outputs": 1.0, "output": 0}),
        (TypeError, r"real: expected samples or None, got \(6,\) of torch.int64; .* generator_step\(D, fake, None, labels", (net, fake, labels), {"output": 0}),
        (TypeError, r"real: expected samples or None, got \(6, 3\) of torch.float32", (net, fake, torch.rand(6, 3)), {"output": 0}),
        (TypeError, "'weight'; generator_step has no option 'weight'.*fastgan.nn.DiscriminatorLoss", (net, fake), {"weight": 3.0}),
        (TypeError, "balance: expected", (net, fake), {"balance": 3}),
        (ValueError, "losses: expected 'adversarial' and a reconstruction", (net, fake), {"balance": AdaptiveWeight(), "output": 0}),
        (ValueError, "reconstruction: 'adversarial' is the name", (net, fake), {"reconstruction": {"adversarial": l1}, "output": 0}),
        (TypeError, "reconstruction: expected a scalar", (net, fake), {"reconstruction": fake, "output": 0}),
        (ValueError, "last_layer: expected a weight that fake was made with", (net, fake), {"reconstruction": l1, "balance": AdaptiveWeight(net.last.weight), "output": 0}),
        (ValueError, "last_layer: expected a weight that requires grad", (net, fake), {"reconstruction": l1, "balance": AdaptiveWeight(torch.ones(2)), "output": 0}),
        (ValueError, "fake: has backward hooks", (net, hooked), {"reconstruction": hooked.sum(), "balance": AdaptiveWeight(), "output": 0}),
        (ValueError, "fake: has backward hooks, or retains", (net, retained), {"reconstruction": retained.sum(), "balance": AdaptiveWeight(), "output": 0}),
        (ValueError, "losses: expected 'reconstruction' to depend on fake", (net, fake), {"reconstruction": tokens.sum(), "balance": AdaptiveWeight(), "output": 0}),
        (ValueError, "another output of the operation", (net, halves[0]), {"reconstruction": halves[0].sum() + halves[1].sum(), "balance": AdaptiveWeight(), "output": 0}),
        (ValueError, "losses: expected some of 'l1', got 'adversarial'", (net, fake), {"balance": LossBalancer({"l1": 1.0}), "output": 0}),
    ]  # fmt: skip
    for error, message, args, options in refused:
        with pytest.raises(error, match=message):
            STEP(*args, **options)
    with torch.no_grad(), pytest.raises(RuntimeError, match="no_grad"):
        STEP(net, fake, reconstruction=l1, balance=AdaptiveWeight(), output=0)
    with pytest.raises(ValueError, match="loss: expected a loss of the discriminator"):
        fastgan.discriminator_step(net, real, real, loss=GeneratorLoss())


def test_modules_of_bad_options():
    for error, make in (
        (TypeError, lambda: AdaptiveWeight(3)),
        (TypeError, lambda: AdaptiveWeight(nn.Linear(2, 2))),
        (ValueError, lambda: AdaptiveWeight(eps=-1.0)),
        (TypeError, lambda: LossBalancer({})),
        (ValueError, lambda: LossBalancer({"a": -1.0})),
        (ValueError, lambda: LossBalancer({"a": 0.0})),
        (ValueError, lambda: LossBalancer({"a": 1.0}, decay=1.0)),
    ):
        with pytest.raises(error):
            make()


def test_float16_is_warned_of_where_losses_are_balanced(monkeypatch):
    monkeypatch.setattr("fastgan._checks._said", set())
    net, x = nn.Linear(4, 1).half(), torch.randn(3, 4).half().requires_grad_()
    fake = x * 1
    with pytest.warns(UserWarning, match="float16"):
        STEP(net, fake, reconstruction=fake.float().square().mean(), balance=AdaptiveWeight())


# ---------------------------------------------------------------------------------- compiled


@pytest.mark.slow
def test_in_a_graph(case):
    net, generator, z, real = case
    loss = GeneratorLoss(relativistic="paired")

    def step(z):
        return STEP(net, generator(z), real, loss=loss, output=0, features=1, feature_matching=2.0).total

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    with fastgan.compiling():
        close(gradients(compiled(z), generator), gradients(step(z), generator))
        compiled(z).backward()
    generator.zero_grad()


@pytest.mark.slow
def test_what_is_shared_with_the_generator_gets_its_gradient_between_the_parts_of_a_graph():
    shared = nn.Linear(4, 4).double()
    net, z = nn.Sequential(shared, nn.Tanh(), nn.Linear(4, 1).double()), torch.randn(3, 4, dtype=torch.float64)

    def step(z):
        return STEP(net, shared(z)).total

    got = torch.autograd.grad(torch.compile(step, backend="aot_eager")(z), list(shared.parameters()))
    close(got, torch.autograd.grad(step(z), list(shared.parameters())))


@pytest.mark.slow
def test_between_the_parts_of_a_graph(case):
    """Where the discriminator is a function."""
    net, generator, z, _ = case

    def step(z):
        return STEP(lambda x: net(x)[0], generator(z)).total

    compiled = torch.compile(step, backend="aot_eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        close(gradients(compiled(z), generator), gradients(step(z), generator))


@pytest.mark.slow
def test_losses_of_one_graph_cannot_be_balanced(case):
    net, generator, z, real = case

    @torch.compile(backend="aot_eager")
    def both(z):
        fake = generator(z)
        return fake, (fake - real).abs().mean()

    fake, rec = both(z)
    with pytest.raises(ValueError, match=r"compute (losses|the losses)"):
        STEP(net, fake, output=0, reconstruction=rec, balance=AdaptiveWeight())
