# setup: .venv with the pinned versions   demo: see it work   test: the whole suite
# test-processors: the suite on SSE4.2, AVX2 and this processor, one after the other
# test-newest: the suite's core on the newest torch that the requirements allow
# soak: some hours of damaged files, killed runs and threads
# lint: ruff and pyright                  docs: the site, in site/
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= $(shell for p in python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
INSTALLED := .venv/.installed
export OMP_NUM_THREADS ?= 2
# pyright asks the network for its newest version, and mkdocs-material advertises, unless told not to.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export NO_MKDOCS_2_WARNING := 1

.PHONY: setup demo test test-processors test-newest soak lint docs
setup: $(INSTALLED)

# One line for each large download shows that pip is at work; its errors pass through, and what it says of conflicts.
$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Installing mmlm into .venv (the first time this downloads about 3 GB, most of it PyTorch)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[dev,docs]' \
		| awk '/(Downloading|Using cached) .*[0-9][0-9]\.[0-9] MB/ {print; fflush()} \
		       /^Installing collected/ {print "  Unpacking (a few minutes)"; fflush()} \
		       /conflict is caused/ {told = 1} told {print; fflush()}'
	@touch $@
	@echo "Installed. Try: $(BIN)/mmlm --help"

demo: $(INSTALLED)
	@$(BIN)/python demos/tour.py

# Two processes of one thread each: small models gain nothing from a second thread.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

# Each on the instructions that it names, as MKL, oneDNN and torch see them; all three run, whichever fails.
SSE42 := MKL_ENABLE_INSTRUCTIONS=SSE4_2 ONEDNN_MAX_CPU_ISA=SSE41 ATEN_CPU_CAPABILITY=default
AVX2 := MKL_ENABLE_INSTRUCTIONS=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2
test-processors: $(INSTALLED)
	@failed=; \
	for mode in "SSE4.2 $(SSE42)" "AVX2 $(AVX2)" "native"; do \
		echo "== $${mode%% *}"; set -- $$mode; shift; \
		env "$$@" $(MAKE) --no-print-directory test || failed="$$failed $${mode%% *}"; \
	done; \
	test -z "$$failed" || { echo "failed on:$$failed"; exit 1; }

# In an environment of its own; all but torch and what it brings along has the pinned versions.
NEWEST := .venv-newest
CORE := laws packing choosing wide capture tape draws generation fusion clip whisper nano
test-newest: $(INSTALLED)
	@test -x $(NEWEST)/bin/python || $(PYTHON) -m venv $(NEWEST)
	@grep -vE '^(torch|triton|nvidia|cuda)' constraints.txt > $(NEWEST)/constraints.txt
	@$(NEWEST)/bin/python -m pip install -q --disable-pip-version-check --upgrade -c $(NEWEST)/constraints.txt -e '.[dev]'
	@$(NEWEST)/bin/python -c 'import torch; print("torch", torch.__version__)'
	OMP_NUM_THREADS=1 $(NEWEST)/bin/python -m pytest -q -n 2 --dist worksteal $(CORE:%=tests/test_%.py)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# The long forms of tests in the suite; docs/reliability.md has figures of them.
soak: $(INSTALLED)
	$(BIN)/python benchmarks/fuzz_media.py --count 10000
	$(BIN)/python benchmarks/soak_files.py --count 10000
	$(BIN)/python benchmarks/soak_kills.py --count 1000 --flips 1000
	$(BIN)/python benchmarks/soak_threads.py --minutes 60

docs: $(INSTALLED)
	$(BIN)/python -m mkdocs build --strict --quiet
	@echo "Open site/index.html"
