"""Random calls on every instruction set of this processor: `python -m tests.helpers.random_calls --seconds 150`.

Losses of all names and forms, norms and penalties, in four dtypes, with first and second derivatives: the same bits.
"""

import argparse
import random
import time

import torch

import fastgan
from fastgan.backends import cpu
from tests.helpers.calls import losses, norms, same

SIZES = (2, 7, 64, 300, 1024, 1025, 2500, 4099)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def draw():
    """A random call, and what it is."""
    n, dtype = random.choice(SIZES), random.choice(DTYPES)
    x, y = (torch.randn(n) * 10 ** random.uniform(-8, 3) for _ in range(2))
    if random.random() < 0.3:
        kind = random.choice(("two_sided", "one_sided", "power"))
        return norms(x.to(dtype)[: n // 2 * 2].view(2, -1), kind), (kind, dtype, n)
    name, form = random.choice(list(fastgan.losses())), random.choice((None, "paired", "average"))
    return losses(x.to(dtype), y.to(dtype), loss=name, relativistic=form), (name, form, dtype, n)


def flat(result):
    """The tensors in a result; what has no second derivative has None there."""
    if isinstance(result, torch.Tensor):
        return [result.detach()]
    return [t for r in result or () for t in flat(r)]


def compare(sets):
    """Make a random call on each instruction set; raise AssertionError where the bits differ."""
    call, what = draw()
    results = []
    for isa in sets:
        cpu.native.set_isa(isa)
        results.append(flat(call()))
    for isa, other in zip(sets[1:], results[1:], strict=True):
        try:
            same(other, results[0])
        except AssertionError as error:
            raise AssertionError(f"{isa} differs from {sets[0]} in {what}: {error}") from error


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    sets, count, end = cpu.native.isas(), 0, time.monotonic() + options.seconds
    while time.monotonic() < end:
        compare(sets)
        count += 1
    print(f"{count} calls, the same bits by {', '.join(sets)}")


if __name__ == "__main__":
    main()
