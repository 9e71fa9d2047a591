# What people do here, by name. The work itself is in nspawnpanel/setup.sh and in Python.
.DEFAULT_GOAL := help
.PHONY: help setup demo check test bench chaos hostile lint screenshots clean
MAKEFLAGS += --no-print-directory
unexport PYTHONDONTWRITEBYTECODE # or each process of a run would translate all tests anew

PYTHON := .venv/bin/python
PORT ?= 8000
DATA ?= /var/lib/nspawnpanel-demo
HOST ?= sandbox
ARGS ?=
ONLY ?=

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

setup: ## install what is missing on this machine and in this checkout (as root)
	@nspawnpanel/setup.sh all

demo: ## the whole panel with a real host of its own, until Ctrl-C (PORT=8000 DATA=… HOST=sandbox|local)
	@nspawnpanel/setup.sh demo
	@exec $(PYTHON) -m nspawnpanel.demo --port $(PORT) --data '$(DATA)' --host $(HOST)

check: ## what needs no root and no host: style, types and units, in three minutes at most (ARGS= goes to pytest)
	@nspawnpanel/setup.sh check
	@$(PYTHON) -m pytest tests -m 'not (live or journeys or vm or browser or postgresql)' $(ARGS)

test: setup ## every test this machine can run (ARGS= goes to pytest)
	@$(PYTHON) -m pytest tests $(ARGS)

bench: setup ## the panel against the plain command it wraps (ONLY= names one figure)
	@$(PYTHON) -m tests.bench $(ONLY)

chaos: setup ## 500 mixed jobs on two hosts while all between a click and its effect is killed (ARGS="--jobs 500 --database postgresql")
	@$(PYTHON) -m tests.chaos $(ARGS)

hostile: setup ## hostile trees × all that touches a tree, one of them with a million entries
	@HOSTILE_ENTRIES=1000000 $(PYTHON) -m pytest tests/host/rootfs/test_hostile_trees.py -n0 -q -s $(ARGS)

lint: setup ## style, types, templates
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy
	@$(PYTHON) -m djlint --lint --quiet templates

screenshots: setup ## the pictures of the README, taken anew
	@$(PYTHON) -m tests.screenshots

clean: ## remove what set-up and tests made in this checkout; trees and the demo's host stay
	rm -rf .venv .static static/node_modules tests/oidc/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis bench.json
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
