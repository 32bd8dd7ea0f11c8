"""Losses that are inline in trainers' steps, by one to three lines of the public API: the same values and gradients.

Each recipe stands beside the trainer's formulas, written in plain PyTorch; both are compared in float64.
"""

import types

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastgan
from bench.baselines import seed_voken as peer
from tests.helpers.adapters import close


@pytest.fixture(autouse=True)
def _one_thread(_poison):
    torch.set_num_threads(1)


def leaves(*shapes):
    """Leaves with numbers of both signs."""
    draw = torch.Generator().manual_seed(7)
    return [(2 * torch.randn(s, generator=draw, dtype=torch.float64)).requires_grad_() for s in shapes]


def agree(ours, theirs, tensors):
    """Values and gradients of scalars, or of tuples of them, to 1e-12."""
    found = []
    for loss in (ours, theirs):
        values = loss(*tensors)
        values = values if isinstance(values, (list, tuple)) else [values]
        grads = [torch.autograd.grad(v.sum(), tensors, retain_graph=True, allow_unused=True) for v in values]
        found.append([*values, *[torch.zeros(()) if g is None else g for each in grads for g in each]])
    for a, b in zip(*found, strict=True):
        assert close(a, b, 1e-12)


class Critic(nn.Module):
    """A discriminator of vectors with kinks: one logit per sample."""

    def __init__(self, width=6):
        super().__init__()
        self.first, self.second = nn.Linear(width, 8, dtype=torch.float64), nn.Linear(8, 1, dtype=torch.float64)
        draw = torch.Generator().manual_seed(3)
        for p in self.parameters():
            p.data.copy_(torch.randn(p.shape, generator=draw, dtype=torch.float64))

    def forward(self, x):
        return self.second(F.relu(self.first(x)))


def agree_in(net, ours, theirs, tensors):
    """The same, with gradients for the parameters of a network."""
    agree(lambda *_: ours(), lambda *_: theirs(), [*net.parameters(), *tensors])


# ---------------------------------------------------------------------------------- distillation


def test_dmd2():
    """main/sd_guidance.py: the classifier's losses on the bottleneck's logits."""

    def ours(real, fake):
        guidance_cls_loss = fastgan.discriminator_loss(real, fake)
        gen_cls_loss = fastgan.generator_loss(fake)
        return guidance_cls_loss, gen_cls_loss

    def theirs(real, fake):
        return (F.softplus(fake) + F.softplus(-real)).mean(), F.softplus(-fake).mean()

    agree(ours, theirs, leaves((5, 1), (5, 1)))


@pytest.mark.parametrize("relativistic", [None, "paired"])
def test_self_forcing(relativistic):
    """model/gan.py: plain or paired, and R1 and R2 by differences; the weights are the options'."""
    gan_d_weight, gan_g_weight, r1_weight, r2_weight, r1_sigma, r2_sigma = 0.3, 0.7, 2.0, 3.0, 0.1, 0.2

    def ours(real, fake, real_near, fake_near):
        gan_D_loss = gan_d_weight * fastgan.discriminator_loss(real, fake, relativistic=relativistic)
        gan_G_loss = gan_g_weight * fastgan.generator_loss(
            fake, real if relativistic else None, loss="nonsaturating", relativistic=relativistic
        )
        squares = [
            fastgan.term("square", weight=w / s**2) for w, s in ((r1_weight, r1_sigma), (r2_weight, r2_sigma))
        ]
        penalty = fastgan.reduce_terms(squares, [(real_near, real), (fake_near, fake)])
        return gan_D_loss, gan_G_loss, penalty

    def theirs(real, fake, real_near, fake_near):
        if relativistic:
            d, g = F.softplus(-(real - fake)).mean(), F.softplus(-(fake - real)).mean()
        else:
            d, g = F.softplus(-real).mean() + F.softplus(fake).mean(), F.softplus(-fake).mean()
        r1 = r1_weight * torch.mean(((real_near - real) / r1_sigma) ** 2)
        r2 = r2_weight * torch.mean(((fake_near - fake) / r2_sigma) ** 2)
        return d * gan_d_weight, g * gan_g_weight, r1 + r2

    agree(ours, theirs, leaves(*[(4, 3)] * 4))


def test_adversarial_flow_models():
    """train_adversarial_flow.py: relativistic, centred, R1 and R2 on a part of the batch, with weights per sample."""
    gp_bsz, gp_eps, gp_scale, cp_scale = 2, 0.1, 0.25, 0.01
    weighting = torch.tensor([0.3, 0.9, 0.1, 1.0, 0.6], dtype=torch.float64)

    def ours(logits_real, logits_fake, logits_real_gp, logits_fake_gp):
        adv = fastgan.discriminator_loss(logits_real, logits_fake, relativistic="paired")
        cp = fastgan.centering_penalty(logits_real, logits_fake, weight=cp_scale)
        pairs = [(logits_real_gp, logits_real[:gp_bsz]), (logits_fake_gp, logits_fake[:gp_bsz])]
        squares = fastgan.reduce_terms([fastgan.term("square")] * 2, pairs, reduction="none")
        r1, r2 = [(s * (gp_scale / gp_eps**2 * weighting[:gp_bsz])).mean() for s in squares]
        return adv, cp, r1, r2

    def theirs(real, fake, real_gp, fake_gp):
        factor = gp_scale * weighting[:gp_bsz] / gp_eps**2
        return (
            F.softplus(-(real - fake)).mean(),
            (real + fake).square().mul(cp_scale).mean(),
            (real_gp - real[:gp_bsz]).square().mul(factor).mean(),
            (fake_gp - fake[:gp_bsz]).square().mul(factor).mean(),
        )

    agree(ours, theirs, leaves((5,), (5,), (2,), (2,)))
    agree(
        lambda real, fake: fastgan.generator_loss(fake, real, loss="nonsaturating", relativistic="paired"),
        lambda real, fake: F.softplus(-(fake - real)).mean(),
        leaves((5,), (5,)),
    )


def test_sana_sprint():
    """train_sana_sprint_diffusers.py: half the hinge; misaligned pairs make more fake logits than real ones."""
    agree(
        lambda pred_true, pred_fake: 0.5 * fastgan.discriminator_loss(pred_true, pred_fake, "hinge"),
        lambda real, fake: 0.5 * (torch.mean(F.relu(1.0 - real)) + torch.mean(F.relu(1.0 + fake))),
        leaves((4, 6), (7, 6)),
    )


@pytest.mark.parametrize("kind", ["hinge", "wasserstein", "nonsaturating"])
def test_flash_diffusion(kind):
    """flash_diffusion_model.py: "hinge", "wgan" with its clamp, and the last branch, a cross-entropy."""

    def theirs(real, fake):
        if kind == "hinge":
            return F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean(), -fake.mean()
        if kind == "wasserstein":
            return -real.mean() + fake.mean(), -fake.mean()
        valid, none = torch.ones_like(real), torch.zeros_like(fake)
        d = F.binary_cross_entropy_with_logits(real, valid) + F.binary_cross_entropy_with_logits(fake, none)
        return d, F.binary_cross_entropy_with_logits(fake, valid)

    def ours(real, fake):
        return fastgan.discriminator_loss(real, fake, kind), fastgan.generator_loss(fake, loss=kind)

    agree(ours, theirs, leaves((5, 1), (5, 1)))
    ours_net, theirs_net = Critic(), Critic()
    fastgan.clip_weights_(ours_net, 0.01)
    for p in theirs_net.parameters():
        p.data.clamp_(-0.01, 0.01)
    assert all(a.equal(b) for a, b in zip(ours_net.parameters(), theirs_net.parameters(), strict=True))


def test_fastgen_approximate_r1():
    """fastgen/methods/distribution_matching/dmd2.py, _compute_r1_regularization; gradients for both."""
    agree(
        lambda logits, near: fastgan.reduce_terms([fastgan.term("square")], [(logits, near)]),
        lambda logits, near: F.mse_loss(logits, near, reduction="mean"),
        leaves((4, 3), (4, 3)),
    )


# ---------------------------------------------------------------------------------- restoration, translation


@pytest.mark.parametrize("alpha", [1.0, 0.8])
@pytest.mark.parametrize("flags", [{"for_real": True}, {"for_real": False}, {"for_G": True}])
def test_vision_aided_loss(alpha, flags):
    """vision_aided_loss/cv_losses.py, multilevel_loss, of img2img-turbo and HYPIR: both take the mean afterwards."""

    def forward(self, input, for_real=True, for_G=False):
        label = self.alpha if for_real or for_G else 0.0
        return fastgan.reduce_terms([fastgan.term("softplus", linear=-label)] * len(input), input)

    def own(self, input, for_real=True, for_G=False):
        target, loss = (self.alpha if for_G or for_real else 0.0), 0
        for each in input:
            one = F.binary_cross_entropy_with_logits(each, torch.full_like(each, target), reduction="none")
            loss = loss + (one.mean([1, 2]).reshape(-1, 1) if one.dim() > 2 else one)
        return loss

    self = types.SimpleNamespace(alpha=alpha)
    shapes = [(3, 8, 8), (3, 4, 4), (3, 2, 2), (3, 1)]
    agree(lambda *x: forward(self, x, **flags).mean(), lambda *x: own(self, x, **flags).mean(), leaves(*shapes))


def test_gfpgan_r1():
    """gfpgan_model.py, optimize_parameters: R1 whose weight has the interval in it, and a zero for unused gradients."""
    net, r1_reg_weight, net_d_reg_every = Critic(), 10.0, 16
    (gt,) = leaves((4, 6))

    def theirs():
        pred = net(gt)
        (grad,) = torch.autograd.grad(pred.sum(), gt, create_graph=True)
        return r1_reg_weight / 2 * grad.pow(2).view(len(gt), -1).sum(1).mean() * net_d_reg_every + 0 * pred[0]

    def ours():
        return fastgan.r1_penalty(net, gt, weight=r1_reg_weight * net_d_reg_every)

    agree_in(net, ours, theirs, [])


def test_unitok_consistency():
    """trainer.py: the discriminator's consistency (bCR) between augmented and plain images, both with a gradient."""

    def ours(real, fake, augmented_real, augmented_fake):
        return fastgan.feature_matching_loss(
            [real, fake], [augmented_real, augmented_fake], weights=4.0, loss="l2", detach_real=False
        )

    def theirs(real, fake, augmented_real, augmented_fake):
        return (F.mse_loss(augmented_real, real) + F.mse_loss(augmented_fake, fake)) * 4.0

    agree(ours, theirs, leaves(*[(3, 5)] * 4))


def test_seed_voken_lecam_on_the_device():
    """VQLPIPSWithDiscriminator.forward: averages that begin at 0, moved before each penalty, as buffers and not floats."""
    theirs = peer.LeCAM_EMA()
    lecam = fastgan.nn.LeCam(weight=0.05, decay=0.999).double()
    lecam.calls = 1  # past the first call, at which averages take the batch's means

    def own(real, fake):
        theirs.update(real, fake)
        return 0.05 * peer.lecam_reg(real, fake, theirs)

    for _ in range(3):
        agree(lecam, own, leaves((3, 1, 4, 4), (3, 1, 4, 4)))
    assert lecam.real_average.item() == pytest.approx(theirs.logits_real_ema, rel=1e-12)


# ---------------------------------------------------------------------------------- adversarial motion priors


def prior(net, motion, policy, scale):
    """AMP's loss and penalty as skrl and MimicKit write them."""
    motion = motion.detach().requires_grad_()
    logits, others = net(motion), net(policy)
    loss = 0.5 * (
        F.binary_cross_entropy_with_logits(others, torch.zeros_like(others))
        + F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
    )
    (grad,) = torch.autograd.grad(logits, motion, torch.ones_like(logits), create_graph=True)
    return loss + scale * torch.sum(torch.square(grad), dim=-1).mean()


@pytest.mark.parametrize(
    "judge", [lambda net: net, lambda net: net.forward, lambda net: lambda states: net(states)]
)
def test_skrl_and_mimickit(judge):
    """skrl's amp.py, MimicKit's amp_agent.py: one step for both; half of it, so that the weight is 4 times the scale."""
    net, scale = Critic(), 5.0
    motion, agent, replay = (x.detach() for x in leaves((6, 6), (3, 6), (3, 6)))
    policy = torch.cat([agent, replay])

    def ours():
        penalty = fastgan.nn.GradientPenalty("r1", weight=4 * scale)
        return 0.5 * fastgan.discriminator_step(judge(net), motion, policy, penalty=penalty).total

    agree_in(net, ours, lambda: prior(net, motion, policy, scale), [])


def test_skrl_with_its_own_logits():
    """The same where the logits stay as they are: R1's factor 1/2 makes the weight twice the scale."""
    net, scale = Critic(), 5.0
    motion, policy = (x.detach() for x in leaves((6, 6), (8, 6)))

    def ours():
        x = motion.detach().requires_grad_()
        amp_motion_logits, amp_cat_logits = net(x), net(policy)
        discriminator_loss = 0.5 * fastgan.discriminator_loss(amp_motion_logits, amp_cat_logits)
        return discriminator_loss + fastgan.output_penalty(amp_motion_logits, x, kind="r1", weight=2 * scale)

    agree_in(net, ours, lambda: prior(net, motion, policy, scale), [])


def test_mimickit_add():
    """MimicKit's add_agent.py: the penalty is on the single positive, too, with half the weight each."""
    net, scale = Critic(), 0.7
    (negative,) = (x.detach() for x in leaves((5, 6)))
    positive = torch.zeros(1, 6, dtype=torch.float64)

    def ours():
        penalties = [fastgan.nn.GradientPenalty(kind, weight=2 * scale) for kind in ("r1", "r2")]
        return 0.5 * fastgan.discriminator_step(net, positive, negative, penalty=penalties).total

    def theirs():
        loss, squares = 0, []
        for x, label in ((positive, 1.0), (negative, 0.0)):
            x = x.clone().requires_grad_()
            logits = net(x).squeeze(-1)
            loss = loss + 0.5 * F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))
            (grad,) = torch.autograd.grad(logits, x, torch.ones_like(logits), create_graph=True)
            squares.append(grad.square().sum(-1).mean())
        return loss + scale * 0.5 * sum(squares)

    agree_in(net, ours, theirs, [])


def test_protomotions():
    """protomotions/agents/amp/component.py: weights of three roles, and one norm over several normalised inputs."""
    net, weight = Critic(), 10.0
    first, second, agent, replay = leaves((4, 2), (4, 4), (4, 6), (4, 6))

    def logits():
        return [net(torch.cat([first.tanh(), second.sin()], -1)), net(agent), net(replay)]

    def ours():
        normalised = [first.tanh(), second.sin()]
        expert_logits, (agent_logits, replay_logits) = net(torch.cat(normalised, -1)), (net(agent), net(replay))
        terms = [fastgan.term("softplus", scale=s, weight=w) for s, w in ((-1.0, 0.5), (1.0, 0.25), (1.0, 0.25))]
        class_loss = fastgan.reduce_terms(terms, [expert_logits, agent_logits, replay_logits])
        grad_loss = fastgan.output_penalty(expert_logits, tuple(normalised), kind="r1", weight=2 * weight)
        return class_loss + grad_loss

    def theirs():
        normalised = [first.tanh(), second.sin()]
        expert, agents, replays = net(torch.cat(normalised, -1)), net(agent), net(replay)
        negative = 0.5 * (F.softplus(agents).mean() + F.softplus(replays).mean())
        loss = 0.5 * (-F.logsigmoid(expert).mean() + negative)
        grads = torch.autograd.grad(expert, normalised, torch.ones_like(expert), create_graph=True)
        return loss + weight * sum(g.flatten(1).pow(2).sum(-1) for g in grads).mean()

    assert len(logits()) == 3
    agree_in(net, ours, theirs, [first, second, agent, replay])
