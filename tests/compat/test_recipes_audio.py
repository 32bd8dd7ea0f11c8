"""Lines of fastgan's public API in the place of loops that sound trainers have inline, against plain PyTorch.

Trainers: stable-audio-tools' discriminators and its ARC training, NeMo's codecs. Values and gradients agree to 1e-12 in float64.
"""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

import fastgan
from tests.helpers import adapters

SELF = SimpleNamespace(dis_gan_weight=0.7, gen_gan_weight=1.3, grad_penalty_weight=0.4, logit_center_weight=0.2)


@pytest.fixture(autouse=True)
def _one_thread(_poison):
    torch.set_num_threads(1)


def draw(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scores(seed, shapes=((2, 1, 7), (2, 1, 4), (2, 1, 9))):
    return [draw(*shape, seed=seed + k) for k, shape in enumerate(shapes)]


def maps(seed):
    return [
        [draw(2, 3, 5, seed=seed), draw(2, 4, seed=seed + 1), draw(2, 1, 6, seed=seed + 2)],
        [draw(3, 2, seed=seed + 3), draw(2, 7, seed=seed + 4)],
    ]


def masks():
    return [torch.arange(t).expand(2, t) < torch.tensor([[t - 2], [t]]) for t in (7, 4, 9)]


def same(recipe, plain, *inputs):
    """Values, and gradients of every tensor, of lines and of what they replace."""
    found = []
    for call in (recipe, plain):
        leaves = adapters.leaves(inputs)
        values = adapters.flat(call(*leaves))
        tensors = [x for x in adapters.flat(leaves) if x.requires_grad]
        grads = [torch.autograd.grad(v, tensors, retain_graph=True, allow_unused=True) for v in values]
        found.append((values, grads))
    (got, got_grads), (want, want_grads) = found
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape == ()
        assert adapters.close(a, b, 1e-12)
    for ours, theirs in zip(got_grads, want_grads, strict=True):
        assert any(g is not None and g.any() for g in theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert (a is None and b is None) or adapters.close(0 if a is None else a, 0 if b is None else b, 1e-12)


# ---------------------------------------------------------------------------------- discriminators


@pytest.mark.parametrize("kind", ["hinge", "rpgan"])
def test_encodec(kind):
    def recipe(logits_true, logits_fake, feature_true, feature_fake):
        n = len(logits_true)
        weights = [1 / n / len(scale) for scale in feature_true for _ in scale]
        if kind == "rpgan":
            dis_loss = fastgan.discriminator_loss(
                logits_true, logits_fake, relativistic="paired", weights=[1 / n] * n
            )
            adv_loss = fastgan.generator_loss(logits_fake, logits_true, relativistic="paired", weights=[1 / n] * n)
        else:
            dis_loss = fastgan.discriminator_loss(logits_true, logits_fake, "hinge", weights=[1 / n] * n)
            adv_loss = fastgan.generator_loss(logits_fake, loss="hinge", weights=[1 / n] * n)
        distance = fastgan.feature_matching_loss(feature_true, feature_fake, weights=weights, detach_real=False)
        return dis_loss, adv_loss, distance

    def plain(logits_true, logits_fake, feature_true, feature_fake):
        dis, adv, distance = 0, 0, 0
        for r, f, reals, fakes in zip(logits_true, logits_fake, feature_true, feature_fake, strict=True):
            distance = distance + sum((a - b).abs().mean() for a, b in zip(reals, fakes, strict=True)) / len(reals)
            if kind == "rpgan":
                dis, adv = dis + F.softplus(f - r).mean(), adv + F.softplus(r - f).mean()
            else:
                dis, adv = dis + F.relu(1 - r).mean() + F.relu(1 + f).mean(), adv - f.mean()
        return dis / 2, adv / 2, distance / 2

    same(recipe, plain, scores(0)[:2], scores(5)[:2], maps(10), maps(20))


def test_oobleck():
    def recipe(scores_real, scores_fake, features_real, features_fake):
        dis_loss = fastgan.discriminator_loss(scores_real, scores_fake, "hinge")
        gen_loss = fastgan.generator_loss(scores_fake, loss="hinge")
        distance = fastgan.feature_matching_loss(features_real, features_fake, detach_real=False)
        return dis_loss, gen_loss, distance

    def plain(scores_real, scores_fake, features_real, features_fake):
        distance = 0
        for real, fake in zip(features_real, features_fake, strict=True):  # over samples
            distance = distance + sum((a - b).abs().mean() for a, b in zip(real, fake, strict=True)) / len(real)
        dis_loss = F.relu(1 - scores_real).mean() + F.relu(1 + scores_fake).mean()
        return dis_loss, -scores_fake.mean(), distance

    same(recipe, plain, draw(6, seed=1), draw(6, seed=2), maps(10)[0], maps(20)[0])


@pytest.mark.parametrize("use_hinge", [False, True])
def test_dac_with_means(use_hinge):
    def recipe(d_fake, d_real):
        n = len(d_fake)
        if use_hinge:
            on_fake = fastgan.term("relu", weight=1 / n)
            on_real = fastgan.term("relu", scale=-1, shift=1, weight=1 / n)
            last = [f[-1] for f in d_fake] + [r[-1] for r in d_real]
            return fastgan.reduce_terms([on_fake] * n + [on_real] * n, last)
        loss_d = fastgan.discriminator_loss(
            [r[-1] for r in d_real], [f[-1] for f in d_fake], "least_squares", weights=[1 / n] * n
        )
        weights = [1 / n / (len(member) - 1) for member in d_fake for _ in member[:-1]]
        loss_g = fastgan.generator_loss([f[-1] for f in d_fake], loss="least_squares", weights=[1 / n] * n)
        loss_feature = fastgan.feature_matching_loss(
            [r[:-1] for r in d_real], [f[:-1] for f in d_fake], weights=weights
        )
        return loss_d, loss_g, loss_feature

    def plain(d_fake, d_real):
        n = len(d_fake)
        if use_hinge:
            pairs = zip(d_fake, d_real, strict=True)
            return sum(F.relu(f[-1]).mean() + F.relu(1 - r[-1]).mean() for f, r in pairs) / n
        loss_d = sum((f[-1] ** 2).mean() + ((1 - r[-1]) ** 2).mean() for f, r in zip(d_fake, d_real, strict=True))
        loss_g = sum(((1 - f[-1]) ** 2).mean() for f in d_fake)
        feature = 0
        for f, r in zip(d_fake, d_real, strict=True):
            layers = range(len(f) - 1)
            feature = feature + sum(F.l1_loss(f[j], r[j].detach()) for j in layers) / len(layers)
        return loss_d / n, loss_g / n, feature / n

    same(recipe, plain, maps(10), maps(20))


def test_subband_cqt():
    def recipe(y_real, y_fake, fmap_real, fmap_fake):
        n, count = len(y_fake), sum(map(len, fmap_fake))
        loss_d = fastgan.discriminator_loss(y_real, y_fake, "least_squares", weights=[1 / n] * n)
        loss_g = fastgan.generator_loss(y_fake, loss="least_squares", weights=[1 / n] * n)
        weights = [1 / count] * count
        loss_feature = fastgan.feature_matching_loss(fmap_real, fmap_fake, weights=weights, normalize=True)
        return loss_d, loss_g, loss_feature

    def plain(y_real, y_fake, fmap_real, fmap_fake):
        loss_d = sum((f**2).mean() + ((1 - r) ** 2).mean() for r, f in zip(y_real, y_fake, strict=True))
        loss_g = sum(((1 - f) ** 2).mean() for f in y_fake)
        pairs = [p for rs, fs in zip(fmap_real, fmap_fake, strict=True) for p in zip(rs, fs, strict=True)]
        feature = sum(F.l1_loss(f, r.detach()) / r.abs().mean().detach() for r, f in pairs)
        return loss_d / len(y_fake), loss_g / len(y_fake), feature / len(pairs)

    same(recipe, plain, scores(0), scores(5), maps(10), maps(20))


# ---------------------------------------------------------------------------------- ARC


def masked_mean(values, mask):
    return values.mean() if mask is None else (values * mask).sum() / mask.sum().clamp(min=1)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("beta", [1.0, 0.5])
@pytest.mark.parametrize("hinge", [False, True])
def test_arc_discriminator(masked, beta, hinge):
    self, score_masks = SELF, masks() if masked else None

    def recipe(real_scores_list, fake_scores_list):
        n = len(real_scores_list)
        masks = None if score_masks is None else [m.unsqueeze(1) for m in score_masks]
        real, fake = ([beta * s for s in scores] for scores in (real_scores_list, fake_scores_list))
        weights, loss = [self.dis_gan_weight / n] * n, "hinge" if hinge else "nonsaturating"
        return fastgan.discriminator_loss(real, fake, loss, relativistic="paired", weights=weights, real_mask=masks)

    def plain(real_scores_list, fake_scores_list):
        total = 0
        for i, (r, f) in enumerate(zip(real_scores_list, fake_scores_list, strict=True)):
            difference = (r - f) * beta
            each = F.relu(1 - difference) if hinge else F.softplus(-difference)
            total = total + masked_mean(each, score_masks[i].unsqueeze(1) if masked else None)
        return total / len(real_scores_list) * self.dis_gan_weight

    same(recipe, plain, scores(0), scores(5))


@pytest.mark.parametrize("masked", [False, True])
def test_arc_generator(masked):
    self, score_masks = SELF, masks() if masked else None

    def recipe(disc_scores_list, disc_scores_real_list):
        n = len(disc_scores_list)
        masks = None if score_masks is None else [m.unsqueeze(1) for m in score_masks]
        weights = [self.gen_gan_weight / n] * n
        return fastgan.generator_loss(
            disc_scores_list, disc_scores_real_list, relativistic="paired", weights=weights, real_mask=masks
        )

    def plain(disc_scores_list, disc_scores_real_list):
        total = 0
        for i, (r, f) in enumerate(zip(disc_scores_real_list, disc_scores_list, strict=True)):
            total = total + masked_mean(F.softplus(r - f), score_masks[i].unsqueeze(1) if masked else None)
        return total / len(disc_scores_list) * self.gen_gan_weight

    same(recipe, plain, scores(0), scores(5))


@pytest.mark.parametrize("masked", [False, True])
def test_arc_approximate_r1(masked):
    self, score_masks = SELF, masks()

    def recipe(disc_scores_noised_reals, disc_scores_reals):
        n = len(disc_scores_reals)
        square = fastgan.term("square", weight=self.grad_penalty_weight / n)
        pairs = list(zip(disc_scores_noised_reals, disc_scores_reals, strict=True))
        if not masked:
            return fastgan.reduce_terms([square] * n, pairs)
        counts = [
            m.sum(1, keepdim=True).clamp(min=1).to(s) for m, s in zip(score_masks, disc_scores_reals, strict=True)
        ]
        masks = [(m / count).unsqueeze(1) for m, count in zip(score_masks, counts, strict=True)]
        return fastgan.reduce_terms([square] * n, pairs, masks=masks)

    def plain(disc_scores_noised_reals, disc_scores_reals):
        penalty = 0
        for i, (noised, real) in enumerate(zip(disc_scores_noised_reals, disc_scores_reals, strict=True)):
            each, mask = (noised - real) ** 2, score_masks[i].unsqueeze(1)
            if masked:
                penalty = penalty + (each * mask).sum(dim=[1, 2]) / mask.sum(dim=[1, 2]).clamp(min=1)
            else:
                penalty = penalty + each.mean(dim=[1, 2])
        return (penalty / len(disc_scores_reals) * self.grad_penalty_weight).mean()

    same(recipe, plain, scores(0), scores(5))


@pytest.mark.parametrize("masked", [False, True])
def test_arc_centring(masked):
    self, score_masks = SELF, masks()

    def recipe(disc_scores_reals, disc_scores_denoised):
        n = len(disc_scores_reals)
        weight = self.logit_center_weight / n
        if not masked:
            return fastgan.centering_penalty(disc_scores_reals, disc_scores_denoised, weight=weight)
        pairs = [(r, -f) for r, f in zip(disc_scores_reals, disc_scores_denoised, strict=True)]
        masks = [m.unsqueeze(1) for m in score_masks]
        return fastgan.reduce_terms([fastgan.term("square", weight=weight)] * n, pairs, masks=masks)

    def plain(disc_scores_reals, disc_scores_denoised):
        penalty = 0
        for i, (r, f) in enumerate(zip(disc_scores_reals, disc_scores_denoised, strict=True)):
            penalty = penalty + masked_mean((r + f).pow(2), score_masks[i].unsqueeze(1) if masked else None)
        return penalty / len(disc_scores_reals) * self.logit_center_weight

    same(recipe, plain, scores(0), scores(5))


@pytest.mark.parametrize("masked", [False, True])
def test_arc_features(masked):
    padding_mask = masks()[0] if masked else None

    def recipe(real_hidden_states, fake_hidden_states):
        n = len(real_hidden_states)
        mask = None if padding_mask is None else padding_mask.unsqueeze(-1)
        return fastgan.feature_matching_loss(real_hidden_states, fake_hidden_states, weights=1 / n, mask=mask)

    def plain(real_hidden_states, fake_hidden_states):
        total = 0
        for real, fake in zip(real_hidden_states, fake_hidden_states, strict=True):
            if masked:
                mask = padding_mask.unsqueeze(-1)
                each = (fake * mask - (real * mask).detach()).abs()
                total = total + each.sum() / (mask.sum() * real.shape[-1])
            else:
                total = total + F.l1_loss(fake, real.detach())
        return total / len(real_hidden_states)

    hidden = ((2, 7, 3), (2, 7, 5), (2, 7, 4))
    same(recipe, plain, scores(0, hidden), scores(5, hidden))


# ---------------------------------------------------------------------------------- NeMo


def test_relative_features_of_a_frozen_discriminator():
    """RelativeFeatureMatchingLoss; real maps have no graph, as D is frozen and real sounds want no gradient."""

    def recipe(fmaps_gen):
        factors = [[1 / (r.abs().mean(-1, keepdim=True) + 1e-3) for r in maps] for maps in fmaps_real]
        weights = [w.mean() / len(maps) / len(factors) for maps in factors for w in maps]
        masks = [w for maps in factors for w in maps]
        return fastgan.feature_matching_loss(fmaps_real, fmaps_gen, weights=weights, mask=masks)

    def plain(fmaps_gen):
        total = 0.0
        for reals, gens in zip(fmaps_real, fmaps_gen, strict=True):
            for real, gen in zip(reals, gens, strict=True):
                ratio = (real - gen).abs().mean(dim=-1) / (real.abs().mean(dim=-1) + 1e-3)
                total = total + ratio.mean() / len(reals)
        return total / len(fmaps_real)

    fmaps_real = maps(10)
    same(recipe, plain, maps(20))
