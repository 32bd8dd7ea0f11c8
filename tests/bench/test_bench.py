"""The benchmark times what it says: its baselines compute what fastgan computes, and its report is made."""

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from bench import gpu_carry, gpu_cases, gpu_ncu, gpu_stages, harness
from bench.suites import loss_calls, losses, penalties, penalty_steps, steps
from fastgan.backends import nodes
from tests.helpers import ROOT

BENCH = ROOT / "bench"
draws = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib draws the plots")


def test_baselines_compute_the_same():
    for case in (*losses.CASES, *losses.SEQUENCES):
        losses.check(case)
    penalties.check((3, 3, 16, 16))


def bench(suite, out, *options, files=(".json", ".md", ".png")):
    """What `python -m bench` prints, and that its files are there."""
    command = [sys.executable, "-m", "bench", suite, "--quick", "--out", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert {p.suffix for p in out.iterdir()} == set(files)
    assert "says nothing of speed" in done.stdout
    return done.stdout


@pytest.mark.slow
@draws
def test_the_report_of_losses_is_made(tmp_path):
    assert "nonsaturating D" in bench("losses", tmp_path)


@pytest.mark.slow
def test_the_report_of_calls_of_losses_is_made(tmp_path):
    text = bench("losses", tmp_path, "--sizes", "2", "5", files=(".json", ".md"))
    for heading in ("Ratios of forward+backward", "forward+backward", "forward"):
        assert f"## {heading}\n" in text
    result = json.loads(next(tmp_path.glob("loss-calls-cpu-*.json")).read_text())
    assert len(result["rows"]) == 2 * 2 * len(loss_calls.CASES)
    assert "eager/python" in result["rows"][0]["ratio"]


@pytest.mark.slow
@draws
def test_the_report_of_attention_is_made(tmp_path):
    text = bench("attention", tmp_path)
    for heading in ("Attention, its gradients", "R1 of a transformer", "Largest error against float64"):
        assert f"## {heading}" in text
    rows = json.loads(next(tmp_path.glob("attention-cpu-*.json")).read_text())["rows"]
    assert rows[1]["MiB"]["fastgan"] < 0.5 * rows[1]["MiB"]["plain"]
    assert "checkpoint" in rows[-1]["ratio"]


@pytest.fixture
def calls():
    """A quick run of the cost of a call, with two logits, on one thread as all quick runs."""
    options = harness.arguments(losses.SUITE, ["--sizes", "2", "--quick"])
    assert losses.SUITE.instead(options) is loss_calls.SUITE
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield harness.Run(loss_calls.SUITE, options)
    torch.set_num_threads(before)


def rows_of_calls(run, case):
    return harness.summarized({"rows": list(loss_calls.measure(run, case))})["rows"]


@pytest.mark.parametrize("case", loss_calls.CASES, ids=lambda case: case.name)
def test_calls_of_losses_are_measured(calls, case):
    """Every contender that there is, in both modes; the ratios are of the contenders that they name."""
    assert len(loss_calls.CASES) == len(loss_calls.NAMES)
    both, forward = rows_of_calls(calls, case)
    there = [n for n in loss_calls.CONTENDERS if n != "compiled" and (nodes.module or "node" not in n)]
    for row in (both, forward):
        assert list(row["minimum"]) == list(row["median"]) == there
    assert set(both["pairs"]) == {k for k in loss_calls.PAIRS if set(k.split("/")) <= set(there)}
    assert both["ratio"]["eager/python"] == both["minimum"]["eager"] / both["minimum"]["python"]
    assert "pairs" not in forward
    assert "eager/python" in loss_calls.figure(both)
    assert case.name in loss_calls.sections({"rows": [both, forward]})[2]


def test_calls_of_losses_without_nodes(calls):
    """Contenders that are not built are left out, and the report says so."""
    with nodes.off():
        both, forward = rows_of_calls(calls, loss_calls.CASES[0])
    assert list(both["minimum"]) == ["eager", "python", "empty Function"]
    assert list(both["pairs"]) == ["eager/python"]
    assert "Without nodes and empty node" in "".join(loss_calls.sections({"rows": [both, forward]}))


def test_python_is_measured_without_nodes(calls, monkeypatch):
    """The switch is entered once per round, around all steps, and for one contender alone."""
    seen = {"python": [], "eager": []}
    works = {name: lambda at=at: at.append(nodes.module) for name, at in seen.items()}
    monkeypatch.setattr(nodes, "module", "there")
    calls.measure(works, "eager", 2, 3, within=loss_calls.WITHIN)
    assert seen == {"python": [None] * 10, "eager": ["there"] * 10}


def test_a_wrong_baseline_among_calls_of_losses_is_noticed(calls):
    case = next(c for c in loss_calls.CASES if c.name == "hinge D")
    wrong = case._replace(eager=lambda r, f: case.eager(r, f) * (1 + 1e-5))
    assert list(loss_calls.measure(calls, wrong)) == [{"wrong": "hinge D, n = 2: python is not eager"}]


def test_a_wrong_contender_among_calls_of_losses_is_noticed():
    """A gradient that is not eager's, one bit between python and nodes, and nodes without a node."""
    case = loss_calls.CASES[0]
    arguments = losses.operands(case, 5)
    works = loss_calls.forwards(case, arguments, False)
    assert loss_calls.disagreement(works, arguments) is None
    python = works["python"]

    def told(**wrong):
        return loss_calls.disagreement(works | wrong, arguments)

    real = arguments[0]  # the loss is right, its gradient is not
    assert told(compiled=lambda: python() + 1e-4 * (real - real.detach()).sum()) == "compiled is not eager"
    assert told(nodes=lambda: python() * (1 + 2**-23)) == "nodes has other bits than python"
    assert told(nodes=lambda: python() * 1) == "nodes has the graph of MulBackward0"
    assert told(python=lambda: python() * float("nan")) == "python is not eager"


@pytest.mark.slow
@draws
def test_the_report_of_penalties_is_made(tmp_path):
    assert "whole penalty" in bench("penalties", tmp_path)


@pytest.mark.slow
@draws
def test_the_report_of_whole_steps_is_made(tmp_path):
    """Small ones of each kind of output and argument; before a case is timed values and gradients are compared."""
    names = [
        "conv",
        "spectral norm",
        "batch norm",
        "vocoder",
        "projection",
        "attention",
        "dict",
        "list",
        "autocast",
    ]
    text = bench("penalty-steps", tmp_path, "--only", *names)
    for heading in ("whole penalty step", "whole discriminator step", "What a penalty costs", "of 6 cases"):
        assert heading in text


@pytest.mark.slow
@draws
def test_the_report_of_trainers_is_made(tmp_path):
    """Small batches of all but the heaviest; before a case is timed both contenders' results are compared."""
    trainers = ["pix2pix", "basicsr", "mmagic", "cyclegan", "taming", "monai", "magvit2", "wgan_gp", "biggan"]
    trainers += ["studiogan", "gigagan", "relativisticgan", "torchgan", "parallelwavegan"]
    assert "3 scales, 12 maps" in bench("trainers", tmp_path, "--only", *trainers)


@pytest.mark.slow
@draws
def test_the_report_of_whole_training_steps_is_made(tmp_path):
    """Tiny networks; before a case is timed all contenders' gradients are compared with the trainer's own."""
    text = bench("steps", tmp_path)
    for heading in (
        "Whole steps",
        "Their parts",
        "The losses alone",
        "Operations",
        "Peak memory",
        "Whether gradients are the same",
    ):
        assert f"## {heading}" in text
    for case in steps.TRAINERS:
        assert f"\n| {case} " in text


def test_operations_of_convolutions_in_groups():
    """Each gradient counts as much as the forward, in groups too, and what is frozen does not count."""
    for layer in (nn.Conv1d(8, 12, 5, 2, 2, groups=4), nn.ConvTranspose1d(8, 12, 4, 2, 1, groups=2)):
        x = torch.randn(3, 8, 20, requires_grad=True)
        with torch.no_grad():
            forward = steps.operations(lambda layer=layer, x=x: layer(x))
        assert steps.operations(lambda layer=layer, x=x: layer(x).sum().backward()) == 3 * forward > 0
        layer.requires_grad_(False)
        assert steps.operations(lambda layer=layer, x=x: layer(x).sum().backward()) == 2 * forward


def row(name, seconds, calibration):
    return {"base": "eager", "case": name, "calibration": calibration, "seconds": seconds}


def test_disturbed_rounds_do_not_count():
    """Minima, medians and ratios are of the rounds whose calibration took its usual time."""
    found = {
        "rows": [row("a", {"eager": [4.0, 6.0, 8.0, 1.0], "fused": [2.0, 2.0, 2.0, 9.0]}, [1.0, 1.1, 1.2, 1.4])]
    }
    (summed,) = harness.summarized(found)["rows"]
    assert summed["minimum"] == {"eager": 4.0, "fused": 2.0}
    assert summed["ratio"] == {"eager": 1.0, "fused": 2.0}
    assert summed["ratio, median"]["fused"] == 3.0
    assert (summed["dropped"], summed["marked"]) == (1, False)
    found["rows"][0]["calibration"] = [1.0, 1.1, 2.0, 2.0]  # too few are left: all count, and a star says so
    (summed,) = harness.summarized(found)["rows"]
    assert summed["minimum"]["eager"] == 1.0
    assert (summed["dropped"], summed["marked"]) == (2, True)


def test_what_losses_are_asked_for(capsys):
    assert losses.SUITE.instead(harness.arguments(losses.SUITE, ["--quick"])) is None
    with pytest.raises(SystemExit):
        harness.arguments(losses.SUITE, ["--sizes", "16", "0"])
    assert "argument --sizes: expected at least 1, got 0" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--width", "9"], ["--size", "8"], ["--batch", "1"], ["--only", "nothing"]])
def test_what_steps_are_asked_for(wrong, capsys):
    with pytest.raises(SystemExit):
        harness.arguments(penalty_steps.SUITE, wrong)
    assert wrong[0] in capsys.readouterr().err


# ---------------------------------------------------------------------------------- the run on a GPU


def test_every_contender_on_a_gpu_computes_its_case():
    """All that bench/gpu.py measures, at sizes that take no time: nobody is left out as wrong."""
    device = torch.device("cpu")
    cells = {c._replace(n=min(c.n, 3000)) for c in (*gpu_cases.FIRST, *gpu_cases.REST, *gpu_cases.COMPILED)}
    for cell in cells:
        arms, why = gpu_cases.loss_arms(cell, device, ["cpu"], False)
        assert not why
        assert [arm.name for arm in arms] == ["eager", "cpu", "copy"]
    for dtype in (torch.float32, torch.bfloat16):
        sets = gpu_cases.sample_sets(4, (3, 8, 8), dtype, device)[:2]
        for case in gpu_cases.TENSORS_MOVED:
            exact = gpu_cases.exact_penalty(sets[0])
            arms, why = gpu_cases.penalty_arms(case, sets, exact, ["cpu"], False, device)
            assert not why
            assert [arm.name for arm in arms] == ["eager", "cpu", "copy"]


@pytest.fixture
def stages():
    return gpu_stages


@pytest.mark.slow
def test_a_run_on_a_gpu_is_rehearsed(tmp_path):
    """Every program of bench/gpu.sh once, where there is no GPU, with the extension carried in a folder."""
    carried = tmp_path / "carried" / "fastgan"
    carried.mkdir(parents=True)
    for path in (*BENCH.parent.glob("fastgan/_native*.so"), BENCH.parent / "fastgan" / "_build.json"):
        shutil.copy(path, carried)
    command = [str(BENCH / "gpu.sh"), str(tmp_path / "out"), "--device", "cpu", "--quick"]
    done = subprocess.run(
        [*command, "--carried", str(carried.parent)],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHON": sys.executable},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout) < 12_000
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["logs.tar.gz", "results.json", "summary.txt"]
    assert {s["name"]: s["code"] for s in found["stages"] if s["name"] != "memcheck"} == dict.fromkeys(
        ("machine", "extension", "tour", "smoke", "tests-cuda", "speed", "ncu", "shapes", "training", "trainers",
         "steps", "attention", "sizes"), 0,
    )  # fmt: skip
    assert {"smoke", "speed", "shapes", "training", "trainers", "steps", "attention", "sizes"} <= set(
        found["results"]
    )
    assert found["results"]["speed"]["rows"][0]["arms"]["cpu"]["step"]["median"] > 0
    assert "building" not in done.stdout
    for line in ("hinge D 4096 float32: gpu eager", "forward 4096: in use", "penalty, conv: ms recipe", "1 passed"):
        assert line in done.stdout
    with tarfile.open(tmp_path / "out" / "logs.tar.gz") as archive:
        assert {"tour/log.txt", "speed/log.txt"} <= set(archive.getnames())


def running():
    """The command lines of all processes, where the system tells them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_text(errors="replace"))
    return "\n".join(found)


@pytest.mark.slow
@pytest.mark.alone
def test_what_stopped_or_failed_stages_leave(stages, tmp_path, monkeypatch, capsys):
    """A figure that was written counts, whatever becomes of its stage; nothing runs after what is needed."""
    write = "import json, sys, time; json.dump([1], open(sys.argv[1] + '/a.json', 'w')); time.sleep(60)"
    made = []

    def few(run):
        made.append(run)
        folder = str(run.folder("stopped"))
        return [
            stages.Stage("stopped", 4, ["-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', "
                                              f"{write!r}, {folder!r}])"]),
            stages.Stage("without", 4, [], before=["no-such-program"]),
            stages.Stage("failed", 9, ["-c", "print('E   why'); raise SystemExit(3)"], needed=True),
            stages.Stage("never", 9, ["-c", "pass"]),
        ]  # fmt: skip

    monkeypatch.setattr(stages, "beginning", few)
    with pytest.raises(SystemExit, match="FAILED: stopped failed"):
        stages.main([str(tmp_path), "--smoke"])
    found = json.loads((tmp_path / "results.json").read_text())
    assert [(s["name"], s["code"], s["why"]) for s in found["stages"]] == [
        ("stopped", -2, "stopped after 4 s"), ("without", None, "not run, no no-such-program here"), ("failed", 3, ""),
    ]  # fmt: skip
    assert found["results"] == {"stopped": [1]}
    assert "E   why" in capsys.readouterr().out
    assert not made[0].work.exists()
    assert str(made[0].work) not in running(), "what a stage started outlives it"


def test_a_run_that_is_killed_leaves_its_figures(tmp_path):
    """Also those of the stage that was running."""
    write = "import json, sys, time; json.dump([7], open(sys.argv[1] + '/a.json', 'w')); print('figure: seven', flush=True)"
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from bench import gpu_stages as g\n"
        "g.SLICE = 1\n"
        f"g.beginning = lambda run: [g.Stage('long', 60, ['-c', {write + '; time.sleep(20)'!r}, str(run.folder('long'))])]\n"
        f"g.main([{str(tmp_path)!r}, '--smoke'])"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while not (tmp_path / "summary.txt").exists() or "seven" not in (tmp_path / "summary.txt").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        process.kill()
        process.wait()
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["results"] == {"long": [7]}
    assert found["stages"][0]["why"] == "running"


@pytest.mark.slow
@pytest.mark.alone
def test_a_run_ends_in_time(stages, tmp_path, monkeypatch):
    monkeypatch.setattr(
        stages, "beginning", lambda run: [stages.Stage(n, 9, ["-c", "import time; time.sleep(9)"]) for n in "ab"]
    )
    start = time.monotonic()
    with pytest.raises(SystemExit, match="FAILED: a"):
        stages.main([str(tmp_path), "--smoke", "--minutes", "0.15"])
    assert time.monotonic() - start < 9
    assert json.loads((tmp_path / "results.json").read_text())["stages"][1]["why"] == "not run, out of time"


def test_what_is_shown_of_a_long_summary(stages):
    """What was measured first, and how every stage went."""
    lines = [f"figure {k}" for k in range(4000)]
    found = stages.beginning_of(lines, 11_000)
    assert found[:-1] == lines[: len(found) - 1]
    assert found[-1] == f"... and {4001 - len(found)} lines more in summary.txt"
    assert 10_000 < len("\n".join(found)) < 11_000
    assert stages.beginning_of(lines[:5], 11_000) == lines[:5]


def test_what_a_run_on_a_gpu_is_asked_for(stages, tmp_path, capsys):
    with pytest.raises(
        SystemExit, match=r"--only: expected some of machine extension .* steps attention sizes, got sped"
    ):
        stages.main([str(tmp_path), "--device", "cpu", "--only", "speed", "sped"])
    for wrong, match in (
        (["--carried", str(tmp_path)], "a folder that gpu_carry"),
        (["--minutes", "0"], "a positive"),
    ):
        with pytest.raises(SystemExit):
            stages.main([str(tmp_path), *wrong])
        assert match in capsys.readouterr().err


@pytest.mark.slow
def test_carried_triton_kernels_are_found(monkeypatch, tmp_path):
    """A kernel that was compiled into one folder is no work in another, to which what a launch reads was carried."""
    pytest.importorskip("triton")
    made, cache = tmp_path / "made", tmp_path / "cache"
    command = [sys.executable, "-m", "tests.helpers.precompile", "--only-trial"]

    def compile_into(folder):
        subprocess.run([*command, str(folder)], cwd=BENCH.parent, check=True, capture_output=True)
        return sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())

    assert any(p.suffix == ".ptx" for p in compile_into(made))
    gpu_carry.pack(made, tmp_path / gpu_carry.KERNELS)
    shutil.rmtree(made)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(cache))
    gpu_carry.unpack(tmp_path / gpu_carry.KERNELS)
    carried = sorted(p.relative_to(cache) for p in cache.rglob("*") if p.is_file())
    assert {p.suffix for p in carried} >= {".cubin", ".json"}
    # Newer Tritons keep this one by the driver's folder, which is another each time.
    anew = [p for p in compile_into(cache) if p not in carried and not p.name.startswith("cuda_utils")]
    assert not anew


PROFILED = """==PROF== Connected to process 1
"ID","Process ID","Kernel Name","gpu__time_duration.sum","dram__throughput.avg.pct_of_peak_sustained_elapsed",""" + (
    """"launch__registers_per_thread","smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio","""
    """"smsp__average_warps_issue_stalled_wait_per_issue_active.ratio","""
    """"smsp__average_warps_issue_stalled_wait_not_issued_per_issue_active.ratio"
"","","","us","%","register/thread","inst","inst","inst"
"0","1","void loss_forward<float>(Table)","1,234.50","61.25","80","3.50","7.25","9.00"
"""
)


def test_what_ncu_says_is_read():
    (row,) = gpu_ncu.read(PROFILED)
    assert gpu_ncu.line(row) == (
        "loss_forward<float>(Table): time 1,234.50 us; DRAM 61.25 %; registers 80 register/thread;"
        " waits wait 7.25, long_scoreboard 3.50"
    )
    assert gpu_ncu.read("==ERROR== no permission") == []
