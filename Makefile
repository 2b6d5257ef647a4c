# Set-up, demonstration and tests. `make` alone lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --constraint constraints.txt
RUN := runs/digits
PYTEST := $(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist worksteal
ANY_BACKEND := tests/test_backends.py tests/test_effective_depth.py \
	tests/test_gradient_flow.py::test_gradients_of_a_linear_net_are_powers

# TensorFlow's notes on what the machine lacks say nothing about this project.
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: help venv demo test lint docs clean

help:
	@echo "make demo   train on the digits, evaluate, export, and predict on an image file"
	@echo "make test   ruff and all the tests"
	@echo "make lint   ruff alone"
	@echo "make docs   the documentation site, in site/"
	@echo "make venv   everything the demo and the tests need, in $(VENV)"
	@echo "make clean  remove $(VENV), builds and caches; runs and exported models stay"

# A stamp file says which environment stands; it is made again when the requirements change.
$(VENV)/train.stamp: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable ".[train]"
	touch $@

# timm is the peer that parameter counts and outputs are compared with. It imports torchvision,
# whose releases for this torch bring or expect CUDA builds: gigabytes. Installed without their
# dependencies, with the last torchvision that runs on its Python code alone, both are small.
# keras-hub, another peer, is installed without tensorflow-text, which only its language models need.
# PyPI's torch for Linux brings triton, which crashes a process that has imported TensorFlow; the tests
# compare the two in one process, and torch on a CPU does without it.
$(VENV)/test.stamp: $(VENV)/train.stamp
	$(INSTALL) --editable ".[test]"
	$(INSTALL) --no-deps timm torchvision keras-hub
	$(BIN)/pip uninstall --yes triton
	touch $@

$(VENV)/docs.stamp: $(VENV)/train.stamp
	$(INSTALL) --editable ".[docs]"
	touch $@

venv: $(VENV)/test.stamp

demo: $(VENV)/train.stamp
	$(BIN)/python -m training.train --recipe digits --data digits --output $(RUN)
	$(BIN)/python -m training.evaluate --model $(RUN)
	$(BIN)/python -m savedmodels.export --model $(RUN) --output savedmodels --name digits
	$(BIN)/python -m training.samples --data digits --output $(RUN)/samples
	$(BIN)/python -m savedmodels.predict savedmodels/digits $(RUN)/samples/*.png
	@echo
	@echo "Plots:      $(RUN)/curves.png and $(RUN)/confusion.png"
	@echo "SavedModel: savedmodels/digits/"

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Keras takes one backend a process: the whole suite on TensorFlow, then what holds on the others.
test: lint
	KERAS_BACKEND=tensorflow $(PYTEST)
	KERAS_BACKEND=jax $(PYTEST) $(ANY_BACKEND)
	KERAS_BACKEND=torch $(PYTEST) $(ANY_BACKEND)

# Strictly: a broken link, an undocumented name or a notebook that fails is an error.
docs: $(VENV)/docs.stamp
	PATH="$(CURDIR)/$(BIN):$$PATH" KERAS_BACKEND=tensorflow NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
