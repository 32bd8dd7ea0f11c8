"""What an installation brings along, asks of the network, and is built from."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.helpers import ROOT
from tests.proof import suite
from tests.proof.claims import Batch, Claim, Unavailable

# Interpreters of virtual environments with other releases of PyTorch, separated as PATH is.
PYTHONS = "FASTGAN_PROOF_PYTHONS"
# typing_extensions comes with torch; NumPy, apex and torchgan are imported where a trainer has imported them.
NEEDED = {"torch", "triton", "fastgan", "typing_extensions", "numpy", "apex", "torchgan"}
TESTED = ("losses", "penalties", "golden", "backends")

WATCHED = """
import sys
asked = []
def hook(event, arguments):
    if event.startswith(("socket.connect", "socket.getaddrinfo", "socket.sendto", "urllib.Request", "http.client")):
        asked.append((event, arguments))
sys.addaudithook(hook)
import torch, fastgan
from fastgan.__main__ import text
text()
d = torch.nn.Linear(3, 1)
step = fastgan.discriminator_step(d, torch.randn(4, 3), torch.randn(4, 3), loss="hinge", penalty="r1")
step.total.backward()
fastgan.generator_loss(torch.randn(4, requires_grad=True)).backward()
assert not asked, asked
print("nothing asked")
"""


def without_network(command: list[str], **options: object) -> subprocess.CompletedProcess:
    """Run a command in a namespace without a network; raise Unavailable where there are none."""
    prefix = ["unshare", "--map-root-user", "--net"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode
    ):
        raise Unavailable("no namespace without a network can be made")
    return subprocess.run([*prefix, *command], capture_output=True, text=True, check=False, **options)


def imports() -> Iterator[tuple[Path, str]]:
    """Yield each module that a file of the package imports, by its first name."""
    for folder in ("fastgan", "triton_kernels"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    yield from ((path, alias.name.partition(".")[0]) for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                    yield path, node.module.partition(".")[0]


def needs(seed: int) -> Batch:
    """Look at what the package imports beside Python's own modules, and at what its metadata asks for."""
    found = list(imports())
    other = {(str(p), m) for p, m in found if m not in NEEDED and m not in sys.stdlib_module_names}
    assert not other, sorted(other)
    asked = [r for r in importlib.metadata.requires("fastgan") or [] if "extra ==" not in r]
    assert not asked, asked
    return Batch(len(found), text="torch, and what comes with it")


def quiet(seed: int) -> Batch:
    """Import, call and differentiate without a network, under a hook that notes any that is asked for."""
    done = without_network([sys.executable, "-c", WATCHED], cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return Batch(1, text="import, a step and its gradients")


def copied(folder: Path) -> None:
    """Copy the sources, so that nothing is built in their place."""
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "_build.json", "*.so.json")
    folder.mkdir(exist_ok=True)
    for part in ("csrc", "fastgan", "triton_kernels", "tests", "bench", "examples", "docs"):
        shutil.copytree(ROOT / part, folder / part, ignore=ignored, symlinks=True)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, folder)


def from_source(seed: int) -> Batch:
    """Make the source distribution, build a wheel of it without a network, and use that alone."""
    with tempfile.TemporaryDirectory() as folder:
        python, environment = [sys.executable, "-m"], {**os.environ, "FASTGAN_NATIVE": "1", "FASTGAN_CUDA": "0"}
        copied(Path(folder, "source"))
        made = [*python, "build", "--sdist", "--no-isolation", "--outdir", folder, str(Path(folder, "source"))]
        done = subprocess.run(made, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        (source,) = Path(folder).glob("*.tar.gz")
        offline = ["--no-index", "--no-build-isolation", "--no-deps", "-q"]
        done = without_network([*python, "pip", "wheel", *offline, "-w", folder, str(source)], env=environment)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        (wheel,) = Path(folder).glob("*.whl")
        target = str(Path(folder, "installed"))
        done = without_network([*python, "pip", "install", *offline, "--target", target, str(wheel)])
        assert done.returncode == 0, done.stdout + done.stderr
        call = "import fastgan, torch; assert fastgan.info()['extension'] == '_native'; print(fastgan.__file__)"
        done = subprocess.run(
            [sys.executable, "-c", call], capture_output=True, text=True, check=False, cwd=folder,
            env={**os.environ, "PYTHONPATH": target},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert target in done.stdout, done.stdout
        return Batch(
            1,
            text=f"{source.name}, {source.stat().st_size / 1e6:.1f} MB; a wheel of {wheel.stat().st_size / 1e6:.1f} MB",
        )


def audit(seed: int) -> Batch:
    """Ask pip-audit about what is installed beside the package: the only claim that needs a network."""
    if shutil.which("pip-audit", path=str(Path(sys.executable).parent)) is None:
        raise Unavailable("pip-audit is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", "--progress-spinner=off"], capture_output=True, text=True, check=False
    )
    if "ConnectionError" in done.stderr or "resolve" in done.stderr:
        raise Unavailable("pip-audit does not reach its service")
    assert done.returncode == 0, done.stdout + done.stderr
    return Batch(1, text=done.stderr.strip().splitlines()[-1])


def other_versions(seed: int) -> Batch:
    """Build and test a copy of the sources with other releases of Python and PyTorch."""
    given = [p for p in os.environ.get(PYTHONS, "").split(os.pathsep) if p]
    if not given:
        raise Unavailable(f"{PYTHONS} names no interpreters with other releases of PyTorch")
    count, said = 0, []
    for python in given:
        with tempfile.TemporaryDirectory() as folder:
            copied(Path(folder))
            Path(folder, "fastgan", "triton_kernels").symlink_to("../triton_kernels")
            environment = {**os.environ, "FASTGAN_NATIVE": "1", "FASTGAN_CUDA": "0", "PYTHONPATH": folder}
            build = [python, "setup.py", "-q", "build_ext", "--inplace"]
            done = subprocess.run(build, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
            tests = [f"tests/{t}" for t in TESTED]
            count += suite.counts(*tests, python=python, folder=Path(folder), environment=environment)[0]
            asked = "import platform, torch; print('Python', platform.python_version(), 'torch', torch.__version__)"
            said.append(subprocess.check_output([python, "-c", asked], text=True).strip())
    return Batch(count, text="; ".join(said))


CLAIMS = [
    Claim("what the package imports", needs, "torch alone, Triton if there is one"),
    Claim("network at import or run", quiet, "none is asked for"),
    Claim("the sdist builds offline", from_source, "a wheel, without a network"),
    Claim("other releases of Python and PyTorch", other_versions, "builds, and every test of losses, penalties, hashes and backends passes", long=True, timeout=5400),
    Claim("known vulnerabilities of dependencies", audit, "pip-audit knows of none"),
]  # fmt: skip
