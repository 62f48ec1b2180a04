# Everything a fresh machine needs: Python >= 3.11 and git. `make demo` runs the main job, `make test` the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: demo test test-chain lint bench-smoke clean

demo: $(VENV)/.runtime
	$(BIN)/mesh demo

test: $(VENV)/.dev lint
	$(BIN)/python -m pytest -q -n 2 --dist worksteal --ignore=tests/chain

# Still under work: needs npm (solc, forge, anvil) and minutes, and is a process of its own because py-evm
# raises Python's recursion limit.
test-chain: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n 2 --dist worksteal tests/chain

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench-smoke: $(VENV)/.dev
	$(BIN)/python -m benchmarks.decode --smoke
	$(BIN)/python -m benchmarks.survival --smoke

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: PYTHON=python3.12 make ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements.lock pyproject.toml | $(VENV)/bin/python
	@echo "installing what the mesh needs into $(VENV) (once; about a minute)"
	$(PIP) -r requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	@echo "installing what the tests need into $(VENV) (once)"
	$(PIP) -r requirements-dev.lock
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
