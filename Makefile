# make demo   the whole loop on the bundled model; ends with the path of an HTML report
# make test   the test suite
# make check  style, types and import contracts
# Each makes the virtual environment .venv first when it is not there or pyproject.toml changed.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check fix clean

demo: .venv/ready
	$(BIN)/pixeval demo --out work/demo

test: .venv/ready
	$(BIN)/python -m pytest

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	touch .venv/ready

clean:
	rm -rf .venv work
