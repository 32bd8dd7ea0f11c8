"""Logits and feature maps as discriminators of sounds return them, and modules like a trainer's."""

import types

import torch

from tests.helpers import adapters

# The kinks of least squares, hinge and L1, their neighbours, and what is large.
EDGES = [1.0, 0.0, -1.0, 2.0, 1.0078125, -0.9921875, 30.0, -30.0, 1e4, -1e4, -0.0]


def compare(ours, peer, *inputs, **options):
    """`adapters.compare`, with sums that begin in the default dtype, which is float64 for the truth."""
    return adapters.compare(ours, peer, inputs, truth=adapters.widened(peer), **options)


def logits(dtype, seed=0):
    """Logits of a vocoder's shapes: periods (N, 1, T, p), scales (N, T), less usual ones, and edges."""
    torch.manual_seed(seed)
    found = [(2 * torch.randn(shape)).to(dtype) for shape in [(2, 1, 7, 3), (2, 31), (3,), (4, 1), ()]]
    found.append(torch.randn(5, 2, 6).to(dtype).permute(2, 0, 1)[::2])
    edges = torch.tensor(EDGES)
    return [*found, (edges.clamp(-200, 200) if dtype is torch.float16 else edges).to(dtype)]


def fmaps(dtype, seed=0):
    """Feature maps of three discriminators; the second seed's coincide with the first's at places."""
    torch.manual_seed(seed)
    found = [
        [torch.randn(2, 4, 9), torch.randn(2, 6, 5, 2), torch.randn(2, 7)],
        [torch.randn(3), torch.randn(2, 2)],
    ]
    for maps in found:
        for x in maps:
            x.view(-1)[:2] = torch.tensor([0.5, -2.0])
    found.append([torch.randn(4, 6).t(), torch.randn(8)[::2]])
    return adapters.mapped(found, lambda x: x.to(dtype))


def own(peer, *names):
    """A trainer's own functions and classes, as new objects, and another loss that stays."""
    found = {}
    for name in names:
        theirs = getattr(peer, name)
        if isinstance(theirs, type):
            found[name] = type(name, (theirs,), {})
        else:
            found[name] = types.FunctionType(theirs.__code__, theirs.__globals__, name, theirs.__defaults__)
    return found | {"kl_loss": lambda z_p, logs_q: 0}
