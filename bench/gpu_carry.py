"""What need not be built on a GPU machine: made where there is time, carried there in a folder.

    python bench/gpu_carry.py make FOLDER             # with the Python, torch and Triton of the GPU machine
    python bench/gpu_carry.py build [--use FOLDER]    # on the GPU machine; bench/gpu.sh does it

A folder has the extension for that Python, the empty kernel of gpu_shapes.py, and Triton's cache of compiled
kernels.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "csrc" / "tools"))
import toolkit  # noqa: E402

KERNELS = "triton.tar.xz"
READY = (
    "import sys; from fastgan.backends import named, native; "
    "sys.exit(native.missing() or named(sys.argv[1]).missing())"
)


def run(*command: str, **environment: str) -> None:
    """A command in the checkout; raises if it fails."""
    subprocess.run(command, cwd=ROOT, env=os.environ | environment, check=True)


def build_extension(architecture: str, *where: str) -> None:
    """Build the extension with CUDA kernels for one architecture; "" means none."""
    cuda = {"FASTGAN_CUDA": "1", "TORCH_CUDA_ARCH_LIST": architecture} if architecture else {"FASTGAN_CUDA": "0"}
    run(sys.executable, "setup.py", "-q", "build_ext", *where, FASTGAN_NATIVE="1", **cuda)


def make(folder: Path, architecture: str, tests: str, jobs: int) -> None:
    """Fill a folder."""
    folder = folder.resolve()
    build_extension(architecture, "--build-lib", str(folder))
    number = architecture.replace(".", "")
    library = folder / "empty_kernel.so"
    source = str(ROOT / "bench" / "empty_kernel.cu")
    options = ["-O2", f"-arch=sm_{number}", "-shared", "-Xcompiler", "-fPIC", "-cudart", "static"]
    run(toolkit.find().path, *options, source, "-o", str(library))
    copy_extension(folder, "_native*.so", "_nodes*")  # the CPU kernels, without which the tests end early
    with tempfile.TemporaryDirectory() as cache:
        target = ["--target", number, "--jobs", str(jobs)]
        run(sys.executable, "-m", "tests.helpers.precompile", cache, "-k", tests, *target)
        pack(Path(cache), folder / KERNELS)


def pack(cache: Path, archive: Path) -> None:
    """Triton's cache in one file, without sources and intermediate code, which no launch reads."""
    with tarfile.open(archive, "w:xz") as tar:
        for path in sorted(cache.rglob("*")):
            if path.suffix in (".cubin", ".json", ".so"):
                tar.add(path, path.relative_to(cache))


def move(group: Path) -> None:
    """Say where a kernel's files lie now: Triton looks for them at the paths that it wrote down."""
    names = json.loads(group.read_text())["child_paths"]
    here = {name: str(group.parent / name) for name in names if (group.parent / name).exists()}
    group.write_text(json.dumps({"child_paths": here}))


def unpack(archive: Path) -> None:
    """Put carried kernels into the cache that Triton will use."""
    cache = os.environ.get("TRITON_CACHE_DIR")
    if archive.exists() and cache:
        with tarfile.open(archive) as tar:
            tar.extractall(cache, filter="data")
            for name in tar.getnames():
                if Path(name).name.startswith("__grp__"):
                    move(Path(cache, name))
            print(f"{sum(name.endswith('.cubin') for name in tar.getnames())} Triton kernels were carried")


def usable(backend: str) -> bool:
    """Whether the checkout's extension imports, in a process of its own, and serves a backend."""
    done = subprocess.run([sys.executable, "-c", READY, backend], cwd=ROOT, capture_output=True, text=True)
    print(done.stderr.strip())
    return done.returncode == 0


def copy_extension(folder: Path, *patterns: str) -> bool:
    """Put a carried extension into the checkout; whether there was one."""
    files = [path for pattern in patterns for path in folder.glob(f"fastgan/{pattern}")]
    for path in files:
        target = ROOT / "fastgan" / path.name
        if not target.exists() or not filecmp.cmp(path, target, shallow=False):
            shutil.copy(path, target)
    return bool(files)


def build(carried: Path | None, on_cpu: bool) -> None:
    """Make the checkout's extension usable: the carried one, or one that is built here."""
    backend = "cpu" if on_cpu else "cuda"
    if carried:
        unpack(carried / KERNELS)
    if not (carried and copy_extension(carried, "_native*.so", "_build.json", "_nodes*") and usable(backend)):
        print("building")
        import torch

        build_extension("" if on_cpu else "{}.{}".format(*torch.cuda.get_device_capability()), "--inplace")
        if not usable(backend):  # else everything would be skipped
            sys.exit(f"the extension was built, and has no {backend} kernels that run here")
    run(sys.executable, "-m", "fastgan", "info")


def main(given: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make", help="fill a folder")
    making.add_argument("folder", type=Path)
    making.add_argument("--architecture", default="9.0", help="of the GPU (default: 9.0)")
    making.add_argument(
        "--tests", default="tour", help="whose Triton kernels, beside the benchmarks' (-k; default: tour)"
    )
    making.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    building = commands.add_parser("build", help="make the checkout's extension usable")
    building.add_argument("--use", type=Path, metavar="FOLDER")
    building.add_argument("--cpu", action="store_true", help="CPU kernels are enough")
    o = parser.parse_args(given)
    if o.command == "make":
        make(o.folder, o.architecture, o.tests, o.jobs)
    else:
        build(o.use, o.cpu)


if __name__ == "__main__":
    main()
