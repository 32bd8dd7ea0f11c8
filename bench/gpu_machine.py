"""What the machine is: `python bench/gpu_machine.py`."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess

import torch

MODULES = ("triton", "pybind11", "ninja", "pytest", "xdist", "hypothesis", "mpmath", "numpy", "matplotlib")
PROGRAMS = ("nvcc", "c++", "ncu", "compute-sanitizer")
QUERY = "name,driver_version,memory.total,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,temperature.gpu"


def output(*command: str) -> str:
    """What a command prints, if it is there."""
    if not shutil.which(command[0]):
        return f"no {command[0]}"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=15)
    except subprocess.TimeoutExpired:
        return f"{command[0]} did not answer"
    return (done.stdout or done.stderr).strip()


def main() -> None:
    """Print the tools and modules, and on the last line the GPU and the versions."""
    print("programs:", {name: shutil.which(name) for name in PROGRAMS}, output("nvcc", "--version")[-60:])
    found = {name: importlib.util.find_spec(name) is not None for name in MODULES}
    print("modules:", " ".join(name if there else f"NO-{name}" for name, there in found.items()))
    facts = [output("nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader")]
    facts += [f"python {platform.python_version()}", f"torch {torch.__version__}", f"CUDA {torch.version.cuda}"]
    facts.append(f"{os.cpu_count()} cores")
    if torch.cuda.is_available():
        p = torch.cuda.get_device_properties(0)
        facts.append(f"{p.name} sm_{p.major}{p.minor} {p.multi_processor_count} multiprocessors")
    print(", ".join(facts))


if __name__ == "__main__":
    main()
