# make quickstart: a sweep, its result and its report, offline.
# make study:      the whole table of results, analysis/RESULTS.md, as far as 24 hours go; see sweeps/README.md.
# make check:      lint, types and the quick tests, before every commit.  make test: lint, types and all tests, as in CI.
# make format:     write Python and JavaScript as the linters want them.  Each target installs what it needs.
PYTHON ?= python3
BIN := .venv/bin
JAVASCRIPT := $(BIN)/deno task --quiet --config analysis/compare/page/deno.json

.PHONY: quickstart study check test lint format clean

quickstart: .venv/installed
	WANDB_MODE=offline $(BIN)/python sweeps/agent.py sweeps/quickstart.yaml --workers 2
	WANDB_MODE=offline $(BIN)/python sweeps/final.py quickstart --seeds 3 --workers 2
	$(BIN)/python -m analysis.report --sweep quickstart

study: .venv/installed
	$(BIN)/python sweeps/study.py

check: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test: lint  # compiled files are kept, for the hundreds of programs that tests start
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 4 --dist worksteal

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(JAVASCRIPT) check

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(JAVASCRIPT) format

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	@echo "Installing into .venv: about 7 GB with torch for CUDA, two minutes on a fast line"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv build *.egg-info
