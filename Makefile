# Two commands do everything on a machine with Python 3.11+: `make demo` and `make test`. `make help` lists all.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test test-all test-cluster check format setup setup-dev clean help

# The first goal is the one of a bare `make`.
demo: $(VENV)/run.done  # search, score and evaluate offline; sets up .venv
	$(BIN)/python -m t5ray.tune
	@run=$$(ls -td t5ray_runs/dates-*/ | head -1); run=$${run%/}; set -e; \
	$(BIN)/python -m t5ray.predict --model $$run/best --input t5ray/demo/examples.jsonl --output $$run/predictions --format jsonl; \
	$(BIN)/python -m t5ray.evaluate --model $$run/best --data t5ray/demo/dates.jsonl --output $$run/evaluation; \
	$(BIN)/python scripts/demo_summary.py $$run

test: $(VENV)/dev.done  # run the tests, those that start a Ray beside the others; sets up .venv
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-all: $(VENV)/dev.done  # also the tests marked `long`, and property tests on examples of their own choice
	$(BIN)/python -m pytest -m 'not cluster' --hypothesis-profile=exploring

test-cluster: $(VENV)/dev.done  # a real cluster on hosts made of namespaces, as root on Linux
	$(BIN)/python -m pytest -m cluster tests/search/test_elastic.py tests/cluster -rsP --tb=short

check: $(VENV)/dev.done  # ruff, mypy --strict, import-linter
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev.done  # ruff format and its safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

setup: $(VENV)/run.done  # only set up .venv, to run t5ray
setup-dev: $(VENV)/dev.done  # only set up .venv, to work on t5ray

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("t5ray needs Python 3.11 or newer, but %s is %s. Try make PYTHON=python3.12" % (sys.executable, sys.version.split()[0]))'
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.done: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/dev.done: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $(VENV)/run.done $@

clean:  # delete builds and caches; .venv and results stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

help:  # list the goals
	@awk -F '[:#]' '/^[a-z-]+:.*#/ { printf "  make %-13s%s\n", $$1, $$NF }' Makefile
