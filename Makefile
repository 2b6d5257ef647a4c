# Set-up, demonstration and tests. `make` alone lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Errors only. What is used compiles itself when it is first imported.
INSTALL := $(BIN)/pip install -qq --no-compile --constraint constraints.txt
RUN := runs/digits

# TensorFlow's notes on what the machine lacks say nothing about this project.
export TF_CPP_MIN_LOG_LEVEL ?= 3
# pip compiles nothing here, so the first import must keep what it compiles for those that follow.
unexport PYTHONDONTWRITEBYTECODE

SUITES := test-tensorflow test-onednn-off test-jax test-torch

.PHONY: help venv demo test suites $(SUITES) lint docs clean
.DELETE_ON_ERROR:

help:
	@echo "make demo   train on the digits, evaluate, export, and predict on an image file"
	@echo "make test   the checks of make lint, and every suite below; one line says what passed where"
	@echo "            ($(SUITES): one suite)"
	@echo "make lint   ruff, and the annotations, checked by basedpyright (pyright, all of it on PyPI)"
	@echo "make docs   the documentation site, in site/"
	@echo "make venv   everything the demo, the tests and make lint need, in $(VENV)"
	@echo "make clean  remove $(VENV), builds and caches; runs and exported models stay"

# Debian's Python makes no virtual environment before its package python3-venv is installed.
OLD := $(PYTHON) is Python {0}.{1}; needed is 3.11 or later, as in: make PYTHON=python3.12
NO_PIP := $(PYTHON) has no ensurepip and cannot make a virtual environment. \
	On Debian or Ubuntu: apt install python{0}.{1}-venv
CHECK_PYTHON := import sys; v = sys.version_info; v >= (3, 11) or sys.exit("$(OLD)".format(*v)); \
	from importlib.util import find_spec; find_spec("ensurepip") or sys.exit("$(NO_PIP)".format(*v))

# The pip that a Python brings is as old as itself, and takes twice as long to choose what to install.
$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c '$(CHECK_PYTHON)'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade pip
	@echo "Installing into $(VENV): more than a gigabyte, so a few minutes"

# A stamp file says which environment stands; it is made again when the requirements change.
$(VENV)/train.stamp: $(VENV)/pyvenv.cfg setup.py constraints.txt
	$(INSTALL) --editable ".[train]"
	touch $@

# timm is the peer that parameter counts and outputs are compared with. It imports torchvision,
# whose releases for this torch bring or expect CUDA builds: gigabytes. Installed without their
# dependencies, with the last torchvision that runs on its Python code alone, both are small.
# keras-hub, another peer, is installed without tensorflow-text, which only its language models need.
# PyPI's torch for Linux brings triton, which crashes a process that has imported TensorFlow; the tests
# compare the two in one process, and torch on a CPU does without it.
$(VENV)/test.stamp: $(VENV)/pyvenv.cfg setup.py constraints.txt
	$(INSTALL) --editable ".[test]"
	$(INSTALL) --no-deps timm torchvision keras-hub
	$(BIN)/pip uninstall -qq --yes triton
	touch $(VENV)/train.stamp $@

$(VENV)/docs.stamp: $(VENV)/train.stamp
	$(INSTALL) --editable ".[docs]"
	touch $@

# Not among the requirements of the tests: it brings Node.js, which not every machine has a wheel of.
$(VENV)/lint.stamp: $(VENV)/test.stamp
	$(INSTALL) basedpyright
	touch $@

venv: $(VENV)/lint.stamp

demo: $(VENV)/train.stamp
	$(BIN)/python -m training.train --recipe digits --data digits --output $(RUN)
	$(BIN)/python -m training.evaluate --model $(RUN)
	$(BIN)/python -m savedmodels.export --model $(RUN) --output savedmodels --name digits
	$(BIN)/python -m training.samples --data digits --output $(RUN)/samples
	$(BIN)/python -m savedmodels.predict savedmodels/digits $(RUN)/samples/*.png
	@echo
	@$(BIN)/python -m training.summary $(RUN) --exported savedmodels/digits

lint: $(VENV)/lint.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

# The checks, and the installation of what they need, run beside the suites, so that no core idles.
test: $(VENV)/test.stamp
	@$(MAKE) --no-print-directory --jobs=2 --keep-going lint suites

suites: $(VENV)/test.stamp
	$(BIN)/python tests/suites.py

$(SUITES): test-%: $(VENV)/test.stamp
	$(BIN)/python tests/suites.py $*

# Strictly: a broken link, an undocumented name or a notebook that fails is an error.
docs: $(VENV)/docs.stamp
	PATH="$(CURDIR)/$(BIN):$$PATH" KERAS_BACKEND=tensorflow NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site build dist *.egg-info .pytest_cache .ruff_cache .cache/jax .cache/tests
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
