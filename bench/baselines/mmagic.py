"""How MMagic computes its losses: classes built from a registry, and modules that read a dict."""

import collections
import math
import random

import torch
from torch import nn
from torch.nn import functional as F

# ----------------------------------------------------------------------------------------------------------------
# Losses on predictions


class GaussianBlur(nn.Module):
    """A normalised Gaussian on each channel alone, with zeros outside of the image."""

    def __init__(self, kernel_size=(71, 71), sigma=(10.0, 10.0)):
        super().__init__()
        if not (isinstance(kernel_size, tuple) and len(kernel_size) == 2):
            raise TypeError(f"kernel_size should be a tuple of two numbers, got {kernel_size}")
        if not (isinstance(sigma, tuple) and len(sigma) == 2):
            raise TypeError(f"sigma should be a tuple of two numbers, got {sigma}")
        if any(size % 2 == 0 or size <= 0 for size in kernel_size):
            raise TypeError(f"kernel_size should be odd and positive, got {kernel_size}")
        self.kernel_size = kernel_size
        self.sigma = sigma
        # float64, and rounded to the input's dtype when it is used.
        self.kernel = torch.outer(*(self.profile(n, s) for n, s in zip(kernel_size, sigma, strict=True)))

    @staticmethod
    def profile(size, sigma):
        """The Gaussian along one direction."""
        distance = torch.arange(size, dtype=torch.float64) - size // 2
        weights = torch.exp(-(distance**2) / (2 * sigma**2))
        return weights / weights.sum()

    def forward(self, x):
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"a tensor is wanted, got {type(x)}")
        if x.dim() != 4:
            raise ValueError(f"the input must have 4 dimensions, got {tuple(x.shape)}")
        channels = x.size(1)
        kernel = self.kernel.to(x).expand(channels, 1, -1, -1)
        return F.conv2d(x, kernel, padding=tuple(n // 2 for n in self.kernel_size), groups=channels)


class GANLossComps(nn.Module):
    """One object for all types, with the loss weight on the generator's only."""

    def __init__(self, gan_type, real_label_val=1.0, fake_label_val=0.0, loss_weight=1.0):
        super().__init__()
        self.gan_type = gan_type
        self.real_label_val = real_label_val
        self.fake_label_val = fake_label_val
        self.loss_weight = loss_weight
        if gan_type not in self.types():
            raise NotImplementedError(f"GAN type {gan_type} is not implemented.")
        self.loss = self.types()[gan_type]

    @staticmethod
    def types():
        """The criterion of each type on (prediction, target)."""
        return {
            "vanilla": nn.BCEWithLogitsLoss(),
            "lsgan": nn.MSELoss(),
            "wgan": lambda x, is_real: -x.mean() if is_real else x.mean(),
            "wgan-logistic-ns": lambda x, is_real: F.softplus(-x if is_real else x).mean(),
            "hinge": nn.ReLU(),
        }

    def get_target_label(self, input, target_is_real):
        """The flag itself for the Wasserstein types, else the label in the input's shape and dtype."""
        if self.gan_type in ("wgan", "wgan-logistic-ns"):
            return target_is_real
        return input.new_ones(input.size()) * (self.real_label_val if target_is_real else self.fake_label_val)

    def forward(self, input, target_is_real, is_disc=False):
        if self.gan_type != "hinge":
            loss = self.loss(input, self.get_target_label(input, target_is_real))
        elif is_disc:
            loss = self.loss(1 - input if target_is_real else 1 + input).mean()
        else:
            loss = -input.mean()
        return loss if is_disc else loss * self.loss_weight


class GANLoss(GANLossComps):
    """The same with the types "l1" and "smgan", and without "wgan-logistic-ns"."""

    def __init__(self, gan_type, real_label_val=1.0, fake_label_val=0.0, loss_weight=1.0):
        super().__init__(gan_type, real_label_val, fake_label_val, loss_weight)
        if gan_type == "smgan":
            self.gaussian_blur = GaussianBlur()

    @staticmethod
    def types():
        """The criterion of each type on (prediction, target)."""
        types = GANLossComps.types() | {"l1": nn.L1Loss(), "smgan": nn.MSELoss()}
        del types["wgan-logistic-ns"]
        return types

    def forward(self, input, target_is_real, is_disc=False, mask=None):
        if self.gan_type != "smgan":
            return super().forward(input, target_is_real, is_disc)
        size = mask.shape[2:]
        if input.shape[2:] != size:
            input = F.interpolate(input, size=size, mode="bilinear", align_corners=True)
        target = self.get_target_label(input, target_is_real)
        if is_disc:
            return self.loss(input, target if target_is_real else self.gaussian_blur(mask).detach())
        # The loss is one number already, so the mask cancels out of it.
        return (self.loss(input, target) * mask / mask.mean()).mean() * self.loss_weight


# ----------------------------------------------------------------------------------------------------------------
# Penalties


def _norms(gradients, norm_mode):
    if norm_mode == "pixel":
        return gradients.norm(2, dim=1)
    if norm_mode == "HWC":
        return gradients.flatten(1).norm(2, dim=1)
    raise NotImplementedError(f"norm_mode {norm_mode} is not implemented.")


def gradient_penalty_loss(discriminator, real_data, fake_data, mask=None, norm_mode="pixel"):
    """A penalty on the norm between real and fake: over the channels of a pixel, or over a sample."""
    alpha = torch.rand(real_data.size(0), 1, 1, 1).to(real_data)
    points = (alpha * real_data + (1.0 - alpha) * fake_data).detach().requires_grad_(True)
    scores = discriminator(points)
    (gradients,) = torch.autograd.grad(scores, points, torch.ones_like(scores), create_graph=True)
    if mask is not None:
        gradients = gradients * mask
    penalty = ((_norms(gradients, norm_mode) - 1) ** 2).mean()
    return penalty if mask is None else penalty / mask.mean()


def r1_gradient_penalty_loss(
    discriminator, real_data, mask=None, norm_mode="pixel", loss_scaler=None, use_apex_amp=False
):
    """The squared norm at real data: a mean over pixels, or over samples."""
    real_data = real_data.clone().requires_grad_()
    scores = discriminator(real_data)
    if loss_scaler is not None:
        scores = loss_scaler.scale(scores)
    (gradients,) = torch.autograd.grad(scores, real_data, torch.ones_like(scores), create_graph=True)
    if loss_scaler is not None:
        gradients = gradients / loss_scaler.get_scale()
    if mask is not None:
        gradients = gradients * mask
    penalty = (_norms(gradients, norm_mode) ** 2).mean()
    return penalty if mask is None else penalty / mask.mean()


def disc_shift_loss(pred):
    """The square, unreduced."""
    return pred**2


def gen_path_regularizer(
    generator,
    num_batches,
    mean_path_length,
    pl_batch_shrink=1,
    decay=0.01,
    weight=1.0,
    pl_batch_size=None,
    sync_mean_buffer=False,
    loss_scaler=None,
    use_apex_amp=False,
):
    """The path-length penalty, the running mean, and the lengths."""
    batch = max(1, num_batches // pl_batch_shrink) if pl_batch_shrink > 1 else num_batches
    made = generator(None, num_batches=batch if pl_batch_size is None else pl_batch_size, return_latents=True)
    images, latents = made["fake_img"], made["latent"]
    noise = torch.randn_like(images) / math.sqrt(images.shape[2] * images.shape[3])
    total = (images * noise).sum()
    if loss_scaler is not None:
        total = loss_scaler.scale(total)
    (gradients,) = torch.autograd.grad(total, latents, create_graph=True)
    if loss_scaler is not None:
        gradients = gradients / loss_scaler.get_scale()
    lengths = gradients.pow(2).sum(2).mean(1).sqrt()
    mean = mean_path_length + decay * (lengths.mean() - mean_path_length)
    penalty = (lengths - mean).pow(2).mean()
    return weight * penalty, mean.detach(), lengths


# ----------------------------------------------------------------------------------------------------------------
# Modules of the penalties


class DiscShiftLoss(nn.Module):
    """The weighted mean of the squares."""

    def __init__(self, loss_weight=0.1):
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, x):
        return self.loss_weight * torch.mean(x**2)


class GradientPenaltyLoss(nn.Module):
    """The penalty of each pixel, weighted."""

    def __init__(self, loss_weight=1.0):
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, discriminator, real_data, fake_data, mask=None):
        return gradient_penalty_loss(discriminator, real_data, fake_data, mask) * self.loss_weight


class _Component(nn.Module):
    """What the modules below share: arguments from a dict by `data_info`, and an interval of iterations."""

    interval = 1

    def __init__(self, loss_weight, data_info, loss_name):
        super().__init__()
        self.loss_weight = loss_weight
        self.data_info = data_info
        self._loss_name = loss_name

    def loss_name(self):
        return self._loss_name

    def forward(self, *args, **kwargs):
        if self.interval > 1 and self.data_info is None:
            raise AssertionError("interval needs data_info")
        if self.data_info is None:
            return self.plain(*args, **kwargs)
        if len(args) == 1:
            outputs = args[0]
        elif "outputs_dict" in kwargs:
            if args:
                raise AssertionError("arguments beside outputs_dict")
            outputs = kwargs.pop("outputs_dict")
        else:
            raise NotImplementedError("a dict of the outputs is wanted")
        if not isinstance(outputs, dict):
            raise AssertionError(f"a dict of the outputs is wanted, got {type(outputs)}")
        if self.interval > 1 and outputs["iteration"] % self.interval:
            return None
        return self.from_dict(**kwargs, **{name: outputs[key] for name, key in self.data_info.items()})


class DiscShiftLossComps(_Component):
    """The squares, weighted and unreduced."""

    def __init__(self, loss_weight=1.0, data_info=None, loss_name="loss_disc_shift"):
        super().__init__(loss_weight, data_info, loss_name)

    def plain(self, *args, **kwargs):
        return disc_shift_loss(*args, **kwargs) * self.loss_weight

    from_dict = plain


class GradientPenaltyLossComps(_Component):
    """The gradient penalty, weighted; `norm_mode` is read with `data_info` only."""

    def __init__(self, loss_weight=1.0, norm_mode="pixel", data_info=None, loss_name="loss_gp"):
        super().__init__(loss_weight, data_info, loss_name)
        self.norm_mode = norm_mode

    def plain(self, *args, **kwargs):
        return gradient_penalty_loss(*args, **kwargs) * self.loss_weight

    def from_dict(self, **kwargs):
        return gradient_penalty_loss(norm_mode=self.norm_mode, **kwargs) * self.loss_weight


class R1GradientPenaltyComps(_Component):
    """The penalty at real data, weighted, once in `interval` iterations."""

    def __init__(
        self,
        loss_weight=1.0,
        norm_mode="pixel",
        interval=1,
        data_info=None,
        use_apex_amp=False,
        loss_name="loss_r1_gp",
    ):
        super().__init__(loss_weight, data_info, loss_name)
        self.norm_mode = norm_mode
        self.interval = interval
        self.use_apex_amp = use_apex_amp

    def plain(self, *args, **kwargs):
        return r1_gradient_penalty_loss(*args, norm_mode=self.norm_mode, **kwargs) * self.loss_weight

    from_dict = plain


class GeneratorPathRegularizerComps(_Component):
    """The path-length penalty with its running mean, once in `interval` iterations."""

    def __init__(
        self,
        loss_weight=1.0,
        pl_batch_shrink=1,
        decay=0.01,
        pl_batch_size=None,
        sync_mean_buffer=False,
        interval=1,
        data_info=None,
        use_apex_amp=False,
        loss_name="loss_path_regular",
    ):
        super().__init__(loss_weight, data_info, loss_name)
        self.options = {
            "pl_batch_shrink": pl_batch_shrink,
            "decay": decay,
            "pl_batch_size": pl_batch_size,
            "sync_mean_buffer": sync_mean_buffer,
            "use_apex_amp": use_apex_amp,
        }
        self.interval = interval
        self.register_buffer("mean_path_length", torch.tensor(0.0))

    def from_dict(self, **kwargs):
        penalty, self.mean_path_length, _ = gen_path_regularizer(
            mean_path_length=self.mean_path_length, weight=self.loss_weight, **self.options, **kwargs
        )
        return penalty

    def plain(self, *args, **kwargs):
        return gen_path_regularizer(*args, **kwargs)[0] * self.loss_weight


# ----------------------------------------------------------------------------------------------------------------
# Losses that call the network


class ImagePool:
    """What a network said of the last samples, each a view of its own."""

    def __init__(self, pool_size):
        self.pool_size = self.sample_size = pool_size
        if pool_size > 0:
            self.num_imgs, self.images = 0, collections.deque()

    def add(self, images):
        if self.pool_size == 0:
            return images
        for k in range(len(images)):
            if self.num_imgs == self.pool_size:
                self.images.popleft()
            else:
                self.num_imgs += 1
            self.images.append(images.data[k][None])

    def query(self):
        kept = list(self.images)
        return torch.cat(kept if len(kept) <= self.sample_size else random.sample(kept, self.sample_size))


class DiscLoss(nn.Module):
    """Both criteria, halved."""

    def __init__(self, gan_type="vanilla"):
        super().__init__()
        self.criterionGAN = GANLoss(gan_type=gan_type)

    def name(self):
        return "DiscLoss"

    def forward(self, net, fakeB, realB, model="discriminator"):
        if model != "discriminator":
            return self.criterionGAN(net.forward(fakeB), 1)
        self.pred_fake = net.forward(fakeB.detach())
        self.loss_D_fake = self.criterionGAN(self.pred_fake, 0)
        self.pred_real = net.forward(realB)
        self.loss_D_real = self.criterionGAN(self.pred_real, 1)
        self.loss_D = 0.5 * (self.loss_D_fake + self.loss_D_real)
        return self.loss_D


class DiscLossWGANGP(DiscLoss):
    """Wasserstein's, with a penalty of one norm per pixel."""

    def __init__(self):
        super().__init__()
        self.LAMBDA = 10

    def name(self):
        return "DiscLossWGAN-GP"

    def forward(self, net, fakeB, realB, model="discriminator"):
        if model != "discriminator":
            self.D_fake = net.forward(fakeB)
            return -self.D_fake.mean()
        self.D_fake = net.forward(fakeB.detach()).mean()
        self.D_real = net.forward(realB).mean()
        self.loss_D = self.D_fake - self.D_real
        return self.loss_D + self.LAMBDA * gradient_penalty_loss(net, realB.data, fakeB.data)


class RelativisticDiscLoss(nn.Module):
    """The means are those of the last 50 samples that the discriminator's calls have seen."""

    TYPE = "vanilla"

    def __init__(self):
        super().__init__()
        self.criterionGAN = GANLoss(gan_type=self.TYPE)
        self.fake_pool, self.real_pool = ImagePool(50), ImagePool(50)

    def name(self):
        return "RelativisticDiscLoss"

    def term(self, x, sign):
        return self.criterionGAN(x, 1 if sign > 0 else 0)

    def both(self, sign):
        r = self.pred_real - self.fake_pool.query().mean()
        f = self.pred_fake - self.real_pool.query().mean()
        return (self.term(r, sign) + self.term(f, -sign)) / 2

    def forward(self, net, fakeB, realB, model="discriminator"):
        if model != "discriminator":
            self.pred_fake, self.pred_real = net.forward(fakeB), net.forward(realB)
            return self.both(-1)
        self.fake_B, self.real_B = fakeB.detach(), realB
        self.pred_fake = net.forward(self.fake_B)
        self.fake_pool.add(self.pred_fake)
        self.pred_real = net.forward(self.real_B)
        self.real_pool.add(self.pred_real)
        self.loss_D = self.both(1)
        return self.loss_D


class RelativisticDiscLossLS(RelativisticDiscLoss):
    """The same with squares."""

    TYPE = "l1"

    def name(self):
        return "RelativisticDiscLossLS"

    def term(self, x, sign):
        return ((x - sign) ** 2).mean()


def AdvLoss(loss_type):
    """The module of a loss's name, called as (net, fakeB, realB, model="discriminator")."""
    types = {
        "gan": DiscLoss,
        "lsgan": lambda: DiscLoss(gan_type="l1"),
        "wgan-gp": DiscLossWGANGP,
        "ragan": RelativisticDiscLoss,
        "ragan-ls": RelativisticDiscLossLS,
    }
    if loss_type not in types:
        raise ValueError(f"GAN Loss [{loss_type}] not recognized.")
    return types[loss_type]()
