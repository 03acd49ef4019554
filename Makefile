# make train   set up, train the embedded digits, show the result and where it lies
# make test    set up with the test tools, check, run every test, a worker a core
# make quick   the tests but the long ones
# make newest  these with the newest Python and jax, in a set-up of their own (TESTS="tests/model ...")
# make faults  the tests of faults, the slow ones too
# make soak    what `make test` leaves out since it takes long, with many inputs and schedules of
#              faults: SOAK=10000 SOAK_SCHEDULES=500, a night
# make docs    the documentation as a site: site/index.html
# make accelerators   compilers for GPUs and TPUs in a folder of their own: FLAXCNN_ACCELERATORS
PYTHON ?= python3
VENV := .venv
CONSTRAINTS := constraints.txt
TESTS :=
BIN := $(VENV)/bin
# A worker for each core; of a long module, those that have nothing left to do take a part.
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist worksteal
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS)

.PHONY: train test quick faults soak newest check format docs accelerators clean

train: $(VENV)/base.stamp
	$(BIN)/flaxcnn train

test: check
	$(PYTEST) -m "not soak"

quick: $(VENV)/test.stamp
	$(PYTEST) -m "not slow and not soak" $(TESTS)

newest:
	python=$$($(PYTHON) .ci/newest_python.py) && \
	  $(MAKE) quick VENV=.venv-newest CONSTRAINTS=constraints-newest.txt PYTHON="$$python"

faults: $(VENV)/test.stamp
	$(PYTEST) tests/faults

soak: $(VENV)/test.stamp
	SOAK=$${SOAK:-10000} SOAK_SCHEDULES=$${SOAK_SCHEDULES:-500} $(PYTEST) -m soak

check: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/test.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/docs.stamp
	$(BIN)/python -m docs.generate
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open site/index.html"

# Compilers for GPUs and TPUs, where jax does not look for them (tests/accelerators/test_compiled.py)
accelerators: $(VENV)/accelerators.stamp

$(VENV)/accelerators.stamp: $(VENV)/test.stamp flaxcnn/accelerators/cases.py
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
	  --target $(VENV)/accelerators \
	  $$($(BIN)/python -c 'from flaxcnn.accelerators.cases import WHEELS; print(*WHEELS)')
	touch $@

$(VENV)/base.stamp: pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit("flaxcnn needs Python 3.11 or newer: make PYTHON=python3.11 ..." if sys.version_info < (3, 11) else 0)'
	@echo "Setting up $(VENV), once: a minute or a few, silent while pip downloads and installs"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/test.stamp: $(VENV)/base.stamp
	$(PIP) -e '.[test]'
	touch $@

$(VENV)/docs.stamp: $(VENV)/base.stamp
	$(PIP) -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) .venv-newest dist build site .mypy_cache .ruff_cache .pytest_cache .hypothesis
