# The project's own commands, in a virtual environment of its own. `make help` lists them.
#
#   VENV=.venv       where that environment lies
#   PYTHON=python3   the Python, 3.11 or newer, that it is made of
#   WORKERS=2        how many tests run side by side
#   BENCH=--quick    words for the measurements of `make bench`
#
# On Linux without a GPU, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu saves some
# gigabytes of download: pip then takes torch's build for CPUs.

VENV ?= .venv
PYTHON ?= python3
WORKERS ?= 2
BENCH ?=

BIN := $(VENV)/bin
# Bytecode is written when a module is first imported: writing all of it takes pip longer than the rest.
INSTALL := $(BIN)/python -m pip install --no-compile --constraint constraints.txt --editable
# One thread for each of the workers: two workers of two threads take half as long again on two cores.
# And glibc keeps the memory that torch frees, instead of asking the kernel for it at every step.
PYTEST := OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=1073741824 \
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal
SOURCES := src tests .ci

# What is installed is said by four empty files, newer than what asks for it: the second run is fast.
FOR_DEMO := $(VENV)/.installed-for-demo
FOR_TESTS := $(VENV)/.installed-for-tests
FOR_ALL_TESTS := $(VENV)/.installed-for-all-tests
FOR_BENCH := $(VENV)/.installed-for-bench
REQUIREMENTS := pyproject.toml constraints.txt

.PHONY: help demo test test-all quick check format bench clean
.DELETE_ON_ERROR:

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(FOR_DEMO) ## do the whole way on handwritten digits; the result is in demo/
	$(BIN)/mobilenets demo

test: $(FOR_TESTS) ## run what CI runs: all tests, the large matrices sampled
	$(PYTEST) -m "not full"

test-all: $(FOR_ALL_TESTS) ## run every test, the complete matrices too
	$(PYTEST)

quick: $(FOR_TESTS) ## run the tests that take no time
	$(PYTEST) -m "not slow and not full"

check: $(FOR_TESTS) ## formatting, lint, types, and the longest modules and functions
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/mypy benchmarks
	$(BIN)/python .ci/sizes.py

format: $(FOR_TESTS) ## format the code and mend what ruff can mend
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

bench: $(FOR_BENCH) ## time the family in every engine and render BENCHMARKS.md; wants a quiet machine
	$(BIN)/python benchmarks/networks.py $(BENCH)
	$(BIN)/python benchmarks/render.py

clean: ## remove caches, builds and the demo; not the environment, not runs/
	rm -rf build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

# A Python that was packaged without ensurepip still has a pip, which can put one into the environment.
$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "this is too old: make PYTHON=python3.11, or newer")'
	$(PYTHON) -m venv $(VENV) || { \
		$(PYTHON) -m venv --clear --without-pip $(VENV) && \
		$(PYTHON) -m pip --python $(BIN)/python install pip; }

$(FOR_DEMO): $(REQUIREMENTS) | $(BIN)/python
	$(INSTALL) '.[train,onnx]'
	@touch $@

$(FOR_TESTS): $(REQUIREMENTS) | $(BIN)/python
	$(INSTALL) '.[bench,heif,keras,parity,dev]'
	@touch $@ $(FOR_DEMO) $(FOR_BENCH)

# zig, for other machines' libraries: 100 MB to download, 410 MB on the disk.
$(FOR_ALL_TESTS): $(FOR_TESTS)
	$(INSTALL) '.[compile]'
	@touch $@
$(FOR_BENCH): $(REQUIREMENTS) | $(BIN)/python
	$(INSTALL) '.[bench]'
	@touch $@ $(FOR_DEMO)
