# Two commands set everything up from a fresh clone: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Where there is no NVIDIA GPU, a CPU build of PyTorch comes first: plain `torch` brings gigabytes of CUDA packages.
# With a GPU, or with TORCH=none, whatever pip chooses (or you installed) stays.
TORCH ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo none || echo torch==2.13.0)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help demo test test-all lint types floors clean install install-test

help:
	@echo "make demo      environment, install, train on the phantom, evaluate, infer, export, picture"
	@echo "make test      environment, install, lint, types, floors, quick tests"
	@echo "make test-all  the same with the slow tests"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.torch: | $(BIN)/python
	@if [ "$(TORCH)" != none ] && ! $(BIN)/python -c "import torch" 2>/dev/null; then \
	  echo "Installing $(TORCH) (CPU build; TORCH=none leaves the choice to pip)"; \
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
	$(BIN)/python -m pytest -m "not slow"

test-all: lint types floors
	$(BIN)/python -m pytest

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache
