# Everything a newcomer needs, with nothing but git, make and Python 3.11+: `make demo`, `make test`, `make check`.

PYTHON ?= python3
PORT   ?= 8000
ARGS   ?=
# Tests wait about as long as they compute: one process more than there are cores on a small machine.
JOBS   ?= 3
STEPS  ?= 20000
REQUESTS ?= 50000

BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test chaos model hostile bench bench-http bench-smoke check lint types format build clean

help:
	@echo 'make demo    serve examples/shop.py on port $(PORT); CONCAVE_KV_URL=redis://… puts its tasks on Redis'
	@echo 'make test    run every test in $(JOBS) processes, with coverage; needs no server and no Docker (ARGS="-k name" picks some)'
	@echo 'make chaos   break processes and servers in every way we know and count, in the long form'
	@echo 'make model   both stores beside a naive model of one, $(STEPS) steps each'
	@echo 'make hostile  $(REQUESTS) hostile requests to a resource on each database'
	@echo 'make bench   ours beside its peers on one Redis (ARGS="--quick", "--only drain --peers SAQ")'
	@echo 'make bench-http  the resource router beside a hand-written endpoint, FastCRUD and Advanced Alchemy'
	@echo 'make bench-smoke  the counts among it that do not depend on the machine'
	@echo 'make check   all checks: format, lint, types, imports, tests'
	@echo 'make format  format the code and fix what ruff can fix'
	@echo 'make build   build the wheel and the sdist into dist/'
	@echo 'make clean   remove .venv, caches and build results'

demo: .venv/demo.stamp
	$(BIN)/python -m uvicorn examples.shop:app --port $(PORT)

# In two steps, so that coverage also counts what the tests' own processes ran. Each process of JOBS has servers of its own.
test: .venv/dev.stamp
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest --numprocesses $(JOBS) --dist worksteal $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# The long form of the chaos tests, whose short form is part of `make test`.
chaos: .venv/dev.stamp
	CONCAVE_CHAOS=long $(BIN)/python -m pytest tests/chaos $(ARGS)

# Both stores beside a naive model, for long. STEPS says how long: per store.
model: .venv/dev.stamp
	CONCAVE_MODEL_STEPS=$(STEPS) $(BIN)/python -m pytest -s tests/stores/test_model.py

# Requests that mean no good, for Hypothesis to build: REQUESTS to each database.
hostile: .venv/dev.stamp
	CONCAVE_REQUESTS=$(REQUESTS) $(BIN)/python -m pytest -s tests/sqlalchemy/test_hostile_requests.py
	CONCAVE_SCHEMATHESIS_EXAMPLES=20 $(BIN)/python -m pytest tests/sqlalchemy/test_openapi.py

# Each peer gets an environment of its own under .bench/, and the report goes there too.
bench: .venv/dev.stamp
	$(BIN)/python -m benchmarks $(ARGS)

# The resource router beside a hand-written endpoint and other routers.
bench-http: .venv/dev.stamp
	$(BIN)/python -m benchmarks.http $(ARGS)

# Counts that don't depend on the machine: commands and round trips a task, bytes a task, idling.
bench-smoke: .venv/dev.stamp
	$(BIN)/python -m benchmarks.smoke

check: lint types test bench-smoke

lint: .venv/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo

types: .venv/dev.stamp
	$(BIN)/mypy
	$(BIN)/pyright

format: .venv/dev.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

build: .venv/dev.stamp
	rm -rf dist
	$(BIN)/python -m build

clean:
	rm -rf .venv .bench build dist htmlcov .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache \
	    .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps, so that an install happens when pyproject.toml has changed and not otherwise.
.venv/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo >&2 \
	    "Concave needs Python 3.11 or newer, and '$(PYTHON)' isn't. Name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; \
	    exit 1; }
	$(PYTHON) -m venv --clear .venv

.venv/demo.stamp: .venv/pyvenv.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	@touch $@

.venv/dev.stamp: .venv/pyvenv.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ .venv/demo.stamp
