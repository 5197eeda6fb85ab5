# Two commands on a fresh machine: `make demo` shows the main job, `make test` passes the tests.
# They make a virtual environment in .venv first; PYTHON and VENV choose others.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SEED ?= 1
DEMO ?= demo
STORM ?= chaos
FUZZ_S ?= 1800
export OMP_NUM_THREADS ?= 2

.PHONY: help demo test unit sockets conformance-short conformance chaos-short chaos-more chaos fuzz static audit clean

help:
	@echo "make demo        node and a small PACS on this machine, one phantom study end to end, pictures in $(DEMO)/"
	@echo "make test        all tests (unit, sockets, conformance-short, chaos-short)"
	@echo "make conformance every object of every geometry, sender and outcome before other people's judges"
	@echo "make chaos-more  more of the same kills, stops, clocks and databases as in the tests"
	@echo "make chaos       300 kills of a node under load; STORM=folder goes on with an interrupted run"
	@echo "make fuzz        FUZZ_S seconds of fuzzing, all doors for bytes from outside in turn; finds and corpus in fuzz/"
	@echo "make static      formatter, linter, types"
	@echo "make audit       pins, licences, secrets, known vulnerabilities of what is installed"

$(BIN)/pacs-ai-node: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ai,onnx,cluster,web,dev]'
	@touch $@

demo: $(BIN)/pacs-ai-node
	$(BIN)/pacs-ai-node demo --out $(DEMO) --seed $(SEED)

test: unit sockets conformance-short chaos-short

unit: $(BIN)/pacs-ai-node
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "unit and not long" $(PYTEST)

sockets: $(BIN)/pacs-ai-node
	$(BIN)/python -m pytest -q -n 3 --dist loadgroup -m "sockets and not long" $(PYTEST)

conformance-short: $(BIN)/pacs-ai-node
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "conformance and not long" $(PYTEST)

conformance: $(BIN)/pacs-ai-node
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "conformance" $(PYTEST)

chaos-short: $(BIN)/pacs-ai-node
	$(BIN)/python -m pytest -q -n 3 --dist loadgroup -m "chaos and not long" $(PYTEST)

chaos-more: $(BIN)/pacs-ai-node
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup -m "long and not conformance" $(PYTEST)

chaos: $(BIN)/pacs-ai-node
	$(BIN)/python -m benchmarks.chaos --studies 200 --kills 300 --seed $(SEED) --resume $(STORM)

fuzz: $(BIN)/pacs-ai-node
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[fuzz]'
	$(BIN)/python -m tests.fuzz $(FUZZ_S)

static: $(BIN)/pacs-ai-node
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: $(BIN)/pacs-ai-node
	$(BIN)/pip check
	$(BIN)/python .ci/audit.py

clean:
	rm -rf $(VENV) $(DEMO) $(STORM) fuzz .pytest_cache .mypy_cache .ruff_cache
