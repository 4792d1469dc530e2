# `make help` lists the targets. One path serves every machine: Poetry exports the lock, pip installs it.
PYTHON ?= python3.11
BIN := .venv/bin
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

# Poetry lives beside the project's environment, so that its own dependencies never meet ours.
.poetry/installed:
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found: install Python 3.11, or name it: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv --clear .poetry
	.poetry/bin/python -m pip install --quiet poetry==2.5.1 poetry-plugin-export==1.10.1
	touch $@

# pip needs no per-release metadata pages, checks every hash, and compiles bytecode (halves the start-up time).
.venv/installed: poetry.lock pyproject.toml .poetry/installed
	$(PYTHON) -m venv --clear .venv
	.poetry/bin/poetry export --quiet --with dev --output .venv/requirements.txt
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r .venv/requirements.txt
	$(BIN)/python -m pip check
	touch $@

.PHONY: setup
setup: .venv/installed  ## install everything from poetry.lock into .venv
