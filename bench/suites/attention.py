"""Attention to its second derivative, and R1 of a transformer: PyTorch's plain arithmetic against fastgan's blocks.

The only place with baselines of them. Plain arithmetic keeps eleven tensors of tokens times tokens for each head;
where they would not fit into the machine's memory it is left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

import fastgan
from bench import report
from bench.harness import Row, Run, Suite, Work, at_least
from bench.suites.penalty_steps import peak
from bench.suites.trainers import waiting
from fastgan.discriminator.attention import attention

HEADS, WIDTH, BATCH, DEPTH = 8, 64, 2, 2
TOKENS = (256, 512, 1024, 2048, 4096, 8192)
KEPT = 12  # tensors of tokens times tokens that plain arithmetic has for a head, at most
COMPARED = 1024  # tokens up to which results are compared with float64
PAIR = "checkpoint"
CONTENDERS = {
    "attention": ["plain", "fastgan"],
    "transformer": ["plain", "fastgan", f"plain, {PAIR}", f"fastgan, {PAIR}"],
}
TABLES = tuple(CONTENDERS)
ULPS = 64.0  # of the largest element, by which a float32 result may be off


class Case(NamedTuple):
    """A table's row."""

    table: str
    tokens: int

    @property
    def name(self) -> str:
        """What a report calls it."""
        return f"{self.table}, {self.tokens} tokens"


def plainly(work: Callable[[], Any]) -> Any:
    """Run with attention in PyTorch's plain arithmetic."""
    with sdpa_kernel(SDPBackend.MATH):
        return work()


def fits(tokens: int, heads: int, device: str) -> bool:
    """Whether what plain arithmetic keeps is at most two thirds of the memory that is free."""
    needed = KEPT * BATCH * heads * tokens**2 * 4
    if device == "cuda":
        return needed < 2 / 3 * torch.cuda.mem_get_info()[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return tokens <= COMPARED
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    return needed < 2 / 3 * free


# --- attention alone --------------------------------------------------------------------------------------


def orders(attend: Callable[..., Tensor], tensors: list[Tensor], up: Tensor) -> list[list[Tensor]]:
    """Attention's result, its gradients by query, key and value, and those of the gradients' squares."""
    out = attend(*tensors)
    first = torch.autograd.grad(out, tensors, up, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), tensors)
    return [[t.detach() for t in order] for order in ([out], first, second)]


def errors(got: list[list[Tensor]], want: list[list[Tensor]]) -> list[float]:
    """For each order, how far a result is off, in float32's ulps of the largest element."""
    eps = torch.finfo(torch.float32).eps
    off = [
        [float((a.double() - b).abs().max() / (eps * b.abs().max())) for a, b in zip(x, y, strict=True)]
        for x, y in zip(got, want, strict=True)
    ]
    return [round(max(order), 2) for order in off]


def of_attention(run: Run, tokens: int) -> tuple[dict[str, Work], Row]:
    """The contenders, and how far their results are from float64's."""
    heads, width = (2, 16) if run.quick else (HEADS, WIDTH)
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(BATCH, heads, tokens, width, generator=generator).to(run.device) for _ in range(4)]
    tensors, up = [t.requires_grad_() for t in made[:3]], made[3]
    works: dict[str, Work] = {
        "plain": lambda: plainly(lambda: orders(F.scaled_dot_product_attention, tensors, up)),
        "fastgan": lambda: plainly(lambda: orders(attention, tensors, up)),
    }
    if not fits(tokens, heads, run.device):
        del works["plain"]
    if tokens > COMPARED:
        return works, {}
    exact = [t.detach().double().requires_grad_() for t in tensors]
    want = plainly(lambda: orders(F.scaled_dot_product_attention, exact, up.double()))
    return works, {"ulp": {name: errors(work(), want) for name, work in works.items()}}


# --- a transformer's R1 -----------------------------------------------------------------------------------


class Transformer(nn.Module):
    """A discriminator of sequences of patches."""

    def __init__(self, width: int, heads: int, checkpointed: bool) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(12, width), nn.Linear(width, 1)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(DEPTH)
        )
        self.checkpointed = checkpointed

    def forward(self, x: Tensor) -> Tensor:
        """Logits of (N, tokens, 12)."""
        h = self.embed(x)
        for block in self.blocks:
            h = checkpoint(block, h, use_reentrant=False) if self.checkpointed else block(h)
        return self.head(h.mean(1))


def recipe(net: nn.Module, x: Tensor) -> None:
    """R1 as one writes it, to the parameters' gradients."""
    x = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    (g.square().sum((1, 2)).mean() / 2).backward()


def ours(net: nn.Module, x: Tensor) -> None:
    """The same by fastgan."""
    fastgan.r1_penalty(net, x).backward()


def of_transformer(run: Run, tokens: int) -> tuple[dict[str, Work], Row]:
    """The contenders, and how far apart their gradients are."""
    heads, width = (2, 16) if run.quick else (HEADS // 2, WIDTH)
    x = torch.randn(BATCH, tokens, 12, generator=torch.Generator().manual_seed(0)).to(run.device)
    nets = {}
    for name in CONTENDERS["transformer"]:
        torch.manual_seed(0)
        nets[name] = Transformer(heads * width, heads, PAIR in name).to(run.device)

    def work(name: str) -> Work:
        net = nets[name]

        def step() -> list[Tensor]:
            net.zero_grad()
            plainly(lambda: recipe(net, x)) if "plain" in name else ours(net, x)
            return [p.grad for p in net.parameters() if p.grad is not None]

        return step

    works = {name: work(name) for name in nets if "plain" not in name or fits(tokens, DEPTH * heads, run.device)}
    found = {name: step() for name, step in works.items()} if tokens <= COMPARED else {}
    far = [errors([found[n]], [[g.double() for g in found["plain"]]])[0] for n in found if n != "plain"]
    return works, {"apart": max(far, default=None)}


# --- measuring, and what is written -----------------------------------------------------------------------


def measure(run: Run, case: Case) -> Iterator[Row]:
    """A row: times in turn, peak memory, errors."""
    works, facts = (of_attention if case.table == "attention" else of_transformer)(run, case.tokens)
    off = [*facts.get("ulp", {}).get("fastgan", []), facts.get("apart") or 0.0]
    if max(off) > ULPS:
        yield {"wrong": f"{case.name}: off by {max(off):.3g} ulp of the largest element"}
        return
    memory = {name: peak(nn.Identity(), work, run.device) for name, work in works.items()}
    base = "plain" if "plain" in works else "fastgan"
    works = {name: waiting(work, run.device) for name, work in works.items()}
    rounds = 3 if run.quick or case.tokens > 2048 else 7
    facts["pairs"] = {PAIR: (f"plain, {PAIR}", f"fastgan, {PAIR}")} if f"plain, {PAIR}" in works else {}
    facts["MiB"] = memory
    yield case._asdict() | facts | run.measure(works, base, rounds, 1, limit=120.0)


def figure(row: Row) -> str:
    """A row in short."""
    times = " ".join(f"{name} {value * 1e3:.3g}" for name, value in row["minimum"].items())
    return f"{row['table']}, {row['tokens']} tokens: ms {times}; MiB {row['MiB']}"


def cells(row: Row, names: list[str]) -> list[str]:
    """Milliseconds and MiB of the contenders, and fastgan's shares."""
    found = [report.digits(row["minimum"][n] * 1e3) if n in row["minimum"] else "" for n in names]
    found += [shares(row, n) for n in ("fastgan", PAIR)[: len(names) // 2]]
    found += [f"{row['MiB'][n]:.0f}" if n in row["MiB"] else "" for n in names]
    return [*found, f"{row['MiB']['fastgan'] / row['MiB']['plain']:.3f}" if "plain" in row["MiB"] else ""]


def shares(row: Row, name: str) -> str:
    """A contender's time over plain's, by minima and by medians."""
    based = "plain" in row["minimum"]
    return f"{report.share(row, name)} ({report.share(row, name, 'ratio, median')})" if based else ""


def sections(result: Row) -> list[str]:
    """A table of each kind."""
    text = []
    for title, names in CONTENDERS.items():
        rows = [r for r in result["rows"] if r["table"] == title]
        head = ["tokens", *[f"{n}, ms" for n in names]]
        head += ["fastgan/plain (median)", f"{PAIR}: fastgan/plain"][: len(names) // 2]
        head += [*[f"{n}, MiB" for n in names], "MiB, fastgan/plain"]
        if rows:
            lines = [[report.marked(r, str(r["tokens"])), *cells(r, names)] for r in rows]
            text += [f"## {HEADINGS[title]}", report.table(head, lines)]
    compared = [r for r in result["rows"] if r.get("ulp")]
    if compared:
        head = ["tokens", "contender", "result", "first derivatives", "second derivatives"]
        lines = [[str(r["tokens"]), n, *map(str, off)] for r in compared for n, off in r["ulp"].items()]
        text += [
            "## Largest error against float64, in float32's ulps of the largest element",
            report.table(head, lines),
        ]
    return text


HEADINGS = {
    "attention": f"Attention, its gradients, and theirs (batch {BATCH}, {HEADS} heads of {WIDTH})",
    "transformer": f"R1 of a transformer, to the parameters' gradients (batch {BATCH}, {DEPTH} blocks, {HEADS // 2}"
    f" heads of {WIDTH})",
}
COLOURS = {
    "plain": "#888888", "fastgan": "#1b5fa8", "plain, checkpoint": "#c0c0c0", "fastgan, checkpoint": "#7fb2e0",
}  # fmt: skip


def draw(plt: Any, result: Row, below: str) -> Any:
    """Time and memory by tokens."""
    drawing, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained", sharex=True)
    tokens = sorted({r["tokens"] for r in result["rows"]})
    for pair, title in zip(axes, TABLES, strict=True):
        rows = [r for r in result["rows"] if r["table"] == title]
        for axis, of, unit in zip(pair, ("minimum", "MiB"), ("seconds", "MiB at the peak"), strict=True):
            for name, colour in COLOURS.items():
                there = [(r["tokens"], r[of][name]) for r in rows if name in r[of]]
                if there:
                    axis.loglog(*zip(*there, strict=True), "o-", color=colour, label=name, ms=4)
            axis.set_title(f"{title}: {unit}", fontsize=10)
            axis.set_xlabel("tokens", fontsize=9)
            axis.set_xticks(tokens, map(str, tokens), fontsize=8)
            axis.minorticks_off()
            report.bare(axis)
    axes[1][0].legend(frameon=False, fontsize=9)
    drawing.suptitle(f"Attention inside a penalty\n{below}", fontsize=9)
    return drawing


# --- the suite --------------------------------------------------------------------------------------------


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command line."""
    parser.add_argument("--tokens", nargs="+", type=at_least(2), help=f"sequence lengths (default: {TOKENS})")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES), help="these tables")


def chosen(options: argparse.Namespace) -> list[Case]:
    """The rows that are asked for; a transformer at every second length."""
    tokens = options.tokens or ((16, 600) if options.quick else TOKENS)
    every = {"attention": tokens, "transformer": options.tokens or tokens[::2]}
    return [Case(table, n) for table in TABLES if table in options.tables for n in every[table]]


SUITE = Suite(
    name="attention",
    title="Attention to its second derivative on {device}",
    note=(
        "plain: PyTorch's scaled_dot_product_attention under SDPBackend.MATH. fastgan: as inside a penalty, block"
        " by block where there are more than a million scores. Peak memory: by how much a step's allocations exceed"
        " what there was before."
    ),
    cases=chosen,
    measure=measure,
    sections=sections,
    draw=draw,
    figure=figure,
    options=add_options,
    devices=("cpu", "cuda"),
    compiles=False,
)
