# Two commands set everything up from a fresh clone: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
# Processes that share the quick tests, file by file; each computes in one thread.
JOBS ?= 2
BIN := $(VENV)/bin
# Where there is no NVIDIA GPU, a CPU build of PyTorch comes first, from PyTorch's own index: from the Python package index
# it would bring gigabytes of CUDA packages. With a GPU, or with TORCH=none, whatever pip chooses (or you installed) stays.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo none || echo torch==2.13.0)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help demo test test-all bench bench-quick lint types floors clean install install-test

help:
	@echo "make demo      environment, install, train on the phantom, evaluate, infer, export, picture"
	@echo "make test      environment, install, lint, types, floors, quick tests"
	@echo "make test-all  the same with the slow tests"
	@echo "make bench     speed and memory beside what people use, recorded in benchmarks/ (13 minutes on 2 idle cores)"
	@echo "make bench-quick  the same, smaller and unrecorded (3 minutes)"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.torch: | $(BIN)/python
	@if [ "$(TORCH)" != none ] && ! $(BIN)/python -c "import torch" 2>/dev/null; then \
	  echo "Installing $(TORCH) (CPU build; TORCH=none leaves the choice to pip)"; \
	  $(PIP) install --retries 1 --index-url "$(TORCH_INDEX)" "$(TORCH)" || \
	  $(PIP) install "$(TORCH)" || exit 1; fi
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.torch
	@echo "Installing medcontrast"
	$(PIP) install -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml $(VENV)/.torch
	@echo "Installing medcontrast with its test extras"
	$(PIP) install -e ".[test]"
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed
install-test: $(VENV)/.installed-test

demo: install
	rm -rf demo
	$(BIN)/medcontrast data phantom demo/data --manifest-name quickstart
	$(BIN)/medcontrast train recipes/quickstart.yaml -o demo/run
	$(BIN)/medcontrast evaluate --ckpt demo/run --split test -o demo/evaluation
	$(BIN)/medcontrast infer --ckpt demo/run demo/data/images/phantom_055.nii.gz -o demo/out
	$(BIN)/medcontrast export demo/out/phantom_055_seg.nii.gz --reference demo/data/images/phantom_055.nii.gz --format seg.nrrd
	@echo "Look at demo/evaluation/worst_cases.png, and drag demo/out/phantom_055_seg.seg.nrrd into 3D Slicer."

lint: install-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install-test
	$(BIN)/mypy

floors: install-test
	$(BIN)/lint-imports

test: lint types floors
	$(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile

test-all: lint types floors
	$(BIN)/python -m pytest

# A network to time inference with is trained first, which takes another 20 minutes, once.
BENCH_RUN ?= runs/inference_network
bench: install-test
	test -f $(BENCH_RUN)/last.safetensors || $(BIN)/medcontrast train benchmarks/inference_network.yaml -o $(BENCH_RUN)
	$(BIN)/python benchmarks/start_up.py
	$(BIN)/python benchmarks/surface_metrics.py
	$(BIN)/python benchmarks/training_step.py
	$(BIN)/python benchmarks/inference_speed.py --ckpt $(BENCH_RUN)
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/growth.py

bench-quick: install-test
	$(BIN)/python benchmarks/start_up.py --quick
	$(BIN)/python benchmarks/surface_metrics.py --quick
	$(BIN)/python benchmarks/training_step.py --quick
	$(BIN)/python benchmarks/inference_speed.py --quick
	$(BIN)/python benchmarks/memory.py --quick
	$(BIN)/python benchmarks/growth.py --quick

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache
