# make demo   the whole pipeline on the documentation of the installed packages; CONFIG=configs/x.py:tiny for a method
# make test   the quick tests: minutes on two cores, less once the compiled programs are cached in .pytest_cache
# make test-all    all tests, with those marked slow (they take long, start processes or need a peer library), and
#                  with the types and shapes of arguments and results compared with their annotations
# make test-beam   those of preparing by Apache Beam, in an environment of its own: Beam holds other packages back
# make test-s3     those of data in S3, by a local server, likewise: its libraries hold two others back
# make check  style, types and the direction of imports
# make docs   the documentation as a site, in site/
# make check-pins   whether pip finds the pinned versions for another Python too: PYTHON_VERSION=3.13
# make bench  the speed of training and encoding here, as in benchmarks/README.md (which lists the other programs)
PYTHON ?= python3
CONFIG ?= configs/ict.py:tiny
WORKDIR ?= runs/$(basename $(notdir $(CONFIG)))
PYTHON_VERSION ?= 3.12
BIN := .venv/bin

# Bytecode is kept: a worker and each process that it starts would else compile two hundred modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all test-beam test-s3 check docs check-pins bench clean

demo: .venv/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" launch/local.sh $(CONFIG) $(WORKDIR)

test: .venv/installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow' --no-type-checks $(ARGS)

test-all: .venv/installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

test-beam: .venv-beam/installed
	.venv-beam/bin/python -m pytest -o filterwarnings=default tests/beam $(ARGS)

test-s3: .venv-s3/installed
	.venv-s3/bin/python -m pytest tests/test_s3.py $(ARGS)

check: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

check-pins: .venv/bin/python
	$(BIN)/python -m pip wheel --quiet --no-deps --constraint constraints.txt --wheel-dir build/wheels promise  # no wheel exists
	$(BIN)/python -m pip install --quiet --dry-run --ignore-installed --target build/pins --only-binary=:all: \
	  --python-version $(PYTHON_VERSION) --find-links build/wheels --constraint constraints.txt .

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

.venv/installed-docs: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	touch $@

.venv-beam/installed: setup.py constraints-beam.txt
	$(PYTHON) -m venv .venv-beam
	.venv-beam/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-beam.txt \
	  --editable '.[beam]' beartype pytest pytest-timeout
	touch $@

.venv-s3/installed: setup.py constraints.txt
	$(PYTHON) -m venv .venv-s3
	grep -vE '^(fsspec|python-dateutil)==' constraints.txt > .venv-s3/constraints.txt
	.venv-s3/bin/python -m pip install --quiet --disable-pip-version-check --constraint .venv-s3/constraints.txt \
	  --editable '.[test-s3]' beartype hypothesis pytest pytest-timeout
	touch $@

clean:
	rm -rf .venv .venv-beam .venv-s3 .pytest_cache runs build site *.egg-info
