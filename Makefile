# Everything from a bare checkout: Python >= 3.11, make and the package index are enough.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# One BLAS thread a process: the matrices are small, and the tests run two processes.
export OMP_NUM_THREADS ?= 1

.PHONY: install demo test test-all docs notebooks mutants lint clean

install: $(STAMP)

$(STAMP): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs,experiments,test,lint]'
	touch $@

demo: install
	$(RUN) -m experiments.three_tank

test: install
	$(RUN) -m pytest -n 2 -m "not slow"

test-all: install
	$(RUN) -m pytest -n 2

# The pages, in docs/_build/html; anything that Sphinx warns about is an error.
docs: install
	rm -rf docs/_build docs/api docs/gallery docs/sg_execution_times.rst
	$(RUN) -m sphinx -W --keep-going --quiet -b html docs docs/_build/html

# Notebooks of the examples, beside their scripts.
notebooks: install
	$(RUN) docs/_extensions/notebooks.py

# Would the tests notice a wrong proof or promise? Takes hours; what is known to survive is in docs/mutants.md.
mutants: install
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[mutants]'
	$(RUN) tests/mutation/by_hand.py
	$(RUN) tests/mutation/run.py proof
	$(RUN) tests/mutation/run.py promise

lint: install
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

clean:
	rm -rf $(VENV) runs mutants build dist docs/_build docs/api docs/gallery docs/sg_execution_times.rst *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
