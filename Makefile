# `make` prints what can be made. Everything lives in .venv and target/; nothing is installed elsewhere.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RUST   := $(wildcard rust/*.rs) Cargo.toml Cargo.lock
FUZZ_RUNS ?= 1000000
FUZZ_SEED ?= 1
SIM_REQUESTS ?= 100000
SIM_SEED ?= 1
MUTANT_REQUESTS ?= 100000
MUTANT_LEAST ?= 1.0
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)

export CARGO_TERM_COLOR ?= auto
export PYTHONDONTWRITEBYTECODE ?=

.DEFAULT_GOAL := help
.PHONY: help dev demo test lint types fmt pytest coverage live-long oldest bench sim sim-long mutants fuzz lock clean

help: ## print these targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

dev: $(VENV)/.ready ## environment with all extras and the native extension, in .venv

$(VENV)/.ready: requirements.lock pyproject.toml $(RUST) tools/dev.sh
	@PYTHON="$(PYTHON)" tools/dev.sh

demo: dev ## one worker and one client on loopback, a real model, three prompts
	@$(BIN)/python examples/demo.py

# A mutant that shows only after many thousand requests is for the long run.
test: MUTANT_REQUESTS = 4000
test: MUTANT_LEAST = 0.9
test: dev lint types sim mutants pytest ## everything that must hold before a change lands

lint: dev ## ruff, rustfmt, clippy, file lengths
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/file_lengths.py
	cargo fmt --check
	cargo clippy --locked --all-targets --features pyo3/extension-module -- -D warnings

types: dev ## mypy --strict, and the stub of the native module against the module
	$(BIN)/mypy
	MYPYPATH=python:benches $(BIN)/mypy --strict benches/*.py examples/*.py tools/*.py
	$(BIN)/python -m mypy.stubtest llama_gossip._native

pytest: dev
	$(BIN)/python -m pytest

live-long: dev ## fifty workers of each torch model killed at random tokens: hours
	$(BIN)/python -m pytest -m long tests/live

oldest: dev ## the engine's tests with the oldest torch and transformers that are allowed
	@tools/oldest.sh

coverage: dev ## branches of the protocol core that its own tests take: below 95 % fails, minutes
	$(BIN)/python -m coverage run -m pytest -q tests/protocol
	$(BIN)/python -m coverage json -q -o .coverage.json
	$(BIN)/python tools/branches.py .coverage.json

fmt: dev ## format Python and Rust
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	cargo fmt

bench: dev ## the throughput bench, short form
	$(BIN)/python benches/throughput.py --quick

sim: dev ## whole networks of real cores in virtual time, under full faults: SIM_REQUESTS from SIM_SEED
	$(BIN)/python -m llama_gossip.simulation --requests $(SIM_REQUESTS) --seed $(SIM_SEED) --jobs $(JOBS)

sim-long: dev ## the same, a million requests
	$(BIN)/python -m llama_gossip.simulation --requests 1000000 --seed $(SIM_SEED) --jobs $(JOBS)

mutants: dev ## the core broken one line at a time, at most MUTANT_REQUESTS each: the oracles must see every one
	$(BIN)/python -m llama_gossip.simulation --mutants --requests $(MUTANT_REQUESTS) --least $(MUTANT_LEAST) \
	  --seed $(SIM_SEED) --jobs $(JOBS)

fuzz: dev ## hostile bytes against every decoder: FUZZ_RUNS mutants from FUZZ_SEED
	$(BIN)/python -m tests.fuzz.fuzz_wire --runs $(FUZZ_RUNS) --seed $(FUZZ_SEED)

lock: ## pin every Python dependency again, with hashes
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-header --upgrade -q -o requirements.lock

clean: ## remove .venv, target/ and caches; models (.llama-gossip/ too) stay
	rm -rf $(VENV) target .mypy_cache .ruff_cache .pytest_cache python/llama_gossip/_native*.so
