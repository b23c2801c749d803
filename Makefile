# SPDX-License-Identifier: Apache-2.0
# Targets only; the rules of the native build are in native/Makefile.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
PYTHON := $(VENV)/bin/python
ABIS := host arm64-v8a armeabi-v7a x86_64
BINARIES := agent/zcache_agent/_bin
JOBS = $(if $(filter -j%,$(MAKEFLAGS)),,-j$(shell nproc))
NATIVE = $(MAKE) --no-print-directory $(JOBS) -f native/Makefile PYTHON=$(PYTHON)
DEVICE ?=

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

$(VENV)/.stamp: requirements.lock pyproject.toml
	tools/system_packages venv
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --require-hashes -r requirements.lock
	$(PYTHON) -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

.PHONY: run
run: build ## the demo on this machine, or on the device ZCACHE_SERIAL names
	$(VENV)/bin/zcache -s "$${ZCACHE_SERIAL:-local}" demo

.PHONY: build
build: $(VENV)/.stamp ## zcached for every target, libzcache.so
	@$(NATIVE) daemons library
	@for abi in $(ABIS); do install -CD build/$$abi/zcached $(BINARIES)/$$abi/zcached; done
	@install -CD build/host/libzcache.so $(BINARIES)/host/libzcache.so

# For two CPUs: many tests wait for something else.
WORKERS ?= 3
.PHONY: test
test: build ## every test, devices included; ARGS go to pytest
	@tools/system_packages test
	@$(NATIVE) tests
	$(PYTHON) -m pytest $(if $(ARGS),,-n $(WORKERS)) $(ARGS)

.PHONY: soak
SECONDS ?= 1200
soak: build ## everything at once for SECONDS (1200): docs/soak.md
	@$(NATIVE) build/host/zc_soak
	$(PYTHON) -m tools.soak $(SECONDS)

.PHONY: explore
explore: build ## the tests with random seeds and many examples
	@tools/system_packages test
	@$(NATIVE) tests
	HYPOTHESIS_PROFILE=explore $(PYTHON) -m pytest --timeout=0 $(ARGS)

.PHONY: lint
lint: $(VENV)/.stamp ## style, types, layers
	@tools/system_packages lint
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(PYTHON) tools/check_layers.py
	$(PYTHON) tools/check_tree.py
	$(VENV)/bin/clang-format --dry-run --Werror $$(git ls-files -co --exclude-standard '*.[ch]')
	$(VENV)/bin/shellcheck .ci/run tools/system_packages

.PHONY: format
format: $(VENV)/.stamp ## put C and Python into the project's style
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format
	$(VENV)/bin/clang-format -i $$(git ls-files -co --exclude-standard '*.[ch]')

.PHONY: emulator-up emulator-down
emulator-up: build ## boot an emulated device: DEVICE=arm64, arm64-root or arm64-16k
	$(PYTHON) -m tools.emulator up $(DEVICE)
emulator-down: $(VENV)/.stamp ## stop DEVICE, or all
	$(PYTHON) -m tools.emulator down $(DEVICE)

.PHONY: corpora
corpora: $(VENV)/.stamp ## take pages of real programs to measure on: build/corpora
	@tools/system_packages bench
	$(PYTHON) -m bench.corpora

.PHONY: bench
bench: build corpora ## measure: build/bench.json, docs/benchmarks.md, docs/zpage-sizes.png
	@$(NATIVE) bench
	$(PYTHON) -m bench

.PHONY: dist
dist: build ## the agent's wheel and source distribution, device binaries included
	$(VENV)/bin/uv build --quiet --no-build-isolation --python $(PYTHON) --out-dir build/dist

.PHONY: lock
lock: $(VENV)/.stamp ## resolve requirements.lock anew
	$(VENV)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --group dev \
		--generate-hashes --no-emit-index-url --custom-compile-command "make lock" \
		pyproject.toml -o requirements.lock

.PHONY: clean
clean: ## remove what was built; .venv and the download cache stay
	rm -rf build $(BINARIES)
