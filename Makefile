# Every target does its own set-up. `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help setup run test check test-mysql bench bench-rivals bench-scale lock simulate faults

bin := .venv/bin

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

setup: ## build .venv, find or install the servers (as root by apt-get)
	@sh ops/setup.sh

run: setup ## start everything on this machine: MariaDB, Redis, web, two workers
	@exec $(bin)/moonwake up

test: check ## every check and every test, on MariaDB
	@sh ops/setup.sh faults
	$(bin)/pytest -q -n 2 --dist worksteal

check: setup ## the checks alone: ruff, formatting, types, import direction
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	$(bin)/lint-imports

test-mysql: setup ## the integration tests on real MySQL, installed below .servers/
	sh ops/mysql.sh $(bin)/pytest -q -n 2 --dist worksteal -m integration

SEED ?= 1
SCHEDULES ?= 10000
simulate: setup ## drain and dispatcher on models of both stores: SEED=1 SCHEDULES=10000; one is replayed
	@$(bin)/python -m tests.simulation "$(SEED)" "$(SCHEDULES)"

bench: ## measure against peers and limits (a table and bench/results/latest.json)
	@sh ops/setup.sh bench
	$(bin)/python -m bench

bench-rivals: ## the same load through other designs, killed half way (a table, bench/results/rivals.json)
	@sh ops/setup.sh bench
	$(bin)/python -m bench.rivals

bench-scale: setup ## the scale curve (half an hour; docs/performance.md and its plots)
	@$(bin)/python -m pip install --quiet --disable-pip-version-check --require-hashes \
		-r bench/scale/requirements.txt
	$(bin)/python -m bench.scale

lock: setup ## regenerate requirements.txt and requirements-dev.txt from pyproject.toml
	sh ops/lock.sh

faults: DURATION_S ?= 1800
faults: setup ## break everything under load and compare (DURATION_S, SEED, FAULTS=kind,kind)
	@sh ops/setup.sh faults
	@$(bin)/python -m tests.faults --duration-s "$(DURATION_S)" $(if $(SEED),--seed "$(SEED)") --faults "$(FAULTS)"
