# Every target works on a fresh Debian machine with Python 3.10 or newer and make: it creates .venv and installs into it what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.DEFAULT_GOAL := help
.PHONY: help venv demo test check tables clean

help:
	@echo "make demo     train a baseline and a CAL checkpoint in miniature, evaluate both, print the tables (about 8 minutes)"
	@echo "make test     run all tests (a few minutes)"
	@echo "make check    ruff, mypy, then all tests: what a change must pass"
	@echo "make tables   write the demo's tables again"
	@echo "make venv     only create $(VENV) and install into it"
	@echo "make clean    remove $(VENV) and what tools left behind; results stay"

venv: $(STAMP)

# pyproject.toml is the list of what has to be installed: the code itself is used from where it lies.
$(STAMP): pyproject.toml
	@echo "Installing cal-bench and what it needs into $(VENV) (once; some GB, several minutes)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || { \
		rm -rf $(VENV); echo "python3 cannot make virtual environments here. Type: sudo apt-get install python3-venv"; exit 1; }
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		rm -rf $(VENV); echo "cal-bench needs Python 3.10 or newer. Type: make PYTHON=python3.11"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)
	@echo "Training two checkpoints in miniature and evaluating them on 15 benchmarks (about 8 minutes on two cores)"
	@$(BIN)/cal-bench study demo

test: $(STAMP)
	@echo "Running the tests (a few minutes on two cores)"
	@$(BIN)/python -m pytest -q

check: $(STAMP)
	@$(BIN)/ruff check .
# mypy finds packages by their place, so it is shown the code where the names say it is.
	@rm -rf build/typed && mkdir -p build/typed/cal_bench
	@ln -s $(CURDIR)/cal_bench/* $(addprefix $(CURDIR)/,tasks trainer_plugin results) build/typed/cal_bench/
	@cd build/typed && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache
	@$(BIN)/python -m pytest -q

tables: $(STAMP)
	@$(BIN)/cal-bench table results/demo --out results/demo/tables.md

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
