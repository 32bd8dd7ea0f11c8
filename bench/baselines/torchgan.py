"""How torchgan computes its losses: functions, and modules whose `train_ops` is a whole training step."""

import torch
from torch import nn
from torch.nn import functional as F

# ----------------------------------------------------------------------------------------------------------------
# Functions


def _reduce(x, reduction):
    """The mean or the sum; any other name leaves the elements as they are."""
    if reduction == "mean":
        return x.mean()
    return x.sum() if reduction == "sum" else x


def minimax_generator_loss(dgz, nonsaturating=True, reduction="mean"):
    """How far fakes are from being taken for real, or the negated discriminator's loss."""
    if nonsaturating:
        return F.binary_cross_entropy_with_logits(dgz, torch.ones_like(dgz), reduction=reduction)
    return -F.binary_cross_entropy_with_logits(dgz, torch.zeros_like(dgz), reduction=reduction)


def minimax_discriminator_loss(dx, dgz, label_smoothing=0.0, reduction="mean"):
    """Binary cross-entropy with a smoothed label for real. Each target is made in the other tensor's shape."""
    ones = torch.ones_like(dgz) * (1.0 - label_smoothing)
    zeros = torch.zeros_like(dx)
    on_real = F.binary_cross_entropy_with_logits(dx, ones, reduction=reduction)
    return on_real + F.binary_cross_entropy_with_logits(dgz, zeros, reduction=reduction)


def least_squares_generator_loss(dgz, c=1.0, reduction="mean"):
    """Half of the squared distance from `c`."""
    return 0.5 * _reduce((dgz - c) ** 2, reduction)


def least_squares_discriminator_loss(dx, dgz, a=0.0, b=1.0, reduction="mean"):
    """Half of the squared distances of real from `b` and of fake from `a`."""
    return 0.5 * (_reduce((dx - b) ** 2, reduction) + _reduce((dgz - a) ** 2, reduction))


def wasserstein_generator_loss(fgz, reduction="mean"):
    """The negated score."""
    return _reduce(-fgz, reduction)


def wasserstein_discriminator_loss(fx, fgz, reduction="mean"):
    """Fake scores less real ones."""
    return _reduce(fgz - fx, reduction)


def dragan_gradient_penalty(interpolate, d_interpolate, k=1.0, reduction="mean"):
    """The penalty on the norm of the whole batch's gradient."""
    (gradients,) = torch.autograd.grad(
        d_interpolate, interpolate, torch.ones_like(d_interpolate), create_graph=True
    )
    return _reduce((gradients.norm(2) - k) ** 2, reduction)


def wasserstein_gradient_penalty(interpolate, d_interpolate, reduction="mean"):
    """The same with a norm of 1."""
    return dragan_gradient_penalty(interpolate, d_interpolate, 1.0, reduction)


def energy_based_generator_loss(dgz, reduction="mean"):
    """The energy."""
    return _reduce(dgz, reduction)


def energy_based_discriminator_loss(dx, dgz, margin, reduction="mean"):
    """The energy of real, and what that of fake lacks of the margin."""
    return _reduce(dx + F.relu(-dgz + margin), reduction)


def energy_based_pulling_away_term(d_hid):
    """The sum of squared similarities of codes that are normalised over the batch."""
    n = d_hid.size(0)
    codes = F.normalize(d_hid, p=2, dim=0).reshape(n, -1)
    return torch.sum(torch.mm(codes, codes.t()) ** 2) / (n * (n - 1))


def boundary_equilibrium_generator_loss(dgz, reduction="mean"):
    """The reconstruction's loss."""
    return _reduce(dgz, reduction)


def boundary_equilibrium_discriminator_loss(dx, dgz, k, reduction="mean"):
    """The balanced loss, and its two parts."""
    on_real, on_fake = _reduce(dx, reduction), _reduce(dgz, reduction)
    return on_real - k * on_fake, on_real, on_fake


def auxiliary_classification_loss(logits, labels, reduction="mean"):
    """Softmax cross-entropy."""
    return F.cross_entropy(logits, labels, reduction=reduction)


def mutual_information_penalty(c_dis, c_cont, dist_dis, dist_cont, reduction="mean"):
    """The two codes' negated mean log-probabilities, as new numbers without a graph."""
    parts = [-dist_dis.log_prob(c_dis).mean().item(), -dist_cont.log_prob(c_cont).mean().item()]
    return _reduce(torch.tensor(parts), reduction)


# ----------------------------------------------------------------------------------------------------------------
# Steps


def _required(labels, *networks):
    if labels is None and any(network.label_type == "required" for network in networks):
        raise Exception("a network needs labels, and none were given")


def _generated(generator, n, device):
    if generator.label_type == "generated":
        return torch.randint(0, generator.num_classes, (n,), device=device)
    return None


def _fake(generator, noise, labels, generated):
    if generator.label_type == "none":
        return generator(noise)
    return generator(noise, labels if generator.label_type == "required" else generated)


def _scores(discriminator, x, labels, **options):
    if discriminator.label_type == "none":
        return discriminator(x, **options)
    return discriminator(x, labels, **options)


def _of_real(discriminator, labels, generated):
    return generated if discriminator.label_type == "generated" else labels


def _step(loss, optimizer):
    loss.backward()
    optimizer.step()
    return loss.item()


class _Loss(nn.Module):
    def __init__(self, reduction="mean", override_train_ops=None):
        super().__init__()
        self.reduction = reduction
        self.override_train_ops = override_train_ops
        self.arg_map = {}

    def set_arg_map(self, value):
        self.arg_map.update(value)


class GeneratorLoss(_Loss):
    """The base of the generator's losses."""

    def train_ops(self, generator, discriminator, optimizer_generator, device, batch_size, labels=None):
        if self.override_train_ops is not None:
            return self.override_train_ops(
                generator, discriminator, optimizer_generator, device, batch_size, labels
            )
        _required(labels, generator)
        noise = torch.randn(batch_size, generator.encoding_dims, device=device)
        optimizer_generator.zero_grad()
        generated = _generated(generator, batch_size, device)
        fake = _fake(generator, noise, labels, generated)
        dgz = _scores(discriminator, fake, labels if generated is None else generated)
        return _step(self.forward(dgz), optimizer_generator)


class DiscriminatorLoss(_Loss):
    """The base of the discriminator's losses."""

    def train_ops(self, generator, discriminator, optimizer_discriminator, real_inputs, device, labels=None):
        if self.override_train_ops is not None:
            return self.override_train_ops(
                self, generator, discriminator, optimizer_discriminator, real_inputs, device, labels
            )
        return self.steps(generator, discriminator, optimizer_discriminator, real_inputs, device, labels)

    def steps(self, generator, discriminator, optimizer, real_inputs, device, labels):
        _required(labels, generator, discriminator)
        n = real_inputs.size(0)
        noise = torch.randn(n, generator.encoding_dims, device=device)
        generated = _generated(generator, n, device)
        optimizer.zero_grad()
        dx = _scores(discriminator, real_inputs, _of_real(discriminator, labels, generated))
        fake = _fake(generator, noise, labels, generated)
        dgz = _scores(discriminator, fake.detach(), labels if generated is None else generated)
        return self.finish(self.forward(dx, dgz), optimizer)

    def finish(self, loss, optimizer):
        return _step(loss, optimizer)


# ----------------------------------------------------------------------------------------------------------------
# Minimax, least squares, Wasserstein


class MinimaxGeneratorLoss(GeneratorLoss):
    """`minimax_generator_loss` with a step."""

    def __init__(self, reduction="mean", nonsaturating=True, override_train_ops=None):
        super().__init__(reduction, override_train_ops)
        self.nonsaturating = nonsaturating

    def forward(self, dgz):
        return minimax_generator_loss(dgz, self.nonsaturating, self.reduction)


class MinimaxDiscriminatorLoss(DiscriminatorLoss):
    """`minimax_discriminator_loss` with a step."""

    def __init__(self, label_smoothing=0.0, reduction="mean", override_train_ops=None):
        super().__init__(reduction, override_train_ops)
        self.label_smoothing = label_smoothing

    def forward(self, dx, dgz):
        return minimax_discriminator_loss(dx, dgz, self.label_smoothing, self.reduction)


class LeastSquaresGeneratorLoss(GeneratorLoss):
    """`least_squares_generator_loss` with a step."""

    def __init__(self, reduction="mean", c=1.0, override_train_ops=None):
        super().__init__(reduction, override_train_ops)
        self.c = c

    def forward(self, dgz):
        return least_squares_generator_loss(dgz, self.c, self.reduction)


class LeastSquaresDiscriminatorLoss(DiscriminatorLoss):
    """`least_squares_discriminator_loss` with a step."""

    def __init__(self, reduction="mean", a=0.0, b=1.0, override_train_ops=None):
        super().__init__(reduction, override_train_ops)
        self.a = a
        self.b = b

    def forward(self, dx, dgz):
        return least_squares_discriminator_loss(dx, dgz, self.a, self.b, self.reduction)


class WassersteinGeneratorLoss(GeneratorLoss):
    """`wasserstein_generator_loss` with a step."""

    def forward(self, fgz):
        return wasserstein_generator_loss(fgz, self.reduction)


class WassersteinDiscriminatorLoss(DiscriminatorLoss):
    """`wasserstein_discriminator_loss` with a step that clips the weights first."""

    def __init__(self, reduction="mean", clip=None, override_train_ops=None):
        super().__init__(reduction, override_train_ops)
        self.clip = clip

    def forward(self, fx, fgz):
        return wasserstein_discriminator_loss(fx, fgz, self.reduction)

    def train_ops(self, generator, discriminator, optimizer_discriminator, real_inputs, device, labels=None):
        if self.override_train_ops is not None:
            return self.override_train_ops(
                generator, discriminator, optimizer_discriminator, real_inputs, device, labels
            )
        return self.steps(generator, discriminator, optimizer_discriminator, real_inputs, device, labels)

    def steps(self, generator, discriminator, optimizer, real_inputs, device, labels):
        if self.clip is not None:
            for p in discriminator.parameters():
                p.data.clamp_(self.clip[0], self.clip[1])
        return super().steps(generator, discriminator, optimizer, real_inputs, device, labels)


class _Penalty(DiscriminatorLoss):
    def __init__(self, reduction, lambd, override_train_ops):
        super().__init__(reduction, override_train_ops)
        self.lambd = lambd

    def train_ops(self, generator, discriminator, optimizer_discriminator, real_inputs, device, labels=None):
        if self.override_train_ops is not None:
            return self.override_train_ops(
                self, generator, discriminator, optimizer_discriminator, real_inputs, labels
            )
        return self.steps(generator, discriminator, optimizer_discriminator, real_inputs, device, labels)

    def finish(self, loss, optimizer):
        _step(self.lambd * loss, optimizer)
        return loss.item()


class WassersteinGradientPenalty(_Penalty):
    """`wasserstein_gradient_penalty` with a step; one place between real and fake for the whole batch."""

    def __init__(self, reduction="mean", lambd=10.0, override_train_ops=None):
        super().__init__(reduction, lambd, override_train_ops)

    def forward(self, interpolate, d_interpolate):
        return wasserstein_gradient_penalty(interpolate, d_interpolate, self.reduction)

    def steps(self, generator, discriminator, optimizer, real_inputs, device, labels):
        _required(labels, generator, discriminator)
        n = real_inputs.size(0)
        noise = torch.randn(n, generator.encoding_dims, device=device)
        generated = _generated(generator, n, device)
        optimizer.zero_grad()
        fake = _fake(generator, noise, labels, generated)
        e = torch.rand(1).item()
        interpolate = e * real_inputs + (1 - e) * fake
        scores = _scores(discriminator, interpolate, labels if generated is None else generated)
        return self.finish(self.forward(interpolate, scores), optimizer)


class DraganGradientPenalty(_Penalty):
    """`dragan_gradient_penalty` with a step."""

    def __init__(self, reduction="mean", lambd=10.0, k=1.0, override_train_ops=None):
        super().__init__(reduction, lambd, override_train_ops)
        self.k = k

    def forward(self, interpolate, d_interpolate):
        return dragan_gradient_penalty(interpolate, d_interpolate, self.k, self.reduction)

    def steps(self, generator, discriminator, optimizer, real_inputs, device, labels):
        alpha = torch.rand(real_inputs.shape, device=device)
        uniform = torch.rand(real_inputs.shape, device=device)
        optimizer.zero_grad()
        interpolate = real_inputs + (1 - alpha) * 0.5 * real_inputs.std() * uniform
        interpolate.requires_grad_(True)
        generated = _generated(generator, len(real_inputs), device)
        scores = _scores(discriminator, interpolate, labels if generated is None else generated)
        return self.finish(self.forward(interpolate, scores), optimizer)


# ----------------------------------------------------------------------------------------------------------------
# Auto-encoders as discriminators


def _without_embeddings(discriminator, steps):
    has = hasattr(discriminator, "embeddings")
    if has:
        discriminator.embeddings = False
    value = steps()
    if has:
        discriminator.embeddings = True
    return value


class EnergyBasedGeneratorLoss(GeneratorLoss):
    """`energy_based_generator_loss` with a step."""

    def forward(self, dgz):
        return energy_based_generator_loss(dgz, self.reduction)

    def train_ops(self, generator, discriminator, optimizer_generator, device, batch_size, labels=None):
        arguments = generator, discriminator, optimizer_generator, device, batch_size, labels
        base = super().train_ops
        return _without_embeddings(discriminator, lambda: base(*arguments))


class EnergyBasedPullingAwayTerm(GeneratorLoss):
    """The pulling-away term of a discriminator that returns its codes and its scores."""

    def __init__(self, pt_ratio=0.1, override_train_ops=None):
        super().__init__(override_train_ops=override_train_ops)
        self.pt_ratio = pt_ratio

    def forward(self, dgz, d_hid):
        return self.pt_ratio * energy_based_pulling_away_term(d_hid)

    def train_ops(self, generator, discriminator, optimizer_generator, device, batch_size, labels=None):
        if self.override_train_ops is not None:
            return self.override_train_ops(
                generator, discriminator, optimizer_generator, device, batch_size, labels
            )
        noise = torch.randn(batch_size, generator.encoding_dims, device=device)
        optimizer_generator.zero_grad()
        d_hid, dgz = discriminator(generator(noise))
        return _step(self.forward(dgz, d_hid), optimizer_generator)


class EnergyBasedDiscriminatorLoss(DiscriminatorLoss):
    """`energy_based_discriminator_loss` with a step."""

    def __init__(self, reduction="mean", margin=80.0, override_train_ops=None):
        super().__init__(reduction, override_train_ops)
        self.margin = margin

    def forward(self, dx, dgz):
        return energy_based_discriminator_loss(dx, dgz, self.margin, self.reduction)

    def train_ops(
        self,
        generator,
        discriminator,
        optimizer_discriminator,
        real_inputs,
        device,
        batch_size,
        labels=None,
    ):
        arguments = generator, discriminator, optimizer_discriminator, real_inputs, device, labels
        base = super().train_ops
        return _without_embeddings(discriminator, lambda: base(*arguments))


class BoundaryEquilibriumGeneratorLoss(GeneratorLoss):
    """`boundary_equilibrium_generator_loss` with a step."""

    def forward(self, dgz):
        return boundary_equilibrium_generator_loss(dgz, self.reduction)


class BoundaryEquilibriumDiscriminatorLoss(DiscriminatorLoss):
    """`boundary_equilibrium_discriminator_loss` with a step that moves the balance."""

    def __init__(self, reduction="mean", override_train_ops=None, init_k=0.0, lambd=0.001, gamma=0.75):
        super().__init__(reduction, override_train_ops)
        self.k = init_k
        self.lambd = lambd
        self.gamma = gamma
        self.convergence_metric = None

    def forward(self, dx, dgz):
        return boundary_equilibrium_discriminator_loss(dx, dgz, self.k, self.reduction)

    def set_k(self, k=0.0):
        self.k = k

    def update_k(self, loss_real, loss_fake):
        """Moves `k` towards the balance of the two losses, and keeps it in [0, 1]."""
        diff = self.gamma * loss_real - loss_fake
        self.k += self.lambd * diff
        self.convergence_metric = loss_real + abs(diff)
        self.k = min(max(self.k, 0.0), 1.0)

    def finish(self, loss, optimizer):
        loss, on_real, on_fake = loss
        value = _step(loss, optimizer)
        self.update_k(on_real.item(), on_fake.item())
        return value


# ----------------------------------------------------------------------------------------------------------------
# Features, classes, codes and parameters


class FeatureMatchingGeneratorLoss(GeneratorLoss):
    """The squared distance of features, with a step."""

    def forward(self, fx, fgz):
        return F.mse_loss(fgz, fx, reduction=self.reduction)

    def train_ops(self, generator, discriminator, optimizer_generator, real_inputs, device, labels=None):
        if self.override_train_ops is not None:
            return self.override_train_ops(generator, discriminator, optimizer_generator, device, labels)
        _required(labels, generator, discriminator)
        n = real_inputs.size(0)
        noise = torch.randn(n, generator.encoding_dims, device=device)
        optimizer_generator.zero_grad()
        generated = _generated(generator, n, device)
        fake = _fake(generator, noise, labels, generated)
        of_real = _of_real(discriminator, labels, generated)
        fx = _scores(discriminator, real_inputs, of_real, feature_matching=True)
        of_fake = labels if generated is None else generated
        fgz = _scores(discriminator, fake, of_fake, feature_matching=True)
        return _step(self.forward(fx, fgz), optimizer_generator)


class AuxiliaryClassifierGeneratorLoss(GeneratorLoss):
    """The classifier's loss on fakes, with a step."""

    def forward(self, logits, labels):
        return auxiliary_classification_loss(logits, labels, self.reduction)

    def train_ops(self, generator, discriminator, optimizer_generator, device, batch_size, labels=None):
        if self.override_train_ops is not None:
            return self.override_train_ops(
                generator, discriminator, optimizer_generator, device, batch_size, labels
            )
        _required(labels, generator)
        noise = torch.randn(batch_size, generator.encoding_dims, device=device)
        optimizer_generator.zero_grad()
        fake = generator(noise, labels)
        logits = discriminator(fake, mode="classifier")
        return _step(self.forward(logits, labels), optimizer_generator)


class AuxiliaryClassifierDiscriminatorLoss(DiscriminatorLoss):
    """The classifier's loss on real and on fake, with a step."""

    def forward(self, logits, labels):
        return auxiliary_classification_loss(logits, labels, self.reduction)

    def train_ops(self, generator, discriminator, optimizer_discriminator, real_inputs, device, labels=None):
        if self.override_train_ops is not None:
            return self.override_train_ops(
                generator, discriminator, optimizer_discriminator, real_inputs, device, labels
            )
        if labels is None:
            raise Exception("the classifier needs labels")
        noise = torch.randn(real_inputs.size(0), generator.encoding_dims, device=device)
        optimizer_discriminator.zero_grad()
        loss = self.forward(discriminator(real_inputs, mode="classifier"), labels)
        fake = generator(noise, labels)
        loss = loss + self.forward(discriminator(fake, mode="classifier"), labels)
        return _step(loss, optimizer_discriminator)


class MutualInformationPenalty(GeneratorLoss, DiscriminatorLoss):
    """`mutual_information_penalty` with a step of both networks."""

    def __init__(self, lambd=1.0, reduction="mean", override_train_ops=None):
        super().__init__(reduction, override_train_ops)
        self.lambd = lambd

    def forward(self, c_dis, c_cont, dist_dis, dist_cont):
        return mutual_information_penalty(c_dis, c_cont, dist_dis, dist_cont, self.reduction)

    def train_ops(
        self,
        generator,
        discriminator,
        optimizer_generator,
        optimizer_discriminator,
        dis_code,
        cont_code,
        device,
        batch_size,
    ):
        if self.override_train_ops is not None:
            return self.override_train_ops(
                generator,
                discriminator,
                optimizer_generator,
                optimizer_discriminator,
                dis_code,
                cont_code,
                device,
                batch_size,
            )
        noise = torch.randn(batch_size, generator.encoding_dims, device=device)
        optimizer_generator.zero_grad()
        optimizer_discriminator.zero_grad()
        fake = generator(noise, dis_code, cont_code)
        _, dist_dis, dist_cont = discriminator(fake, True)
        loss = self.lambd * self.forward(dis_code, cont_code, dist_dis, dist_cont)
        loss.backward()
        optimizer_generator.step()
        optimizer_discriminator.step()
        return loss.item()


class _History:
    """The squared distance of a network's parameters from their average over the steps before."""

    def __init__(self, reduction="elementwise_mean", override_train_ops=None, lambd=1.0):
        super().__init__(reduction, override_train_ops)
        self.lambd = lambd
        self.timesteps = 0
        self.sum_parameters = []

    def steps_of(self, network, optimizer):
        if self.override_train_ops is not None:
            return self.override_train_ops(self, network, optimizer)
        if self.timesteps == 0:
            self.sum_parameters = [p.data.clone() for p in network.parameters()]
            self.timesteps = 1
            return 0.0
        optimizer.zero_grad()
        loss = 0.0
        for p, total in zip(network.parameters(), self.sum_parameters, strict=True):
            loss = loss + torch.sum((p - total / self.timesteps) ** 2)
            total.add_(p.data)
        self.timesteps += 1
        return _step(self.lambd * loss, optimizer)


class HistoricalAverageGeneratorLoss(_History, GeneratorLoss):
    """For the generator."""

    def train_ops(self, generator, optimizer_generator):
        return self.steps_of(generator, optimizer_generator)


class HistoricalAverageDiscriminatorLoss(_History, DiscriminatorLoss):
    """For the discriminator."""

    def train_ops(self, discriminator, optimizer_discriminator):
        return self.steps_of(discriminator, optimizer_discriminator)
