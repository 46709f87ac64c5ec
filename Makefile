# Two commands do everything on a machine with Python 3.11+: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test test-all test-cluster check format setup setup-dev clean

demo: $(VENV)/run.done
	$(BIN)/python -m t5ray.tune
	@run=$$(ls -td t5ray_runs/dates-*/ | head -1); run=$${run%/}; set -e; \
	$(BIN)/python -m t5ray.predict --model $$run/best --input t5ray/demo/examples.jsonl --output $$run/predictions --format jsonl; \
	$(BIN)/python -m t5ray.evaluate --model $$run/best --data t5ray/demo/dates.jsonl --output $$run/evaluation; \
	$(BIN)/python scripts/demo_summary.py $$run

test: $(VENV)/dev.done
	$(BIN)/python -m pytest

test-all: $(VENV)/dev.done
	$(BIN)/python -m pytest -m 'not cluster' --hypothesis-profile=exploring

test-cluster: $(VENV)/dev.done
	$(BIN)/python -m pytest -m cluster tests/search/test_elastic.py tests/cluster -rsP

check: $(VENV)/dev.done
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev.done
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

setup: $(VENV)/run.done
setup-dev: $(VENV)/dev.done

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("t5ray needs Python 3.11 or newer, but %s is %s. Try make PYTHON=python3.12" % (sys.executable, sys.version.split()[0]))'
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.done: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/dev.done: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $(VENV)/run.done $@

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
