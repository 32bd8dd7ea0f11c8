"""The README stays short and true, and so do the figures of the pages."""

import inspect
import re

import pytest
import torch
from torch.nn import functional as F

import fastgan
from bench import page
from tests.docs import pages
from tests.helpers import prose

README = pages.ROOT / "README.md"


def test_it_is_short():
    assert len(README.read_text().splitlines()) < 120


def test_sentences_are_short():
    assert prose.long_sentences(pages.PAGES) == []


@pytest.mark.parametrize("path", page.PAGES, ids=pages.name)
def test_figures_are_those_of_the_newest_results(path):
    """`python -m bench page` writes them."""
    text = path.read_text()
    assert "<!-- figures: " in text
    assert page.filled(text) == text


def test_links_lead_somewhere():
    """In the repository: files, and headings of pages."""
    for source in pages.PAGES:
        text = re.sub(r"```.*?```|`[^`]*`", "", source.read_text(), flags=re.S)
        for target, anchor in re.findall(r"\]\(([^)#\s:]*)(?:#([^)\s]+))?\)", text):
            found = (source.parent / target).resolve() if target else source
            assert found.exists(), f"{pages.name(source)}: {target}"
            if anchor:
                assert anchor in anchors(found.read_text()), f"{pages.name(source)}: {target}#{anchor}"


def test_every_public_name_is_in_the_reference():
    text = "".join(path.read_text() for path in (pages.ROOT / "docs" / "reference").glob("*.md"))
    documented = set(re.findall(r"^::: fastgan\.([\w.]+)$", text, re.M))
    functions = {n for n in fastgan.__all__ if not inspect.ismodule(getattr(fastgan, n)) and n != "__version__"}
    modules = {f"nn.{name}" for name in fastgan.nn.__all__}
    adapters = {f"compat.{name}" for name in (*fastgan.compat.TRAINERS, "patch", "unpatch", "patched")}
    assert documented == functions | modules | adapters


def anchors(text):
    """Of headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"`|\[([^\]]*)\]\([^)]*\)", r"\1", h)).strip().lower().replace(" ", "-")
        for h in headings
    }


def test_the_number_of_adapters():
    assert f" {len(fastgan.compat.TRAINERS)} adapters," in README.read_text()


def test_the_lines_to_change_for_each_adapter():
    """As a diff; TF-GAN's vocabulary is no drop-in, and has a block of Python."""
    text = "".join(path.read_text() for path in (pages.ROOT / "docs" / "drop-ins").glob("*.md"))
    added = "\n".join(re.findall(r"^\+.*", "".join(re.findall(r"^```diff\n(.*?)^```", text, re.S | re.M)), re.M))
    ways = r"compat\.(?!patch)(\w+)|compat import (\w+)|patch\(\"(\w+)\""
    found = {name for names in re.findall(ways, added) for name in names}
    assert set(fastgan.compat.TRAINERS) - found == {"tfgan"}


# --- the table "What is exact here and not in PyTorch", row by row, for both sides ---------------------------------


def gradient(value, x):
    return torch.autograd.grad(value, x)[0]


def test_cross_entropy_at_17():
    x = torch.tensor([17.0], requires_grad=True)
    exact = -torch.sigmoid(torch.tensor([-17.0], dtype=torch.float64)).float()
    assert gradient(F.binary_cross_entropy_with_logits(x, torch.ones(1)), x) == 0
    assert torch.equal(gradient(fastgan.generator_loss(x), x), exact)


@pytest.mark.parametrize(("size", "of_pytorch"), [(1e20, torch.isnan), (1e-25, lambda g: g == 0)])
def test_a_penalty_of_large_and_of_small_gradients(size, of_pytorch):
    g = torch.full((2, 8), size, requires_grad=True)
    assert of_pytorch(gradient((g.flatten(1).norm(2, dim=1) - 1).square().mean(), g)).all()
    exact = g.detach().double().requires_grad_()
    want = gradient((exact.square().sum(1).sqrt() - 1).square().mean(), exact)
    torch.testing.assert_close(gradient(fastgan.norm_penalty(g), g), want.float(), rtol=2**-23, atol=0)


def test_a_gradient_of_zeros():
    g = torch.zeros(2, 8, requires_grad=True)
    assert gradient((g.square().sum(1).sqrt() - 1).square().mean(), g).isnan().all()
    assert not gradient(fastgan.norm_penalty(g), g).any()


def test_a_norm_of_three_million_numbers():
    torch.manual_seed(0)
    row = torch.randn(1, 3 * 1024 * 1024).abs()
    exact = row.double().square().sum().sqrt()
    assert abs(row.norm(2, dim=1).double() - exact) > 1e-5 * exact
    assert torch.equal(fastgan.gradient_norm(row), exact.float()[None])


def test_shapes_that_do_not_fit():
    r, f = torch.randn(4, 1), torch.randn(4)
    assert F.softplus(f - r).shape == (4, 4)
    with pytest.raises(ValueError, match="shape"):
        fastgan.discriminator_loss(r, f, relativistic="paired")


def test_another_layout():
    torch.manual_seed(0)
    r, f = torch.randn(2, 257, 129)
    across = torch.empty(129, 257).t()
    assert torch.equal(fastgan.discriminator_loss(across.copy_(r), f), fastgan.discriminator_loss(r, f))
