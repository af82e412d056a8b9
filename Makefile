# Every command of the project. A bare `make` lists them; a fresh machine needs Python >= 3.11 and make.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# Most tests wait for a process more than they compute: on two processors, four left a quarter of the time unused.
WORKERS ?= 6
KILLS ?= 1000
RUNS ?= 1000
AWAY ?= 600
WATCHERS ?= 200
COUNT ?= 10000
SEED ?= 1
# The dependency group of .venv. `unit` is enough for the unit tests, on every supported Python.
GROUP ?= dev
# Where the shell forbids it, each of a thousand processes would compile every module anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup check lint types unit coverage controlplane prometheus airflows test test-airflow test-airflow-rest \
  test-airflow-all test-node test-airflow-pods soak mirror-campaign reaction-times crash-points hostile abuse bench bench-airflow demo \
  docs site dist format lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "Python 3.11 or newer is needed, this is %d.%d: set PYTHON=..." % v[:2])'
	@echo "setting up .venv (once, about a minute)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt --build-constraint constraints.txt -e '.[cli,watcher,airflow,simulator,tracing]' --group $(GROUP)
	@touch $@

setup: $(READY) ## make the development environment (.venv)

check: lint types unit ## lint, types and unit tests: for every minute

lint: $(READY) ## ruff, import-linter and actionlint
	@$(BIN)/ruff format --check --quiet . || { echo "formatting differs: run 'make format'"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@PYTHONPATH=. $(BIN)/lint-imports --no-cache > .venv/lint-imports.log || { cat .venv/lint-imports.log; exit 1; }
	@$(BIN)/python -m tests.controlplane run actionlint -shellcheck= -pyflakes=

types: $(READY) ## mypy --strict
	@$(BIN)/mypy

unit: $(READY) ## the unit tests
	@$(BIN)/pytest tests/unit -q

# Not in `make test`, which runs the same tests: to count branches takes three times as long.
coverage: $(READY) ## every branch of the core is run by its unit tests, and nearly all of what talks to dbt Cloud, Kubernetes and Airflow
	@$(BIN)/coverage run --branch --source=watcher/lifecycle --data-file=.venv/.coverage -m pytest tests/unit/lifecycle -q
	@$(BIN)/coverage report --data-file=.venv/.coverage --skip-covered --fail-under=100
	@$(BIN)/coverage run --branch --source=watcher/dbtcloud,watcher/cluster --data-file=.venv/.coverage-shell \
	  -m pytest tests/unit/dbtcloud tests/unit/cluster -q
	@$(BIN)/coverage report --data-file=.venv/.coverage-shell --skip-covered --include='watcher/dbtcloud/*' --fail-under=97
	@$(BIN)/coverage report --data-file=.venv/.coverage-shell --skip-covered --include='watcher/cluster/*' --fail-under=95
	@$(BIN)/coverage run --branch --source=dbtrun/kube,airflow_trigger --data-file=.venv/.coverage-airflow \
	  -m pytest tests/unit/kube tests/unit/airflow_trigger -q
	@$(BIN)/coverage report --data-file=.venv/.coverage-airflow --skip-covered --include='dbtrun/kube/*' --fail-under=94
	@$(BIN)/coverage report --data-file=.venv/.coverage-airflow --skip-covered --include='airflow_trigger/*' --fail-under=95

controlplane: $(READY) ## build etcd, kube-apiserver and helm for tests and demo (once, about ten minutes)
	@$(BIN)/python -m tests.controlplane build > /dev/null

airflows: $(READY) ## make the environments of Airflow 3.3 and 2.11 for the tests (once, about a minute)
	@$(BIN)/python -m tests.airflow build > /dev/null

prometheus: $(READY) ## build Prometheus for the tests of alerts and dashboards (once, about six minutes)
	@$(BIN)/python -m tests.controlplane build promtool prometheus > /dev/null

test: $(READY) ## everything: for every hour
	@$(MAKE) --no-print-directory lint controlplane prometheus
	@BRIEF=1 $(MAKE) --no-print-directory airflows
	@$(MAKE) --no-print-directory -j2 quick slow

.PHONY: quick slow
quick:
	@$(MAKE) --no-print-directory --output-sync=target types unit

# Control planes side by side: no Go program is to spread over all processors.
slow test-airflow test-airflow-rest: export GOMAXPROCS := 1

slow: export BRIEF := 1
slow:
	@$(BIN)/pytest tests --ignore=tests/unit --ignore=tests/node --ignore=tests/chaos/test_mutant_campaigns.py -q \
	  -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-airflow: controlplane airflows ## all tests on real Airflow 3.3 and 2.11, side by side; `make test` runs a part of them
	@$(BIN)/pytest tests/airflow -q -n 2 --dist loadfile --no-loadscope-reorder

test-airflow-rest: export REST := 1
test-airflow-rest: controlplane airflows ## those of them that `make test` does not run
	@$(BIN)/pytest tests/airflow -q -n 2 --dist loadfile --no-loadscope-reorder

test-node: controlplane ## in real Pods on a node of its own: needs Linux, root and packages that it names
	@$(BIN)/python -m tests.node build > /dev/null
	@$(BIN)/pytest tests/node --ignore=tests/node/airflow -q -n 2 --dist loadfile --no-loadscope-reorder

test-airflow-all: export GOMAXPROCS := 1
test-airflow-all: controlplane ## the same on every supported release: 3.3, 3.2, 3.1 and 2.11, one after the other
	@AIRFLOW_RELEASES=all $(BIN)/python -m tests.airflow build > /dev/null
	@AIRFLOW_RELEASES=all $(BIN)/pytest tests/airflow -q

test-airflow-pods: controlplane ## Airflow with KubernetesExecutor on such a node, the watcher beside its triggerer
	@$(BIN)/python -m tests.node build > /dev/null
	@$(BIN)/pytest tests/node/airflow -q -s

soak: controlplane ## kill watchers under every fault: make soak KILLS=1000 SEED=1
	@MUTANTS="look-up quiet-period precondition past cursor" $(BIN)/pytest tests/chaos/test_mutant_campaigns.py -q
	@$(BIN)/python -m tests.chaos --kills $(KILLS) --seed $(SEED)

mirror-campaign: controlplane airflows ## runs started elsewhere while everything is killed, on real Airflow 3.3: make mirror-campaign RUNS=1000 AWAY=600
	@$(BIN)/python -m tests.airflow.mirror_campaign --runs $(RUNS) --away $(AWAY)

reaction-times: controlplane airflows ## how soon Airflow 3.3 reacts to runs, and what its watchers cost: make reaction-times WATCHERS=200
	@WATCHERS=$(WATCHERS) $(BIN)/python -m tests.airflow.reaction_times

crash-points: $(READY) ## every mishap at every side effect of every path, every clock with every period; `make test` tries some
	@EVERY=1 $(BIN)/pytest tests/chaos/test_crash_points.py tests/chaos/test_clocks.py -q -n $(WORKERS)

hostile: controlplane ## mutate replies of dbt Cloud: make hostile COUNT=100000 SEED=1
	@LIVES=5 LOGS=10000 $(BIN)/pytest tests/hostile/test_kills.py tests/hostile/test_attacks.py \
	  tests/hostile/test_planted.py tests/hostile/test_memory.py -q
	@$(BIN)/python -m tests.hostile --count $(COUNT) --seed $(SEED)

abuse: controlplane ## mistreat random objects: make abuse COUNT=10000 SEED=1
	@$(BIN)/python -m tests.abuse --count $(COUNT) --seed $(SEED)

bench: controlplane ## figures of the watcher, one JSON line each
	@$(BIN)/python -m tests.bench.bench_watcher

bench-airflow: controlplane ## the trigger against the one of Airflow's dbt Cloud provider, one JSON line each
	@$(BIN)/python -m tests.bench.bench_trigger

demo: controlplane ## three runs on a real API server; the last line is the event that Airflow gets
	@$(BIN)/python -m tests.demo

docs: $(READY) ## generate deploy/ and the generated pages of docs/ from the chart and the code; builds helm if needed
	@$(BIN)/python -m deploy.render
	@$(BIN)/python -m docs.generate

# Material would load it from another host in the reader's browser.
MERMAID := 11.12.2
MERMAID_SHA256 := d0830a6c05546e9edb8fe20a8f545f3e0dc7c4c3134d584bad9c13a99d7a71e0
.cache/site/mermaid.min.js: Makefile
	@command -v npm > /dev/null || { echo "npm is needed, for the script that draws the diagrams"; exit 1; }
	@mkdir -p $(@D)
	@cd $(@D) && npm pack --silent mermaid@$(MERMAID) > /dev/null
	@tar -xzf $(@D)/mermaid-$(MERMAID).tgz -C $(@D) --strip-components=2 package/dist/mermaid.min.js
	@echo "$(MERMAID_SHA256)  $@" | sha256sum --check --quiet
	@touch $@

site: $(READY) .cache/site/mermaid.min.js ## build the documentation's site into site/
	@NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --quiet

dist: $(READY) ## build the wheel and the sdist into dist/
	@$(BIN)/uv build --quiet --build-constraint constraints.txt --out-dir dist

format: $(READY) ## format the code
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

lock: $(READY) ## renew constraints.txt (it carries no addresses)
	@$(BIN)/uv pip compile pyproject.toml --extra cli --extra watcher --extra airflow --extra simulator --extra tracing --group dev --python-version 3.11 \
	  --universal --upgrade --no-annotate --no-header --no-emit-index-url --quiet -o constraints.txt

clean: ## remove the environment and the caches, but not the built control plane
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
