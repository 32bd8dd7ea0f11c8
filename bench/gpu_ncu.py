"""The kernels of a step under Nsight Compute: `python -m bench gpu-ncu` runs ncu on itself and reads what it says.

Whether a kernel waits for memory or for its own arithmetic: the share of the memory's rate, of issue slots, of
warps, and what warps wait for. The clocks are left as they are.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import torch

import fastgan
from bench.harness import tell

KERNELS = "regex:loss_forward|loss_backward|penalty_sums|penalty_gradient|interpolate"
# What is told of a kernel: the first of these metrics that this ncu has.
METRICS = {
    "time": ("gpu__time_duration.sum",),
    "DRAM": (
        "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed",
        "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    ),
    "SM": ("sm__throughput.avg.pct_of_peak_sustained_elapsed",),
    "issue": ("sm__inst_issued.avg.pct_of_peak_sustained_active", "smsp__issue_active.avg.per_cycle_active"),
    "warps": ("sm__warps_active.avg.pct_of_peak_sustained_active",),
    "registers": ("launch__registers_per_thread",),
    "blocks": ("launch__grid_size",),
    "instructions": ("smsp__inst_executed.sum", "sm__inst_executed.sum"),
}  # fmt: skip
STALLS = re.compile(r"smsp__average_warps_issue_stalled_(\w+?)(?<!not_issued)_per_issue_active\.ratio")


def work(device: str, n: int) -> None:
    """Softplus in float32 and hinge in bfloat16, forward and backward; then a penalty and an interpolation."""
    for name, dtype in (("nonsaturating", torch.float32), ("hinge", torch.bfloat16)):
        r, f = (torch.randn(n, device=device).to(dtype).requires_grad_() for _ in range(2))
        fastgan.discriminator_loss(r, f, name).backward()
    g = torch.randn(64, n // 64, device=device, requires_grad=True)
    fastgan.norm_penalty(g).backward()
    fastgan.interpolate(g.detach(), g.detach(), torch.rand(64, device=device))


def read(text: str) -> list[dict[str, str]]:
    """A row for each kernel, of what `ncu --csv --page raw` prints: a header, units, values."""
    start = text.find('"ID"')
    if start < 0:
        return []
    header, units, *rows = csv.reader(io.StringIO(text[start:]))
    return [
        {name: f"{value} {unit}".strip() for name, value, unit in zip(header, row, units, strict=False)}
        for row in rows
        if len(row) == len(header)
    ]


def line(row: dict[str, str]) -> str:
    """A kernel in one line, with the three things that its warps wait for most."""
    known = {what: [row[metric] for metric in metrics if metric in row] for what, metrics in METRICS.items()}
    told = [f"{what} {found[0]}" for what, found in known.items() if found]
    stalls = [
        (float(v.split()[0].replace(",", "")), m[1]) for k, v in row.items() if (m := STALLS.fullmatch(k)) and v
    ]
    waits = ", ".join(f"{name} {value:.2f}" for value, name in sorted(stalls, reverse=True)[:3])
    name = row.get("Kernel Name", "?").removeprefix("void ")[:60]
    return f"{name}: {'; '.join(told)}" + (f"; waits {waits}" if waits else "")


def profile(out: Path, n: int) -> int:
    """Run ncu on `work` and write what it says."""
    log = out / "ncu.csv"
    command = [
        "ncu",
        "--clock-control",
        "none",
        "--set",
        "full",
        "-k",
        KERNELS,
        "-c",
        "9",
        "--csv",
        "--page",
        "raw",
    ]
    program = [sys.executable, "-m", "bench", "gpu-ncu", "--work", "--device", "cuda", "--count", str(n)]
    done = subprocess.run([*command, "--log-file", str(log), *program])
    rows = read(log.read_text(errors="replace")) if log.exists() else []
    (out / "ncu.json").write_text(json.dumps(rows, indent=1) + "\n")
    for number, row in enumerate(rows, 1):
        tell(f"{number}. {line(row)}")
    return done.returncode or (0 if rows else 1)


def main(given: list[str] | None = None) -> None:
    """Profile, or where there is no ncu run the same work without it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results") / "local")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="little data")
    parser.add_argument("--count", type=int, help="logits in each tensor")
    parser.add_argument("--work", action="store_true", help="what ncu looks at, without ncu")
    options = parser.parse_args(given)
    n = options.count or (4096 if options.quick else 1 << 20)
    if options.work or options.device == "cpu":
        work(options.device, n)
        print("the work was done, without ncu")
        return
    if not shutil.which("ncu"):
        sys.exit("no ncu on the PATH")
    options.out.mkdir(parents=True, exist_ok=True)
    sys.exit(profile(options.out, n))


if __name__ == "__main__":
    main()
