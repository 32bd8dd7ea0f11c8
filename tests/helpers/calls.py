"""Calls of every kind, with their first and second derivatives, and whether two backends' results are the same."""

import torch

import fastgan

SPECIALS = [0.0, -0.0, 1e-30, -1e-30, 17.5, -17.5, 1e4, -1e4, 6e4, -6e4]


def flat(results):
    for r in results:
        if isinstance(r, torch.Tensor):
            yield r
        elif isinstance(r, (tuple, list)):
            yield from flat(r)


def same(got, want, strides=True):
    """Raises unless these tensors are the same, bit by bit (NaN as NaN)."""
    assert len(got) == len(want) > 0
    for k, (g, w) in enumerate(zip(got, want, strict=True)):
        assert (g.dtype, g.shape) == (w.dtype, w.shape)
        assert not strides or g.stride() == w.stride()
        assert torch.equal(g.isnan(), w.isnan()), k
        assert torch.equal(g.nan_to_num(0.5), w.nan_to_num(0.5)), (k, (g.double() - w.double()).abs().max())
        zero = (g == 0) & (w == 0)
        assert torch.equal(g.signbit()[zero], w.signbit()[zero]), k


def spaced(start, end, like):
    """Numbers at equal steps, in the shape and dtype of a tensor.

    Each operation rounds by itself, on every processor; torch.linspace rounds once or twice, as the processor has it.
    """
    k = torch.arange(like.numel(), dtype=torch.float64)
    return (k * (end - start) / max(like.numel() - 1, 1) + start).view(like.shape).to(like.dtype)


def logits(*shape, dtype=torch.float32, scale=4.0, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
    few = x.view(-1)[: len(SPECIALS)]
    few.copy_(torch.tensor(SPECIALS, dtype=torch.float64)[: few.numel()])
    return x.to(dtype)


def losses(real, fake, *, upstream=1.5, second=True, **options):
    """Value, statistics, gradients, and second derivatives of one call."""

    def call():
        r, f = ([t.detach().requires_grad_() for t in (x if isinstance(x, list) else [x])] for x in (real, fake))
        inputs = [*r, *f]
        first = r if isinstance(real, list) else r[0]
        other = f if isinstance(fake, list) else f[0]
        result = fastgan.discriminator_loss(first, other, **options)
        stats = options.get("return_stats")
        value = result[0] if stats else result
        outputs = list(flat([value]))
        ups = [torch.full_like(o, upstream).requires_grad_() for o in outputs]
        grads = torch.autograd.grad(outputs, inputs, ups, create_graph=second)
        found = [result, grads]
        if second:
            vs = [spaced(-1, 2, g) for g in grads]
            found.append(torch.autograd.grad(grads, [*inputs, *ups], vs, allow_unused=True))
        return found

    return call


def per_element(n, form):
    """Options of a loss on logits (n, 7): masks and labels of all kinds, soft and hard, expanded and with gaps."""
    generator = torch.Generator().manual_seed(n)

    def numbers(*shape):
        return torch.rand(shape, generator=generator)

    hard, soft = numbers(n, 7) > 0.4, numbers(7, n).t()
    ends = numbers(n, 7).round() * numbers(n, 1)  # also labels of 0
    yield {"loss": "hinge", "real_mask": numbers(n, 1), "fake_mask": hard}
    yield {"loss": "nonsaturating", "fake_mask": numbers(n, 14)[:, ::2]}
    yield {"loss": "nonsaturating", "real_target": hard}
    if form != "paired":
        yield {"loss": "saturating", "real_target": 0.9, "fake_target": ends}
        yield {"loss": "saturating", "real_target": numbers(1, 7), "fake_target": soft, "real_mask": hard}
    yield {"loss": "nonsaturating", "real_target": soft, "real_mask": hard, "fake_mask": numbers(1, 7)}
    if form is None:
        yield {"loss": "least_squares", "targets": (numbers(n, 1), hard, 1.0), "real_mask": soft}


def layouts(dtype, n=3000):
    """Tensors of one shape and all layouts: aligned, shifted by an element, strided, permuted, expanded."""
    base = logits(2 * n + 8, dtype=dtype)
    yield base[:n].view(4, 5, n // 20)
    yield base[1 : n + 1].view(4, 5, n // 20)
    yield base[: 2 * n : 2].view(4, 5, n // 20)
    yield base[:n].view(n // 20, 5, 4).permute(2, 1, 0)
    yield base[: n // 20].expand(4, 5, n // 20)
    yield base[:n].view(5, 4, n // 20).transpose(0, 1)


def norms(grads, kind="two_sided", *, second=True, **options):
    """Value, statistics, gradient and second derivatives of norm_penalty."""

    def call():
        gs = [g.detach().requires_grad_() for g in (grads if isinstance(grads, list) else [grads])]
        result = fastgan.norm_penalty(gs if isinstance(grads, list) else gs[0], kind, **options)
        value = result[0] if isinstance(result, tuple) else result
        up = spaced(0.5, 1.5, value).requires_grad_()
        first = torch.autograd.grad(value, gs, up, create_graph=second)
        found = [result, first]
        if second:
            vs = [spaced(-1, 2, g) for g in first]
            found.append(torch.autograd.grad(first, [*gs, up], vs))
        return found

    return call


def gradients(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    g = torch.randn(shape, generator=generator, dtype=torch.float64) / 20
    g[:1] = 0  # a row of zeros
    return g.to(dtype)


def points(real, fake, need_eps=True):
    def call():
        r, f = ([t.detach().requires_grad_() for t in (x if isinstance(x, tuple) else (x,))] for x in (real, fake))
        wide = torch.float64 if r[0].dtype == torch.float64 else torch.float32
        eps = spaced(0, 1, torch.empty(len(r[0]), dtype=wide)).requires_grad_(need_eps)
        out = list(flat([fastgan.interpolate(tuple(r), tuple(f), eps)]))
        ups = [spaced(-1, 2, o) for o in out]
        return out, torch.autograd.grad(out, [*r, *f, *([eps] if need_eps else [])], ups)

    return call


def parts(x, y, given=((1.0, None, 2.0, -0.5), (None, 1.0, 1.0, 1.0), (3.0, None, None, None))):
    """Values with a graph, and gradients from upstreams of the total and of some of the values, at two orders."""
    terms = [fastgan.term("softplus", weight=0.5), fastgan.term("relu_half", shift=1.0), fastgan.term("abs")]

    def call():
        a, b = (t.detach().requires_grad_() for t in (x, y))
        found = []
        for ups in given:
            total, values = fastgan.reduce_terms(terms, [a, b, (a, b)], return_values=True, with_graph=True)
            pairs = [(o, u) for o, u in zip([total, *values], ups, strict=True) if u is not None]
            outs, given_up = [o for o, _ in pairs], [torch.full_like(o, u) for o, u in pairs]
            found += [o.detach() for o in outs]
            grads = torch.autograd.grad(outs, (a, b), given_up, create_graph=True, allow_unused=True)
            found += [g for g in grads if g is not None]
            found += torch.autograd.grad(sum(g.float().square().sum() for g in grads), (a, b))
        return found

    return call
