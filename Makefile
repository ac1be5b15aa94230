# make demo: the main job, from nothing.   make test: everything.   make check: the quick part.
# make chaos: runs killed 50 times and on full disks (20 minutes or more).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check lint types layers unit chaos models clean

demo: $(READY)
	$(BIN)/vestige demo

test: $(READY) models
	$(BIN)/python -m pytest

check: lint types layers unit

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/pyright --pythonpath $(BIN)/python

layers: $(READY)
	$(BIN)/lint-imports

unit: $(READY)
	$(BIN)/python -m pytest tests/unit

chaos: $(READY)
	VESTIGE_CHAOS_KILLS=50 $(BIN)/python -m pytest -s tests/surface/test_resume.py

models: $(READY)
	$(BIN)/vestige models pull smollm2-135m-instruct

# torch first and pinned: a plain resolve would take a build with gigabytes of CUDA packages.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist
