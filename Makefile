# Targets for people and for CI. `make` alone lists them.

# Any Python of 3.11 or newer that can make environments; 3.11 first, because most CPU wheels of PyTorch that lie about are built for it.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$p -c 'import ensurepip, venv, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
MAKE_ENV = $(or $(PYTHON),$(error Python 3.11 or newer with its venv module was not found; name one: make PYTHON=/path/to/python)) tools/make_env.py
PY := .venv/bin/python
ENV := .venv/.ready
ENGINE := .venv-engine/.ready
PEERS := .venv-peers/.ready
LLAMA := .venv-llama/.ready
INTEGRATIONS := .venv-integrations/.ready
QUICK := not slow and not engine and not long

# What the pictures of simulated days compare.
DRAWN := --policy "run now" --policy "EDF" --policy "EDF, cheapest slot" --policy "lowest slot" --policy "lowest slots" --policy "lowest window" --policy "threshold" --policy "carbon-time" --policy "marginal allocation" --policy "cleanest place" --policy "routing LP" --policy "GreenLLM" --policy "fastest GPUs" --policy "least energy" --policy "night window" --policy "greedy" --policy "greedy, perfect foresight"

# Where it is set, each of the hundreds of processes that the tests start compiles our sources anew (a server: 3.2 s of CPU time to
# its first line, not 2.0), and each worker of pytest rewrites every assertion (21 s before its first test, not 11).
unexport PYTHONDONTWRITEBYTECODE

# Files go to the workers whole, as tests/conftest.py groups and sorts them: by number of tests, as pytest-xdist would have it, the
# longest (one test of a minute) come last, alone.
SPREAD := -n 3 --dist loadscope --no-loadscope-reorder

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(ENV) $(ENGINE) ## make .venv and .venv-engine; costs nothing when they stand

engine-env: $(ENGINE) ## make .venv-engine alone: vLLM for this machine's GPU, or for its CPU

modes-env: $(ENGINE) ## add nixl to .venv-engine: for prompts that one engine reads for another (docs/modes.md), and `make test-full`
	@$(PY) tools/make_env.py modes

llama-env: $(LLAMA) ## make .venv-llama: llama.cpp's server, compiled here, for `make test-full`

integrations-env: $(INTEGRATIONS) ## make .venv-integrations: other people's clients, which docs/integrations.md names, for `make test-full`

model: .models/tiny/config.json ## make the tiny model that the demo and the tests run

demo: env ## the whole thing in a few minutes: a batch waits for the clean hours, runs on vLLM, shows its grams
	@$(PY) -m batchsched.cli demo

check: $(ENV) ## format, lint, types by two checkers, import arrows, quick tests
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m mypy
	@$(PY) -m basedpyright
	@.venv/bin/lint-imports
	@$(PY) -m pytest -q $(SPREAD) -m "$(QUICK)"

test: env ## the whole suite, real vLLM included
	@$(PY) -m pytest $(SPREAD) -m "not long"

test-full: env modes-env test-pythons $(LLAMA) $(INTEGRATIONS) ## the suite and what is long, after the quick tests on every other Python
	@$(PY) -m pytest

test-pythons: $(ENV) ## the quick tests on every other supported Python found here
	@$(PY) tools/make_env.py pythons -m "$(QUICK)"

bench-queue: $(ENV) $(PEERS) ## our queue against pgqueuer, procrastinate, huey and DBOS on this disk (ARGS=--quick for a glance)
	@$(PY) -m benchmarks.queues $(ARGS)

bench-executor: env model ## our worker against vLLM's own run_batch, as requests per second (ARGS=--quick for a glance)
	@$(PY) -m benchmarks.executor $(ARGS)

bench-forecast: $(ENV) ## forecasts of intensity against naive and CarbonCast on half-years that nothing was trained on
	@$(PY) -m benchmarks.forecast $(ARGS)

bench-carbon-model: $(ENV) ## Table 1 of GreenLLM, the prior on models it did not see, gaps filled, lengths of answers foretold
	@$(PY) -m benchmarks.carbon_model $(ARGS)

bench-archive: $(ENV) ## how large a year of forecasts of 100 zones is, and how fast a day's decisions are read back
	@$(PY) -m benchmarks.archive $(ARGS)

bench-own: $(ENV) ## what the server's own models gain from generation, other zones and weather
	@$(PY) -m benchmarks.forecast_own $(ARGS)

bench-planner: $(ENV) ## whole fleets planned: gap to the bound, time, memory, and what others make of them (ARGS="--rows 1000x20x96 --seeds 1")
	@$(PY) -m benchmarks.planner $(ARGS)

bench-ablations: $(ENV) ## does each refinement of a plan earn its place: on and off, paired by week (ARGS="--weeks 2 --only risk")
	@$(PY) -m benchmarks.ablations $(ARGS)

bench-carbon: $(ENV) ## what policies emit for the same work on real grids in weeks of 2022 (ARGS="--scenario regions --weeks 1")
	@$(PY) -m benchmarks.carbon $(ARGS)

bench-carbon-full: $(ENV) ## the same on a quarter of a year in weeks; hours of work
	@$(PY) -m benchmarks.carbon --full $(ARGS)

bench-simulate: $(ENV) ## how fast backtests are: a week of 20 pools and a thousand batches (ARGS="--policy greedy --days 1 --batches 140")
	@$(PY) -m benchmarks.backtest $(ARGS)

bench-meter: $(ENV) ## what metering costs: CPU time of each meter as a share of one core
	@$(PY) -m benchmarks.meter $(ARGS)

bench-cpu-beside: env model ## what online users feel of an engine on the host's idle processors: p99 with and without it (ARGS=--quick)
	@$(PY) -m benchmarks.cpu_beside $(ARGS)

bench-spare: env model ## our governor beside online users against fixed caps, priority alone and AIMD, an hour (ARGS=--quick: a third)
	@$(PY) -m benchmarks.spare $(ARGS)

bench-modes: env modes-env ## the serving modes of two GPUs or two models against one engine alone: answers, bytes, rates (ARGS=--quick for a glance)
	@$(PY) -m benchmarks.modes $(ARGS)

bench-cli: $(ENV) ## how quickly commands start beside a bare click, and what an installation takes (ARGS=--no-server: the client's alone)
	@$(PY) -m benchmarks.cli $(ARGS)

chaos: $(ENV) ## kill servers, workers, engines and PostgreSQL 200 times while batches run; nothing may be lost or run again
	@$(PY) -m tests.chaos $(ARGS)

docs: $(ENV) ## write the reference pages of docs/ from the code
	@$(PY) tools/make_docs.py

dist: $(ENV) ## build the wheel and the sdist into dist/
	@rm -rf dist
	@$(PY) -m hatchling build -d dist

pictures: env ## draw the pictures of docs/images anew: the demo's, and three simulated days (BATCHSCHED_DATA, else ../shared/data)
	@$(PY) -m batchsched.cli demo
	@cp .demo/report.svg docs/images/demo.svg
	@BATCHSCHED_DATA="$${BATCHSCHED_DATA:-../shared/data}" $(PY) -m batchsched.cli simulate --quick --days 3 --start 2022-10-15 \
		--zones PJM,CISO,ISNE,ERCO,MISO $(DRAWN) --picture docs/images

docs-site: $(ENV) ## make a site of docs/ in build/site; links and anchors that lead nowhere are errors
	@$(PY) -m sphinx -q -E -W --keep-going -d build/site-trees docs build/site
	@echo "build/site/index.html"

lock: $(ENV) ## resolve the lock files for pyproject.toml (ARGS=--upgrade takes the newest of everything)
	@$(PY) tools/make_env.py lock $(ARGS)

clean: ## remove everything that was made here, the environments included
	rm -rf .venv .venv-engine .venv-peers .venv-llama .venv-integrations .models .demo .bench build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*

$(ENV): locks/dev.txt pyproject.toml tools/make_env.py
	@$(MAKE_ENV) dev

$(ENGINE): locks/engine-cpu.txt locks/engine-model.txt tools/make_env.py | $(ENV)
	@$(PY) tools/make_env.py engine

$(LLAMA): locks/llama-cpp.txt tools/make_env.py | $(ENV)
	@$(PY) tools/make_env.py llama

$(INTEGRATIONS): $(wildcard locks/integrations/*.txt) tools/make_env.py | $(ENV)
	@$(PY) tools/make_env.py integrations
	@touch $@

$(PEERS): locks/peers.txt tools/make_env.py | $(ENV)
	@$(PY) tools/make_env.py peers

.models/tiny/config.json: executors/tiny_model.py | $(ENGINE)
	@.venv-engine/bin/python executors/tiny_model.py .models/tiny

.PHONY: help env engine-env modes-env llama-env integrations-env model demo check test test-full test-pythons bench-queue bench-executor bench-forecast bench-carbon-model bench-archive bench-own bench-planner bench-ablations bench-carbon bench-carbon-full bench-simulate bench-meter bench-cpu-beside bench-spare bench-modes bench-cli chaos docs pictures docs-site dist lock clean
