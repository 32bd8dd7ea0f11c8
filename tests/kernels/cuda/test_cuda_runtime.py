"""What csrc/cuda/runtime.cu makes of the CUDA runtime's answers: read by a C++ compiler, on a runtime that is told what
to answer (tests/helpers/cudafake).
"""

import ctypes
import subprocess

import pytest

from tests.helpers import ROOT
from tests.helpers.simulated import CXX, FLAGS

FAKE = ROOT / "tests" / "helpers" / "cudafake"
EARLIER = (214, 220, 700, 702, 710, 716, 719)  # ECC, NVLink, illegal address, timeout, assert, misaligned, failure
BUSY = (
    1,
    2,
    9,
    46,
    701,
    900,
    901,
    999,
)  # arguments, memory, configuration, device in use, resources, captures, unknown


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    out = tmp_path_factory.mktemp("runtime") / "runtime.so"
    flags = [flag for flag in FLAGS if flag != "-DFASTGAN_SIM"]
    sources = [str(ROOT / "csrc" / "cuda" / "runtime.cu"), str(FAKE / "fake.cpp")]
    command = [*CXX, *flags, "-O1", f"-I{FAKE}", f"-I{ROOT / 'csrc'}", "-shared", "-x", "c++", *sources, "-o", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr
    return out


class Runtime:
    """The library, and what it says."""

    def __init__(self, path):
        self.library = ctypes.CDLL(str(path))
        self.library.fake_said.restype = ctypes.c_char_p

    def failing(self, function, error):
        self.library.fake_failing(function.encode(), error)

    def calls(self, function):
        return self.library.fake_calls(function.encode())

    def said(self, threw):
        return bool(threw), self.library.fake_said().decode()

    def unusable(self, device=0):
        """Whether the reason may pass, and the reason."""
        return self.said(self.library.unusable(device))

    def counters(self, stream, device=0):
        """Their address, or 0."""
        address = ctypes.c_void_p()
        threw = self.library.counters(device, ctypes.c_ssize_t(stream), ctypes.byref(address))
        if threw:
            raise RuntimeError(self.said(threw)[1])
        return address.value or 0

    def launch(self):
        """What a launch raised, how often the program's lock was released, and how often acquired."""
        released, acquired = ctypes.c_int(), ctypes.c_int()
        threw = self.library.launch(ctypes.byref(released), ctypes.byref(acquired))
        return self.said(threw), released.value, acquired.value


@pytest.fixture
def runtime(library, tmp_path):
    """A copy of its own: its state is new."""
    path = tmp_path / "runtime.so"
    path.write_bytes(library.read_bytes())
    return Runtime(path)


# ---------------------------------------------------------------------------------- verdicts on a device


def test_a_device_that_serves(runtime):
    assert runtime.unusable() == (False, "")
    assert runtime.library.fake_mode() == 0, "the thread's capture mode is as it was"
    assert runtime.unusable(2) == (False, "there is no CUDA device 2")


@pytest.mark.parametrize(
    ("driver", "built", "why"),
    [
        (0, 13000, "there is no NVIDIA driver"),
        (12080, 13000, "the NVIDIA driver is too old: it serves CUDA 12.8, the kernels need 13.0"),
        (12080, 13020, "the NVIDIA driver is too old: it serves CUDA 12.8, the kernels need 13.0"),
        (12000, 12080, "the NVIDIA driver is too old: it serves CUDA 12.0, the kernels need 12.1"),
        (11080, 12080, "the NVIDIA driver is too old: it serves CUDA 11.8, the kernels need 12.1"),
        (12010, 12080, ""),
        (13000, 13020, ""),
        (13000, 12040, ""),
    ],
)
def test_drivers(runtime, driver, built, why):
    """More than 4 KB of parameters came with 12.1; else a driver serves all runtimes of its major version."""
    runtime.library.fake_versions(driver, built)
    assert runtime.unusable() == (False, why)
    assert bool(runtime.calls("cudaFuncGetAttributes")) == (why == ""), "found before anything is loaded"


def test_a_driver_that_the_runtime_finds_too_old(runtime):
    """What it says may not be what its version says."""
    runtime.failing("cudaGetDeviceCount", 35)
    passing, why = runtime.unusable()
    assert not passing
    assert why.startswith("the NVIDIA driver is too old: it serves CUDA 13.0")


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (209, "the kernels were not built for this device's architecture"),
        (98, "the kernels were not built for this device's architecture"),
        (222, "the NVIDIA driver is too old: it serves CUDA 13.0, and for this device the kernels' PTX needs 13.2"),
        (221, "error 221"),
        (200, "error 200"),
    ],
)
def test_kernels_that_cannot_be_loaded_for_good(runtime, error, why):
    runtime.library.fake_versions(13000, 13020)
    runtime.failing("cudaFuncGetAttributes", error)
    assert runtime.unusable() == (False, why)
    assert runtime.library.fake_last() == 0, "the error is reported once"


@pytest.mark.parametrize("function", ["cudaDriverGetVersion", "cudaGetDeviceCount", "cudaFuncGetAttributes"])
@pytest.mark.parametrize("error", [*EARLIER, *BUSY])
def test_errors_that_may_pass(runtime, function, error):
    runtime.failing(function, error)
    passing, why = runtime.unusable()
    assert passing
    assert f"error {error}" in why
    assert ("an operation queued earlier" in why) == (error in EARLIER)
    runtime.failing(function, 0)
    assert runtime.unusable() == (False, "")
    assert runtime.library.fake_last() == 0


@pytest.mark.parametrize("error", [34, 100, 101, 803, 804])
def test_machines_without_a_device(runtime, error):
    runtime.failing("cudaGetDeviceCount", error)
    assert runtime.unusable() == (False, f"error {error}")


def test_multiprocessors_are_asked_for_once(runtime):
    """An error is told, and not kept."""
    runtime.failing("cudaDeviceGetAttribute", 700)
    failed, why = runtime.said(runtime.library.multiprocessors(1))
    assert failed
    assert why.startswith("CUDA: an operation queued earlier on this device failed: error 700")
    runtime.failing("cudaDeviceGetAttribute", 0)
    for _ in range(2):
        assert runtime.said(runtime.library.multiprocessors(1)) == (False, "132")
    assert runtime.calls("cudaDeviceGetAttribute") == 2


# ---------------------------------------------------------------------------------- launches


def test_other_threads_run_while_a_launch_waits(runtime):
    assert runtime.launch() == ((False, ""), 1, 1)
    runtime.failing("cudaLaunchKernel", 9)
    assert runtime.launch()[1:] == (1, 1), "the lock is taken again where a launch fails"


@pytest.mark.parametrize("error", BUSY)
def test_launches_that_fail(runtime, error):
    runtime.failing("cudaLaunchKernel", error)
    assert runtime.launch()[0] == (True, f"the kernel a_kernel could not be launched: error {error}")
    assert runtime.library.fake_last() == 0


@pytest.mark.parametrize("error", EARLIER)
def test_what_failed_before_a_launch_is_not_said_of_its_kernel(runtime, error):
    runtime.failing("cudaLaunchKernel", error)
    (_, why), *_ = runtime.launch()
    assert why == (
        f"an operation queued earlier on this device failed: error {error} (CUDA_LAUNCH_BLOCKING=1 finds it); "
        "seen at the launch of a_kernel"
    )


# ---------------------------------------------------------------------------------- counters


def test_counters_are_a_streams_and_a_devices(runtime):
    own = {(d, s): runtime.counters(s, d) for d in (0, 1) for s in (0, 1, 2)}
    assert len(set(own.values()) - {0}) == 6
    assert all(runtime.counters(s, d) == address for (d, s), address in own.items())
    assert runtime.calls("cudaMalloc") == 6
    assert not any((ctypes.c_uint * 4096).from_address(own[0, 1]))
    assert runtime.library.fake_mode() == 0


def test_a_capture_has_none(runtime):
    assert runtime.counters(-1) == 0
    assert runtime.calls("cudaMalloc") == 0


def test_no_memory_for_counters(runtime):
    """Null, for the zeros of torch's allocator; the next launch tries again."""
    runtime.failing("cudaMalloc", 2)
    assert runtime.counters(5) == runtime.counters(5) == 0
    assert runtime.library.fake_last() == 0, "the error is not left for others to find"
    assert runtime.library.fake_mode() == 0
    runtime.failing("cudaMalloc", 0)
    assert runtime.counters(5) == runtime.counters(5) != 0
    assert runtime.calls("cudaMalloc") == 3


def test_not_every_stream_keeps_counters(runtime):
    own = [runtime.counters(stream) for stream in range(300)]
    assert [bool(address) for address in own] == [True] * 256 + [False] * 44
    assert [runtime.counters(stream) for stream in range(300)] == own
    assert runtime.calls("cudaMalloc") == 256


def test_errors_beside_memory_are_raised(runtime):
    for function, error in (("cudaMalloc", 700), ("cudaMemsetAsync", 700), ("cudaStreamGetId", 400)):
        runtime.failing(function, error)
        with pytest.raises(RuntimeError, match=f"CUDA: .*error {error}"):
            runtime.counters(9)
        runtime.failing(function, 0)
    assert runtime.calls("cudaFree") == 1, "memory that could not be set to 0 is given back"
    assert runtime.counters(9)


def test_parameters_beyond_cudas_limit_do_not_compile(tmp_path):
    source = tmp_path / "large.cpp"
    source.write_text(
        '#include "cuda/device.h"\n'
        "struct Table { char bytes[SIZE]; };\n"
        "void kernel(Table, int) {}\n"
        'void call(const Table& t) { fastgan::launch("large", kernel, 1, 1, fastgan::Place(), t, 1); }\n'
    )
    for size, fits in ((32764 - 4, False), (32764 - 4 - 40, True)):
        includes = [f"-I{FAKE}", f"-I{ROOT / 'csrc'}", f"-DSIZE={size}"]
        done = subprocess.run(
            [*CXX, "-std=c++17", "-fsyntax-only", *includes, str(source)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode == 0) == fits, done.stderr
        assert ("most_parameters" in done.stderr) == (not fits)
