# Two commands for a fresh machine with Python 3.11+: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.DELETE_ON_ERROR:
.PHONY: demo test lint types imports unit benchmarks clean

# Installed without torch: the daemon, the client and the demo never import it.
$(VENV)/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]'
	@echo "compiling the kernels, once"
	@$(BIN)/python -c 'from streamer.warm import warm_up; warm_up()'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(VENV)/.demo
	$(BIN)/scanwise demo

test: lint types imports unit

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports

unit: $(VENV)/.dev
	$(BIN)/python -m pytest

benchmarks: $(VENV)/.dev
	for b in $$(ls tests/benchmarks | grep -v '^_' | sed 's/\.py$$//'); do $(BIN)/python -m tests.benchmarks.$$b --check || exit 1; done

clean:
	rm -rf $(VENV) demo-report .mypy_cache .pytest_cache .ruff_cache
