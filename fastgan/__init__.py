"""Fused, numerically stable losses of GANs for PyTorch."""

try:
    import torch as _torch  # noqa: F401
except ImportError as _error:
    raise ImportError(
        "fastgan needs PyTorch, in the build (CPU, CUDA, ROCm) of your choice: pip install torch"
    ) from _error

from . import functional, nn
from .backends import backend
from .functional import LossStats, discriminator_loss, generator_loss, reduce_terms
from .info import info
from .losses import losses, register_loss
from .terms import Term, term
from .version import __version__
from .wgan import clip_weights_, curriculum_weights

__all__ = [
    "LossStats",
    "Term",
    "__version__",
    "backend",
    "clip_weights_",
    "curriculum_weights",
    "discriminator_loss",
    "functional",
    "generator_loss",
    "info",
    "losses",
    "nn",
    "reduce_terms",
    "register_loss",
    "term",
]
