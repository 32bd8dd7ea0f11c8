"""What Triton's compiler makes of the kernels, for every kind of device; none is needed.

The launches of a list of calls are recorded instead of run, and each is compiled, as it would be on a device.
`python -m tests.kernels.triton.test_triton_compile` prints the table of docs/triton.md.
"""

import collections
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

from fastgan import backends
from tests.helpers import ROOT
from tests.helpers.calls import losses, norms, points

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("compiles nothing under TRITON_INTERPRET=1", allow_module_level=True)

from fastgan.triton_kernels import launch  # noqa: E402

from fastgan.backends import triton as ft  # noqa: E402
from tests.helpers.precompile import recording  # noqa: E402

pytestmark = pytest.mark.slow
TARGETS = [("cuda", 80, 32), ("cuda", 90, 32), ("cuda", 100, 32), ("cuda", 120, 32), ("hip", "gfx942", 64)]
MOST = ("cuda", 90, 32)


def calls():
    """One of each kind of launch, in float32, and some in other dtypes."""
    f32, bf16, f64 = torch.float32, torch.bfloat16, torch.float64

    def pair(n, dtype=f32):
        return torch.zeros(n, dtype=dtype), torch.ones(n, dtype=dtype)

    image, short = torch.ones(4, 3, 64, 64), torch.ones(20_000, 3)
    return [
        losses(*pair(3000), return_stats=True),
        losses(*pair(3000), relativistic="average"),
        losses(*pair(200_000), second=False),
        losses(*pair(3_000_000), loss="hinge", second=False),
        losses(*pair(200_000), relativistic="average", return_stats=True),
        losses(*pair(200_000), relativistic="paired", second=False),
        losses(*pair(200_000), relativistic="average", reduction="none"),
        losses([torch.zeros(9000) for _ in range(8)], [torch.zeros(9000) for _ in range(8)], second=False),
        losses(*pair(200_000, bf16), relativistic="average"),
        losses([torch.zeros(900)] * 3, [torch.ones(900)] * 3, weights=torch.ones(3, dtype=bf16), second=False),
        losses(*pair(3000, f64), relativistic="average", return_stats=True),
        losses(*pair(200_000, f64)),
        losses(*pair(64)),
        losses([torch.zeros(64)] * 6, [torch.ones(64)] * 6, return_stats=True, second=False),
        losses(*pair(64, bf16), relativistic="paired", return_stats=True),
        *[
            losses(*pair(n, dtype), relativistic="average", real_mask=torch.ones(n), fake_target=torch.ones(1) > 0)
            for n, dtype in ((3000, f32), (200_000, f32), (200_000, bf16), (3000, f64))
        ],
        norms(image, return_stats=True),
        norms(image, "power", power=6, mask=torch.ones(4, 1, 64, 64), weights=torch.ones(4)),
        norms(image, over="channel", reduction="none"),
        norms(image.contiguous(memory_format=torch.channels_last)),
        norms(short, return_stats=True),
        norms([image.bfloat16(), image.bfloat16()]),
        norms(image.double(), return_stats=True),
        norms(image.double(), over="channel"),
        norms(torch.ones(200, 3, 32, 32)),
        norms(torch.ones(200, 5000)),
        norms([image, torch.ones(4, 9), image.half()], return_stats=True),
        points(image, image),
        points(image.bfloat16(), image.bfloat16(), need_eps=False),
        points(image.double(), image.double()),
    ]


def recorded():
    """(kernel, arguments, constants, warps) of all launches of these calls, no two the same."""
    found = {}
    with recording(found) as patch:
        patch.setattr(backends, "get", lambda tensors, scanned=-1: ft.BACKEND)
        for call in calls():
            call()
    return list(found.values())


def only_identity(named):
    """Whether all terms are linear in x: their gradients are constants, which need neither x nor a product."""
    return named.get("PHI_CODES") == 1


def name_of(fn, arguments, constants):
    """A kernel's name, and which of it: the constants that say so."""
    named = dict(zip(fn.arg_names[len(arguments) :], constants, strict=True))
    words = {
        "PASS": {
            "loss_sums": ["value", "slopes", "second order", "mean"],
            "loss_finish": ["value", "slopes", "second order", "mean"],
            "penalty_groups": ["norms", "", "products", "eps"],
            "penalty_gradient": ["first", "", "second order"],
            "loss_elements": ["value", "gradient", "second order"],
        }.get(fn.__name__, ["squares", "scaled", "products", "eps", "greatest"]),
        "DTYPES": {1: "float32", 2: "float64", 4: "float16", 8: "bfloat16", 5: "several dtypes"},
        "ALIGNED": {True: "", False: "any address"},
        "ACCESS": {0: "any address", 1: "", 2: "any address"},
        "ONE": {True: "one program", False: ""},
        "BACKWARD": {True: "backward", False: ""},
    }
    for flag in (
        "SUBTRACTS_MEAN",
        "PAIRED",
        "SLOPES",
        "STATS",
        "MASKED",
        "TRANSPOSED",
        "ELEMENTWISE",
        "UNREDUCED",
        "FEW",
        "WHOLE",
    ):
        words[flag] = {True: flag.lower().replace("_", " "), False: ""}
    said = [words[k][v] for k, v in named.items() if k in words]
    if named.get("IS_FLOAT64"):
        said.append("float64")
    if named.get("DE", 0):
        said.append("strided")
    if only_identity(named):
        said.append("identity")
    if "TERMS" in named:
        said.append(f"{named['TERMS']} terms")
    return fn.__name__ + ": " + ", ".join(w for w in said if w)


def compile_one(job):
    """Of a launch and a target: its name, the metadata, registers and stack, and the instructions."""
    (fn, arguments, constants, warps), target = job
    made = launch.compiled(fn, arguments, constants, warps, triton.backends.compiler.GPUTarget(*target))
    numbers = {"SHARED": made.metadata.shared, "warps": warps}
    sass = ""
    if target[0] == "cuda":
        from triton import knobs

        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(made.asm["cubin"])
            file.flush()
            command = [knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
            usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        numbers |= {k: int(v) for k, v in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
        sass = made.asm["sass"]
    elif target[0] == "hip":
        counts = r"\.(sgpr_spill_count|vgpr_spill_count|vgpr_count):\s+(\d+)"
        numbers |= {k: int(v) for k, v in re.findall(counts, made.asm["amdgcn"])}
        sass = made.asm["amdgcn"]
    return name_of(fn, arguments, constants), target[1], numbers, sass


@pytest.fixture(scope="module")
def made():
    return everything()


def everything():
    """`compile_one` of all launches for one target, and of the first of each kernel and purpose for the others.

    Processes are forked: they only compile, and compute nothing.
    """
    launches, purposes = recorded(), {}
    for fn, arguments, constants, warps in launches:
        named = dict(zip(fn.arg_names[len(arguments) :], constants, strict=True))
        purposes.setdefault((fn.__name__, named.get("PASS")), (fn, arguments, constants, warps))
    _jobs[:] = [(job, MOST) for job in launches]
    _jobs.extend((job, target) for target in TARGETS if target != MOST for job in purposes.values())
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("fork")) as pool:
        return list(pool.map(_compile_numbered, range(len(_jobs)), chunksize=4))


_jobs = []


def _compile_numbered(number):
    return compile_one(_jobs[number])


def test_every_kernel_for_every_target(made):
    """Spills nothing, and needs no more of a device than the least of them has."""
    kernels = {name.split(":")[0] for name, *_ in made}
    assert kernels == {
        "loss_sums", "loss_shrink", "loss_finish", "loss_elements", "group_sums", "shrink", "penalty_groups", "penalty_total",
        "penalty_mean", "penalty_statistics", "penalty_gradient", "interpolate",
    }  # fmt: skip
    for name, arch, numbers, code in made:
        assert numbers["SHARED"] <= 16384, (name, arch)
        if isinstance(arch, int):
            assert numbers["STACK"] == numbers["LOCAL"] == 0, (name, arch, numbers)
            assert numbers["REG"] <= 255, (name, arch)
            assert not re.search(r"\b(LDL|STL)\b", code), (name, arch)
        else:
            assert numbers["vgpr_spill_count"] == 0, (name, arch, numbers)


def test_nothing_approximate(made):
    """As for the CUDA kernels: reciprocals and roots only where IEEE division and square root begin."""
    for name, arch, _, code in made:
        if not isinstance(arch, int):
            continue
        assert set(re.findall(r"\bMUFU\.(\w+)", code)) <= {"RCP", "RSQ", "RCP64H", "RSQ64H"}, (name, arch)
        assert not re.search(r"\b(FFMA|FMUL)\S*\.FTZ", code), (name, arch)
        # One more of these adds the operands of a division of which one is NaN.
        flushed = [line for line in code.splitlines() if re.search(r"\bFADD\.FTZ", line) and "-RZ" not in line]
        assert len(flushed) <= 1, (name, arch)
        assert not re.search(r"\b(RED|ATOM\w*)\.\S*F(32|64)", code), (name, arch)


def test_ptx_is_exact():
    """No approximate, flushing or contracted instruction is asked for."""
    for fn, arguments, constants, warps in recorded():
        if fn.__name__ not in ("loss_elements", "penalty_gradient", "penalty_groups"):
            continue
        named = dict(zip(fn.arg_names[len(arguments) :], constants, strict=True))
        target = triton.backends.compiler.GPUTarget("cuda", 90, 32)
        ptx = launch.compiled(fn, arguments, constants, warps, target).asm["ptx"]
        assert not re.search(r"\.(approx|ftz|full)\b", ptx), fn.__name__
        assert not re.search(r"\bmad\.rn\.f|\bmul\.f(32|64)", ptx), fn.__name__
        if fn.__name__ == "loss_elements" and not only_identity(named):
            assert re.search(r"\bfma\.rn\.f(32|64)", ptx)


def test_128_bits_at_a_time(made):
    seen = collections.Counter()
    for name, arch, _, code in made:
        # Not of small calls either, of which a thread has few elements.
        others = ("any address", "strided", "transposed", "one program", "identity")
        streams = "float32" in name and not any(o in name for o in others)
        if not isinstance(arch, int) or not streams:
            continue
        kernel = name.split(":")[0]
        if kernel in ("loss_sums", "loss_elements", "group_sums", "penalty_gradient", "interpolate"):
            assert re.search(r"\bLDG\.E\.128", code), (name, arch)
            seen[kernel] += 1
        if kernel in ("loss_elements", "penalty_gradient", "interpolate"):
            assert re.search(r"\bSTG\.E\.128", code), (name, arch)
    assert len(seen) == 5


def table(found):
    """For docs/triton.md: what was compiled for all."""
    of = collections.defaultdict(dict)
    for name, arch, numbers, _ in found:
        of[name].setdefault(arch, numbers)  # the same launch for all: the first
    archs = [t[1] for t in TARGETS]
    heads = [f"sm_{a}" if isinstance(a, int) else a for a in archs]
    lines = [
        "| kernel | warps | " + " | ".join(heads) + " | shared memory |",
        "| --- |" + " ---: |" * (len(heads) + 2),
    ]
    for name, by_arch in sorted(of.items()):
        if len(by_arch) < len(archs):
            continue
        cells = [str(n.get("REG", n.get("vgpr_count", ""))) for n in (by_arch.get(a, {}) for a in archs)]
        shared = max(n["SHARED"] for n in by_arch.values())
        lines.append(f"| `{name}` | {by_arch[90]['warps']} | " + " | ".join(cells) + f" | {shared} |")
    return "\n".join(lines)


def test_the_table_in_the_docs(made):
    """That of docs/triton.md is of the Triton that the tests pin; another's is within the budgets."""
    text = (ROOT / "docs" / "triton.md").read_text()
    if f"by Triton {triton.__version__} " not in text:
        pytest.skip("the table is of another Triton")
    assert table(made) in text, "python -m tests.kernels.triton.test_triton_compile prints the table"


if __name__ == "__main__":
    print(table(everything()), file=sys.stdout)
