"""fastgan.compat.patch: what it takes for a trainer's own, in which processes it holds, and what it tells."""

import logging
import os
import random
import subprocess
import sys
import time
import types
import typing

import numpy as np
import pytest
import torch

from fastgan import compat
from fastgan.compat import _probe, _spawned
from tests.helpers import ROOT
from tests.helpers.patching import loaded, own

# Trainers that can be patched, and whose formulas they share.
PEERS = {t: t for t in compat.TRAINERS if getattr(compat, t).ORIGIN.modules}
PEERS |= {"bigvgan": "hifigan", "espnet": "parallelwavegan", "pix2pix": "cyclegan", "cut": "cyclegan"}
# Told apart by their parameters alone, as fastgan/compat/_probe.py says.
UNPROBED = {
    "audiocraft": {"AdversarialLoss", "get_adv_criterion", "get_fake_criterion", "get_real_criterion"},
    "mmagic": {
        "AdvLoss", "DiscShiftLossComps", "GaussianBlur", "GeneratorPathRegularizerComps",
        "GradientPenaltyLossComps", "R1GradientPenaltyComps", "gen_path_regularizer",
    },
    "mmgen": {
        "DiscShiftLoss", "GeneratorPathRegularizer", "GradientPenaltyLoss", "R1GradientPenalty",
        "gen_path_regularizer",
    },
    "monai": {"AdversarialCriterions"},
    "seed_voken": {"calculate_adaptive_weight"},  # a method there, and probed as that
    "taming": {"calculate_adaptive_weight"},
    "torchgan": {
        "DiscriminatorLoss", "GeneratorLoss", "HistoricalAverageDiscriminatorLoss",
        "HistoricalAverageGeneratorLoss", "MutualInformationPenalty", "mutual_information_penalty",
    },
}  # fmt: skip


@pytest.fixture
def modules(monkeypatch):
    """Makes modules that are loaded as long as the test."""
    yield from loaded(monkeypatch)


# ---------------------------------------------------------------------------------- the probe


def names(trainer):
    module = getattr(compat, trainer)
    peer = own(PEERS[trainer])
    return [
        (n, peer[n], getattr(module, n))
        for n in module.__all__
        if callable(peer.get(n)) and callable(getattr(module, n))
    ]


@pytest.mark.parametrize("trainer", PEERS)
def test_k13_the_trainers_own_pass(trainer, monkeypatch):
    """K13: every function and class of tensors is probed, and the trainer's own is taken."""
    run, probed = _probe._run, set()

    def counted(thing, *args):
        found = run(thing, *args)
        probed.add(thing)
        return found

    monkeypatch.setattr(_probe, "_run", counted)
    for name, theirs, ours in names(trainer):
        assert _probe.differences(getattr(compat, trainer), theirs, ours) == [], name
        assert (theirs in probed and ours in probed) == (name not in UNPROBED.get(trainer, ())), name


@pytest.mark.parametrize("trainer", PEERS)
def test_a_module_like_the_trainers_is_patched(trainer, modules):
    """Beside functions and classes it has aliases, annotations that can be called, lists and modules."""
    adapter = getattr(compat, trainer)
    theirs = {name: thing for name, thing in own(PEERS[trainer]).items() if name in adapter.__all__}
    theirs = {name: thing for name, thing in theirs.items() if getattr(thing, "__name__", name) == name}
    annotation = typing.Union[torch.nn.Module, typing.Callable]  # noqa: UP007
    missing = {name: annotation for name in adapter.__all__ if name not in theirs}
    first = next(name for name, thing in theirs.items() if callable(thing))
    others = {"Alias": theirs[first], "Any": typing.Any, "nn": torch.nn, "losses": list(theirs)}
    module = modules(adapter.ORIGIN.modules[0], **(theirs | missing | others))
    replaced = compat.patch(trainer)
    assert f"{module.__name__}.Alias" in replaced or first in adapter.ORIGIN.kept
    for name, thing in theirs.items():
        if callable(thing) and name not in adapter.ORIGIN.kept:
            assert getattr(module, name) is getattr(adapter, name), name
    for name in (*missing, "Any", "nn", "losses"):
        assert getattr(module, name) is (missing | others)[name]


def scaled(function):
    """Return a function of the same parameters whose first result is 2% larger."""

    def call(*args, **kwargs):
        result = function(*args, **kwargs)
        head, *rest = result if isinstance(result, tuple) else [result]
        head = head * 1.02
        return (head, *rest) if isinstance(result, tuple) else head

    return call


@pytest.mark.parametrize(
    ("trainer", "name"),
    [(t, n) for t in PEERS for n, theirs, _ in names(t)
     if not isinstance(theirs, type) and n not in UNPROBED.get(t, ())],
)  # fmt: skip
def test_k13_the_probe_sees_two_percent(trainer, name):
    """K13: a look-alike of any of the functions is told by its value."""
    theirs, ours = own(PEERS[trainer])[name], getattr(getattr(compat, trainer), name)
    (first, *_) = _probe.differences(getattr(compat, trainer), scaled(theirs), ours)
    assert "float32: result 0: " in first
    assert ", fastgan's " in first


def vits():
    """VITS's functions: HiFi-GAN's by name and parameters, on float32, with real maps detached."""
    theirs = own("hifigan")

    def discriminator_loss(disc_real_outputs, disc_generated_outputs):
        both = [[x.float() for x in xs] for xs in (disc_real_outputs, disc_generated_outputs)]
        return theirs["discriminator_loss"](*both)

    def generator_loss(disc_outputs):
        return theirs["generator_loss"]([x.float() for x in disc_outputs])

    def feature_loss(fmap_r, fmap_g):
        reals = [[x.float().detach() for x in xs] for xs in fmap_r]
        return theirs["feature_loss"](reals, [[x.float() for x in xs] for xs in fmap_g])

    return {f.__name__: f for f in (discriminator_loss, feature_loss, generator_loss)}


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("feature_loss", r"float32: gradient of fmap_r: none, where fastgan has one[);]"),
        ("discriminator_loss", r"bfloat16: result 0: dtype torch\.float32, fastgan's torch\.bfloat16"),
        ("generator_loss", r"bfloat16: result 0: dtype torch\.float32, fastgan's torch\.bfloat16"),
    ],
)
def test_k13_vits_is_not_hifigan(modules, name, what):
    """K13: its names and parameters are HiFi-GAN's; each of its three functions gives it away."""
    mixed = own("hifigan") | {name: vits()[name]}
    module = modules("losses", **{n: mixed[n] for n in compat.hifigan.__all__})
    with pytest.raises(
        RuntimeError, match=rf"^losses\.{name}: differs from fastgan's \(in {what}.*not the trainer's"
    ):
        compat.patch("hifigan", "losses")
    assert all(getattr(module, n) is mixed[n] for n in compat.hifigan.__all__)
    assert compat.patched() == {}


def test_k13_all_that_differs_is_told(modules):
    """K13: one error for all of VITS's functions."""
    modules("losses", **vits())
    with pytest.raises(RuntimeError) as raised:
        compat.patch("hifigan", "losses")
    assert all(str(raised.value).count(f"losses.{n}: differs") == 1 for n in compat.hifigan.__all__)


def test_k13_what_raises_is_not_the_trainers(modules):
    """K13: it says what was raised."""

    def loss_hinge_gen(dis_fake):
        return dis_fake["logits"]

    modules("losses", loss_hinge_gen=loss_hinge_gen)
    with pytest.raises(RuntimeError, match=r"differs from fastgan's \(in float32: raises (Index|Type)Error: "):
        compat.patch("biggan")


def test_k13_classes_are_probed_in_each_mode(modules):
    """K13: a GANLoss of CycleGAN's parameters whose lsgan has a factor 1/2 on fake."""

    class GANLoss(own("cyclegan")["GANLoss"]):
        def __call__(self, prediction, target_is_real):
            loss = super().__call__(prediction, target_is_real)
            return loss if target_is_real or self.gan_mode != "lsgan" else loss / 2

    modules("models.networks", GANLoss=GANLoss)
    with pytest.raises(
        RuntimeError, match=r"forward in float32, gan_mode='lsgan', target_is_real=False: result 0: "
    ):
        compat.patch("cyclegan")


def test_k13_the_probe_leaves_no_trace():
    """K13: generators, modes and the default dtype stay; the default device does not matter; it takes milliseconds."""
    theirs, ours = own("cyclegan")["cal_gradient_penalty"], compat.cyclegan.cal_gradient_penalty

    def state():
        return (
            torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist(),
            torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"),
        )  # fmt: skip

    def draws(*args, **kwargs):
        random.random(), np.random.rand()
        return theirs(*args, **kwargs)

    torch.manual_seed(123)
    before = state()
    with torch.no_grad(), torch.device("meta"), torch.autocast("cpu", dtype=torch.bfloat16):
        assert _probe.differences(compat.cyclegan, draws, ours) == []
        assert _probe.differences(compat.cyclegan, scaled(theirs), ours) != []
        (first, *_) = _probe.differences(compat.hifigan, vits()["feature_loss"], compat.hifigan.feature_loss)
        assert "gradient of fmap_r: none" in first
        own_hinge = own("biggan")["loss_hinge_gen"]
        assert _probe.differences(compat.biggan, own_hinge, compat.biggan.loss_hinge_gen) == []
    torch.set_default_dtype(torch.float64)
    try:
        assert _probe.differences(compat.cyclegan, own("cyclegan")["GANLoss"], compat.cyclegan.GANLoss) == []
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert state() == before
    start = time.perf_counter()
    _probe.differences(compat.cyclegan, theirs, ours)
    assert time.perf_counter() - start < 0.5  # some 5 ms, on a machine that does other things


def adaptive(factor):
    weigh = own("taming")["calculate_adaptive_weight"]

    class Loss:
        discriminator_weight = 0.5

        def calculate_adaptive_weight(self, nll_loss, g_loss, last_layer):
            return factor(self) * weigh(nll_loss, g_loss, last_layer, 1.0)

    return Loss


def test_k13_llamagens_weight_is_replaced(modules):
    """K13: its class is VQLoss, and its method has no factor; a third kind is refused."""
    module = modules("tokenizer.tokenizer_image.vq_loss", VQLoss=adaptive(lambda self: 1.0))
    assert compat.patch("taming") == [f"{module.__name__}.VQLoss.calculate_adaptive_weight"]
    layer = torch.ones(4, requires_grad=True)
    weight = module.VQLoss().calculate_adaptive_weight((layer * 3).sum(), (layer * 2).sum(), last_layer=layer)
    torch.testing.assert_close(weight, torch.tensor(6 / (4 + 1e-4)))
    compat.unpatch("taming")
    module = modules("my_loss", VQLoss=adaptive(lambda self: self.discriminator_weight**2))
    with pytest.raises(RuntimeError, match=r"^my_loss\.VQLoss\.calculate_adaptive_weight: differs from fastgan's"):
        compat.patch("taming", "my_loss")
    module = modules("my_loss", VQLoss=adaptive(lambda self: self.discriminator_weight))
    compat.patch("taming", "my_loss")
    torch.testing.assert_close(
        module.VQLoss().calculate_adaptive_weight((layer * 3).sum(), (layer * 2).sum(), layer), weight / 2
    )


def test_relatives_that_import_the_functions_are_patched_too(modules):
    """LDM's loss imports VQGAN's functions, and has a copy of its method: what fits is replaced, the rest is named."""
    functions = {name: own("taming")[name] for name in ("hinge_d_loss", "vanilla_d_loss")}
    modules("taming.modules.losses.vqperceptual", VQLPIPSWithDiscriminator=adaptive(weighted), **functions)
    user = modules("my.contperceptual", LPIPSWithDiscriminator=adaptive(weighted), **functions)
    other = modules("my.other", Squared=adaptive(lambda self: self.discriminator_weight**2), **functions)
    left = other.Squared.calculate_adaptive_weight
    with pytest.warns(
        UserWarning, match=r"^my\.other\.Squared\.calculate_adaptive_weight: differs.*stays as it is"
    ):
        replaced = compat.patch("taming")
    assert "my.contperceptual.LPIPSWithDiscriminator.calculate_adaptive_weight" in replaced
    assert "my.other.hinge_d_loss" in replaced
    assert other.Squared.calculate_adaptive_weight is left
    compat.unpatch("taming")
    assert user.LPIPSWithDiscriminator.calculate_adaptive_weight.__module__ == __name__


def weighted(self):
    return self.discriminator_weight


WORKERS = ["CrossEntropyLoss", "ConditionalContrastiveLoss", "Data2DataCrossEntropyLoss", "adjust_k"]
WORKERS += ["latent_optimise", "normal_nll_loss", "MiConditionalContrastiveLoss", "enable_allreduce"]


def test_k13_studiogans_line_has_all_names(modules):
    """K13: its worker takes names from the module that hold no loss of fastgan's; those are StudioGAN's own."""
    from fastgan.compat import studiogan as losses

    with pytest.raises(AttributeError, match=r"no attribute 'adjust_k', and neither has StudioGAN's utils.losses"):
        losses.adjust_k  # noqa: B018
    package = modules("utils")
    theirs = {name: object() for name in [*WORKERS, "d_hinge"]}
    package.losses = modules("utils.losses", **theirs)
    assert all(getattr(losses, name) is theirs[name] for name in WORKERS)
    assert losses.d_hinge is not theirs["d_hinge"]
    for name in ("_d_hinge", "no_such_loss"):
        with pytest.raises(AttributeError, match=f"no attribute '{name}'"):
            getattr(losses, name)


# ---------------------------------------------------------------------------------- once more, and what is told


def test_k13_a_second_call_is_no_error(modules, caplog):
    """K13: BasicSR loads its training script twice, and so does a notebook's cell; a new binding is replaced too."""
    module = modules("losses", **{n: own("biggan")[n] for n in ("loss_hinge_dis", "loss_hinge_gen")})
    with caplog.at_level(logging.INFO, logger="fastgan"):
        first = compat.patch("biggan")
        assert compat.patch("biggan") == first == ["losses.loss_hinge_dis", "losses.loss_hinge_gen"]
    assert [r.getMessage() for r in caplog.records] == [
        f"patched biggan in process {os.getpid()}: losses.loss_hinge_dis, losses.loss_hinge_gen"
    ] * 2
    again = own("biggan")["loss_hinge_gen"]
    module.loss_hinge_gen = again  # the cell is run again
    assert compat.patched() == {"biggan": first[:1]}
    assert compat.patch("biggan") == first
    assert module.loss_hinge_gen is compat.biggan.loss_hinge_gen
    compat.unpatch("biggan")
    assert module.loss_hinge_gen is again
    assert compat.patched() == {}


def test_k13_a_second_call_that_fails_keeps_the_first(modules):
    """K13: what the first call replaced stays, and a module that has none of the names is no success."""
    modules("losses", loss_hinge_gen=own("biggan")["loss_hinge_gen"])
    first = compat.patch("biggan")
    modules("others", loss_hinge_dis=own("biggan")["loss_hinge_dis"], loss_hinge_gen=lambda x: x)
    sys.modules["others"].loss_hinge_gen.__name__ = "loss_hinge_gen"
    with pytest.raises(RuntimeError, match=r"others\.loss_hinge_gen: takes \(x\)"):
        compat.patch("biggan", "others")
    modules("others", something=1)
    with pytest.raises(RuntimeError, match=r"none of its losses in others \(patched: biggan\)"):
        compat.patch("biggan", "others")
    assert compat.patched() == {"biggan": first}


def test_k13_registries_are_told(modules):
    """K13: `patched` names a registry's entries, too."""
    GANLoss = type("GANLoss", (own("basicsr")["GANLoss"],), {})
    modules("basicsr.losses.gan_loss", GANLoss=GANLoss)
    modules("basicsr.utils.registry", LOSS_REGISTRY=types.SimpleNamespace(_obj_map={"GANLoss": GANLoss}))
    compat.patch("basicsr")
    assert compat.patched() == {
        "basicsr": ["basicsr.utils.registry.LOSS_REGISTRY['GANLoss']", "basicsr.losses.gan_loss.GANLoss"]
    }


# ---------------------------------------------------------------------------------- processes

TRAINER = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stdout)
import multiprocessing
import torch
from models import Generator, discriminator_loss, feature_loss, generator_loss
import fastgan
{top}

def train(rank):
    {first}
    x = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([x])
    for _ in range(2):
        generator_loss([x])[0].backward()
        optimizer.step()
    print("CHILD", generator_loss.__module__, flush=True)

if __name__ == "__main__":
    {guard}
    {start}
"""
GUARD = 'fastgan.compat.patch("hifigan")'
SPAWN = {
    "multiprocessing": (
        'p = multiprocessing.get_context("{method}").Process(target=train, args=(0,)); p.start(); p.join();'
        " assert p.exitcode == 0"
    ),
    "torch": 'torch.multiprocessing.start_processes(train, nprocs=1, start_method="{method}")',
}


def ran(tmp_path, start, top="", guard="", first="pass"):
    """Run a script like HiFi-GAN's train.py; return what it wrote."""
    source = (ROOT / "bench" / "baselines" / "hifigan.py").read_text() + "\n\nclass Generator: ...\n"
    (tmp_path / "models.py").write_text(source)
    script = tmp_path / "train.py"
    script.write_text(TRAINER.format(start=start, top=top, guard=guard or "pass", first=first))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("how", SPAWN)
def test_k13_a_patch_under_main_is_lost_with_a_word(tmp_path, how):
    """K13: HiFi-GAN, BigVGAN, R3GAN and VITS spawn; the child says at its first step that it is not patched."""
    out = ran(tmp_path, SPAWN[how].format(method="spawn"), guard=GUARD)
    assert "CHILD models" in out
    assert out.count("INFO patched hifigan in process") == 1  # the parent
    (line,) = [x for x in out.splitlines() if x.startswith("WARNING")]
    assert "trains with the trainer's own losses" in line
    assert "has called fastgan.compat.patch('hifigan'), and this one has not" in line
    assert "to the top level of the script, after its imports (docs/drop-ins/index.md)" in line


@pytest.mark.parametrize("how", SPAWN)
def test_k13_a_patch_at_the_top_holds_in_children(tmp_path, how):
    """K13: no warning, and a line in each process's log."""
    out = ran(tmp_path, SPAWN[how].format(method="spawn"), top=GUARD)
    assert "CHILD fastgan.compat.hifigan" in out
    assert "WARNING" not in out
    assert out.count("INFO patched hifigan in process") == 2


def test_k13_a_patch_in_the_child_holds(tmp_path):
    """K13: also after one in the parent, and by the function that the child runs."""
    first = "global generator_loss; import models; " + GUARD + "; generator_loss = models.generator_loss"
    out = ran(tmp_path, SPAWN["multiprocessing"].format(method="spawn"), guard=GUARD, first=first)
    assert "CHILD fastgan.compat.hifigan" in out
    assert "WARNING" not in out


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_k13_a_fork_inherits_the_patch(tmp_path):
    """K13: nothing is said."""
    out = ran(tmp_path, SPAWN["torch"].format(method="fork"), guard=GUARD)
    assert "CHILD fastgan.compat.hifigan" in out
    assert "WARNING" not in out


def test_k13_loaders_of_data_say_nothing(tmp_path):
    """K13: a DataLoader's spawned workers compute no losses."""
    start = (
        "print([x.item() for x in torch.utils.data.DataLoader(list(range(2)), num_workers=1,"
        ' multiprocessing_context="spawn")]); train(0)'
    )
    out = ran(tmp_path, start, guard=GUARD)
    assert "[0, 1]" in out
    assert "WARNING" not in out


def test_k13_a_part_that_is_lost(monkeypatch, caplog):
    """K13: of two trainers the one that is missing is named; a stranger's child and an unpatched parent's are quiet."""
    monkeypatch.setattr(_spawned.multiprocessing, "parent_process", lambda: types.SimpleNamespace(pid=12))
    for inherited, patched, said in [
        (["12", "hifigan", "biggan"], ["biggan"], ["patch('hifigan')"]),
        (["12", "hifigan"], ["hifigan"], []),
        (["13", "hifigan"], [], []),
    ]:
        monkeypatch.setattr(_spawned, "_INHERITED", inherited)
        caplog.clear()
        _spawned._check(patched)
        assert len(caplog.records) == len(said)
        assert all(word in r.getMessage() for word, r in zip(said, caplog.records, strict=True))
        assert "biggan" not in caplog.text


def test_k13_unpatching_is_told_to_children(modules, monkeypatch):
    """K13: the mark in the environment is that of what is patched now."""
    monkeypatch.delenv(_spawned._MARK, raising=False)
    modules("losses", loss_hinge_gen=own("biggan")["loss_hinge_gen"])
    compat.patch("biggan")
    assert os.environ[_spawned._MARK] == f"{os.getpid()} biggan"
    compat.unpatch("biggan")
    assert _spawned._MARK not in os.environ
