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
	@for abi in $(filter-out host,$(ABIS)); do install -CD build/$$abi/zcline $(BINARIES)/$$abi/zcline; done
	@for library in libzcache libzcsim; do install -CD build/host/$$library.so $(BINARIES)/host/$$library.so; done

# For two CPUs: many tests wait for something else.
WORKERS ?= 3
.PHONY: test
test: build ## every test, devices included; ARGS go to pytest
	@tools/system_packages test
	@$(NATIVE) tests
	$(PYTHON) -m pytest $(if $(ARGS),,-n $(WORKERS) --durations=12) $(ARGS)

.PHONY: soak
SECONDS ?= 1200
soak: build ## everything at once for SECONDS (1200) and a quarter: docs/soak.md; then swap on emulated devices
	@$(NATIVE) build/host/zc_soak build/host/zc_heap
	$(PYTHON) -m tools.soak $(SECONDS)
	@$(NATIVE) arm64-v8a build/arm64-v8a/zc_hog
	$(PYTHON) -m tools.swapsoak

.PHONY: explore
explore: build ## the tests with random seeds and many examples
	@tools/system_packages test
	@$(NATIVE) tests
	HYPOTHESIS_PROFILE=explore $(PYTHON) -m pytest --timeout=0 $(ARGS)

# What devices run: in POSIX shell, and in BusyBox's.
BOOT := agent/zcache_agent/boot
BOOT_SCRIPTS = $(shell git ls-files $(BOOT) | grep -E '(-service|\.init|\.sh|update-binary)$$')
.PHONY: lint
lint: build ## style, types, layers, and the binaries
	@tools/system_packages lint
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(PYTHON) tools/check_layers.py
	$(PYTHON) tools/check_tree.py
	$(PYTHON) -m tools.elf_gate
	$(VENV)/bin/clang-format --dry-run --Werror $$(git ls-files -co --exclude-standard '*.[ch]')
	$(VENV)/bin/shellcheck .ci/run tools/system_packages $(BOOT_SCRIPTS)
	$(VENV)/bin/shellcheck -s busybox $(BOOT)/zcached.procd $(BOOT_SCRIPTS)

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

.PHONY: workloads
workloads: build ## which programs it helps: build/workloads.json, docs/which-workloads.md and .png; NAMES: only these
	@tools/system_packages bench
	@$(NATIVE) bench
	$(PYTHON) -m bench.workloads $(NAMES)

# A release is under our licence, and LZO=1 is not.
.PHONY: dist
dist: $(if $(LZO),no-lzo,build) ## a release, built twice: build/dist has wheel, source distribution, SBOM, checksums
	$(PYTHON) -m tools.dist make build/dist
	$(PYTHON) -m tools.dist verify build/dist
.PHONY: no-lzo
no-lzo:
	@echo "make dist LZO=1: minilzo is GPL-2.0-or-later, and no release has it; leave out LZO=1" >&2; exit 2

.PHONY: docs man
docs: build ## docs/reference.md anew, from what zcached says of its nodes
	$(PYTHON) -m tools.reference
man: build ## zcache(1) and zcached(8): build/man
	$(PYTHON) -m tools.manpages build/man

.PHONY: lock
lock: $(VENV)/.stamp ## resolve requirements.lock anew
	$(VENV)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --group dev \
		--generate-hashes --no-emit-index-url --custom-compile-command "make lock" \
		pyproject.toml -o requirements.lock

.PHONY: clean
clean: ## remove what was built; .venv and the download cache stay
	rm -rf build $(BINARIES) licenses/*.txt
