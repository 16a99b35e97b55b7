# make demo   the whole loop on the bundled model; ends with the path of an HTML report
# make test   the test suite
# make check  style, types and import contracts
# Each makes the virtual environment .venv first when it is not there or pyproject.toml changed.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check fix clean browser postgres

demo: .venv/ready
	$(BIN)/pixeval demo --out work/demo

test: .venv/ready browser postgres
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

# The tests of pages need Debian's Chromium; as root it is installed, else those tests are skipped (and fail in CI).
browser:
	@command -v chromium >/dev/null || [ "$$(id -u)" != 0 ] || { apt-get update -qq && apt-get install -y -qq chromium; } \
		|| echo "no chromium: the tests of pages are skipped"

# So do the tests of the labelling app's database on PostgreSQL, which they start themselves.
postgres:
	@command -v pg_ctl >/dev/null || ls /usr/lib/postgresql/*/bin/pg_ctl >/dev/null 2>&1 || [ "$$(id -u)" != 0 ] \
		|| { apt-get update -qq && apt-get install -y -qq postgresql; } || echo "no PostgreSQL: its tests are skipped"

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
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --compile-bytecode --editable '.[dev]'
	touch .venv/ready

clean:
	rm -rf .venv work
