# `make run` and `make test` work on a fresh machine: each makes .venv if it is absent.

PYTHON ?= python3
BIN := .venv/bin
# Files of tests beside one another; four at most, as a test may start four processes of its own.
SIDE_BY_SIDE := --numprocesses auto --maxprocesses 4 --dist loadfile

.PHONY: run test test-slow slurm-test bench bench-full check clean

run: .venv/ready
	$(BIN)/python distrib/train.py --config configs/quickstart.yaml

test: .venv/ready
	$(BIN)/python -m pytest -m "not slow and not slurm" $(SIDE_BY_SIDE)

test-slow: .venv/ready
	$(BIN)/python -m pytest -m "slow and not slurm" $(SIDE_BY_SIDE)

# On a real Slurm, in this machine: the tests start slurm/local_cluster and stop it.
slurm-test: .venv/ready
	slurm/local_cluster install
	$(BIN)/python -m pytest -m slurm

# Speed, against other trainers, which are installed beside ours for this alone.
bench: .bench/ready
	.bench/bin/python benchmarks/bench.py

bench-full: .bench/ready
	.bench/bin/python benchmarks/bench.py --full

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) test

.bench/ready: pyproject.toml benchmarks/peers.txt
	test -x .bench/bin/python || $(PYTHON) -m venv .bench
	.bench/bin/python -m pip install --quiet --upgrade pip
	.bench/bin/python -m pip install --quiet --editable . --requirement benchmarks/peers.txt
	touch $@

clean:
	rm -rf .venv .bench build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Plain pip: it resolves torch and torchvision together to builds that go together.
.venv/ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@
