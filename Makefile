# Every target sets up .venv by itself when it is missing or older than pyproject.toml or constraints.txt.
#   PYTHON    the interpreter that makes .venv (3.11 or newer)
#   PIP_ARGS  more options for pip, e.g. --extra-index-url https://download.pytorch.org/whl/cpu
#   WORKERS   processes of the fast tests, and of fuzz
#   PEERS     a folder with clones of sd-scripts and DiffSynth-Studio, which bench then runs beside ours; wants
#             einops, cv2 (opencv-python-headless), imagesize, toml and voluptuous, which sd-scripts imports
#   COUNT     files that are made up for each reader by fuzz
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
PIP_ARGS ?=
WORKERS ?= 2
COUNT ?= 100000
PEERS ?=
VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
STAMP := $(VENV)/.installed
FIGURES := build/bench

.PHONY: help setup demo test test-slow fuzz lint format bench docs clean

help:
	@echo "make demo       train a LoRA on the pocket FLUX and paint with it: about 5 minutes on 2 CPU cores"
	@echo "make test       lint, types, fast tests"
	@echo "make test-slow  the journeys: whole trainings, as a user runs them"
	@echo "make fuzz       feed every reader with COUNT files that lie; inputs that break a rule are kept in build/fuzz"
	@echo "make lint       ruff and mypy only;  make format  lets ruff rewrite"
	@echo "make bench      speed and memory: a table for each benchmark, and JSON in $(FIGURES); needs no GPU:"
	@echo "                gpu.py runs all its arms as a toy; true sizes: python benchmarks/gpu.py, on a card of 140 GB"
	@echo "make docs       rewrite docs/reference from the schema and the command line"
	@echo "make setup      only install into $(VENV)"

setup: $(STAMP)

# pip's own lines, less the noise: the large downloads, the installation, errors (stderr is not filtered)
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0])'
	@echo "installing into $(VENV): about 1.5 GB, a minute or more the first time"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]' $(PIP_ARGS) \
	  | awk '/\([0-9.]+ [MG]B\)/ { sub(/-[^-]*-[^-]*-[^-]*whl/, "", $$2); print "  " $$2 " " $$(NF-1) " " $$NF } \
	         /^Installing/ { print "  unpacking" } /^ERROR/ { print } { fflush() }'
	@touch $@

demo: $(STAMP)
	@$(BIN)/velatura demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu" -n $(WORKERS)

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m "slow and not gpu"

fuzz: $(STAMP)
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 PYTHONPATH=tests $(BIN)/python -m fuzz --count $(COUNT) --workers $(WORKERS)

bench: $(STAMP)
	@mkdir -p $(FIGURES)
	$(BIN)/python benchmarks/step.py $(if $(PEERS),--peers "$(PEERS)") --json $(FIGURES)/step.json
	$(BIN)/python benchmarks/memory.py --json $(FIGURES)/memory.json
	$(BIN)/python benchmarks/startup.py --json $(FIGURES)/startup.json
	$(BIN)/python benchmarks/sample.py --json $(FIGURES)/sample.json
	$(BIN)/python benchmarks/stream.py --json $(FIGURES)/stream.json
	$(BIN)/python benchmarks/quant.py --pictures 24 --json $(FIGURES)/quant.json
	$(BIN)/python benchmarks/updates.py --json $(FIGURES)/updates.json
	$(BIN)/python benchmarks/cache.py --count 16 $(if $(PEERS),--peers "$(PEERS)") --json $(FIGURES)/cache.json
	$(BIN)/python benchmarks/text_cache.py --json $(FIGURES)/text_cache.json
	$(BIN)/python benchmarks/data.py --count 10000 --json $(FIGURES)/data.json
	$(BIN)/python benchmarks/gpu.py --toy --steps 1 --no-compile --json $(FIGURES)/gpu.json

docs: $(STAMP)
	$(BIN)/python -m velatura.recipe.reference > docs/reference/recipe.md
	$(BIN)/python -m velatura.cli.reference > docs/reference/cli.md
	$(BIN)/python -m velatura.recipe.combinations > docs/reference/combinations.md
	$(BIN)/python -m velatura.planning.reference > docs/reference/plans.md

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
