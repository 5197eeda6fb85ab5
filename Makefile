# Two commands on a fresh machine: `make demo` shows the main job, `make test` passes the tests.
# They make a virtual environment in .venv first; PYTHON and VENV choose others.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SEED ?= 1
DEMO ?= demo
export OMP_NUM_THREADS ?= 2

.PHONY: help demo test unit sockets conformance static clean

help:
	@echo "make demo        node and a small PACS on this machine, one phantom study end to end, pictures in $(DEMO)/"
	@echo "make test        all tests (unit, sockets, conformance)"
	@echo "make static      formatter, linter, types"

$(BIN)/pacs-ai-node: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ai,dev]'
	@touch $@

demo: $(BIN)/pacs-ai-node
	$(BIN)/pacs-ai-node demo --out $(DEMO) --seed $(SEED)

test: unit sockets conformance

unit: $(BIN)/pacs-ai-node
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "unit" $(PYTEST)

sockets: $(BIN)/pacs-ai-node
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup -m "sockets" $(PYTEST)

conformance: $(BIN)/pacs-ai-node
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "conformance" $(PYTEST)

static: $(BIN)/pacs-ai-node
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(DEMO) .pytest_cache .mypy_cache .ruff_cache
