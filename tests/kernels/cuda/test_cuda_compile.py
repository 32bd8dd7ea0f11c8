"""What nvcc made of the kernels, read from the built extension by cuobjdump (CUDA's, or the one in Triton's package).

`python -m tests.kernels.cuda.test_cuda_compile` prints the table of docs/cuda.md.
"""

import collections
import re
import subprocess
from pathlib import Path

import pytest

from fastgan.backends import native
from fastgan.backends.native import build_facts
from tests.helpers import ROOT, sass

LIBRARY = native.native.__file__ if native.native else None
STREAMING = tuple(
    f"{kernel}float32>"
    for kernel in ("interpolate_elements<", "penalty_gradient<first, ", "penalty_sums<squares, ", "loss_forward<lean, ", "loss_forward<steady, ", "loss_backward<")
)  # fmt: skip


def fact(name: str) -> str:
    """What the build says of the CUDA code in the extension that is loaded; each of several has its own."""
    major = re.match(r"_native_cuda(\d+)", Path(LIBRARY).name)
    return build_facts()[f"cuda {major[1]} {name}" if major else f"cuda {name}"]


def dump(*options: str) -> str:
    done = subprocess.run([sass.disassembler(), *options, LIBRARY], capture_output=True, text=True, check=True)
    return done.stdout


def usage() -> dict[tuple[str, str], dict[str, int]]:
    """Registers, stack and shared memory of each (kernel, architecture)."""
    arch, name, found = "", "", {}
    for line in dump("-res-usage").splitlines():
        if line.startswith("arch = "):
            arch = line.removeprefix("arch = ")
        elif match := re.match(r"\s*Function (\S+):", line):
            name = match[1]
        elif "REG:" in line and "nothing" not in name:
            found[name, arch] = {k: int(v) for k, v in re.findall(r"(\w+):(\d+)", line)}
    names = sass.readable([symbol for symbol, _ in found])
    return {(names[symbol], arch): numbers for (symbol, arch), numbers in found.items()}


def table() -> str:
    """For docs/cuda.md."""
    by_kernel = collections.defaultdict(dict)
    for (kernel, arch), numbers in sorted(usage().items()):
        by_kernel[kernel][arch] = numbers
    archs = sorted({a for v in by_kernel.values() for a in v}, key=lambda a: int(re.sub(r"\D", "", a)))
    lines = [
        "| kernel | " + " | ".join(archs) + " | shared memory | stack |", "| --- |" + " ---: |" * (len(archs) + 2)
    ]  # fmt: skip
    for kernel, of in by_kernel.items():
        shared, stack = (max(n[k] for n in of.values()) for k in ("SHARED", "STACK"))
        cells = [str(of[a]["REG"]) if a in of else "" for a in archs]
        lines.append(f"| `{kernel}` | " + " | ".join(cells) + f" | {shared} | {stack} |")
    return "\n".join(lines)


pytestmark = [
    pytest.mark.skipif(not hasattr(native.native, "cuda_forward"), reason=f"CUDA: {build_facts().get('cuda')}"),
    pytest.mark.skipif(sass.disassembler() is None, reason="there is no cuobjdump"),
]


@pytest.fixture(scope="module")
def used():
    return usage()


@pytest.fixture(scope="module")
def code():
    """SASS of each kernel, for one architecture at least: the last that was built for."""
    archs = re.findall(r"arch = (sm_\d+)", dump("-lelf") + dump("-res-usage"))
    arch = sorted(set(archs), key=lambda a: int(a[3:]))[-1]
    parts = re.split(r"\n\s*Function : (\S+)\n", dump("-sass", "-arch", arch))
    names = sass.readable(parts[1::2])
    return {names[name]: body for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def test_every_kernel_for_every_architecture(used):
    """The same kernels in each; and the architectures that the build says it has."""
    by_arch = collections.defaultdict(set)
    for kernel, arch in used:
        by_arch[arch].add(kernel)
    kernels = next(iter(by_arch.values()))
    assert all(names == kernels for names in by_arch.values())
    for name in (
        "loss_forward<full, float64>", "loss_forward<general, bfloat16>", "loss_means<float16>", "loss_backward<float64>",
        "loss_backward_general<float32>", "loss_second<bfloat16>", "penalty_sums<dots, float64>", "penalty_finish<float>",
        "penalty_gradient<second, float16>", "interpolate_eps<float64>", *STREAMING,
    ):  # fmt: skip
        assert name in kernels
    built = {"sm_" + a.removesuffix("+PTX").replace(".", "") for a in fact("architectures").split()}
    assert built == set(by_arch)


def test_budgets(used):
    """Little stack, and test_cuda_sass.py counts how often loops touch it; blocks that live at once; 48 KB."""
    for (kernel, arch), numbers in used.items():
        assert numbers["STACK"] <= 128, (kernel, arch)
        assert numbers["LOCAL"] == 0, (kernel, arch)
        few = "float64" in kernel or kernel.startswith(("penalty_rescue", "penalty_finish<double>"))
        assert numbers["REG"] <= (255 if few else 128), (kernel, arch)
        assert numbers["SHARED"] <= 49152, (kernel, arch)


def test_instructions(code):
    """No approximate function but where its error is bounded, nothing else flushed to zero, no float atomics.

    MUFU.RCP and RSQ are where IEEE division and square root begin, EX2 and RCP where a 16-bit gradient is found roughly
    first; F2I.FTZ divides integers, and FADD.FTZ beside -RZ changes a sign within a reciprocal.
    """
    for kernel, body in code.items():
        rough = {"EX2"} if "float16>" in kernel else set()
        assert set(re.findall(r"\bMUFU\.(\w+)", body)) <= {"RCP", "RCP64H", "RSQ64H"} | rough, kernel
        assert not re.search(r"\b(FFMA|FMUL)\S*\.FTZ", body), kernel
        assert all("-RZ" in line for line in body.splitlines() if re.search(r"\bFADD\.FTZ", line)), kernel
        assert not re.search(r"\b(RED|ATOM\w*)\.\S*F(32|64)", body), kernel


def test_128_bits_at_a_time(code):
    for kernel in STREAMING:
        assert re.search(r"\bLDG\.E\.128", code[kernel]), kernel
        if kernel.startswith(("interpolate", "penalty_gradient", "loss_backward")):
            assert re.search(r"\bSTG\.E\.128", code[kernel]), kernel


def test_the_table_in_the_docs(used):
    """The one in docs/cuda.md is of this compiler's code; another compiler's is within the budgets."""
    text = (ROOT / "docs" / "cuda.md").read_text()
    if fact("compiler") not in text or len({a for _, a in used}) < 7:
        pytest.skip("built by another compiler, or not for all architectures")
    assert table() in text, "python -m tests.kernels.cuda.test_cuda_compile prints the table"


if __name__ == "__main__":
    print(table())
