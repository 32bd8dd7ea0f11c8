"""The recipes of docs/drop-ins/recipes.md run, each with small tensors under the trainer's names.

Results are compared with plain formulas. tests/compat/test_recipes_audio.py and test_recipes_images.py have more of the trainers' options.
"""

import re
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

import fastgan
from tests.docs import pages

PAGE = pages.ROOT / "docs" / "drop-ins" / "recipes.md"


@pytest.fixture(autouse=True)
def _one_thread(_poison):
    torch.set_num_threads(1)


def sections():
    """The blocks of Python under each heading; those of families have none."""
    found = {}
    for part in re.split(r"^(?=##+ )", PAGE.read_text(), flags=re.M)[1:]:
        level, heading = re.match(r"(#+) (.+)", part).groups()
        blocks = re.findall(r"^```python\n(.*?)^```", part, re.S | re.M)
        assert bool(blocks) == (level == "###"), heading
        if blocks:
            found[heading] = blocks
    return found


SECTIONS = sections()
NAMES, FORMULAS = {}, {}


def of(heading, table=NAMES):
    """Register what a heading's blocks refer to, or the formulas of its results."""

    def register(function):
        assert heading not in table, heading
        table[heading] = function
        return function

    return register


def leaves(*shapes):
    return [(2 * torch.randn(shape, dtype=torch.float64)).requires_grad_() for shape in shapes]


def named(names, *shapes):
    """Leaves by names, of one shape or of one each."""
    names = names.split()
    return dict(zip(names, leaves(*(shapes if len(shapes) > 1 else shapes * len(names))), strict=True))


def scores():
    return leaves((2, 1, 7), (2, 1, 4), (2, 1, 9))


def maps():
    """Of two discriminators; the last of each are its logits."""
    return [leaves((2, 3, 5), (2, 4), (2, 1, 6)), leaves((3, 2), (2, 7), (2, 1, 3))]


def last(members):
    return [m[-1] for m in members]


def critic(width=6):
    return nn.Sequential(nn.Linear(width, 8), nn.ReLU(), nn.Linear(8, 1)).double()


# ---------------------------------------------------------------------------------- distillation


@of("DMD2")
def dmd2():
    names = "pred_realism_on_real pred_realism_on_fake pred_realism_on_fake_with_grad"
    return {"loss_dict": {}, **named(names, (5, 1))}


@of("DMD2", FORMULAS)
def dmd2_formulas(n):
    both = F.softplus(n.pred_realism_on_fake) + F.softplus(-n.pred_realism_on_real)
    yield "classification_loss", both.mean()


@of("Self-Forcing")
def self_forcing():
    self = SimpleNamespace(
        relativistic_discriminator=True, gan_d_weight=0.3, gan_g_weight=0.7, r1_weight=2.0, r2_weight=3.0,
        r1_sigma=0.1, r2_sigma=0.2,
    )  # fmt: skip
    logits = "noisy_real_logit noisy_fake_logit noisy_real_logit_perturbed noisy_fake_logit_perturbed"
    made = named(logits, (4, 3))
    for x in made.values():  # the recipe's `.float()` shall not round
        x.float = lambda x=x: x
    return {"self": self, **made}


@of("Self-Forcing", FORMULAS)
def self_forcing_formulas(n):
    real, fake = n.noisy_real_logit, n.noisy_fake_logit
    yield "gan_D_loss", 0.3 * F.softplus(fake - real).mean()
    yield "gan_G_loss", 0.7 * F.softplus(real - fake).mean()
    squares = [
        w * ((near - x) / sigma).square().mean()
        for w, sigma, near, x in (
            (2.0, 0.1, n.noisy_real_logit_perturbed, real), (3.0, 0.2, n.noisy_fake_logit_perturbed, fake),
        )
    ]  # fmt: skip
    yield "penalty", sum(squares)


@of("Adversarial flow models")
def adversarial_flow_models():
    logits = named("logits_real logits_fake logits_real_gp logits_fake_gp", (5,), (5,), (2,), (2,))
    weighting = torch.rand(5, dtype=torch.float64)
    return {"cp_scale": 0.01, "gp_scale": 0.25, "gp_eps": 0.1, "gp_bsz": 2, "weighting": weighting, **logits}


@of("Adversarial flow models", FORMULAS)
def adversarial_flow_formulas(n):
    factor = n.gp_scale * n.weighting[: n.gp_bsz] / n.gp_eps**2
    yield "dis_loss_adv", F.softplus(n.logits_fake - n.logits_real).mean()
    yield "dis_loss_cp", n.cp_scale * (n.logits_real + n.logits_fake).square().mean()
    yield "dis_loss_r1", ((n.logits_real_gp - n.logits_real[: n.gp_bsz]).square() * factor).mean()
    yield "dis_loss_r2", ((n.logits_fake_gp - n.logits_fake[: n.gp_bsz]).square() * factor).mean()
    yield "gen_loss_adv", F.softplus(n.logits_real - n.logits_fake).mean()


@of("FastGen: approximate R1")
def fastgen():
    return named("real_feat_logit real_feat_alpha_logit", (4, 3))


@of("FastGen: approximate R1", FORMULAS)
def fastgen_formulas(n):
    yield "gan_loss_ar1", F.mse_loss(n.real_feat_logit, n.real_feat_alpha_logit)


@of("SANA-Sprint")
def sana_sprint():
    return named("pred_true pred_fake", (4, 6), (7, 6))


@of("SANA-Sprint", FORMULAS)
def sana_sprint_formulas(n):
    yield "loss_D", 0.5 * (F.relu(1 - n.pred_true).mean() + F.relu(1 + n.pred_fake).mean())


@of("flash-diffusion")
def flash_diffusion():
    return {"D": critic(), "kind": "hinge", **named("denoised_sample_real denoised_sample_fake", (5, 6))}


@of("flash-diffusion", FORMULAS)
def flash_diffusion_formulas(n):
    real, fake = n.D(n.denoised_sample_real), n.D(n.denoised_sample_fake.detach())
    yield "loss_D", F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    yield "loss_G", -n.D(n.denoised_sample_fake).mean()


def arc():
    self = SimpleNamespace(dis_gan_weight=0.7, gen_gan_weight=1.3, grad_penalty_weight=0.4, logit_center_weight=0.2)
    masks = [torch.arange(t).expand(2, t) < torch.tensor([[t - 2], [t]]) for t in (7, 4, 9)]
    names = (
        "real_scores_list fake_scores_list disc_scores_list disc_scores_real_list disc_scores_reals"
        " disc_scores_noised_reals disc_scores_denoised real_hidden_states fake_hidden_states"
    )
    lists = {name: scores() for name in names.split()}
    for name in ("real_hidden_states", "fake_hidden_states"):
        lists[name] = leaves((2, 7, 3), (2, 7, 5))
    return {"self": self, "score_masks": masks, "padding_mask": masks[0], "beta": 0.5, **lists}


for heading in ("ARC: the losses", "ARC: approximate R1 and R2", "ARC: centring and feature matching"):
    of(heading)(arc)


def masked_mean(values, mask):
    mask = mask.unsqueeze(1)
    return (values * mask).sum() / mask.sum()


@of("ARC: the losses", FORMULAS)
def arc_formulas(n):
    on_real, on_fake = (
        [masked_mean(F.softplus(scale * (f - r)), m) for r, f, m in zip(reals, fakes, n.score_masks, strict=True)]
        for scale, reals, fakes in (
            (n.beta, n.real_scores_list, n.fake_scores_list), (-1, n.disc_scores_real_list, n.disc_scores_list),
        )
    )  # fmt: skip
    yield "total_loss", 0.7 * sum(on_real) / 3
    yield "loss_adv", 1.3 * sum(on_fake) / 3


@of("ARC: approximate R1 and R2", FORMULAS)
def arc_penalty_formulas(n):
    pairs = zip(n.disc_scores_noised_reals, n.disc_scores_reals, n.score_masks, strict=True)
    each = [((a - b).square() * m.unsqueeze(1)).sum([1, 2]) / m.sum(1) for a, b, m in pairs]
    yield "r1_penalty", (sum(each) / 3 * 0.4).mean()


@of("ARC: centring and feature matching", FORMULAS)
def arc_other_formulas(n):
    pairs = zip(n.disc_scores_reals, n.disc_scores_denoised, n.score_masks, strict=True)
    yield "logit_center_penalty", 0.2 * sum(masked_mean((r + f).square(), m) for r, f, m in pairs) / 3
    valid = n.padding_mask.unsqueeze(-1)
    distances = [
        ((f - r.detach()).abs() * valid).sum() / (valid.sum() * r.shape[-1])
        for r, f in zip(n.real_hidden_states, n.fake_hidden_states, strict=True)
    ]
    yield "fm_loss", sum(distances) / 2


# ---------------------------------------------------------------------------------- codecs, tokenisers


def hinge(reals, fakes):
    return sum(F.relu(1 - r).mean() for r in reals) + sum(F.relu(1 + f).mean() for f in fakes)


def absolute(reals, fakes):
    return sum((r - f).abs().mean() for r, f in zip(reals, fakes, strict=True))


def detached(reals):
    return [r.detach() for r in reals]


@of("EncodecDiscriminator")
def encodec():
    return {
        "logits_true": scores()[:2], "logits_fake": scores()[:2], "feature_true": maps(), "feature_fake": maps()
    }  # fmt: skip


@of("EncodecDiscriminator", FORMULAS)
def encodec_formulas(n):
    yield "dis_loss", hinge(n.logits_true, n.logits_fake) / 2
    yield "adv_loss", -sum(f.mean() for f in n.logits_fake) / 2
    pairs = zip(n.feature_true, n.feature_fake, strict=True)
    yield "distance", sum(absolute(r, f) / len(r) for r, f in pairs) / 2


@of("OobleckDiscriminator")
def oobleck():
    features = {"features_real": maps()[0], "features_fake": maps()[0]}
    return {**features, **named("scores_real scores_fake", (6,))}


@of("OobleckDiscriminator", FORMULAS)
def oobleck_formulas(n):
    yield "dis_loss", hinge([n.scores_real], [n.scores_fake])
    yield "gen_loss", -n.scores_fake.mean()
    yield "distance", absolute(n.features_real, n.features_fake)


@of("DACGANLoss")
def dac():
    return {"d_fake": maps(), "d_real": maps()}


@of("DACGANLoss", FORMULAS)
def dac_formulas(n):
    real, fake = last(n.d_real), last(n.d_fake)
    yield "loss_d", sum(F.relu(1 - r).mean() for r in real) / 2 + sum(F.relu(f).mean() for f in fake) / 2
    yield "loss_g", sum((1 - f).square().mean() for f in fake) / 2
    pairs = zip(n.d_real, n.d_fake, strict=True)
    yield "loss_feature", sum(absolute(detached(r[:-1]), f[:-1]) / (len(f) - 1) for r, f in pairs) / 2


@of("MultiScaleSubbandCQTDiscriminator")
def subband_cqt():
    return {"y_real": scores(), "y_fake": scores(), "fmap_real": maps(), "fmap_fake": maps()}


@of("MultiScaleSubbandCQTDiscriminator", FORMULAS)
def subband_cqt_formulas(n):
    squares = sum(f.square().mean() + (1 - r).square().mean() for r, f in zip(n.y_real, n.y_fake, strict=True))
    yield "loss_d", squares / 3
    yield "loss_g", sum((1 - f).square().mean() for f in n.y_fake) / 3
    pairs = [p for rs, fs in zip(n.fmap_real, n.fmap_fake, strict=True) for p in zip(detached(rs), fs, strict=True)]
    yield "loss_feature", sum(F.l1_loss(f, r) / r.abs().mean() for r, f in pairs) / len(pairs)


@of("SEED-Voken: LeCam on the device")
def seed_voken():
    self = SimpleNamespace(lecam_loss_weight=0.05, disc_loss=fastgan.discriminator_loss)
    return {"self": self, "disc_factor": 1.0, **named("logits_real logits_fake", (3, 1, 4, 4))}


# ---------------------------------------------------------------------------------- images


@of("img2img-turbo and HYPIR")
def vision_aided():
    loss = type("multilevel_loss", (), {"alpha": 0.8})
    return {"vision_aided_loss": SimpleNamespace(cv_losses=SimpleNamespace(multilevel_loss=loss))}


@of("GFPGAN: R1, pruned")
def gfpgan():
    net, (gt, fake) = critic(), (x.detach() for x in leaves((4, 6), (4, 6)))
    self = SimpleNamespace(net_d=net, gt=gt, r1_reg_weight=10.0, net_d_reg_every=16)
    return {"self": self, "l_d": fastgan.discriminator_loss(net(gt), net(fake)), "fake": fake, "current_iter": 32}


# ---------------------------------------------------------------------------------- control


def squared_gradient(logits, inputs):
    """The mean over samples of the gradient's sum of squares."""
    grads = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
    return sum(g.flatten(1).square().sum(1) for g in grads).mean()


@of("skrl: AMP")
def skrl():
    net = critic()
    motions, agent, replay = (x.detach() for x in leaves((6, 6), (3, 6), (3, 6)))
    motions.requires_grad_()
    self = SimpleNamespace(
        cfg=SimpleNamespace(discriminator_gradient_penalty_scale=5.0),
        discriminator=SimpleNamespace(act=lambda inputs, role: (net(inputs["observations"]), {})),
    )
    return {
        "self": self, "sampled_amp_motion_observations": motions, "sampled_amp_observations": agent,
        "sampled_amp_replay_observations": replay, "amp_motion_logits": net(motions),
        "amp_cat_logits": net(torch.cat([agent, replay])), "net": net,
    }  # fmt: skip


@of("skrl: AMP", FORMULAS)
def skrl_formulas(n):
    policy = n.net(torch.cat([n.sampled_amp_observations, n.sampled_amp_replay_observations]))
    logits = n.net(n.sampled_amp_motion_observations)
    loss = 0.5 * (F.softplus(-logits).mean() + F.softplus(policy).mean())
    yield "discriminator_loss", loss + 5.0 * squared_gradient(logits, [n.sampled_amp_motion_observations])


@of("MimicKit: AMP and ADD")
def mimickit():
    net = critic()
    self = SimpleNamespace(_disc_grad_penalty=0.7, _model=SimpleNamespace(eval_disc=lambda x: net(x).squeeze(-1)))
    inputs = named("norm_disc_obs_demo norm_disc_obs pos_diff norm_diff", (5, 6), (5, 6), (1, 6), (5, 6))
    return {"self": self, "net": net, **{name: x.detach() for name, x in inputs.items()}}


@of("MimicKit: AMP and ADD", FORMULAS)
def mimickit_formulas(n):
    """Of ADD, whose block is the last."""
    both = [x.clone().requires_grad_() for x in (n.pos_diff, n.norm_diff)]
    positive, negative = (n.net(x) for x in both)
    loss = 0.5 * (F.softplus(-positive).mean() + F.softplus(negative).mean())
    squares = [squared_gradient(y, [x]) for y, x in zip((positive, negative), both, strict=True)]
    yield "disc_loss", loss + 0.7 * 0.5 * sum(squares)


@of("ProtoMotions: AMP")
def protomotions():
    net, observed = critic(), leaves((4, 2), (4, 4))
    parameters = SimpleNamespace(discriminator_grad_penalty=10.0)
    return {
        "self": SimpleNamespace(config=SimpleNamespace(amp_parameters=parameters)), "net": net,
        "expert_norm_obs": observed, "expert_logits": net(torch.cat(observed, -1)),
        **named("agent_logits replay_logits", (4, 1)),
    }  # fmt: skip


@of("ProtoMotions: AMP", FORMULAS)
def protomotions_formulas(n):
    negative = 0.5 * (F.softplus(n.agent_logits).mean() + F.softplus(n.replay_logits).mean())
    yield "class_loss", 0.5 * (F.softplus(-n.expert_logits).mean() + negative)
    yield "grad_loss", 10.0 * squared_gradient(n.expert_logits, n.expert_norm_obs)


# ---------------------------------------------------------------------------------- patterns


def softplus_mean(x):
    return F.softplus(x).flatten(1).mean(1)


@of("One number per sample")
def per_sample():
    return {
        "sample_weights": torch.rand(4, dtype=torch.float64), **named("pred_real pred_fake", (4, 1, 3, 5))
    }  # fmt: skip


@of("One number per sample", FORMULAS)
def per_sample_formulas(n):
    on_fake = softplus_mean(-n.pred_fake)
    yield "loss_D_real", softplus_mean(-n.pred_real)
    yield "loss_D_fake", softplus_mean(n.pred_fake)
    yield "loss_G_GAN", on_fake
    yield "loss_G", (n.sample_weights * on_fake).mean()


@of("Lists of lists: pix2pixHD and SPADE")
def nested():
    options = SimpleNamespace(lambda_feat=10.0, n_layers_D=1, num_D=2)  # two maps beside the logits
    lists = {name: maps() for name in ("pred_real", "pred_fake", "pred_fake_pool")}
    return {"self": SimpleNamespace(opt=options), **lists}


@of("Lists of lists: pix2pixHD and SPADE", FORMULAS)
def nested_formulas(n):
    opt, number = n.self.opt, len(n.pred_fake)
    squares = [
        ((r - 1) ** 2).mean() + (f**2).mean()
        for r, f in zip(last(n.pred_real), last(n.pred_fake_pool), strict=True)
    ]
    distance = sum(
        F.l1_loss(f, r.detach())
        for reals, fakes in zip(n.pred_real, n.pred_fake, strict=True)
        for r, f in zip(reals[:-1], fakes[:-1], strict=True)
    )
    yield "loss_D", 0.5 * sum(squares)
    yield "loss_G_GAN", sum(((f - 1) ** 2).mean() for f in last(n.pred_fake))
    yield "loss_G_GAN_Feat", distance * (4.0 / (opt.n_layers_D + 1)) * (1.0 / opt.num_D) * opt.lambda_feat
    hinges = [
        F.relu(1 - r).mean() + F.relu(1 + f).mean()
        for r, f in zip(last(n.pred_real), last(n.pred_fake), strict=True)
    ]
    yield "D_loss", sum(hinges) / number
    yield "GAN", -sum(f.mean() for f in last(n.pred_fake)) / number
    yield "GAN_Feat", distance * opt.lambda_feat / number


@of("The dual contrastive loss")
def dual_contrastive():
    return named("real_logits fake_logits", (5, 1), (7, 1))


@of("The dual contrastive loss", FORMULAS)
def dual_contrastive_formulas(n):
    def half(one, others):
        table = torch.cat([one.view(-1, 1), others.view(1, -1).expand(len(one), -1)], 1)
        return F.cross_entropy(table, torch.zeros(len(one), dtype=torch.long))

    yield "loss", half(n.real_logits, n.fake_logits) + half(-n.fake_logits, -n.real_logits)


@of("Consistency: bCR and zCR")
def consistency():
    logits = named("real_logits fake_logits augmented_real_logits augmented_fake_logits near_logits", (4, 3))
    return {
        "real_lambda": 10.0, "fake_lambda": 5.0, "d_lambda": 0.3, "g_lambda": 0.5, **logits,
        **named("fake_images near_images", (4, 3, 5, 5)),
    }  # fmt: skip


@of("Consistency: bCR and zCR", FORMULAS)
def consistency_formulas(n):
    on_real = F.mse_loss(n.augmented_real_logits, n.real_logits)
    yield "bcr_loss", n.real_lambda * on_real + n.fake_lambda * F.mse_loss(n.augmented_fake_logits, n.fake_logits)
    yield "zcr_d", n.d_lambda * F.mse_loss(n.near_logits, n.fake_logits)
    yield "zcr_g", -n.g_lambda * F.mse_loss(n.near_images, n.fake_images)


@of("Weights by gradients, over processes")
def balanced():
    net, G = critic(12), nn.Linear(5, 12).double()
    z = torch.randn(4, 5, dtype=torch.float64)
    y_hat, fake = G(z), G(z)
    losses = {"adversarial": -net(y_hat).mean(), "feature": y_hat.abs().mean(), "l1": (y_hat - 1).square().mean()}
    return {
        "group": None, "y_hat": y_hat, "commitment": G.weight.square().mean(), "dist": dist, "G": G, "net": net,
        "z": z, "self": SimpleNamespace(dis=lambda x, *_: net(x), square_avg=torch.zeros((), dtype=torch.float64)),
        "latents_tgt_pred_aug": fake, "labels": None, "timesteps_tgt": None, **losses,
    }  # fmt: skip


@of("A penalty of an output that is there")
def penalty_of_output():
    net = critic()
    (images,) = leaves((4, 6))
    return {"images": images, "output": net(images), "net": net}


@of("A penalty of an output that is there", FORMULAS)
def penalty_formulas(n):
    (g,) = torch.autograd.grad(n.output.sum(), n.images, create_graph=True)
    norms = g.flatten(1).norm(2, dim=1)
    yield "gp", 10 * ((norms - 1) ** 2).mean()
    yield "zero_centred", 10 * (norms**2).mean()


@of("Two heads: SAN")
def two_heads():
    return named("real_fun fake_fun real_dir fake_dir generated", (4, 3))


@of("Two heads: SAN", FORMULAS)
def two_heads_formulas(n):
    up, down = (lambda x: (F.softplus(1 - x) ** 2).mean()), (lambda x: (F.softplus(x) ** 2).mean())
    yield "loss_d", up(n.real_fun) + down(n.fake_fun) + up(n.real_dir) - up(n.fake_dir)
    yield "loss_g", up(n.generated)


# ---------------------------------------------------------------------------------- tests


def run(heading):
    """A section's names after its blocks have run one after the other, and what it began with."""
    torch.manual_seed(0)
    made = NAMES[heading]()
    space = {"torch": torch, "fastgan": fastgan, **made}
    for k, block in enumerate(SECTIONS[heading]):
        exec(compile(block, f"{heading}, block {k + 1}", "exec"), space)
    return SimpleNamespace(**{k: v for k, v in space.items() if k != "__builtins__"}), made


def tensors(tree):
    if isinstance(tree, torch.Tensor):
        return [tree]
    children = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (list, tuple)) else ()
    children = vars(tree).values() if isinstance(tree, SimpleNamespace) else children
    parameters = list(tree.parameters()) if isinstance(tree, nn.Module) else []
    return parameters + [t for child in children for t in tensors(child)]


def test_every_recipe_has_names():
    assert list(NAMES) == list(SECTIONS)
    assert FORMULAS.keys() <= NAMES.keys()


@pytest.mark.parametrize("heading", SECTIONS)
def test_a_recipe_runs(heading):
    """Results are finite, and so are gradients, which are not all zero."""
    n, made = run(heading)
    known = {id(t) for t in tensors(made)}
    if heading == "img2img-turbo and HYPIR":
        made["logits"] = leaves((3, 8, 8), (3, 1))
        loss = n.vision_aided_loss.cv_losses.multilevel_loss()
        n.first = sum(loss.forward(made["logits"], **flags) for flags in ({}, {"for_real": False}, {"for_G": True}))
    results = [t for t in tensors({**vars(n), **made.get("loss_dict", {})}) if id(t) not in known]
    assert all(t.isfinite().all() for t in results)
    wanted = [t for t in tensors(made) if t.is_leaf and t.requires_grad]
    grads = [t.grad for t in wanted]
    if all(g is None for g in grads):  # else the recipe has a backward
        scalars = [t.sum() for t in results if t.requires_grad and t.grad_fn is not None]
        grads = torch.autograd.grad(sum(scalars), wanted, allow_unused=True)
    assert all(g.isfinite().all() for g in grads if g is not None)
    assert any(g is not None and g.any() for g in grads)


@pytest.mark.parametrize("heading", FORMULAS)
def test_a_recipe_is_its_formula(heading):
    """Values, gradients and second derivatives to 1e-12."""
    n, made = run(heading)
    wanted = [t for t in tensors(made) if t.is_leaf and t.requires_grad]
    for name, want in FORMULAS[heading](n):
        got = getattr(n, name)
        assert got.shape == want.shape, name
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
        first = [derived(v, wanted) for v in (got, want)]
        compare(*first)
        assert any(g.any() for g in first[0])
        if not any(isinstance(x, nn.Module) for x in made.values()):  # of losses alone
            compare(*[derived(sum((g * g.cos()).sum() for g in grads), wanted) for grads in first])


def derived(value, leaves):
    """Gradients with a graph, weighed by constants where there are several values; zeros where there is none."""
    if not value.requires_grad:
        return [torch.zeros_like(t) for t in leaves]
    weights = torch.arange(1, value.numel() + 1).view(value.shape).to(value)
    grads = torch.autograd.grad((weights * value).sum(), leaves, create_graph=True, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(grads, leaves, strict=True)]


def compare(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_both_forms_of_a_number_per_sample_agree():
    """The second block binds the first one's name anew."""
    torch.manual_seed(0)
    space = {"torch": torch, "fastgan": fastgan, **per_sample()}
    first, second, _ = SECTIONS["One number per sample"]
    exec(first, space)
    one = space["loss_D_real"]
    exec(second, space)
    assert space["loss_D_real"] is not one
    torch.testing.assert_close(space["loss_D_real"], one, rtol=1e-14, atol=0)


def test_gfpgans_backward_is_that_of_its_two():
    """Each parameter gets a gradient, for which DistributedDataParallel waits; R1 alone gives none to the last bias."""
    n, _ = run("GFPGAN: R1, pruned")
    net = n.self.net_d
    got = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    fastgan.discriminator_loss(net(n.self.gt), net(n.fake)).backward()
    real = n.self.gt.clone().requires_grad_()
    real_pred = net(real)
    (g,) = torch.autograd.grad(real_pred.sum(), real, create_graph=True)
    (n.self.r1_reg_weight / 2 * g.square().sum(1).mean() * n.self.net_d_reg_every + 0 * real_pred[0]).backward()
    compare(got, [p.grad for p in net.parameters()])


DECAY = 0.9


class Normalisation(torch.autograd.Function):
    """Adversarial flow models': the mean square is moved in the backward, and divides the gradient."""

    @staticmethod
    def forward(ctx, x, average, decay):
        ctx.average, ctx.decay = average, decay
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        ctx.average.lerp_(g.square().sum() * g.numel(), 1 - ctx.decay)
        return g * (1.0 / (ctx.average.sqrt() + 1e-8)), None, None


def test_normalisation_of_adversarial_flow_models():
    """The hook sends what the trainer's function sends, at each of several calls."""
    n, _ = run("Weights by gradients, over processes")
    average = torch.zeros((), dtype=torch.float64)
    n.self.square_avg.zero_()
    for _ in range(3):
        z = torch.randn(4, 5, dtype=torch.float64)
        x = n.G(z).clone()
        x.register_hook(n.normalised)
        ours = torch.autograd.grad(F.softplus(-n.net(x)).mean(), n.G.weight)
        theirs = torch.autograd.grad(
            F.softplus(-n.net(Normalisation.apply(n.G(z), average, DECAY))).mean(), n.G.weight
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    torch.testing.assert_close(n.self.square_avg, average, rtol=1e-12, atol=0)


def test_a_balancer_is_that_normalisation_without_an_average():
    """And with one it is another: AFM's first gradients are 3.2 times as large."""
    n, _ = run("Weights by gradients, over processes")
    count = n.G(n.z).numel()
    found = []
    for decay in (0.0, DECAY):
        balance = fastgan.nn.LossBalancer(
            {"adversarial": 1.0}, total_norm=count**-0.5, per_sample=False, decay=decay, eps=1e-8 * count**-0.5
        ).double()
        fake = n.G(n.z)
        total = balance({"adversarial": fastgan.generator_loss(n.net(fake))}, fake).total
        ours = torch.autograd.grad(total, n.G.weight)[0]
        average = torch.zeros((), dtype=torch.float64)
        x = Normalisation.apply(n.G(n.z), average, decay)
        theirs = torch.autograd.grad(F.softplus(-n.net(x)).mean(), n.G.weight)[0]
        found.append((ours, theirs))
    torch.testing.assert_close(*found[0], rtol=1e-12, atol=0)
    assert found[1][1].norm() / found[1][0].norm() == pytest.approx(10**0.5, rel=1e-5)
