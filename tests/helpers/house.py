"""How the house stands: calls and files of public calls, import layers and cycles. `python -m tests.helpers.house`."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import FrameType

import torch
from torch import nn

import fastgan

PACKAGE = Path(fastgan.__file__).parent


def trace(call: Callable[[], object]) -> tuple[int, int, int]:
    """How many Python functions of the package a call enters, in how many files, and how often the file changes."""
    files: list[str] = []

    def enter(frame: FrameType, event: str, _: object) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(str(PACKAGE)) and frame.f_code.co_name[0] != "<":
            files.append(name)

    call()  # caches are filled, lazy imports done
    sys.setprofile(enter)
    try:
        call()
    finally:
        sys.setprofile(None)
    return len(files), len(set(files)), sum(a != b for a, b in pairwise(files))


def traced_calls() -> dict[str, Callable[[], object]]:
    """The calls that are traced: each as a trainer makes it."""
    torch.manual_seed(0)
    real, fake = torch.randn(64), torch.randn(64)
    logits = torch.randn(64, requires_grad=True)
    d = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(4 * 36, 1))
    x, y = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8)
    grads = torch.randn(4, 192, requires_grad=True)
    return {
        "discriminator_loss": lambda: fastgan.discriminator_loss(logits, fake, "hinge"),
        "discriminator_loss, no grad": lambda: fastgan.discriminator_loss(real, fake, "hinge"),
        "norm_penalty": lambda: fastgan.norm_penalty(grads),
        "gradient_penalty": lambda: fastgan.gradient_penalty(d, x, y),
        "discriminator_step": lambda: fastgan.discriminator_step(d, x, y, loss="hinge", penalty="r1"),
    }


def imports() -> dict[str, set[str]]:
    """Each module of the package, with the modules of the package that it imports, also inside of functions."""
    names = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return {name: _imported(name, path, set(names)) for name, path in names.items()}


def _imported(name: str, path: Path, known: set[str]) -> set[str]:
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []  # ast.walk has not yet gone into it
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        base = ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])
        if not node.level:
            base = node.module or ""
        for alias in node.names:
            target = f"{base}.{alias.name}"
            found |= {target} if target in known else {base} if base in known else set()
    return found - {name}


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import one another, directly or around."""
    reach: dict[str, set[str]] = {}
    for start, imported in graph.items():
        seen, stack = set(), list(imported)
        while stack:
            at = stack.pop()
            if at not in seen:
                seen.add(at)
                stack += graph[at]
        reach[start] = seen
    groups = {frozenset(n for n in graph if n in reach[m] and m in reach[n]) for m in graph if m in reach[m]}
    return [sorted(g) for g in groups]


def depth(graph: dict[str, set[str]]) -> int:
    """The layers of modules: the longest chain of imports, a cycle counted as one."""
    together = {m: tuple(g) for g in cycles(graph) for m in g}
    node = {m: together.get(m, (m,)) for m in graph}
    below: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for m, imported in graph.items():
        below.setdefault(node[m], set()).update(node[i] for i in imported if node[i] != node[m])
    known: dict[tuple[str, ...], int] = {}

    def layers(n: tuple[str, ...]) -> int:
        if n not in known:
            known[n] = 1 + max((layers(b) for b in below[n]), default=0)
        return known[n]

    return max(layers(n) for n in below)


if __name__ == "__main__":
    print(f"{'call':30} {'calls':>6} {'files':>6} {'changes':>8}")
    for name, call in traced_calls().items():
        calls, files, changes = trace(call)
        print(f"{name:30} {calls:6} {files:6} {changes:8}")
    graph = imports()
    print(f"{len(graph)} modules, {depth(graph)} layers of imports, {len(cycles(graph))} cycles")
    for group in cycles(graph):
        print("  ", ", ".join(group))
