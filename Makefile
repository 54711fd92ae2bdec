# make demo   the whole pipeline on the documentation of the installed packages; CONFIG=configs/x.py:tiny for a method
# make test   the tests
# make test-beam   those of preparing by Apache Beam, in an environment of its own: Beam holds other packages back
# make check  style, types and the direction of imports
# make bench  training and encoding on this machine; the other programs: benchmarks/README.md
PYTHON ?= python3
CONFIG ?= configs/ict.py:tiny
WORKDIR ?= runs/$(basename $(notdir $(CONFIG)))
BIN := .venv/bin

.PHONY: demo test test-beam check bench clean

demo: .venv/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" launch/local.sh $(CONFIG) $(WORKDIR)

test: .venv/installed-test
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

test-beam: .venv-beam/installed
	.venv-beam/bin/python -m pytest -o filterwarnings=default tests/beam $(ARGS)

check: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

bench: .venv/installed-test
	$(BIN)/python benchmarks/train.py
	$(BIN)/python benchmarks/encode.py

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dense_jax needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python setup.py constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@

.venv-beam/installed: setup.py constraints-beam.txt
	$(PYTHON) -m venv .venv-beam
	.venv-beam/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-beam.txt \
	  --editable '.[beam]' beartype pytest pytest-timeout
	touch $@

clean:
	rm -rf .venv .venv-beam runs *.egg-info
