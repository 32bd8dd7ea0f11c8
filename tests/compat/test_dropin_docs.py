"""The changes that docs/drop-ins shows parse, import names that exist, and work on the smallest file that they fit."""

import ast
import importlib
import re
import sys
import textwrap
import types

import pytest
import torch
from torch import nn

import fastgan
from bench.baselines import cyclegan as cyclegan_own
from bench.baselines import hifigan as hifigan_own
from fastgan import compat
from tests.helpers import ROOT, prose

PAGES = sorted((ROOT / "docs" / "drop-ins").glob("*.md"))
HEAD = re.compile(r"^@@ (.+) @@$")


class Hunk:
    """A place, the lines to take out and the lines to add."""

    def __init__(self, page, place, lines):
        self.page, self.place = page, place
        self.minus, self.plus = (
            textwrap.dedent("\n".join(line[1:] for line in lines if line[0] == sign)) for sign in "-+"
        )
        self.lines = lines

    def __repr__(self):
        return f"{self.page}: {self.place}"


def hunks(text, page=""):
    """The hunks of a page's diffs."""
    found = []
    for block in re.findall(r"^```diff\n(.*?)^```", text, re.S | re.M):
        parts = []
        for line in block.splitlines():
            head = HEAD.match(line)
            if head:
                parts.append((head[1], []))
            else:
                assert parts, f"{page}: no place above {line!r}"
                assert line[:1] in ("+", "-"), f"{page}: {line!r}"
                parts[-1][1].append(line)
        found += [Hunk(page, *part) for part in parts]
    return found


def unknown(code):
    """The names of fastgan's that a piece of code uses and that do not exist."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fastgan":
            try:
                module = importlib.import_module(node.module)
            except ImportError:
                found.append(node.module)
                continue
            found += [f"{node.module}.{a.name}" for a in node.names if not hasattr(module, a.name)]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "fastgan":
            found += [] if hasattr(fastgan, node.attr) else [f"fastgan.{node.attr}"]
    return found


def patched(code):
    """The arguments of the calls of patch."""
    calls = [n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Call)]
    return [[ast.literal_eval(a) for a in c.args] for c in calls if ast.unparse(c.func) == "fastgan.compat.patch"]


def code_blocks(text):
    """What the pages show to be put into a file: the added lines, and the Python of the lines to change."""
    return [h.plus for h in hunks(text)] + re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)


TEXTS = {page.name: page.read_text() for page in PAGES}
HUNKS = [hunk for name, text in TEXTS.items() for hunk in hunks(text, name)]


def only(page, place):
    """The hunks of a page whose place begins so."""
    found = [h for h in HUNKS if h.page == page and h.place.startswith(place)]
    assert found, (page, place)
    return found


def test_the_pages_are_there():
    names = "index vocoders images tokenisers stylegan classic others recipes"
    assert set(TEXTS) == {f"{name}.md" for name in names.split()}
    assert len(HUNKS) > 40


@pytest.mark.parametrize("hunk", HUNKS, ids=repr)
def test_a_change_parses_and_imports_names_that_exist(hunk):
    assert hunk.plus
    for code in (hunk.plus, hunk.minus):
        ast.parse(code)
    assert unknown(hunk.plus) == []
    for trainer, *_ in patched(hunk.plus):
        assert getattr(compat, trainer).ORIGIN.modules, f"{trainer} cannot be patched"


@pytest.mark.parametrize("name", TEXTS)
def test_python_of_the_lines_to_change(name):
    for code in re.findall(r"^```python\n(.*?)^```", TEXTS[name], re.S | re.M):
        assert unknown(code) == []


@pytest.mark.parametrize("trainer", compat.TRAINERS)
def test_every_module_has_a_change(trainer):
    shown = "\n".join(code for text in TEXTS.values() for code in code_blocks(text))
    imported = rf"from fastgan\.compat\.{trainer} import|from fastgan\.compat import {trainer}\b"
    assert re.search(imported, shown) or re.search(rf'fastgan\.compat\.patch\("{trainer}"', shown)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("from fastgan.compat.hifigan import feature_loss, no_such_loss", ["fastgan.compat.hifigan.no_such_loss"]),
        ("from fastgan.compat.hifi_gan import feature_loss", ["fastgan.compat.hifi_gan"]),
        ("with fastgan.frosted(mpd):\n    mpd(y)", ["fastgan.frosted"]),
        ("from fastgan.compat.hifigan import feature_loss\nfastgan.compat.patch('hifigan')", []),
    ],
)
def test_the_check_sees_a_wrong_name(code, found):
    assert unknown(code) == found


def test_the_parser_sees_a_line_without_a_sign():
    with pytest.raises(AssertionError, match="no place above"):
        hunks("```diff\n+import fastgan\n```\n")
    with pytest.raises(AssertionError, match="loose"):
        hunks("```diff\n@@ train.py @@\nloose\n```\n")


def test_prose():
    assert prose.long_sentences(PAGES) == []


def test_links():
    """Files that are linked exist, and so do the headings, as mkdocs and GitHub name them."""
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
        for path, anchor in re.findall(r"\]\(([^)#\s]*)(#[^)]*)?\)", text):
            if path.startswith("http"):
                continue
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), (page.name, path)
            if anchor:
                heads = re.findall(r"^#+ (.+)$", file.read_text(), re.M)
                slugs = [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in heads]
                assert anchor[1:] in slugs, (page.name, path, anchor)


# ------------------------------------------------------------------------------------ applied


def apply(text, hunk):
    """A file with the change: lines replaced where there are lines to take out, else added at the marker."""
    minus = [line[1:] for line in hunk.lines if line[0] == "-"]
    plus = "".join(f"{line[1:]}\n" for line in hunk.lines if line[0] == "+")
    old = "".join(f"{line}\n" for line in minus) or "# here\n"
    assert text.count(old) == 1
    return text.replace(old, plus)


@pytest.fixture
def load(monkeypatch):
    """Makes a module of source code, loaded as long as the test."""

    def make(name, code="", **names):
        module = types.ModuleType(name)
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, name, module)
        exec(code, vars(module))
        return module

    yield make
    for trainer in list(compat.patched()):
        compat.unpatch(trainer)


NAMES = ("discriminator_loss", "feature_loss", "generator_loss")


class Discriminators(nn.Module):
    """Real and fake logits and maps, as HiFi-GAN's discriminators return them."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 4), nn.Linear(4, 1)

    def forward(self, y, y_hat):
        maps = [torch.tanh(self.first(x)) for x in (y, y_hat)]
        logits = [self.last(m) for m in maps]
        return [logits[0]], [logits[1]], [[maps[0], logits[0]]], [[maps[1], logits[1]]]


@pytest.mark.parametrize("page", ["vocoders.md", "index.md"])
@pytest.mark.parametrize("way", [0, 1])
def test_hifigan_applied(load, page, way):
    """Both ways bind fastgan's functions in the smallest train.py."""
    load("models", **{name: getattr(hifigan_own, name) for name in NAMES})
    below = only(page, "train.py, below the import from utils")
    code = apply("from models import discriminator_loss, feature_loss, generator_loss\n# here\n", below[way])
    train = load("train", code)
    for name in NAMES:
        assert getattr(train, name) is getattr(compat.hifigan, name)


def test_bigvgan_of_an_older_commit(load):
    load("models", **{name: getattr(hifigan_own, name) for name in NAMES})
    assert '`fastgan.compat.patch("bigvgan", "models")`' in TEXTS["vocoders.md"]
    train = load("train", f"from models import {', '.join(NAMES)}")
    compat.patch("bigvgan", "models")
    assert all(getattr(train, name) is getattr(compat.bigvgan, name) for name in NAMES)


STEP = """
import fastgan
def step(mpd, msd, y, y_g_hat):
    if True:
        if True:
"""
LOSSES = """\
            loss = feature_loss(fmap_f_r, fmap_f_g) + feature_loss(fmap_s_r, fmap_s_g)
            (loss + generator_loss(y_df_hat_g)[0] + generator_loss(y_ds_hat_g)[0]).backward()
"""


def test_frozen_applied(load):
    """The generator's gradient stays, bit by bit, and the discriminators get none."""
    (change,) = only("vocoders.md", "train.py, train(), below the mel-spectrogram loss")
    before = STEP + "".join(f"{line[1:]}\n" for line in change.lines if line[0] == "-") + LOSSES
    after = apply(before, change)
    assert "frozen" in after
    torch.manual_seed(0)
    nets, y, fake = [Discriminators(), Discriminators()], torch.randn(5, 8), torch.randn(5, 8)
    found = []
    for code in (before, after):
        names = {name: getattr(compat.hifigan, name) for name in NAMES}
        module = load("step", code, **names)
        for net in nets:
            net.zero_grad()
        y_hat = fake.clone().requires_grad_()
        module.step(*nets, y, y_hat)
        found.append((y_hat.grad, [p.grad is not None for net in nets for p in net.parameters()]))
    assert torch.equal(found[0][0], found[1][0])
    assert all(found[0][1])
    assert not any(found[1][1])


def test_cyclegan_applied(load):
    own = {"GANLoss": cyclegan_own.GANLoss, "cal_gradient_penalty": cyclegan_own.cal_gradient_penalty}
    imported = only("images.md", "models/networks.py, at the end")[0]
    networks = load("models.networks", apply("# here\n", imported), **own)
    assert networks.GANLoss is compat.cyclegan.GANLoss

    networks = load("models.networks", **own)
    load("train", apply("from models.networks import GANLoss\n# here\n", only("images.md", "train.py, below")[0]))
    assert networks.GANLoss is compat.cyclegan.GANLoss
    assert sys.modules["train"].GANLoss is compat.cyclegan.GANLoss
