# setup: .venv with the pinned versions   demo: see it work   test: the whole suite   lint: ruff
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= $(shell for p in python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
INSTALLED := .venv/.installed
export OMP_NUM_THREADS ?= 2

.PHONY: setup demo test lint
setup: $(INSTALLED)

# One line for each large download shows that pip is at work; its errors pass through.
$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Installing mmlm into .venv (the first time this downloads about 3 GB, most of it PyTorch)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[test]' \
		| awk '/(Downloading|Using cached) .*[0-9][0-9]\.[0-9] MB/ {print; fflush()} \
		       /^Installing collected/ {print "  Unpacking (a few minutes)"; fflush()}'
	@touch $@
	@echo "Installed. Try: $(BIN)/mmlm --help"

demo: $(INSTALLED)
	@$(BIN)/python demos/tour.py

# Two processes of one thread each: small models gain nothing from a second thread.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

lint: $(INSTALLED)
	$(BIN)/ruff check .
