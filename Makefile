# What a fresh clone needs is Python >= 3.11 and make; everything else is installed into .venv by the first target.
PYTHON ?= python3
BIN := .venv/bin
export PYTHONPATH := contract_tests
# Adapters whose contract is run, and which of their brokers must be there (all: a missing one is a failure).
ADAPTERS ?= all
REQUIRE ?=
JOBS ?= 4

.PHONY: help env demo test unit pythons coverage contract faults hostile fuzz bench lint types docs mutants wheel clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

.venv/.demo: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing anybroker into .venv"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[all]'
	@touch $@

.venv/.dev: pyproject.toml .venv/.demo
	@echo "installing the tools for tests and checks into .venv"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -U 'pip>=25.1'
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[all,contract]' --group dev
	@touch $@

env: .venv/.dev ## the environment with all tools

demo: .venv/.demo ## the order pipeline on the embedded broker, or on ANYBROKER_URL (ARGS="--all")
	@$(BIN)/python -m examples.order_pipeline $(ARGS)

test: unit contract ## unit tests, then the contract suite's short tier on every broker that can be had

# An interpreter with the 1.x line of the CloudEvents SDK: it cannot live beside the 2.x one that the tests use.
.venv/.sdk1: .venv/.dev
	@$(PYTHON) -m venv .venv/sdk1
	@.venv/sdk1/bin/python -m pip install -q --disable-pip-version-check 'cloudevents>=1.11,<2' pydantic pydantic-settings opentelemetry-api
	@touch $@

unit: .venv/.dev .venv/.sdk1 ## unit tests; no broker
	@ANYBROKER_TEST_CE1_PYTHON=$(CURDIR)/.venv/sdk1/bin/python $(BIN)/python -m pytest tests -q -n 2 $(ARGS)

# Of the core, by the tests that no clock decides about: tracing slows the others too much to be fair to them.
pythons: .venv/.dev ## unit tests, the contract in process and the demo on the other Pythons, eager tasks and uvloop
	@.ci/pythons

coverage: .venv/.dev ## how much of the core its unit tests run through
	@$(BIN)/python -m coverage erase
	@$(BIN)/python -m coverage run -m pytest -q -n 2 tests/engine tests/cloudevents tests/middleware tests/idempotency \
		tests/test_handlers.py tests/test_config.py
	@$(BIN)/python -m coverage combine -q
	@$(BIN)/python -m coverage report --skip-covered

contract: .venv/.dev ## the contract suite (ADAPTERS="kafka", REQUIRE=all)
	@$(BIN)/python -m pytest -p anybroker_contract.plugin --pyargs anybroker_contract -q -n $(JOBS) \
		$(foreach a,$(ADAPTERS),--adapter $(a)) $(if $(REQUIRE),--require-brokers $(REQUIRE)) $(CONTRACT_ARGS)

faults: .venv/.dev ## brokers and members killed, stopped and cut under load (ARGS="--broker kafka --tier long")
	@$(BIN)/python -m anybroker_contract.faults $(ARGS)

hostile: .venv/.dev ## hostile messages between good ones, and what became of each (ARGS="--adapter kafka --json")
	@$(BIN)/python -m anybroker_contract.hostile $(ARGS)

fuzz: .venv/.dev ## generated messages against all that reads those of others (ARGS="--target json --inputs 1000000")
	@$(BIN)/python -m pip install -q --disable-pip-version-check --group fuzz
	@$(BIN)/python -m fuzz $(ARGS)

bench: .venv/.dev ## microseconds per event, and ratios to bare clients (ARGS="--json")
	@$(BIN)/python -m pip install -q --disable-pip-version-check --group bench
	@$(BIN)/python -m benchmarks $(ARGS)

mutants: .venv/.dev ## the broken adapters, and which tests kill them
	@$(BIN)/python -m anybroker_contract.mutants $(ARGS)

lint: .venv/.dev ## ruff, import directions
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

types: .venv/.dev ## mypy strict and pyright
	@$(BIN)/mypy
	@$(BIN)/pyright

docs: .venv/.dev ## the documentation, without warnings, and what is generated in it
	@$(BIN)/python -m sphinx -q -W -b html docs docs/_build/html
	@$(BIN)/python -m anybroker_contract.matrix --check README.md
	@echo "the documentation is built and current"

wheel: .venv/.dev ## the wheel, into dist/
	@$(BIN)/python -m build --wheel --outdir dist .

clean: ## everything that was made
	rm -rf .venv dist docs/_build .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis
