"""Fused, numerically stable losses and gradient penalties of GANs for PyTorch."""

try:
    import torch as _torch  # noqa: F401
except ImportError as _error:
    raise ImportError(
        "fastgan needs PyTorch, in the build (CPU, CUDA, ROCm) of your choice: pip install torch"
    ) from _error
else:
    from . import requirements as _requirements  # noqa: F401 (before the rest: it refuses a torch that is too old)

from . import compat, functional, nn, penalties
from ._info import info
from .auxiliary import (
    adaptive_weight,
    centering_penalty,
    feature_matching_loss,
    lecam_penalty,
    truncated_relativistic_loss,
)
from .backends import backend
from .backends.specs import Term
from .discriminator.compile import CompileInfo, compile_info
from .discriminator.declared import declare_piecewise_linear
from .discriminator.dynamo import compiling
from .discriminator.frozen import frozen
from .functional import LossStats, discriminator_loss, generator_loss, reduce_terms, term
from .generator import GeneratorStep, generator_step
from .ops import nodes as _asked  # noqa: F401 (tells the C++ nodes what they ask of Python)
from .ops.losses import losses, register_loss
from .penalties import (
    PenaltyStats,
    gradient_norm,
    gradient_penalty,
    interpolate,
    norm_penalty,
    output_penalty,
    r1_penalty,
    r2_penalty,
)
from .steps import DiscriminatorStep, discriminator_step
from .version import __version__
from .wgan import clip_weights_, curriculum_weights

__all__ = [
    "CompileInfo",
    "DiscriminatorStep",
    "GeneratorStep",
    "LossStats",
    "PenaltyStats",
    "Term",
    "__version__",
    "adaptive_weight",
    "backend",
    "centering_penalty",
    "clip_weights_",
    "compat",
    "compile_info",
    "compiling",
    "curriculum_weights",
    "declare_piecewise_linear",
    "discriminator_loss",
    "discriminator_step",
    "feature_matching_loss",
    "frozen",
    "functional",
    "generator_loss",
    "generator_step",
    "gradient_norm",
    "gradient_penalty",
    "info",
    "interpolate",
    "lecam_penalty",
    "losses",
    "nn",
    "norm_penalty",
    "output_penalty",
    "penalties",
    "r1_penalty",
    "r2_penalty",
    "reduce_terms",
    "register_loss",
    "term",
    "truncated_relativistic_loss",
]
