# `make run` and `make test` work on a fresh machine: each makes .venv if it is absent.

PYTHON ?= python3
BIN := .venv/bin
# Files of tests beside one another; four at most, as a test may start four processes of its own.
SIDE_BY_SIDE := --numprocesses auto --maxprocesses 4 --dist loadfile

.PHONY: run test test-slow slurm-test check clean

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

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) test

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Plain pip: it resolves torch and torchvision together to builds that go together.
.venv/ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@
