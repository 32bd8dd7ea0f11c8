"""torchgan (torchgan/torchgan), torchgan/losses.

    from torchgan.losses import WassersteinDiscriminatorLoss, WassersteinGradientPenalty            # before
    from fastgan.compat.torchgan import WassersteinDiscriminatorLoss, WassersteinGradientPenalty    # after

All functions and classes of `torchgan.losses`, with the same random draws. torchgan's Trainer takes the classes as
its own, and subclasses of `GeneratorLoss` and `DiscriminatorLoss` work as before.

Advantages: each loss is one pass over the logits, exact at both ends. Real and fake batches may differ in size. A
discriminator that has no second derivative is refused at the penalty's call. The mutual information penalty trains.

Note: both gradient penalties take one norm over the whole batch, as torchgan does; it grows with the batch.
`fastgan.gradient_penalty` takes one norm per sample, as the papers do.
"""

from __future__ import annotations

from .._origin import Origin
from .adversarial import (
    LeastSquaresDiscriminatorLoss,
    LeastSquaresGeneratorLoss,
    MinimaxDiscriminatorLoss,
    MinimaxGeneratorLoss,
    WassersteinDiscriminatorLoss,
    WassersteinGeneratorLoss,
)
from .auxiliary import (
    AuxiliaryClassifierDiscriminatorLoss,
    AuxiliaryClassifierGeneratorLoss,
    FeatureMatchingGeneratorLoss,
    HistoricalAverageDiscriminatorLoss,
    HistoricalAverageGeneratorLoss,
    MutualInformationPenalty,
)
from .energy import (
    BoundaryEquilibriumDiscriminatorLoss,
    BoundaryEquilibriumGeneratorLoss,
    EnergyBasedDiscriminatorLoss,
    EnergyBasedGeneratorLoss,
    EnergyBasedPullingAwayTerm,
)
from .functional import (
    auxiliary_classification_loss,
    boundary_equilibrium_discriminator_loss,
    boundary_equilibrium_generator_loss,
    dragan_gradient_penalty,
    energy_based_discriminator_loss,
    energy_based_generator_loss,
    energy_based_pulling_away_term,
    least_squares_discriminator_loss,
    least_squares_generator_loss,
    minimax_discriminator_loss,
    minimax_generator_loss,
    mutual_information_penalty,
    wasserstein_discriminator_loss,
    wasserstein_generator_loss,
    wasserstein_gradient_penalty,
)
from .loss import (
    DiscriminatorLoss,
    GeneratorLoss,
)
from .penalties import (
    DraganGradientPenalty,
    WassersteinGradientPenalty,
)

__all__ = [
    "AuxiliaryClassifierDiscriminatorLoss",
    "AuxiliaryClassifierGeneratorLoss",
    "BoundaryEquilibriumDiscriminatorLoss",
    "BoundaryEquilibriumGeneratorLoss",
    "DiscriminatorLoss",
    "DraganGradientPenalty",
    "EnergyBasedDiscriminatorLoss",
    "EnergyBasedGeneratorLoss",
    "EnergyBasedPullingAwayTerm",
    "FeatureMatchingGeneratorLoss",
    "GeneratorLoss",
    "HistoricalAverageDiscriminatorLoss",
    "HistoricalAverageGeneratorLoss",
    "LeastSquaresDiscriminatorLoss",
    "LeastSquaresGeneratorLoss",
    "MinimaxDiscriminatorLoss",
    "MinimaxGeneratorLoss",
    "MutualInformationPenalty",
    "WassersteinDiscriminatorLoss",
    "WassersteinGeneratorLoss",
    "WassersteinGradientPenalty",
    "auxiliary_classification_loss",
    "boundary_equilibrium_discriminator_loss",
    "boundary_equilibrium_generator_loss",
    "dragan_gradient_penalty",
    "energy_based_discriminator_loss",
    "energy_based_generator_loss",
    "energy_based_pulling_away_term",
    "least_squares_discriminator_loss",
    "least_squares_generator_loss",
    "minimax_discriminator_loss",
    "minimax_generator_loss",
    "mutual_information_penalty",
    "wasserstein_discriminator_loss",
    "wasserstein_generator_loss",
    "wasserstein_gradient_penalty",
]

ORIGIN = Origin(
    ("torchgan.losses", "torchgan.losses.functional"),
    kept=("GeneratorLoss", "DiscriminatorLoss"),  # its Trainer tells losses apart by these bases
)
