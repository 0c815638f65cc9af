# What people run while they work. `.ci/run` runs everything on a fresh machine.
BIN := .venv/bin

.PHONY: fast lint all docs bench
fast: lint  ## everything but the slow tests: about three minutes on two cores
	$(BIN)/pytest -q -m "not slow"

lint:  ## style, types, and the layers of the imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

all: lint docs  ## what .ci/run does, in this environment
	$(BIN)/pytest -q
	$(BIN)/sampleprop table --check docs/estimators.md

docs:  ## the documentation, in docs/_build/html
	$(BIN)/sphinx-build --fail-on-warning --quiet --builder html docs docs/_build/html
	$(BIN)/python docs/verify.py docs/_build/html

bench:  ## every estimator beside two hand-written versions
	$(BIN)/python benchmarks/run.py --check-bars
