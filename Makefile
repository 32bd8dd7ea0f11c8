# Everything runs in a virtual environment of its own; nothing else need be installed but Python,
# its headers and a C++ compiler.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
TORCH ?= torch==2.13.0
LOSS ?= nonsaturating
PENALTY ?= none

.PHONY: demo test lint bench exhaustive wheel clean

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q "$(TORCH)" numpy
	FASTGAN_NATIVE=0 FASTGAN_CUDA= $(BIN)/python -m pip install -q -e ".[demo,test,bench,lint]"
	touch $@

# The editable install points at the sources; the native part is built here, and anew only if it changed.
BUILD = FASTGAN_NATIVE=1 $(BIN)/python setup.py -q build_ext --inplace

demo: $(VENV)/ready  ## trains a GAN on handwritten digits; LOSS=hinge, LOSS=wgan-gp, PENALTY=r1 and so on
	$(BUILD)
	$(BIN)/python examples/digits.py --loss $(LOSS) --penalty $(PENALTY)

# The Triton kernels run in Triton's interpreter, which wants a process of its own: beside the rest, and told of at the end.
test: $(VENV)/ready  ## the whole test suite
	$(BUILD)
	@mkdir -p build; TRITON_INTERPRET=1 $(BIN)/python -m pytest tests/kernels/triton/test_triton.py > build/triton.log 2>&1 & interpreted=$$!; \
	$(BIN)/python -m pytest tests; failed=$$?; \
	wait $$interpreted; code=$$?; tail -n 60 build/triton.log; \
	[ $$code -eq 0 -o $$code -eq 5 ] || failed=$$code; exit $$failed  # 5: nothing to run, where there is no Triton

lint: $(VENV)/ready  ## ruff, clang-format, mypy and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror csrc/*.h csrc/*.cpp csrc/common/* csrc/cpu/* csrc/cuda/*.h csrc/cuda/*.cu tests/helpers/cusim/* tests/helpers/cudafake/*
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/ready  ## fused against eager PyTorch and torch.compile, with a plot
	$(BUILD)
	$(BIN)/python -m pytest bench -q
	$(BIN)/python bench/report.py
	$(BIN)/python bench/penalties.py
	$(BIN)/python bench/penalty_steps.py
	$(BIN)/python bench/trainers.py

exhaustive: $(VENV)/ready  ## all 2^32 float32 patterns, some minutes
	$(BUILD)
	$(BIN)/python -m tests.helpers.exhaustive

wheel: $(VENV)/ready  ## dist/*.whl with a manylinux tag, with CUDA kernels where they can be built (docs/install.md)
	rm -rf build/lib* build/bdist* build/wheel
	FASTGAN_NATIVE=1 $(BIN)/python -m build --wheel --outdir build/wheel .
	PATH="$(abspath $(BIN)):$$PATH" auditwheel repair --wheel-dir dist build/wheel/*.whl

clean:
	rm -rf $(VENV) build dist fastgan/*.so fastgan/_build.json demo
