# make quickstart: train and report in a minute, offline.  make test: what CI runs.  Each installs what it needs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test lint clean

quickstart: .venv/installed
	$(BIN)/python train.py --model=cnn --dataset=digits --epochs=12 --lr=1.0e-3 --test=True --tracking=offline

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
