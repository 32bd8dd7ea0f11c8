"""Distances in units in the last place, and the exact values of each phi."""

import torch

BITS = {torch.float64: 53, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}
LOWEST = {torch.float64: -1074, torch.float32: -149, torch.float16: -24, torch.bfloat16: -133}


def spacing(exact: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The size of one ulp of `dtype` at `exact` (float64)."""
    exponent = torch.frexp(exact).exponent - BITS[dtype]
    return torch.ldexp(torch.ones_like(exact), exponent.clamp(min=LOWEST[dtype]))


def nearest(exact: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Round float64 to `dtype` once, ties to even; `Tensor.to` rounds float64 to 16 bits by way of float32."""
    ulp = spacing(exact, dtype)
    return torch.where(exact.isfinite(), (exact / ulp).round() * ulp, exact).to(dtype)


def tie_distance(exact: torch.Tensor, dtype: torch.dtype) -> float:
    """Return the least distance of any number from a tie, in ulp of `dtype`, exact ties left out.

    Where `exact` is itself an approximation, `nearest` is right if its error is less.
    """
    exact = exact[exact.isfinite()]
    units = exact / spacing(exact, dtype)
    distance = (units - units.floor() - 0.5).abs()
    return distance[distance > 0].min().item()


def error(got: torch.Tensor, exact: torch.Tensor, scale: torch.Tensor | None = None) -> float:
    """The largest distance of `got` from `exact` (float64) in ulp of got's dtype.

    NaN must meet NaN, and a value past the dtype's range must be infinite; else the distance is inf.
    With `scale`, an ulp is that of the larger of exact and scale: for sums in which summands cancel.
    """
    exact = exact.double()
    ulp = spacing(exact if scale is None else torch.maximum(exact.abs(), scale.double().abs()), got.dtype)
    right = (got == exact.to(got.dtype)) | (got.isnan() & exact.isnan())
    distance = torch.where(got.isfinite(), (got.double() - exact).abs() / ulp, torch.where(right, 0.0, torch.inf))
    return distance.nan_to_num(torch.inf, torch.inf).max().item()


def softplus(x):
    return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))


def sigmoid(x):
    u = torch.exp(-x.abs())
    return torch.where(x >= 0, 1 / (1 + u), u / (1 + u))


def sigmoid_slope(x):
    u = torch.exp(-x.abs())
    return u / (1 + u) / (1 + u)


def step(x, above, below=0.0):
    """`above` for x > 0, `below` for x < 0, 0 at 0, NaN at NaN."""
    return torch.where(x > 0, torch.as_tensor(above).to(x), torch.where(x <= 0, below * (x < 0).to(x), x))


# phi: value, first and second derivative in float64, which is 29 bits more than float32 needs.
EXACT = {
    "identity": (lambda x: x, torch.ones_like, torch.zeros_like),
    "softplus": (softplus, sigmoid, sigmoid_slope),
    "relu": (lambda x: x.clamp(min=0), lambda x: step(x, 1.0), torch.zeros_like),
    "square": (lambda x: x * x, lambda x: 2 * x, lambda x: torch.full_like(x, 2.0)),
    "relu_square": (lambda x: x.clamp(min=0) ** 2, lambda x: 2 * x.clamp(min=0), lambda x: step(x, 2.0)),
    "abs": (torch.abs, lambda x: step(x, 1.0, -1.0), torch.zeros_like),
    "relu_half": (
        lambda x: x.clamp(min=0),
        lambda x: (step(x, 1.0) + step(x, 0.0, -1.0) + 1) / 2,
        torch.zeros_like,
    ),
    "huber": (
        lambda x: torch.where(x.abs() > 1, x.abs() - 0.5, x * x / 2),
        lambda x: x.clamp(-1, 1),
        lambda x: torch.where(x.isnan(), x, (x.abs() < 1).to(x)),
    ),
    "softplus_square": (
        lambda x: softplus(x).square(),
        lambda x: 2 * softplus(x) * sigmoid(x),
        lambda x: (2 * sigmoid(x).square() + 2 * (softplus(x) * sigmoid_slope(x))).where(x != torch.inf, 2.0),
    ),
}


def jet(phi: str, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """phi(x), phi'(x), phi''(x) as the kernels compute them, element by element."""
    import fastgan

    x = x.detach().requires_grad_()
    (value,) = fastgan.reduce_terms([fastgan.term(phi)], [x], reduction="none")
    (first,) = torch.autograd.grad(value, x, torch.ones_like(value), create_graph=True)
    (second,) = torch.autograd.grad(first, x, torch.ones_like(first))
    return value.detach(), first.detach(), second
