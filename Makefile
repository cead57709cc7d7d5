# Every target does its own set-up: a machine with Python 3.11 or newer and make needs nothing else.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
PEERS := $(VENV)/.peers
BENCHMARKS := startup head step recording codec attention data evaluation
# Workers of the tests; each computes with one thread, so two of them fill two cores.
WORKERS ?= 2
JOURNEY := recipes/wikitext2-live.yaml recipes/wikitext2-cached.yaml recipes/wikitext2-mixed.yaml

.PHONY: help venv quickstart test test-slow journey bench bench-gpu bench-quality bench-terms bench-clone bench-hybrid bench-answers plain-text bench-decode bench-prepare gate lint format docs clean

help: ## Lists the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

venv: $(STAMP) ## Makes .venv with pinned versions; again only when pyproject.toml or constraints.txt change

$(STAMP): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Limbeck needs Python 3.11 or newer; '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1 | tail -n 1)." >&2; \
	  echo "Name another one: make $(or $(MAKECMDGOALS),venv) PYTHON=/path/to/python3.12" >&2; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

quickstart: $(STAMP) ## The main job: fetch teacher and text, distil, judge, report (about 12 minutes on 2 cores)
	$(BIN)/limbeck fetch smollm2
	$(BIN)/limbeck fetch python-docs
	$(BIN)/limbeck train recipes/quickstart.yaml

test: $(STAMP) ## The tests, in minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

test-slow: $(STAMP) ## The tests that take longer: kills, journeys
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow --timeout 3600 $(ARGS)

journey: $(STAMP) ## The three runs on WikiText-2 of docs/results.md (about 45 minutes; needs ../shared/data)
	@test -f ../shared/data/wikitext2/valid.raw.txt || { \
	  echo "make journey reads WikiText-2 raw from ../shared/data/wikitext2 (valid.raw.txt, test.raw.txt)." >&2; exit 1; }
	@echo "Three runs on WikiText-2: about 45 minutes on 2 cores. Stop and repeat it as you like: it goes on."
	$(BIN)/limbeck fetch smollm2
	for recipe in $(JOURNEY); do $(BIN)/limbeck train $$recipe; done

bench: $(PEERS) ## The benchmarks beside their peers, 20 minutes on 2 quiet cores; writes docs/benchmarks.md
	$(BIN)/limbeck fetch smollm2
	for one in $(BENCHMARKS); do $(BIN)/python benchmarks/$$one.py || exit 1; done
	$(BIN)/python benchmarks/page.py

bench-gpu: $(PEERS) ## Heads, recording and steps on a CUDA device; where there is none, at tiny sizes, to see that all of it runs
	$(BIN)/python benchmarks/device.py
	@if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
	  $(BIN)/python benchmarks/page.py; \
	else for one in $(BENCHMARKS); do $(BIN)/python benchmarks/$$one.py --quick || exit 1; done; fi

gate: $(STAMP) ## Two cheap benchmark rows that must not get worse, with slack
	$(BIN)/python benchmarks/gate.py

bench-quality: $(STAMP) ## Bias, variance and quality for a byte of cache: 24 runs, hours; goes on where it stopped
	$(BIN)/limbeck fetch smollm2
	$(BIN)/python benchmarks/sampling.py
	$(BIN)/python benchmarks/quality.py
	$(BIN)/python benchmarks/page.py

bench-terms: $(STAMP) ## What each term adds, and what caches take: 14 runs, about 50 minutes; goes on where it stopped
	@test -f ../shared/data/wikitext2/valid.raw.txt || { \
	  echo "make bench-terms reads WikiText-2 raw from ../shared/data/wikitext2 (valid.raw.txt, test.raw.txt)." >&2; exit 1; }
	$(BIN)/limbeck fetch smollm2
	$(BIN)/python benchmarks/caches.py
	$(BIN)/python benchmarks/terms.py
	$(BIN)/python benchmarks/page.py

plain-text: $(STAMP)
	@test -d ../shared/data/text || { echo "The plain texts in ../shared/data/text are read; they are not there." >&2; exit 1; }
	$(BIN)/limbeck fetch smollm2

bench-clone: plain-text ## Low-rank clones beside students of their size, without each term, and a clone's step: 24 runs, hours; goes on where it stopped
	$(BIN)/python benchmarks/clone_step.py
	$(BIN)/python benchmarks/clone.py
	$(BIN)/python benchmarks/clone.py --termwise
	$(BIN)/python benchmarks/page.py

bench-hybrid: plain-text ## Hybrids by mixer, kept attentions and stages, and a step of each stage: 15 runs, about an hour; goes on where it stopped
	$(BIN)/python benchmarks/mohawk_step.py
	$(BIN)/python benchmarks/hybrid.py --tokens 32768 --rows 64
	$(BIN)/python benchmarks/page.py

bench-answers: $(STAMP) ## A teacher's own answers, and output, logit and hybrid students of them: 6 runs, about an hour; goes on where it stopped
	@test -d ../shared/data/instruct || { echo "The instructions in ../shared/data/instruct are read; they are not there." >&2; exit 1; }
	$(BIN)/limbeck fetch smollm2
	$(BIN)/python benchmarks/answers.py
	$(BIN)/python benchmarks/page.py

bench-decode: $(STAMP) ## How fast a teacher and a hybrid of its size read and write, and what they keep; random weights, minutes
	$(BIN)/python benchmarks/decode.py
	$(BIN)/python benchmarks/page.py

bench-prepare: $(STAMP) ## How fast text is prepared on every core, beside the bare tokenizer, and its memory; minutes
	@test -d ../shared/data/text || { echo "The plain texts in ../shared/data/text are read; they are not there." >&2; exit 1; }
	$(BIN)/python benchmarks/prepare.py
	$(BIN)/python benchmarks/page.py

$(PEERS): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,bench]'
	@touch $@

lint: $(STAMP) ## Format, lint and types, as the tests of a change will see them
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP) ## Puts every file into the house's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMP) ## Writes docs/recipe.md again from limbeck/recipe.py
	$(BIN)/python docs/make_recipe_page.py

clean: ## Removes the virtual environment and what tools left; runs, caches, models and corpora stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find limbeck tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +
