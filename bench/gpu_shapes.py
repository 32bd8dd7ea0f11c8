"""Launch shapes of the CUDA kernels: `python -m bench gpu-shapes` times each, and the least that a launch costs.

For forward and backward of softplus: warps a block and blocks a multiprocessor, against the shape in use. Then a
sum of many chunks (the last block's tail) beside PyTorch's mean, and an empty kernel by the size of its parameters.
Times are microseconds in CUDA graphs, of inputs that the cache may hold; the empty kernel's are of plain launches.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

import fastgan
from bench.gpu import Cpu, Gpu
from bench.gpu_cases import Arm
from bench.harness import tell
from fastgan.backends import cpu, cuda, native
from fastgan.backends.base import Kernels
from fastgan.ops.loss import Loss
from fastgan.ops.losses import discriminator_spec, generator_spec

SIZES = (61_504, 1 << 20, 1 << 24)
WARPS, BLOCKS = (1, 2, 4, 8), (1, 2, 3, 4, 6, 8)
KILOBYTES = (0, 1, 4, 13)
ROUNDS = 3
Timer = Callable[[Callable[[], Any], int], float]


def timer(device: str) -> Timer:
    """Microseconds of a call that only launches; on the CPU, to try the program, of one step."""
    clock = Cpu() if device == "cpu" else Gpu()
    if isinstance(clock, Cpu):
        return lambda call, steps: 1e6 * clock.batch(lambda _: call(), 0, 1, 0.0).gpu

    def replayed(call: Callable[[], Any], steps: int) -> float:
        call()  # what is loaded or allocated once is not to be captured
        clock.wait()
        return 1e6 * median(clock.replay(Arm("", lambda _: call()), steps, ROUNDS))

    return replayed


def passes(kernels: Kernels, n: int, device: str) -> dict[str, Callable[[], Any]]:
    """Forward and backward of the non-saturating loss of two tensors of n logits."""
    call = Loss(discriminator_spec(("nonsaturating",)))
    tensors = tuple(3 * torch.randn(n, device=device) for _ in range(2))
    one: tuple[Tensor, ...] = (torch.ones((), device=device),)
    return {
        "forward": lambda: kernels.loss_forward(call, tensors, None, False),
        "backward": lambda: kernels.loss_backward(call, tensors, one, (True, True)),
    }


def sweep(kernels: Kernels, device: str, n: int, time: Timer) -> Iterator[list[dict[str, Any]]]:
    """A row for each shape of each pass at a size, the shape in use first; a pass at a time."""
    shape = getattr(native.native, "cuda_shape", lambda *_: None)
    for name, call in passes(kernels, n, device).items():
        rows: list[dict[str, Any]] = []
        for warps, blocks in [(0, 0), *((w, b) for w in WARPS for b in BLOCKS)]:
            row: dict[str, Any] = {"pass": name, "n": n, "warps": warps, "blocks": blocks}
            shape(warps, blocks, 0)
            try:
                row["us"] = time(call, 8 if n < 1 << 22 else 2)
            except RuntimeError as error:
                row["why"] = str(error)[:200]
            rows.append(row)
        shape(0, 0, 0)
        yield rows


def tails(kernels: Kernels, device: str, sizes: tuple[int, ...], time: Timer) -> list[dict[str, Any]]:
    """A mean, of which the pass is cheap, beside PyTorch's."""
    call = Loss(generator_spec(("hinge",)))
    rows = []
    for n in sizes:
        x = torch.randn(n, device=device)
        ours = time(lambda x=x: kernels.loss_forward(call, (x,), None, False), 4)
        rows.append({"n": n, "fastgan us": ours, "mean us": time(x.mean, 4)})
    return rows


def empty_launches(carried: Path | None) -> list[dict[str, Any]]:
    """An empty kernel's launch, by the size of its parameters."""
    with tempfile.TemporaryDirectory() as folder:
        library = carried / "empty_kernel.so" if carried else Path(folder, "empty_kernel.so")
        if not library.exists():
            source = Path(__file__).with_name("empty_kernel.cu")
            command = ["nvcc", "-O2", "-arch=native", "-shared", "-Xcompiler", "-fPIC", "-cudart", "static"]
            library = Path(folder, "empty_kernel.so")
            subprocess.run([*command, str(source), "-o", str(library)], check=True)
        launch = ctypes.CDLL(str(library)).empty_launch
    launch.restype = ctypes.c_float
    return [{"kilobytes": k, "us": launch(k, 1000)} for k in KILOBYTES]


def lines(result: dict[str, Any]) -> list[str]:
    """The best shapes in short."""
    found = []
    rows = result["shapes"]
    for name, n in dict.fromkeys((row["pass"], row["n"]) for row in rows):
        mine = [row for row in rows if (row["pass"], row["n"]) == (name, n)]
        timed = [row for row in mine[1:] if "us" in row]
        best = sorted(timed, key=lambda row: row["us"])[:3]
        told = ", ".join(f"{r['warps']} warps x {r['blocks']} blocks {r['us']:.2f}" for r in best)
        failed = f"; {len(mine) - 1 - len(timed)} failed" if len(timed) < len(mine) - 1 else ""
        found.append(f"{name} {n}: in use {mine[0].get('us', float('nan')):.2f} us; best {told}{failed}")
    found += [
        f"mean of {r['n']}: fastgan {r['fastgan us']:.2f} us, torch {r['mean us']:.2f}" for r in result["means"]
    ]
    return found + [f"empty kernel, {r['kilobytes']} KB: {r['us']:.2f} us" for r in result["empty"]]


def save(result: dict[str, Any], out: Path) -> None:
    """Write everything as JSON."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "shapes.json").write_text(json.dumps(result, indent=1) + "\n")


def main(given: list[str] | None = None) -> None:
    """Measure, and write after each part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results") / "local")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="one small size; says nothing of speed")
    parser.add_argument("--carried", type=Path, help="folder with empty_kernel.so")
    options = parser.parse_args(given)
    if options.device == "cuda" and (why := cuda.unusable(torch.cuda.current_device())):
        raise SystemExit(why)
    kernels: Kernels = cuda.BACKEND if options.device == "cuda" else cpu.BACKEND
    sizes = (4096,) if options.quick else SIZES
    time = timer(options.device)
    result: dict[str, Any] = {"torch": torch.__version__, "fastgan": fastgan.__version__, "quick": options.quick}
    result |= {"shapes": [], "means": [], "empty": []}
    for n in sizes:
        for rows in sweep(kernels, options.device, n, time):
            result["shapes"] += rows
            save(result, options.out)
    result["means"] = tails(kernels, options.device, sizes, time)
    save(result, options.out)
    if options.device == "cuda":
        result["empty"] = empty_launches(options.carried)
        save(result, options.out)
    for line in lines(result):
        tell(line)


if __name__ == "__main__":
    main()
