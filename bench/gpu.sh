#!/usr/bin/env bash
# Builds, tests and measures on the GPU at hand, in one go and under ten minutes.
#
#     bench/gpu.sh [FOLDER] [options of gpu.py]     # default: bench/results/local
#     bench/gpu.sh /tmp/x --device cpu --quick      # tries this script where there is no GPU
#
# Each stage has a time limit and a log in FOLDER. One that fails does not stop the next, but the exit
# status says so. PYTHON names the interpreter; nothing is installed.
set -u
cd "$(dirname "$0")/.." || exit 2

out=bench/results/local
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
  out=$1
  shift
fi
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
python=${PYTHON:-python3}
limit=580 # seconds for everything
device=cuda
case " $* " in *" --device cpu "* | *" --device=cpu "*) device=cpu ;; esac
failed=()
summary=()

left() { # seconds that are left, less those given
  echo $((limit - SECONDS - ${1:-0}))
}

# stage NAME SECONDS COMMAND...: runs it, shows the end of what it prints, notes how it went
stage() {
  local name=$1 most=$2 start=$SECONDS code shown=12
  shift 2
  [ "$most" -gt "$(left 5)" ] && most=$(left 5)
  if [ "$most" -lt 5 ]; then
    summary+=("$name: not run, out of time")
    failed+=("$name")
    return
  fi
  echo "== $name (at most $most s)"
  timeout -k 5 "$most" "$@" >"$out/$name.log" 2>&1
  code=$?
  case $name in machine | benchmark | penalty-steps) shown=40 ;; esac
  [ $code -ne 0 ] && shown=40
  tail -n $shown "$out/$name.log" | cut -c1-300
  [ $code -eq 124 ] || [ $code -eq 137 ] && echo "-- stopped after $most s"
  [ $code -ne 0 ] && failed+=("$name")
  summary+=("$name: exit $code, $((SECONDS - start)) s")
}

has_module() {
  "$python" -c "import $1" >/dev/null 2>&1
}

machine() {
  command -v nvidia-smi >/dev/null &&
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem,clocks.max.sm --format=csv
  command -v nvcc >/dev/null && nvcc --version | tail -n 2
  c++ --version | head -n 1
  nproc
  "$python" - <<'END'
import importlib.util, platform
import torch
print("python", platform.python_version(), "torch", torch.__version__, "CUDA", torch.version.cuda)
for name in ("triton", "pybind11", "ninja", "pytest", "xdist", "hypothesis", "matplotlib"):
    print(name, "yes" if importlib.util.find_spec(name) else "NO")
if torch.cuda.is_available():
    p = torch.cuda.get_device_properties(0)
    print(p.name, f"sm_{p.major}{p.minor}", p.multi_processor_count, "multiprocessors,", p.L2_cache_size >> 20, "MB of L2")
END
}

build() {
  local arch
  arch=$("$python" -c "import torch; print('%d.%d' % torch.cuda.get_device_capability())") || return
  FASTGAN_NATIVE=1 FASTGAN_CUDA=1 TORCH_CUDA_ARCH_LIST=$arch "$python" setup.py -q build_ext --inplace || return
  "$python" -m fastgan info
  "$python" -c "import sys; from fastgan import backends; sys.exit(backends.missing('cuda'))" # else all is skipped
}

build_for_cpu() {
  FASTGAN_NATIVE=1 FASTGAN_CUDA=0 "$python" setup.py -q build_ext --inplace && "$python" -m fastgan info
}

export -f machine build build_for_cpu
export python
pytest=("$python" -m pytest -q --show-capture=no --tb=short --maxfail=30)
has_module xdist && parallel=(-n 6) || parallel=()

# torch.compile's cache serves the benchmark after it was filled during the tests.
TORCHINDUCTOR_CACHE_DIR=$(mktemp -d) || exit 2
export TORCHINDUCTOR_CACHE_DIR
warming=
cleanup() {
  [ -n "$warming" ] && kill "$warming" 2>/dev/null
  rm -rf "$TORCHINDUCTOR_CACHE_DIR"
}
trap cleanup EXIT

stage machine 40 bash -c machine
if [ $device = cuda ]; then
  stage build 150 bash -c build
  timeout -k 5 200 "$python" bench/gpu.py --warm >"$out/warm.log" 2>&1 &
  warming=$!
  stage tests-gpu 100 "${pytest[@]}" "${parallel[@]}" tests/test_gpu.py -m gpu -k "not triton"
  stage tests-triton 120 "${pytest[@]}" "${parallel[@]}" tests/test_gpu.py -m gpu -k triton # compiles as it goes
  if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
      stage "sanitizer-$tool" 35 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $tool \
        --target-processes all --error-exitcode 9 "${pytest[@]}" tests/test_gpu.py -m gpu -k "tour and cuda"
    done
  else
    summary+=("sanitizer: not run, no compute-sanitizer on the PATH")
  fi
else
  stage build 200 bash -c build_for_cpu
  export FASTGAN_TEST_DEVICE=cpu
  stage tests-gpu 60 "${pytest[@]}" "${parallel[@]}" tests/test_gpu.py -m gpu -k "tour or threads or masks"
  unset FASTGAN_TEST_DEVICE
fi
stage tests-cpu 60 "${pytest[@]}" "${parallel[@]}" tests/test_losses.py tests/test_norms.py tests/test_invariance.py \
  tests/test_interpolation.py tests/test_math.py tests/test_inputs.py -m "not gpu"
[ -n "$warming" ] && { wait "$warming"; summary+=("filling torch.compile's cache: exit $?"); }
warming=

# The benchmark has the machine to itself, and leaves time for the stages after it unless little is left at all;
# what they leave goes to all 2^32 patterns.
budget=$(left 180)
[ "$budget" -lt 150 ] && budget=$(left 60) && [ "$budget" -gt 150 ] && budget=150
[ "$budget" -gt 300 ] && budget=300
stage benchmark $((budget + 30)) "$python" bench/gpu.py --out "$out" --budget "$budget" "$@"
if [ $device = cuda ] && [ "$(left 5)" -ge 60 ]; then
  stage trainers 60 "$python" bench/trainers.py --device cuda --out "$out"
fi
if [ $device = cuda ] && [ "$(left 5)" -ge 100 ]; then
  stage penalty-steps 120 "$python" bench/penalty_steps.py --device cuda --out "$out" --budget 50 --tables penalty step \
    --width 64 --batch 64 --only conv residual "batch norm" attention
fi
if [ $device = cuda ] && [ "$(left 5)" -ge 40 ]; then
  stage exhaustive 120 env FASTGAN_EXHAUSTIVE=1 "${pytest[@]}" tests/test_gpu.py -k "every_pattern and cuda"
fi

echo "== summary after $SECONDS s, logs in $out"
printf '%s\n' "${summary[@]}"
if [ ${#failed[@]} -gt 0 ]; then
  echo "FAILED: ${failed[*]}"
  exit 1
fi
echo "all stages passed"
