# make quickstart: a sweep, its result and its report, offline.  make test: what CI runs.  Each installs what it needs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test lint clean

quickstart: .venv/installed
	WANDB_MODE=offline $(BIN)/python sweeps/agent.py sweeps/quickstart.yaml --workers 2
	WANDB_MODE=offline $(BIN)/python sweeps/final.py quickstart --seeds 3 --workers 2
	$(BIN)/python -m analysis.report --sweep quickstart

test: lint
	$(BIN)/python -m pytest -n 2

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	@echo "Installing into .venv: about 6 GB with torch for CUDA, two minutes on a fast line"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv build *.egg-info
