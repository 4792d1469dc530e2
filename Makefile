# `make help` lists the targets. One path serves every machine: Poetry exports the lock, pip installs it.
PYTHON ?= python3.11
BIN := .venv/bin
# One more than the processors, for tests of servers often wait; but each takes 1.5 GB of memory.
WORKERS = $(shell $(PYTHON) -c "import os; print(min(4, (os.cpu_count() or 1) + 1))")
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

# Poetry lives beside the project's environment, so that its own dependencies never meet ours.
.poetry/installed:
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found: install Python 3.11, or name it: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv --clear .poetry
	.poetry/bin/python -m pip install --quiet poetry==2.5.1 poetry-plugin-export==1.10.1
	touch $@

# --no-deps: pip need not read the pages of the releases. --require-hashes: every file is checked. --no-compile: bytecode of
# all 22,000 files would take a core a minute and a half, and most are never imported; Python makes it at the first import.
.venv/installed: poetry.lock pyproject.toml .poetry/installed
	$(PYTHON) -m venv --clear .venv
	.poetry/bin/poetry export --quiet --with dev,serve --extras "pretrained optuna joblib submitit heic openvino" --output .venv/requirements.txt
	$(BIN)/python -m pip install --quiet --no-compile --require-hashes --no-deps -r .venv/requirements.txt
	$(BIN)/python -m pip check
	touch $@

# The versions that poetry.lock has for Intel Macs, on Linux: in the markers of its export, the two systems change names.
# The lock also has what torch 2.2.2 needs on Linux (CUDA, 3 GB) and all hashes, so nothing is taken that it does not name.
.venv-intel-mac/installed: .venv/installed
	@test "$$(uname -sm)" = "Linux x86_64" || { echo "error: make test-intel-mac is for Linux on x86_64; on an Intel Mac, make test has these versions" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv-intel-mac
	sed 's/"linux"/"other"/; s/"darwin"/"linux"/' .venv/requirements.txt > .venv-intel-mac/requirements.txt
	.venv-intel-mac/bin/python -m pip install --quiet --no-compile --require-hashes --no-deps -r .venv-intel-mac/requirements.txt
	.venv-intel-mac/bin/python -m pip check
	touch $@

.PHONY: setup
setup: .venv/installed  ## install everything from poetry.lock into .venv

data/flowers/train.txt: data.dvc | .venv/installed
	$(BIN)/dvc pull --quiet data.dvc
	touch $@

# Only where there are none: weights of your own training are not overwritten.
weights/lenet_flowers.safetensors: | .venv/installed
	$(BIN)/dvc pull --quiet $@

.PHONY: run test test-intel-mac lint format benchmark clean
run: .venv/installed data/flowers/train.txt weights/lenet_flowers.safetensors  ## set up, fetch data and weights, train LeNet on flowers, evaluate, export
	$(BIN)/python train.py +data=flowers +model=lenet
	$(BIN)/python export_model.py +data=flowers +model=lenet

test: .venv/installed data/flowers/train.txt lint  ## set up and run all tests
	$(BIN)/python -m pytest -n $(WORKERS) --max-worker-restart 0

# What differs there is torch, torchvision and onnxruntime, so: each task computed, trained (golden curves), resumed,
# exported, quantised and answered by onnxruntime. Tests of the Triton server skip: its wheel is not in this set.
INTEL_MAC_TESTS := $(addprefix tests/test_,detection.py engines.py generation.py scenes.py segmentation.py \
	calibration.py::test_exported_as_it_answers export.py::test_export export.py::test_int8_that_passes_is_published \
	training.py::test_golden_curve_and_every_model_resumes)
test-intel-mac: .venv-intel-mac/installed  ## the tests of networks, trainings and exports with the versions of an Intel Mac
	.venv-intel-mac/bin/python -m pytest -n $(WORKERS) --max-worker-restart 0 -p no:cacheprovider $(INTEL_MAC_TESTS)

lint: .venv/installed  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers auto

format: .venv/installed  ## mend the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: .venv/installed data/flowers/train.txt  ## training speed against a plain loop
	$(BIN)/python benchmarks/training.py

# A small environment of its own: the site needs nothing of the toolkit.
.venv-docs/installed: poetry.lock pyproject.toml .poetry/installed
	$(PYTHON) -m venv --clear .venv-docs
	.poetry/bin/poetry export --quiet --only docs --output .venv-docs/requirements.txt
	.venv-docs/bin/python -m pip install --quiet --require-hashes --no-deps -r .venv-docs/requirements.txt
	touch $@

.PHONY: docs
docs: .venv-docs/installed  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet

clean:  ## remove decoded pictures and tool caches; runs and weights stay
	rm -rf .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis site
