# Needs Python >= 3.11 (with venv), pip and make; everything else comes from .ci/lock.txt.
PYTHON ?= python3
VENV ?= .venv
# Test workers: what two cores carry. `make test WORKERS=8` on a larger machine.
WORKERS ?= 2

BIN := $(VENV)/bin
# An interpreter asked for by name is held to; otherwise the one that made the environment stays.
STAMP := $(VENV)/.stamp$(if $(filter file,$(origin PYTHON)),,-$(notdir $(PYTHON)))

# Compiled XLA programs survive from one test run to the next.
TEST_ENV := JAX_COMPILATION_CACHE_DIR="$(CURDIR)/.cache/jax" JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.2
PYTEST := $(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
LOCK := $(BIN)/uv pip compile pyproject.toml --no-config --universal --fork-strategy fewest \
	--generate-hashes --custom-compile-command "make lock" --quiet

.PHONY: help install demo test test-all lint types imports lock clean

help: ## Show the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(firstword $(MAKEFILE_LIST)) | expand -t 12

install: $(STAMP) ## Make the environment: the locked packages and nbcore itself, editable

$(STAMP): pyproject.toml .ci/lock.txt .ci/install
	@.ci/install "$(PYTHON)" "$(VENV)"
	@touch "$(VENV)/.stamp" "$@"

demo: $(STAMP) ## Train, choose weights, sample, predict: the main job on real molecules
	@$(BIN)/nbcore demo

test: $(STAMP) ## Run the test suite and the docstring examples, without the slow statistical tests
	@$(PYTEST) -m "not slow"

test-all: $(STAMP) ## Run every test, the slow statistical ones too
	@$(PYTEST)

lint: $(STAMP) ## Check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(STAMP) ## Check types, strictly in nbcore/
	@$(BIN)/pyright --pythonpath $(BIN)/python

imports: $(STAMP) ## Check that imports go one way
	@$(BIN)/lint-imports --no-logo

lock: $(STAMP) ## Pin what pyproject.toml asks for; LOCK_FLAGS=--upgrade takes the newest versions
	@$(LOCK) --extra all --extra test --extra dev $(LOCK_FLAGS) --output-file .ci/lock.txt
	@$(LOCK) --constraints .ci/lock.txt --output-file .ci/lock-core.txt

clean: ## Remove the environment, the caches and what was built
	rm -rf $(VENV) .cache build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks
	find nbcore backends plugins tests -name __pycache__ -type d -prune -exec rm -rf {} +
