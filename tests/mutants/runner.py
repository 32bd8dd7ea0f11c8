"""Plant a fault in a copy of the checkout, and let a judge say whether the checks notice it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

from tests.helpers import ROOT
from tests.helpers.once import once

Case = tuple[str, str]  # a list's name, a fault's name


def copy(folder: Path) -> None:
    """Copy what is under test, and its tests, as an installation has them.

    An editable install would lend its own Triton kernels to a package that has them beside it.
    """
    for part in ("csrc", "fastgan", "tests", "triton_kernels"):
        where = folder / "fastgan" / part if part == "triton_kernels" else folder / part
        shutil.copytree(ROOT / part, where, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)


def plant(folder: Path, file: str, old: str, new: str) -> None:
    """Replace a text that stands exactly once in a file of the copy."""
    path = folder / file
    if file.startswith("triton_kernels/"):
        path = folder / "fastgan" / file
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {file}"
    path.write_text(text.replace(old, new))


def failing(folder: Path, *arguments: str, **environment: str) -> tuple[bool, str]:
    """Whether one of these tests fails on the copy, and what pytest says."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "", "--rootdir", str(folder), *arguments]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False,
        env={**inherited, "PYTHONPATH": str(folder), **environment},
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stdout[-3000:] + done.stderr[-3000:]
    return done.returncode == 1, done.stdout[-3000:]


class Verdicts:
    """What the judges say of all cases asked for, as many at a time as there are processors.

    Where pytest-xdist shares out the cases, each is judged when its turn comes.
    """

    def __init__(self, lists: dict[str, ModuleType], cases: list[Case], folder: Path) -> None:
        self.lists, self.folder = lists, folder
        shared_out = "PYTEST_XDIST_WORKER" in os.environ
        self.pool = ThreadPoolExecutor(1 if shared_out else os.cpu_count())
        self.jobs = {} if shared_out else {case: self._submit(case) for case in cases}

    def __call__(self, case: Case) -> tuple[bool, str]:
        """Whether a fault is noticed, and what is said."""
        if case not in self.jobs:
            self.jobs[case] = self._submit(case)
        return self.jobs[case].result()

    def _submit(self, case: Case) -> Future[tuple[bool, str]]:
        return self.pool.submit(self._judge, *case)

    def _judge(self, kernels: str, name: str) -> tuple[bool, str]:
        judge = self.lists[kernels]
        file, old, new, *how = judge.FAULTS[name]
        parts = once(f"mutants-{kernels}", judge.prepare)
        folder = self.folder / f"{kernels}-{list(judge.FAULTS).index(name)}"
        copy(folder)
        if file:
            plant(folder, file, old, new)
        try:
            return judge.judge(folder, parts, file, *how)
        finally:
            shutil.rmtree(folder)
