"""Runs the claims, keeps what is done in a file, and goes on there when it is called again."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from tests.helpers import ROOT
from tests.helpers.once import SHARED
from tests.proof.claims import CASE, Claim

WATCHED = ("csrc", "fastgan", "triton_kernels", "tests", "bench/baselines")
WORKER = ["tests.proof.worker"]
Claims = dict[tuple[str, str], Claim]  # by part and name


@dataclass
class Record:
    """What is known of a claim: batches done, cases tried, the largest error, and how it ended."""

    batches: int = 0
    cases: int = 0
    worst: float | None = None
    text: str = ""
    failure: str = ""
    unavailable: str = ""
    seconds: float = 0.0

    @property
    def over(self) -> bool:
        """Whether no further batch would tell more."""
        return bool(self.failure or self.unavailable)

    def again(self) -> None:
        """Forget the last batch where it was the end, so that it is tried again."""
        self.batches -= self.over
        self.failure = self.unavailable = ""

    def add(self, said: dict, seconds: float) -> None:
        """Take in what a batch said; of the texts of several batches, that of the largest error is kept."""
        self.batches += 1
        self.seconds += seconds
        self.cases += said.get("cases", 0)
        self.failure, self.unavailable = said.get("failure", ""), said.get("unavailable", "")
        worst = said.get("worst")
        if worst is None or self.worst is None or worst > self.worst:
            self.worst, self.text = worst, said.get("text", "")


def source() -> str:
    """Return a digest of what is proven: the sources, what is built of them, and what runs them."""
    digest = hashlib.sha256(f"{sys.version} {torch.__version__}".encode())
    for folder in WATCHED:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".h", ".cpp", ".cu", ".so", ".json"):
                digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def batch(part: str, claim: Claim, seed: int, shared: str) -> dict[str, object]:
    """Return what a batch says; a process that dies or hangs has refuted the claim by the case that it tried.

    `shared` is a folder for what several batches need and is made once.
    """
    with tempfile.TemporaryDirectory() as folder:
        case = Path(folder, "case")
        environment = {"OMP_NUM_THREADS": "2", **os.environ, CASE: str(case), SHARED: shared, **claim.environment}
        command = [sys.executable, "-m", *WORKER, part, claim.name, str(seed)]
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                timeout=claim.timeout,
                check=False,
            )
            how, said = f"the process ended with {done.returncode}", done.stdout + done.stderr[-3000:]
        except subprocess.TimeoutExpired as hanging:
            how, said = f"nothing came for {claim.timeout:g} s", str(hanging.stderr or "")[-3000:]
        else:
            if done.returncode == 0:
                return json.loads(done.stdout.splitlines()[-1])
        tried = case.read_text() if case.exists() else "of no case that is known"
        return {"failure": f"{how}\n{tried}\n{said}"}


class Run:
    """A run of claims, with its records and the seconds that it has taken.

    Args:
        claims: what is tried.
        file: keeps the records; those of other sources or another seed are not taken up.
        seed: of the first batch of each claim; the others follow.
        jobs: how many batches at a time.
    """

    def __init__(self, claims: Claims, file: Path, seed: int = 0, jobs: int = 1) -> None:
        self.claims, self.file, self.seed, self.jobs = claims, file, seed, jobs
        self.source, self.lock, self.taken = source(), threading.Lock(), set()
        self.shared = file.parent / self.source
        self.shared.mkdir(parents=True, exist_ok=True)
        self.records = {key: Record() for key in claims}
        self.seconds, self.began = 0.0, time.monotonic()
        kept = json.loads(file.read_text()) if file.exists() else {}
        if (kept.get("source"), kept.get("seed")) == (self.source, seed):
            known = {tuple(key.split(": ", 1)): Record(**record) for key, record in kept["claims"].items()}
            for record in known.values():
                record.again()
            self.records |= {key: record for key, record in known.items() if key in claims}
            self.others = {key: record for key, record in known.items() if key not in claims}
            self.seconds = kept["seconds"]
        else:
            self.others = {}

    def save(self) -> None:
        """Write the file."""
        now = time.monotonic()
        self.seconds, self.began = self.seconds + now - self.began, now
        kept: dict = {"source": self.source, "seed": self.seed, "seconds": self.seconds}
        kept["claims"] = {": ".join(k): asdict(r) for k, r in (self.records | self.others).items()}
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps(kept, indent=1) + "\n")
        part.replace(self.file)

    def failed(self) -> list[tuple[str, str]]:
        """Return the claims that are false and are not known to be, and those that were said to be false and hold."""
        return [
            key
            for key, claim in self.claims.items()
            if bool(self.records[key].failure) != bool(claim.unmet) and not self.records[key].unavailable
        ]

    def __call__(self, hours: float = 0.0) -> None:
        """Try what a short run tries, and then further seeds until the hours are over."""
        self.began = time.monotonic()
        with ThreadPoolExecutor(self.jobs) as pool, tqdm(unit=" batches", disable=None) as self.bar:
            for one in [
                pool.submit(self._short, key) for key, claim in self.claims.items() if hours or not claim.long
            ]:
                one.result()
            for one in [pool.submit(self._long, hours) for _ in range(self.jobs)]:
                one.result()

    def _short(self, key: tuple[str, str]) -> None:
        record = self.records[key]
        while record.batches < self.claims[key].batches and not record.over:
            self._batch(key)

    def _long(self, hours: float) -> None:
        while (key := self._take(hours)) is not None:
            self._batch(key)
            with self.lock:
                self.taken.remove(key)

    def _take(self, hours: float) -> tuple[str, str] | None:
        """Return the claim that has had the least time, while there is more of it."""
        with self.lock:
            if self.seconds + time.monotonic() - self.began >= hours * 3600:
                return None
            free = [
                k for k, c in self.claims.items() if c.endless and not self.records[k].over and k not in self.taken
            ]
            key = min(free, key=lambda k: self.records[k].seconds, default=None)
            self.taken |= {key} - {None}
            return key

    def _batch(self, key: tuple[str, str]) -> None:
        record, began = self.records[key], time.monotonic()
        said = batch(key[0], self.claims[key], self.seed + record.batches, str(self.shared))
        with self.lock:
            record.add(said, time.monotonic() - began)
            self.save()
            self.bar.set_description_str(": ".join(key))
            self.bar.update()
