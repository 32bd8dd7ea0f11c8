"""Whole steps of the zoo's discriminators: as one writes them in PyTorch, and the same of fastgan.

The only place with baselines of whole steps. What is compiled is compiled for each case with an empty cache.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from textwrap import fill
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import fastgan
from bench import report, zoo
from bench.harness import Row, Run, Suite, at_least
from bench.zoo import ZOO, Case
from fastgan.nn import GradientPenalty

WEIGHT = 10.0
PARTS = (1.0, 0.5, 0.25)
ENGINES: dict[str, dict[str, Any]] = {
    "unpruned": {"prune": False},
    "pruned": {},
    "compiled": {"engine": "compiled"},
}
# What width and size are divided by on a CPU, where these take ten times as long as the others.
SMALLER = {"residual": (2, 2), "attention": (1, 2), "autocast": (2, 2)}
# How far gradients may be off, relative to their norms. A GPU's convolutions round to ten bits by default.
CLOSE = {"cpu": 1e-3, "cuda": 2e-2}
CLOSE_AUTOCAST = 0.1
# PyTorch's double backward of batch norm in float32 is itself some thousandths off float64's; a graph is not.
LOOSER = {"batch norm": 10}


class Made(NamedTuple):
    """A case on a device, and what its steps work on."""

    name: str
    case: Case
    width: int
    size: int
    device: str
    real: Tensor
    fake: Tensor
    eps: Tensor
    args: tuple[Any, ...]

    def net(self) -> nn.Module:
        """The discriminator, with the same weights each time."""
        return zoo.built(self.case, self.width, self.size).to(self.device)


# The cases of the table of whole steps.
STEPS = "conv", "residual", "spectral norm", "batch norm", "vocoder", "projection", "attention"
STEPS += "layer norm", "smooth", "mlp"
Value = Callable[[nn.Module, Made], Tensor]
Work = Callable[[], Tensor]


def make(name: str, width: int, size: int, batch: int, device: str) -> Made:
    """The same for each contender."""
    by = SMALLER.get(name, (1, 1)) if device == "cpu" else (1, 1)
    width, size = max(8, width // by[0]), max(16, size // by[1])
    case = ZOO[name]
    real, fake, args = zoo.samples(case, batch, size)
    eps = torch.rand(batch, generator=torch.Generator().manual_seed(1))
    real, fake, eps = (t.to(device) for t in (real, fake, eps))
    args = tuple([a.to(device) for a in args])
    return Made(name, case, width, size, device, real, fake, eps, args)


# --- the usual recipes ----------------------------------------------------------------------------------


def twice(m: Made) -> AbstractContextManager[Any]:
    """What makes attention differentiable twice."""
    return sdpa_kernel(SDPBackend.MATH) if m.name == "attention" else nullcontext()


def input_gradient(out: Any, x: Tensor) -> Tensor:
    """The gradient of all outputs' sum."""
    outputs = list(out.values()) if isinstance(out, dict) else out if isinstance(out, list) else [out]
    (g,) = torch.autograd.grad(outputs, x, [torch.ones_like(o) for o in outputs], create_graph=True)
    return g


def recipe_penalty(net: nn.Module, m: Made) -> Tensor:
    """WGAN-GP's penalty, as in most trainers."""
    e = m.eps.view(-1, *[1] * (m.real.dim() - 1))
    x = (e * m.real + (1 - e) * m.fake).requires_grad_()
    with twice(m):
        g = input_gradient(net(x, *m.args), x)
    return WEIGHT * ((g.reshape(g.size(0), -1).norm(2, dim=1) - 1) ** 2).mean()


def r1(g: Tensor) -> Tensor:
    """R1 given the gradient, as in most trainers."""
    return WEIGHT / 2 * g.pow(2).reshape(g.size(0), -1).sum(1).mean()


def recipe_r1(net: nn.Module, m: Made, part: float = 1.0) -> Tensor:
    """R1 by a forward of its own, on the first samples."""
    count = max(1, round(part * len(m.real)))
    x = m.real[:count].detach().requires_grad_()
    with twice(m):
        return r1(input_gradient(net(x, *[a[:count] for a in m.args]), x))


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's hinge loss."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def recipe_loss(net: nn.Module, m: Made) -> Tensor:
    """The loss alone."""
    return hinge(net(m.real, *m.args), net(m.fake, *m.args))


def recipe_step(net: nn.Module, m: Made) -> Tensor:
    """Loss and R1, each by forwards of its own."""
    return recipe_loss(net, m) + recipe_r1(net, m)


def shared_step(net: nn.Module, m: Made) -> Tensor:
    """Loss and R1, as some trainers have it: R1 by the loss's forward on real."""
    x = m.real.detach().requires_grad_()
    with twice(m):
        out = net(x, *m.args)
        loss = hinge(out, net(m.fake, *m.args))
        return loss + r1(input_gradient(out, x))


def forward(net: nn.Module, m: Made) -> Tensor:
    """A forward, of which nothing is kept."""
    with torch.no_grad():
        return net(m.real, *m.args)


# --- fastgan --------------------------------------------------------------------------------------------


def our_penalty(engine: str) -> Value:
    """`gradient_penalty`."""

    def value(net: nn.Module, m: Made) -> Tensor:
        return fastgan.gradient_penalty(net, m.real, m.fake, *m.args, eps=m.eps, weight=WEIGHT, **ENGINES[engine])

    return value


def our_part(engine: str, part: float) -> Value:
    """The lazy module's R1, on a part of the batch."""
    penalty = GradientPenalty("r1", weight=WEIGHT, part=part, **ENGINES[engine])
    return lambda net, m: penalty(net, m.real, None, *m.args)


def separate_step(net: nn.Module, m: Made) -> Tensor:
    """Loss and R1, each by forwards of its own."""
    loss = fastgan.discriminator_loss(net(m.real, *m.args), net(m.fake, *m.args), "hinge")
    return loss + fastgan.r1_penalty(net, m.real, *m.args, weight=WEIGHT)


def our_step(engine: str) -> Value:
    """`discriminator_step`."""
    penalty = GradientPenalty("r1", weight=WEIGHT)

    def value(net: nn.Module, m: Made) -> Tensor:
        step = fastgan.discriminator_step(
            net, m.real, m.fake, *m.args, loss="hinge", penalty=penalty, **ENGINES[engine]
        )
        return step.total

    return value


# --- in a compiled function of the caller's -----------------------------------------------------------------


class InOneGraph:
    """A contender's value and its backward in one compiled function, which needs torch 2.11.

    A recipe so is what one can have without fastgan, by the same switch of Dynamo's.
    """

    def __init__(self, value: Value) -> None:
        self.value = value
        self.step: Any = None

    def __call__(self, net: nn.Module, m: Made) -> Tensor:
        """Return the value; the gradients are there."""
        if self.step is None:
            self.step = torch.compile(self.whole, fullgraph=True)
        with fastgan.compiling():
            return self.step(net, m)

    def whole(self, net: nn.Module, m: Made) -> Tensor:
        """What is compiled."""
        value = self.value(net, m)
        value.backward()
        return value.detach()


# --- tables ---------------------------------------------------------------------------------------------


class Table(NamedTuple):
    """What is timed for each of these cases.

    Attributes:
        values: the contenders, each a function of a discriminator and a case's samples.
        like: whose value and gradients a contender's are to be.
        base: whose time the others' are compared with.
        names: the zoo's cases.
    """

    values: dict[str, Value]
    like: dict[str, str]
    base: str
    names: tuple[str, ...]


_BY_PARTS = {f"{engine} {part:g}": our_part(engine, part) for engine in ("pruned", "compiled") for part in PARTS}
TABLES = {
    "penalty": Table(
        {"recipe": recipe_penalty, "recipe in a graph": InOneGraph(recipe_penalty)}
        | {engine: our_penalty(engine) for engine in ENGINES}
        | {"in a graph": InOneGraph(our_penalty("pruned"))},
        dict.fromkeys(["recipe in a graph", *ENGINES, "in a graph"], "recipe"),
        "recipe",
        tuple(ZOO),
    ),
    "step": Table(
        {"recipe": recipe_step, "shared": shared_step, "separate": separate_step}
        | {"shared in a graph": InOneGraph(shared_step), "one call": our_step("pruned")}
        | {"compiled": our_step("compiled"), "in a graph": InOneGraph(our_step("pruned"))},
        # Spectral norm and batch statistics move at each forward, of which there are fewer in one call.
        {
            "separate": "recipe",
            **dict.fromkeys(["shared in a graph", "one call", "compiled", "in a graph"], "shared"),
        },
        "recipe",
        STEPS,
    ),
    "forwards": Table(
        {"forward": forward, "loss": recipe_loss}
        | {f"recipe {part:g}": partial(recipe_r1, part=part) for part in PARTS}
        | _BY_PARTS,
        {name: f"recipe {name.split()[1]}" for name in _BY_PARTS},
        "forward",
        ("conv", "residual"),
    ),
}


# --- steps ----------------------------------------------------------------------------------------------


def settings(net: nn.Module, m: Made) -> ExitStack:
    """What a trainer would set for this discriminator."""
    stack = ExitStack()
    if m.case.autocast is not None:
        stack.enter_context(torch.autocast(m.device, m.case.autocast))
    if m.device == "cuda" and any(isinstance(module, nn.RNNBase) for module in net.modules()):
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))  # cuDNN's have no second derivative
    return stack


def work(value: Value, net: nn.Module, m: Made) -> Work:
    """One step of a contender, from samples to the parameters' gradients: what is timed."""

    def step() -> Tensor:
        net.zero_grad(set_to_none=True)
        with settings(net, m):
            result = value(net, m)
        if result.requires_grad:
            result.backward()
        if m.device == "cuda":
            torch.cuda.synchronize()
        return result.detach()

    return step


def compiles(name: str) -> bool:
    """Whether a contender is compiled."""
    return name.startswith("compiled") or name.endswith("in a graph")


def settle(net: nn.Module, step: Work) -> str | None:
    """Calls a compiled step, and returns why it does not run as a graph, if it does not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a refusal is told of in the report
        try:
            step()
        except Exception as error:  # of a caller's own graph
            return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return fastgan.compile_info(net).refused


def outcome(net: nn.Module, step: Work, state: dict[str, Tensor]) -> dict[str, Tensor | None]:
    """A step's value and gradients, beginning with these parameters and buffers."""
    net.load_state_dict(state)
    torch.manual_seed(0)  # dropout's masks
    return {"its value": step(), **{name: p.grad for name, p in net.named_parameters()}}


def check(table: Table, m: Made, nets: dict[str, nn.Module], works: dict[str, Work]) -> None:
    """Raises unless the contenders compute what their baselines do."""
    state = m.net().state_dict()
    wanted = {name: outcome(nets[name], works[name], state) for name in set(table.like.values())}
    close = (CLOSE[m.device] if m.case.autocast is None else CLOSE_AUTOCAST) * LOOSER.get(m.name, 1)
    for name in [n for n in table.like if n in works]:
        want = wanted[table.like[name]]
        norms = {key: float(w.double().norm()) for key, w in want.items() if w is not None}
        largest = max(norm for key, norm in norms.items() if key != "its value")
        for key, got in outcome(nets[name], works[name], state).items():
            w = want[key]
            if (got is None) is not (w is None):
                raise AssertionError(f"{m.name}, {name}: {key} is None for it or for {table.like[name]} only")
            if got is None or w is None:
                continue
            error = float((got.double() - w.double()).norm())
            # What is zero but for rounding, as of a bias before batch norm, is that of the largest.
            most = close * norms[key] + (0 if key == "its value" else 0.1 * close * largest)
            if not error <= most:
                like = table.like[name]
                raise AssertionError(f"{m.name}, {name}: {key} is {error:.2g} away from {like}'s, not {most:.2g}")


# --- time and memory --------------------------------------------------------------------------------------

ROUNDS = 24
INTERVALS = (1, 4, 16)
AIMS = {"pruned": 1.3, "compiled": 1.5}
NOISE = 0.03  # slower by less than this is not told from level


def peak(net: nn.Module, step: Callable[[], Any], device: str) -> float:
    """MiB by which a step's allocations exceed at their peak what there was before it."""
    net.zero_grad(set_to_none=True)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)
    kinds = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=kinds, profile_memory=True) as profile:
        step()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    taken = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        taken += event.nbytes()
        most = max(most, taken)
    return round(most / 2**20, 1)


@contextmanager
def nothing_compiled() -> Iterator[None]:
    """An empty cache, so that a contender's seconds are those of its first run on a machine."""
    from torch._inductor.utils import fresh_cache

    with fresh_cache():
        yield


class Contenders(NamedTuple):
    """The discriminators, the steps, how long they took to compile, and which of them do not and why."""

    nets: dict[str, nn.Module]
    works: dict[str, Work]
    seconds: dict[str, float]
    refused: dict[str, str]


def contenders(table: Table, m: Made, compiled: bool) -> Contenders:
    """Return them; each is compiled with an empty cache."""
    names = [name for name in table.values if compiled or not compiles(name)]
    nets = {name: m.net() for name in names}
    found = Contenders(nets, {name: work(table.values[name], nets[name], m) for name in names}, {}, {})
    for name in [n for n in names if compiles(n)]:
        with nothing_compiled():
            start = perf_counter()
            why = settle(nets[name], found.works[name])
            found.seconds[name] = round(perf_counter() - start, 1)
        if why is not None:
            found.refused[name] = why
            del found.works[name]
    return found


def measure_table(run: Run, name: str, title: str) -> Row:
    """A case's row in one of the tables."""
    options, table = run.options, TABLES[title]
    m = make(name, options.width, options.size, options.batch, run.device)
    nets, works, seconds, refused = contenders(table, m, run.compiled)
    check(table, m, nets, works)
    works[table.base]()
    start = perf_counter()
    works[table.base]()
    took = perf_counter() - start
    rounds, steps = (3, 1) if run.quick else (ROUNDS, max(1, int(0.02 / took)))
    row = run.measure(works, table.base, rounds, steps)
    infos = {n: fastgan.compile_info(nets[n]) for n in works if n.startswith("compiled")}
    for n, info in infos.items():
        if info.graphs != 1 or info.refused:
            refused[n] = info.refused or f"{info.graphs} graphs where one was expected"
            del row["seconds"][n]
    facts = {
        "table": title,
        "case": name,
        "aim": m.case.aim,
        "width": m.width,
        "size": m.size,
        "batch": options.batch,
    }
    facts |= {"refused": refused, "compile seconds": seconds}
    if title == "penalty":
        facts["MiB"] = {n: peak(nets[n], works[n], run.device) for n in row["seconds"]}
    return facts | row


def measure(run: Run, name: str) -> Iterator[Row]:
    """A case's row in each table; one that is wrong does not make the others' compiling vain."""
    for title in [t for t in run.options.tables if name in TABLES[t].names]:
        if run.compiled:
            torch._dynamo.reset()
        try:
            yield measure_table(run, name, title)
        except AssertionError as error:
            yield {"wrong": f"{HEADINGS[title]}: {error}"}


# --- what is written --------------------------------------------------------------------------------------


def milliseconds(row: Row, name: str) -> str:
    """A contender's minimum, or that it was refused."""
    if name in row["refused"]:
        return "refused"
    return f"{row['minimum'][name] * 1e3:.3g}" if name in row["minimum"] else ""


def ratios(row: Row, name: str) -> list[str]:
    """Of minima and of medians."""
    return [f"{row[key][name]:.2f}" if name in row[key] else "" for key in ("ratio", "ratio, median")]


def title_of(row: Row) -> list[str]:
    """A row's first cells."""
    return [report.marked(row, row["case"]), f"{row['width']}, {row['size']}, {row['batch']}"]


def penalty_table(rows: list[Row]) -> str:
    """Times, ratios and seconds of compiling."""
    names = list(TABLES["penalty"].values)
    ours = [n for n in names if n != "recipe"]
    head = ["case", "width, size, batch", "aim", *(f"{n} ms" for n in names)]
    head += [cell for n in ours for cell in (f"recipe/{n}", "(median)")]
    head += [f"{n}: compiling s" for n in names if compiles(n)]
    lines = []
    for row in rows:
        cells = [*title_of(row), "yes" if row["aim"] else "", *(milliseconds(row, n) for n in names)]
        cells += [cell for n in ours for cell in ratios(row, n)]
        cells += [f"{row['compile seconds'].get(n, '')}" for n in names if compiles(n)]
        lines.append(cells)
    return report.table(head, lines)


def memory_table(rows: list[Row]) -> str:
    """Peaks in MiB."""
    names = list(TABLES["penalty"].values)
    lines = [[row["case"], *(f"{row['MiB'][n]:.1f}" if n in row["MiB"] else "" for n in names)] for row in rows]
    return report.table(["case", *(f"{n} MiB" for n in names)], lines)


def step_table(rows: list[Row]) -> str:
    """Times and ratios."""
    names = list(TABLES["step"].values)
    others = [n for n in names if n != "recipe"]
    head = ["case", "width, size, batch", *(f"{n} ms" for n in names)]
    head += [cell for n in others for cell in (f"recipe/{n}", "(median)")]
    lines = [
        [*title_of(row), *(milliseconds(row, n) for n in names), *(c for n in others for c in ratios(row, n))]
        for row in rows
    ]
    return report.table(head, lines)


def forwards_table(rows: list[Row]) -> str:
    """What penalties cost, in forwards; at an interval of k, a k-th of it for each step."""
    head = ["case", "width, size, batch", "what", "part", "ms", *(f"forwards, every {k}" for k in INTERVALS)]
    lines = []
    for row in rows:
        for name in [n for n in TABLES["forwards"].values if n in row["minimum"] or n in row["refused"]]:
            engine, _, part = name.partition(" ")
            cells = [*title_of(row), engine if part == "" else f"R1, {engine}", part, milliseconds(row, name)]
            intervals = () if name in row["refused"] else INTERVALS if part else (1,)
            cells += [f"{1 / row['ratio'][name] / k:.2f}" for k in intervals]
            lines.append(cells + [""] * (len(head) - len(cells)))
    return report.table(head, lines)


def verdict(rows: list[Row], name: str, aim: float) -> list[str]:
    """Where a contender meets its aim, and where it is slower than the recipe, in minimum and median."""
    wanted = [row for row in rows if row["aim"]]
    short = [row for row in wanted if row["ratio"].get(name, 0) < aim]
    slower = [
        row
        for row in rows
        if name in row["ratio"] and max(row["ratio"][name], row["ratio, median"][name]) < 1 - NOISE
    ]
    told = [
        ", ".join(f"{r['case']} ({ratios(r, name)[0] or 'refused'})" for r in found) for found in (short, slower)
    ]
    met = f"{len(wanted) - len(short)} of {len(wanted)} cases" + (f"; not {told[0]}" if short else "")
    return [
        f"- {name}, {aim:g} times as fast as the recipe where that is the aim: {met}",
        f"- {name}, slower than the recipe by more than {NOISE:.0%}: {told[1] or 'no case'}",
    ]


def verdicts(rows: list[Row]) -> str:
    """Which aims are met."""
    timed = [n for n in AIMS if any(n in row["ratio"] or n in row["refused"] for row in rows)]
    return "\n".join(["Aims:", "", *(line for n in timed for line in verdict(rows, n, AIMS[n]))])


NOTES = {
    "penalty": "WGAN-GP's penalty from samples to the parameters' gradients. recipe: plain PyTorch as in most"
    " trainers; unpruned: fastgan with prune=False; pruned: fastgan's default; compiled: engine='compiled'. In a"
    " graph: with its backward in one function under torch.compile, the recipe's and ours. compiling: the first"
    " step, with an empty cache.",
    "step": "Hinge loss and R1 on real. recipe: three forwards; shared: the recipe with R1 by the loss's forward on"
    " real, as some trainers have it; separate: fastgan's discriminator_loss and r1_penalty; one call:"
    " discriminator_step; compiled: that with engine='compiled'. In a graph: with its backward in one function"
    " under torch.compile.",
    "forwards": "In forwards of the discriminator in training mode, without a graph. loss: two forwards and the"
    " backward of the hinge loss. recipe: R1 as in most trainers; pruned, compiled: by fastgan.nn.GradientPenalty."
    " Every 4 or 16: divided by that interval.",
}
HEADINGS = {
    "penalty": "A whole penalty step",
    "step": "A whole discriminator step with R1",
    "forwards": "What a penalty costs",
}
MEMORY = (
    "How far the same steps' allocations exceed at their peak what there was before, gradients included (on a CPU"
    " without what oneDNN takes for itself)."
)
WRITERS = {"penalty": penalty_table, "step": step_table, "forwards": forwards_table}


def sections(result: Row) -> list[str]:
    """The tables."""
    text = []
    for title, write in WRITERS.items():
        mine = [row for row in result["rows"] if row["table"] == title]
        if mine:
            text += [f"## {HEADINGS[title]}", NOTES[title], write(mine)]
            why = [f"- {r['case']}, {n}: not compiled: {w}" for r in mine for n, w in r["refused"].items()]
            text += ["\n".join(why)] if why else []
            if title == "penalty":
                text += [verdicts(mine), "## Its peak memory", MEMORY, memory_table(mine)]
    return text


def figure(row: Row) -> str:
    """A row in short."""
    times = " ".join(f"{name} {value * 1e3:.3g}" for name, value in row["median"].items())
    return f"{row['table']}, {row['case']}: ms {times}"


COLOURS = {"unpruned": "#1b5fa8", "pruned": "#7fb2e0", "compiled": "#c4561a"}
LABELS = {
    "unpruned": "fastgan, prune=False",
    "pruned": "fastgan",
    "compiled": "fastgan, engine='compiled'",
}

WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}  # behind numbers, where a line would cross them


def draw_bars(axes: Any, rows: list[Row]) -> None:
    """A group of bars for each case."""
    names = [n for n in COLOURS if any(n in row["ratio"] for row in rows)]
    for j, name in enumerate(names):
        there = [(k, 1 / row["ratio"][name]) for k, row in enumerate(rows) if name in row["ratio"]]
        places = [k + 0.27 * (j - (len(names) - 1) / 2) for k, _ in there]
        bars = axes.bar(places, [v for _, v in there], 0.26, color=COLOURS[name], label=LABELS[name])
        axes.bar_label(bars, [f"{v:.2f}" for _, v in there], fontsize=6.5, padding=2, rotation=90, bbox=WHITE)
    axes.axhline(1, color="#333333", lw=1)
    for aim in [AIMS[n] for n in names if n in AIMS]:
        axes.axhline(1 / aim, color="#333333", lw=1.2, ls=":")
        axes.text(len(rows) - 0.38, 1 / aim, f"1/{aim:g}", fontsize=8, va="center")
    axes.set_xticks(range(len(rows)), [fill(r["case"] + "†" * r["aim"], 11) for r in rows], fontsize=8)
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.set_ylim(
        0, 1.32 * max(1.0, *(1 / v for row in rows for v in row["ratio"].values()))
    )  # room for the legend
    axes.set_ylabel("time / time of the usual recipe")
    report.bare(axes)


def draw(plt: Any, result: Row, below: str) -> Any:
    """Bars of time over the recipe's."""
    rows = [row for row in result["rows"] if row["table"] == "penalty"]
    if not rows:
        return None
    drawing, axes = plt.subplots(figsize=(max(10, 0.75 * len(rows)), 5.4), layout="constrained")
    draw_bars(axes, rows)
    drawing.suptitle("Whole penalty steps (lower is faster; † is where the aims apply)", fontsize=13)
    axes.set_title(fill(below, 130), fontsize=8, color="#555555")
    drawing.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=3)
    return drawing


# --- the suite --------------------------------------------------------------------------------------------


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command line."""
    parser.add_argument("--only", nargs="+", metavar="CASE", choices=ZOO, help="these of the zoo's cases")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES), help="these tables")
    parser.add_argument(
        "--width", type=at_least(8, 8), help="of the discriminators, a multiple of 8 (default: 32, quick: 8)"
    )
    parser.add_argument(
        "--size", type=at_least(16, 8), help="of the images, a multiple of 8 (default: 64, quick: 16)"
    )
    parser.add_argument("--batch", type=at_least(2), help="samples (default: 16, quick: 4)")


def chosen(options: argparse.Namespace) -> list[str]:
    """The zoo's cases that are asked for; fills in the sizes that are not."""
    for name, usual, quick in (("width", 32, 8), ("size", 64, 16), ("batch", 16, 4)):
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else usual)
    return [name for name in ZOO if not options.only or name in options.only]


SUITE = Suite(
    name="penalty-steps",
    title="Whole penalty steps on {device}",
    note="Whole penalty and discriminator steps of the zoo. Ratios are the recipe's time over theirs.",
    cases=chosen,
    measure=measure,
    sections=sections,
    draw=draw,
    figure=figure,
    options=add_options,
    devices=("cpu", "cuda"),
)
