# Every target sets up what it needs; `make` alone lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
OUT    ?= runs/demo
SEED   ?= 0
SEEDS  ?= 0 1 2
# OpenMP's threads spin while they wait, which starves whatever else runs on the same cores.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help setup demo paper methods test test-all check format wheel clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(STAMP) ## .venv with the pinned versions of constraints.txt

# torch goes first and by its exact version: resolved with the rest, it may be replaced.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.12 $(MAKECMDGOALS)" if sys.version_info < (3, 11) else 0)'
	@echo "Installing into $(VENV); this takes a few minutes the first time."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch==2.13.0 -c constraints.txt
	$(BIN)/python -m pip install --quiet -e '.[train,dev]' -c constraints.txt
	$(BIN)/python -m pip install --quiet --no-deps irrCAC==0.4.4 # an oracle of the tests; it asks for one old scipy
	@touch $@

demo: setup ## three rounds of Safe RLHF on the playground, offline (SEED=1 OUT=runs/seed-1)
	$(BIN)/equipoise round playground --out $(OUT) --seed $(SEED)
	@echo
	@echo "Open $(OUT)/report.html in a browser; the numbers are in $(OUT)/summary.json."

paper: OUT = runs/paper
paper: setup ## the paper's claims on the playground, some 25 minutes a seed (SEEDS="0 1 2" OUT=runs/paper)
	set -e; for seed in $(SEEDS); do \
		$(BIN)/equipoise study playground paper --seed $$seed --out $(OUT)/seed-$$seed; \
	done
	$(BIN)/python benchmarks/paper $(SEEDS:%=$(OUT)/seed-%) --out $(OUT)

methods: OUT = runs/methods
methods: setup ## every constrained method on the playground, below 90 minutes a seed (SEEDS="0 1 2" OUT=runs/methods)
	set -e; for seed in $(SEEDS); do \
		$(BIN)/equipoise study playground methods --seed $$seed --out $(OUT)/seed-$$seed; \
	done
	$(BIN)/python benchmarks/methods $(SEEDS:%=$(OUT)/seed-%) --out $(OUT)

test: setup ## the tests, without those marked slow or gpu
	$(BIN)/python -m pytest -m 'not slow and not gpu'

test-all: setup ## all tests
	$(BIN)/python -m pytest

check: setup ## ruff, format, mypy --strict, house rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict src
	$(BIN)/python -m pytest tests/test_house_rules.py

format: setup ## rewrite the code as `make check` wants it
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

wheel: setup ## dist/equipoise-*.whl
	$(BIN)/python -m build --wheel

clean: ## remove build products, never runs/ nor .venv
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
