# A fresh clone needs Python >= 3.11 and make; the first target installs everything else into .venv.
PYTHON ?= python3
BIN := .venv/bin
export PYTHONPATH := contract_tests
# The adapters to run the contract suite on, and which of their brokers are required (all: a missing broker is a failure).
ADAPTERS ?= all
REQUIRE ?=
# The idempotency stores to run theirs on: those that are in this tree. With REQUIRE=all the server of each is required.
STORES ?= memory sqlite $(notdir $(wildcard adapters/postgres adapters/redis))
# The outboxes to run theirs on.
OUTBOXES ?= sqlite $(notdir $(wildcard adapters/postgres))
JOBS ?= 4

.PHONY: help env demo test unit pythons coverage contract stores outboxes faults effects alerts debezium hostile fuzz bench lint types docs mutants wheel clean

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

test: unit contract stores outboxes ## unit tests, then the contract suites' short tier on every available broker and store

# An interpreter with the 1.x CloudEvents SDK, which cannot be installed together with the 2.x that the tests use.
.venv/.sdk1: .venv/.dev
	@$(PYTHON) -m venv .venv/sdk1
	@.venv/sdk1/bin/python -m pip install -q --disable-pip-version-check 'cloudevents>=1.11,<2' pydantic pydantic-settings opentelemetry-api
	@touch $@

unit: .venv/.dev .venv/.sdk1 ## unit tests; no broker, but the servers of stores where they are there
	@ANYBROKER_TEST_CE1_PYTHON=$(CURDIR)/.venv/sdk1/bin/python $(BIN)/python -m pytest tests -q -n 2 $(ARGS)

# Coverage of the core, by the tests that do not depend on timing: tracing slows the others down too much.
pythons: .venv/.dev ## unit tests, the contract in process and the demo on the other Pythons, eager tasks and uvloop
	@.ci/pythons

coverage: .venv/.dev ## how much of the core its unit tests cover
	@$(BIN)/python -m coverage erase
	@$(BIN)/python -m coverage run -m pytest -q -n 2 tests/engine tests/cloudevents tests/middleware tests/idempotency \
		tests/handlers tests/config tests/deadletters \
		$(addprefix tests/test_,bus.py foreign.py groups.py memory.py names.py publishing.py run.py stop_and_start.py subscription.py)
	@$(BIN)/python -m coverage combine -q
	@$(BIN)/python -m coverage report --skip-covered

contract: .venv/.dev ## the contract suite (ADAPTERS="kafka", REQUIRE=all)
	@$(BIN)/python -m pytest -p anybroker_contract.plugin --pyargs anybroker_contract -q -n $(JOBS) \
		$(foreach a,$(ADAPTERS),--adapter $(a)) $(if $(REQUIRE),--require-brokers $(REQUIRE)) $(CONTRACT_ARGS)

outboxes: .venv/.dev ## the contract suite of outboxes (OUTBOXES="postgres", REQUIRE=all)
	@$(BIN)/python -m pytest -p anybroker_contract.outboxes.plugin --pyargs anybroker_contract.outboxes -q -n $(JOBS) \
		$(foreach o,$(OUTBOXES),--outbox $(o)) $(if $(filter all,$(REQUIRE)),--require-outboxes all) $(OUTBOXES_ARGS)

stores: .venv/.dev ## the contract suite of idempotency stores (STORES="postgres", REQUIRE=all)
	@$(BIN)/python -m pytest -p anybroker_contract.stores.plugin --pyargs anybroker_contract.stores -q -n $(JOBS) \
		$(foreach s,$(STORES),--store $(s)) $(if $(filter all,$(REQUIRE)),--require-stores all) $(STORES_ARGS)

debezium: .venv/.dev ## Debezium reads the outbox (Java, Maven; required with ANYBROKER_TEST_INSTALL=1)
	@ANYBROKER_TEST_DEBEZIUM=1 $(BIN)/python -m pytest tests/debezium -q $(ARGS)

faults: .venv/.dev ## brokers and members killed, stopped and cut under load (ARGS="--broker kafka --tier long")
	@$(BIN)/python -m anybroker_contract.faults $(ARGS)

effects: .venv/.dev ## each effect is there once, whatever is killed and restarted (ARGS="--broker kafka --tier long", ARGS=--mutants)
	@$(BIN)/python -m anybroker_contract.effects $(ARGS)

alerts: .venv/.dev ## a real Prometheus trips each alert rule by its fault (ARGS="--broker kafka --json")
	@$(BIN)/python -m anybroker_contract.alerts $(ARGS)

hostile: .venv/.dev ## hostile messages between good ones, and what happened to each (ARGS="--adapter kafka --json")
	@$(BIN)/python -m anybroker_contract.hostile $(ARGS)

fuzz: .venv/.dev ## generated messages against all that reads outside data (ARGS="--target json --inputs 1000000")
	@$(BIN)/python -m pip install -q --disable-pip-version-check --group fuzz
	@$(BIN)/python -m fuzz $(ARGS)

bench: .venv/.dev ## microseconds per event, and ratios to bare clients (ARGS="--json")
	@$(BIN)/python -m pip install -q --disable-pip-version-check --group bench
	@$(BIN)/python -m benchmarks $(ARGS)

mutants: .venv/.dev ## the broken adapters and stores, and which tests kill them (ARGS are of the adapters, and leave the stores out)
	@$(BIN)/python -m anybroker_contract.mutants $(ARGS)
	@$(if $(ARGS),,set -e; for store in $(STORES); do $(BIN)/python -m anybroker_contract.stores.mutants --store $$store; done; for outbox in $(OUTBOXES); do $(BIN)/python -m anybroker_contract.outboxes.mutants --outbox $$outbox; done)

lint: .venv/.dev ## ruff, import directions
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

types: .venv/.dev ## mypy strict and pyright
	@$(BIN)/mypy
	@$(BIN)/pyright

docs: .venv/.dev ## build the documentation without warnings, and check its generated parts
	@$(BIN)/python -m sphinx -q -W -b html docs docs/_build/html
	@$(BIN)/python -m anybroker_contract.matrix --check README.md
	@echo "the documentation is built and current"

wheel: .venv/.dev ## the wheel, into dist/
	@$(BIN)/python -m build --wheel --outdir dist .

clean: ## remove everything that was made
	rm -rf .venv dist docs/_build .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis
