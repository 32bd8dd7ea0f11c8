"""The table of a run, and of what it was run on."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from fastgan.backends.native import build_facts
from tests.helpers import ROOT
from tests.proof.claims import Claim
from tests.proof.run import Record, Run

BEGIN, END = "<!-- made by make proof: begin -->", "<!-- end -->"
PACKAGES = ("torch", "triton", "numpy", "mpmath", "hypothesis", "pytest")


def processor() -> str:
    """Return the processor's name and widest instruction set."""
    said = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"model name\s*: (.*)", said)
    sets = [s for s in ("avx512f", "avx2") if re.search(rf"\b{s}\b", said)]
    return f"{name.group(1) if name else platform.machine()} ({', '.join(sets[:1] or ['no AVX2'])})"


def versions() -> Iterator[str]:
    """Yield what the figures belong to."""
    commit = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    said = subprocess.run(commit, capture_output=True, text=True, check=False).stdout.strip()
    yield f"commit {said or 'unknown'}"
    yield f"Python {platform.python_version()}"
    for package in PACKAGES:
        try:
            yield f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    yield build_facts().get("compiler", "no compiler")
    yield f"{platform.system()} on {processor()}"


def verdict(claim: Claim, record: Record) -> str:
    """Return whether a claim holds."""
    if record.unavailable:
        return f"not run: {record.unavailable}"
    if record.failure:
        return f"**no**: {claim.unmet or 'see the run'}"
    return "yes" if record.batches else "not run: only with HOURS"


def row(name: str, claim: Claim, record: Record) -> str:
    """Return a line of the table."""
    held = "" if record.over or not record.batches else "as it must"
    found = record.text or (f"{record.worst:.4g}" if record.worst is not None else held)
    return f"| {name} | {claim.target} | {found} | {record.cases:,} | {verdict(claim, record)} |".replace("\n", " ")


def table(run: Run) -> str:
    """Return the tables of a run, a part each, under what they were run on."""
    day = datetime.datetime.now(tz=datetime.timezone.utc).date()
    lines = [f"{day}, {run.seconds / 60:.0f} minutes, seeds from {run.seed}: {'; '.join(versions())}."]
    for part in dict.fromkeys(part for part, _ in run.claims):
        lines += ["", f"### {part.capitalize()}", ""]
        lines += ["| claim | must hold | found | cases | holds |", "| --- | --- | --- | --- | --- |"]
        lines += [row(key[1], claim, run.records[key]) for key, claim in run.claims.items() if key[0] == part]
    return "\n".join(lines) + "\n"


def write(page: Path, text: str) -> None:
    """Put the table between the marks of a page."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{text}{END}{after}")
