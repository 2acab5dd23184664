# Everything from a bare checkout: Python >= 3.11, make and the package index are enough.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# One BLAS thread a process: the matrices are small, and the tests run two processes.
export OMP_NUM_THREADS ?= 1

.PHONY: install demo test test-all lint clean

install: $(STAMP)

$(STAMP): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[experiments,test,lint]'
	touch $@

demo: install
	$(RUN) -m experiments.three_tank

test: install
	$(RUN) -m pytest -n 2 -m "not slow"

test-all: install
	$(RUN) -m pytest -n 2

lint: install
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

clean:
	rm -rf $(VENV) runs build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
