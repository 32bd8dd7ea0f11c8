# Everything runs in a virtual environment of its own; nothing else need be installed but Python,
# its headers and a C++ compiler.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
TORCH ?= torch==2.13.0
# Where torch alone comes from; empty: where pip takes everything from.
INDEX ?=
LOSS ?= nonsaturating
PENALTY ?= none

.DEFAULT_GOAL = help
.PHONY: help demo test test-all lint docs bench proof exhaustive wheel clean

help:  ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

CPU_INDEX = https://download.pytorch.org/whl/cpu
SIZE = PyPI's build for Linux with CUDA: about 2.7 GB; INDEX=$(CPU_INDEX) takes the CPU build, about 200 MB

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q numpy
	@echo "fetching $(TORCH) where it is not there yet, from $(if $(INDEX),$(INDEX),pip's usual index ($(SIZE)))"
	$(BIN)/python -m pip install $(if $(INDEX),--index-url $(INDEX)) "$(TORCH)"
	FASTGAN_NATIVE=0 FASTGAN_CUDA= $(BIN)/python -m pip install -q -e ".[demo,test,bench,lint]"
	touch $@

# The editable install points at the sources; the native part is built here, and anew only if it changed.
BUILD = FASTGAN_NATIVE=1 $(BIN)/python setup.py -q build_ext --inplace

# An unknown LOSS is told before the build.
demo: $(VENV)/ready  ## trains a GAN on handwritten digits; LOSS=hinge, LOSS=wgan-gp, PENALTY=r1 and so on
	@$(BIN)/python examples/digits.py --loss $(LOSS) --penalty $(PENALTY) --help > /dev/null
	$(BUILD)
	$(BIN)/python examples/digits.py --loss $(LOSS) --penalty $(PENALTY)

# A worker for each core. Triton's interpreter wants processes of its own; 5: nothing to run, where there is no Triton.
PYTEST = $(BIN)/python -m pytest -q
WORKERS = -n auto --dist worksteal
INTERPRETED = TRITON_INTERPRET=1 $(PYTEST) $(WORKERS) tests/kernels/triton/test_triton.py

# What a wheel alone has: kernels under autograd Functions in Python.
WITHOUT_NODES = FASTGAN_NODES=0 $(PYTEST) $(WORKERS) tests/losses tests/penalties tests/golden tests/backends

# All tests, or those named: TESTS="tests/losses tests/golden".
TESTS ?=
test: $(VENV)/ready  ## the fast tests: every function, and every family of kernels on every backend
	$(BUILD)
	@failed=0; $(PYTEST) $(WORKERS) $(TESTS) || failed=1; $(INTERPRETED) || [ $$? -eq 5 ] || failed=1; exit $$failed

test-all: $(VENV)/ready  ## the whole suite; what measures time has nothing beside it
	$(BUILD)
	@failed=0; $(PYTEST) $(WORKERS) -m "not alone" || failed=1; $(WITHOUT_NODES) || failed=1; $(INTERPRETED) -m "" || [ $$? -eq 5 ] || failed=1; \
	$(PYTEST) -m alone || failed=1; exit $$failed

lint: $(VENV)/ready  ## ruff, clang-format, mypy and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror csrc/*.h csrc/*.cpp csrc/common/* csrc/cpu/* csrc/cuda/*.h csrc/cuda/*.cu csrc/torch/* tests/helpers/cusim/* tests/helpers/cudafake/* tests/helpers/cpudriver/* tests/helpers/*.cpp
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/docs: $(VENV)/ready
	$(BIN)/python -m pip install -q --group docs
	touch $@

docs: $(VENV)/docs  ## the site, into build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict  # with -q it would count no warnings

bench: $(VENV)/ready  ## fused against eager PyTorch and torch.compile, with a plot
	$(BUILD)
	$(BIN)/python -m pytest bench -q
	$(BIN)/python -m bench steps
	$(BIN)/python -m bench losses
	$(BIN)/python -m bench penalties
	$(BIN)/python -m bench penalty-steps
	$(BIN)/python -m bench trainers

# Stopped, it goes on where it was when it is called again; PARTS="accuracy bits" for some, WRITE=docs/reliability.md for the page.
HOURS ?= 0
SEED ?= 0
proof: $(VENV)/ready  ## every claim of docs/reliability.md, tried; HOURS=2 goes on with further seeds
	$(BUILD)
	$(BIN)/python -m tests.proof $(PARTS) --hours $(HOURS) --seed $(SEED) $(if $(WRITE),--write $(WRITE))

exhaustive: $(VENV)/ready  ## all 2^32 float32 patterns, some minutes
	$(BUILD)
	$(BIN)/python -m tests.helpers.exhaustive

wheel: $(VENV)/ready  ## dist/*.whl with a manylinux tag, with CUDA kernels where they can be built (docs/install.md)
	rm -rf build/lib* build/bdist* build/wheel
	TORCH_CUDA_ARCH_LIST="$${TORCH_CUDA_ARCH_LIST:-all}" FASTGAN_NATIVE=1 FASTGAN_NODES=0 $(BIN)/python -m build --wheel --outdir build/wheel .
	PATH="$(abspath $(BIN)):$$PATH" auditwheel repair --wheel-dir dist build/wheel/*.whl

clean:  ## removes the environment and what was built
	rm -rf $(VENV) build dist fastgan/*.so fastgan/_build.json fastgan/_nodes*.json demo
