# Everything runs in one virtual environment, .venv, which the first target that needs it makes.
# A stamp file in .venv stands for each finished stage, so that nothing is done twice.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
# torch goes first and by itself: a range, with no torch installed, would fetch another build of it.
TORCH := $(shell grep '^torch==' constraints.txt)
# make PYTHON=/path/to/python3 chooses the interpreter; otherwise the first of these that will do.
PYTHONS = $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11)
WORKERS ?= 2

# No example opens a window, and what Inductor compiles is kept from one run to the next.
export MPLBACKEND := Agg
export TORCHINDUCTOR_CACHE_DIR := $(CURDIR)/$(VENV)/inductor

.PHONY: help setup demo test test-long test-peers lint examples docs bench clean
.DELETE_ON_ERROR:

help:
	@echo "make demo        the lecture's example: a table and a picture"
	@echo "make test        lint and every quick test"
	@echo "make test-peers  the tests beside BackPACK, Lightning, transformers and others, which it installs"
	@echo "make test-long   the slow tests, and the reader of checkpoints under a fuzzer, which it installs"
	@echo "make lint        ruff and pyright"
	@echo "make examples    every example, without a window"
	@echo "make docs        the site, in docs/_build/html, and the notebook in a kernel"
	@echo "make bench       this library beside its peers, which it installs"
	@echo "make setup       only the environment that these share"
	@echo "make clean       remove the environment and all caches"

setup: $(VENV)/test.stamp

demo: $(VENV)/demo.stamp
	@$(BIN)/python examples/lecture.py

test: lint
	@echo "test: the quick tests and every docstring's example"
	@$(BIN)/python -m pytest -q -rs -n $(WORKERS) --dist worksteal -m "not slow"

test-long: $(VENV)/fuzz.stamp
	@echo "test: the slow tests"
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m slow tests
	@echo "test: the reader of checkpoints, fuzzed"
	@$(BIN)/python tests/fuzz_reader.py -runs=10000 -seed=1 -verbosity=0 -artifact_prefix=$(VENV)/

test-peers: $(VENV)/peers.stamp
	@echo "test: beside BackPACK, Opacus, Optax, TorchOpt, Lightning, Accelerate and transformers"
	@$(BIN)/python -c "import backpack, opacus, optax, torchopt"
	@$(BIN)/python -m pytest -q tests/test_noise_peers.py tests/test_cheatsheet.py tests/test_migration.py tests/peers_*.py

lint: $(VENV)/test.stamp
	@echo "lint: ruff"
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { $(BIN)/ruff format --check .; false; }
	@echo "lint: pyright"
	@$(BIN)/pyright

# One thread each: models this small gain nothing from two, and lose much where a core is taken.
examples: export OMP_NUM_THREADS := 1
examples: $(VENV)/test.stamp
	@failed=; for example in examples/*.py; do \
	  echo "example: $$example"; \
	  $(BIN)/python "$$example" || failed="$$failed $$example"; \
	done; \
	[ -z "$$failed" ] || { echo "failed:$$failed" >&2; false; }

# make bench ROWS="variance/mlp128 sweep" runs these rows alone, QUICK=1 the headlines in under two minutes.
bench: $(VENV)/bench.stamp
	@$(BIN)/python benchmarks/speed.py $(ROWS) $(if $(QUICK),--quick) $(if $(DEVICE),--device $(DEVICE))

# Warnings are errors, and so is a link that leads nowhere or a program that prints something else than is shown.
docs: export OMP_NUM_THREADS := 1
docs: $(VENV)/docs.stamp
	@echo "docs: the site"
	@rm -rf docs/_build docs/api docs/pictures
	@$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo "docs: the notebook"
	@$(BIN)/python -m pytest -q tests/test_notebook.py
	@echo "docs: $(CURDIR)/docs/_build/html/index.html"

clean:
	@rm -rf $(VENV) .hypothesis .pytest_cache .ruff_cache build dist docs/_build docs/api docs/benchmarks.md docs/pictures
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/python.stamp:
	@for python in $(PYTHONS); do \
	  if $$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "setup: $$($$python --version) in $(VENV)"; \
	    $$python -m venv $(VENV) && touch $@; \
	    exit; \
	  fi; \
	done; \
	echo "pure_sgd needs Python 3.11 or later with venv and pip; none of these will do: $(PYTHONS)." >&2; \
	echo "Install one (on Debian with python3-venv), or name it: make PYTHON=/path/to/python3" >&2; \
	false

$(VENV)/demo.stamp: $(VENV)/python.stamp pyproject.toml constraints.txt
	@echo "setup: $(TORCH)"
	@$(PIP) install -c constraints.txt $(TORCH)
	@echo "setup: pure_sgd and what its examples need"
	@$(PIP) install -c constraints.txt hatchling editables
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[examples]'
	@touch $@

$(VENV)/test.stamp: $(VENV)/demo.stamp
	@echo "setup: what its tests need"
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[test]'
	@touch $@

$(VENV)/fuzz.stamp: $(VENV)/test.stamp
	@echo "setup: atheris"
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[fuzz]'
	@touch $@

$(VENV)/peers.stamp: $(VENV)/test.stamp
	@echo "setup: BackPACK, Opacus, Optax, TorchOpt, Lightning, Accelerate and transformers"
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[peers]'
	@touch $@

$(VENV)/docs.stamp: $(VENV)/test.stamp
	@echo "setup: Sphinx, and a kernel for the notebook"
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[docs]'
	@touch $@

$(VENV)/bench.stamp: $(VENV)/peers.stamp
	@echo "setup: JAX"
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[bench]'
	@touch $@
