"""The largest errors of each phi and its derivatives, and of norms, beside PyTorch's own forms."""

from __future__ import annotations

from functools import partial

import mpmath
import torch
from torch import Tensor
from torch.nn import functional as F

from fastgan.backends.specs import PHIS
from tests.helpers import exact as precise
from tests.helpers import exhaustive, ulp
from tests.proof import norms
from tests.proof.backends import ENVIRONMENT, HARNESS, INTERPRETER, KERNELS, serving
from tests.proof.claims import Batch, Claim, Unavailable

RANDOM = 100_000_000  # float64 a phi and batch
# Patterns a phi and batch, by what a backend does in some seconds.
THROUGH = dict.fromkeys(KERNELS, 1 << 22) | {"CPU (generic)": 1 << 20, HARNESS: 1 << 17, INTERPRETER: 1 << 16}


def _text(found: dict[str, float]) -> str:
    return ", ".join(f"{order} {error:.4f}" for order, error in found.items()) + " ulp"


def every_float32(phi: str, seed: int) -> Batch:
    """Look at all 2^32 float32."""
    found = exhaustive.worst(phi)
    return Batch(1 << 32, max(found.values()), _text(found))


def random_float64(phi: str, seed: int) -> Batch:
    """Look at float64 of any pattern and where it is hard, beside long double."""
    said = exhaustive.run(phi, "random", RANDOM, seed)
    if said.startswith("no"):
        raise Unavailable("a long double here is a double")
    found = exhaustive.errors(said)
    worst = max(found, key=found.get)
    return Batch(RANDOM, found[worst], f"{_text(found)}; {worst} at {exhaustive.places(said)[worst]}")


def float32_through(backend: str, seed: int) -> Batch:
    """Look at float32 patterns at equal distances from a random first one, through a backend."""
    count = THROUGH[backend]
    first = int(torch.randint((1 << 32) // count, (), generator=torch.Generator().manual_seed(seed)))
    x = torch.arange(first, 1 << 32, (1 << 32) // count).to(torch.int32).view(torch.float32)
    found = dict.fromkeys(exhaustive.ORDERS, 0.0)
    with serving(backend):
        for phi in PHIS:
            for order, got, exact in zip(found, ulp.jet(phi, x), ulp.EXACT[phi], strict=True):
                found[order] = max(found[order], ulp.error(got, exact(x.double())))
    return Batch(count * len(PHIS), max(found.values()), _text(found))


def every_16_bits(backend: str, seed: int) -> Batch:
    """Look at all patterns of both 16-bit types through a backend: derivatives are rounded once."""
    worst = {"value": 0.0, "derivatives": 0.0}
    with serving(backend):
        for phi in PHIS:
            for dtype in (torch.float16, torch.bfloat16):
                x = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype)
                value, *derivatives = ulp.jet(phi, x)
                exact = [f(x.double()) for f in ulp.EXACT[phi]]
                worst["value"] = max(worst["value"], ulp.error(value, exact[0]))
                for got, want in zip(derivatives, exact[1:], strict=True):
                    same = got.nan_to_num(7.0) == ulp.nearest(want, dtype).nan_to_num(7.0)
                    assert same.all(), f"{phi} of {dtype}: other than rounded once at {x[~same][:5].tolist()}"
                    finite = want.isfinite() & got.isfinite()
                    worst["derivatives"] = max(worst["derivatives"], ulp.error(got[finite], want[finite]))
    text = f"derivatives {worst['derivatives']:.4f} ulp, value {worst['value']:.4f} ulp of float32"
    return Batch((1 << 17) * len(PHIS), max(worst.values()), text)


# ---------------------------------------------------------------------------------- float64 beside 200 bits


def hard_float64(count: int, seed: int) -> Tensor:
    """Return numbers where a float64 softplus is hard: near 0, where it bends, where its parts are denormal, any size."""
    g = torch.Generator().manual_seed(seed)
    unit = torch.rand(5, count // 5, generator=g, dtype=torch.float64) * 2 - 1
    sizes = 10.0 ** (unit[4] * 307)
    parts = [unit[0] * 2, unit[1] * 40, unit[2] * 750, unit[3].sign() * (708 + 40 * unit[3].abs())]
    edges = [
        0.0,
        -0.0,
        5e-324,
        -5e-324,
        2.0**-1022,
        36.7,
        -36.7,
        708.4,
        -708.4,
        709.78,
        744.44,
        -745.13,
        745.2,
        1e308,
    ]
    return torch.cat([*parts, sizes * unit[0].sign(), torch.tensor(edges, dtype=torch.float64)])


def beside_200_bits(seed: int) -> Batch:
    """Look at every phi through the CPU kernels beside mpmath, and at the long double that stands for it above."""
    x = hard_float64(4000, seed)
    kernels, oracle = 0.0, 0.0
    with mpmath.workprec(200):
        for phi in PHIS:
            exact = [[mpmath.mpf(v) for v in precise.jet(phi, p)] for p in x.tolist()]
            for order, got in enumerate(ulp.jet(phi, x)):
                found = zip(got.tolist(), exact, strict=True)
                kernels = max(kernels, *(precise.distance(v, e[order]) for v, e in found))
            said = exhaustive.run(phi, "points", given="\n".join(map(float.hex, x.tolist())))
            if said.startswith("no"):
                continue
            for line, e in zip(said.splitlines(), exact, strict=True):
                halves = [float.fromhex(v) for v in line.split()]
                for order in range(3):
                    high, low = halves[2 * order : 2 * order + 2]
                    if abs(high) < float("inf"):
                        exponent = precise.exponent(e[order], torch.float64)
                        if exponent < -1021:  # the lower double has no more digits
                            continue
                        size = mpmath.mpf(2) ** exponent
                        oracle = max(oracle, float(abs(mpmath.mpf(high) + mpmath.mpf(low) - e[order]) / size))
    assert oracle < 0.01, f"the long double of the other claims is off by {oracle} ulp"
    return Batch(3 * len(PHIS) * len(x), kernels, f"{kernels:.4f} ulp; the long double above {oracle:.4f}")


# ---------------------------------------------------------------------------------- PyTorch's forms


# Each is softplus(x).
FORMS = {
    "F.softplus": F.softplus,
    "-F.logsigmoid(-x)": lambda x: -F.logsigmoid(-x),
    "BCEWithLogitsLoss": lambda x: F.binary_cross_entropy_with_logits(x, torch.zeros_like(x), reduction="none"),
    "-log(sigmoid(-x))": lambda x: -torch.log(torch.sigmoid(-x)),
    "log(1 + exp(x))": lambda x: torch.log(1 + torch.exp(x)),
}


def of_pytorch(form: str, dtype: torch.dtype, seed: int) -> Batch:
    """Look at a form of PyTorch as at ours: finite logits within 10,000, as far as a GAN's go, at equal distances."""
    if dtype == torch.float32:
        x = torch.arange(0, 1 << 32, 257).to(torch.int32).view(torch.float32)
    else:
        x = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype)
    x = x[x.abs() <= 1e4].requires_grad_()
    value = FORMS[form](x)
    (first,) = torch.autograd.grad(value, x, torch.ones_like(value), create_graph=True)
    (second,) = torch.autograd.grad(first, x, torch.ones_like(first))
    wide = x.detach().double()
    found = {}
    for order, got, exact in zip(exhaustive.ORDERS, (value, first, second), ulp.EXACT["softplus"], strict=True):
        found[order] = ulp.error(got.detach(), exact(wide))
    text = ", ".join(f"{order} {error:.3g}" for order, error in found.items()) + f" ulp of {str(dtype)[6:]}"
    return Batch(3 * len(x), text=text)


CLAIMS = [
    *(
        Claim(f"{phi}, all float32", partial(every_float32, phi), "at most 1 ulp", limit=1.0, timeout=1800)
        for phi in PHIS
    ),
    *(
        Claim(
            f"{phi}, float64", partial(random_float64, phi), "at most 1 ulp", limit=1.0, endless=True, timeout=1800
        )
        for phi in PHIS
    ),
    Claim("every phi, float64 beside 200 bits", beside_200_bits, "at most 1 ulp", limit=1.0, endless=True),
    *(
        Claim(
            f"every phi, float32: {backend}", partial(float32_through, backend), "at most 1 ulp", limit=1.0,
            endless=True, environment=ENVIRONMENT.get(backend, {}),
        )
        for backend in KERNELS
    ),
    *(
        Claim(
            f"every phi, all patterns of 16 bits: {backend}", partial(every_16_bits, backend),
            "derivatives rounded once (0.5 ulp), value at most 1 ulp", limit=1.0,
            environment=ENVIRONMENT.get(backend, {}),
        )
        for backend in KERNELS
    ),
    *norms.CLAIMS,
    *(
        Claim(f"PyTorch: {form}, {str(dtype)[6:]}", partial(of_pytorch, form, dtype), "for comparison")
        for form in FORMS
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
    ),
]  # fmt: skip
