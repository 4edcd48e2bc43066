# Two commands: `make demo` makes a long video, `make test` shows that everything works. Both set up .venv by themselves.

PYTHON ?= python3

# Another vLLM-Omni than that of constraints.txt, such as OMNI=0.22.0, has an environment of its own.
OMNI ?=
VERSIONS := 0.22.0 0.24.0 0.26.0 0.28.0 0.30.0
OTHER := $(filter-out $(shell sed -n 's/^vllm-omni==//p' constraints.txt),$(OMNI))
VENV := .venv$(OTHER:%=-%)
ENGINE := $(if $(OTHER),vllm==$(OTHER) vllm-omni==$(OTHER),-c constraints.txt)
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# The newest diffusers; vLLM-Omni pins an older one, which is in .venv.
NEWEST := $(VENV)/diffusers-0.42.1

# Which checkpoint the demo uses, and for what; empty: Toy Wan, a small trained one, and a ball.
MODEL ?=
PROMPT ?=
export MODEL PROMPT

.PHONY: help setup demo test test-fast test-all test-oldest oldest matrix toy gpu docs check format clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(READY) ## make .venv with vLLM, vLLM-Omni and this package

$(READY): pyproject.toml constraints.txt | $(BIN)/uv
	@echo "== setting up: vLLM-Omni $(or $(OTHER),of constraints.txt), its vLLM, and this package (8 GB the first time)"
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python \
	    $(ENGINE) -e '.[engine,examples,vqeval,test,lint,docs]' \
	  || { echo "error: the packages could not be installed; see the lines above, then run make again" >&2; exit 1; }
	@touch $@

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "error: $(PYTHON) must be Python 3.10 to 3.13; name another with PYTHON=" >&2; exit 1; }
	@echo "== setting up: $(VENV)"
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "error: $(PYTHON) cannot make a virtual environment; on Debian install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv \
	  || { echo "error: uv could not be installed; is there a network?" >&2; exit 1; }

$(NEWEST): $(READY)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --target $@ diffusers==$(@:$(VENV)/diffusers-%=%) \
	  && touch $@ \
	  || { rm -rf $@; echo "error: diffusers could not be installed; see the lines above, then run make again" >&2; exit 1; }

demo: $(READY) ## make a video four times as long as the training length, dense and with LVSA
	@$(BIN)/python examples/demo.py --model "$$MODEL" --prompt "$$PROMPT"

# Two processes, each with whole files of tests: engines are started one at a time in each.
PYTEST = $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# With OMNI those of the engine alone, and all of them: the others ask nothing of it.
test: $(READY) ## run the tests, with a part of the placements; OMNI=0.22.0: those of the engine, on this vLLM-Omni
	@$(PYTEST) $(if $(OMNI),tests/engine $(RECORD:%=--record %),-m 'not rest_of_table')

# A part of it, on the oldest vLLM-Omni: equalities, activation, geometry, step and a served request.
test-oldest:
	@$(MAKE) --no-print-directory setup oldest OMNI=$(firstword $(VERSIONS))

oldest: $(READY)
	@$(PYTEST) tests/engine -m oldest -k 'not i2v and not ti2v and not a14b and not cosmos3'

matrix: $(READY) ## run the tests of the engine on every vLLM-Omni that is supported, and record what ran
	@mkdir -p outputs/versions
	@for omni in $(VERSIONS); do \
	  $(MAKE) --no-print-directory test OMNI=$$omni RECORD=outputs/versions/$$omni.json || exit 1; \
	done
	@$(BIN)/python -m tests.support.versions outputs/versions

# Rooms whose tests start engines, run scripts or whole pipelines, or measure many videos: they are not even imported.
SLOW = engine parallel gpu benchmarks examples lvsa_core/diffusers lvsa_vllm_omni/tiny vqeval

test-fast: $(READY) ## run the tests that need no engine
	@$(PYTEST) $(SLOW:%=--ignore=tests/%) -m 'not engine and not multiproc and not gpu and not slow'

# Before a release. The records are committed: docs/parallelism.md is held to that of placements.
test-all: $(READY) $(NEWEST) ## run every test, with all placements and on the newest diffusers, and record what ran
	@PYTHONPATH=$(CURDIR)/$(NEWEST) $(PYTEST) tests/lvsa_core/diffusers tests/examples/test_generate.py \
	    --record tests/data/newest_diffusers.json
	@$(PYTEST) tests/parallel/test_placements.py --record tests/data/placements.json
	@HYPOTHESIS_PROFILE=thorough $(PYTEST) --deselect tests/parallel/test_placements.py

# One core each; called again it goes on where it was.
toy: $(READY) ## train Toy Wan again, evaluate it, and put it into the package
	@OMP_NUM_THREADS=1 $(BIN)/python -m toy.train_vae outputs/toy/vae.pt & vae=$$!; \
	OMP_NUM_THREADS=1 $(BIN)/python -m toy.train outputs/toy/transformer.pt && wait $$vae
	@$(BIN)/python -m toy.pack outputs/toy/transformer.pt outputs/toy/vae.pt
	@$(BIN)/python -m toy.evaluate --json benchmarks/results/toy-wan.json

# Without a network: python3 benchmarks/gpu.py --all, with what benchmarks/carry.txt lists.
gpu: $(READY) ## measure on one GPU, in parts; again to go on with what is left
	@$(BIN)/python benchmarks/gpu.py --all

docs: $(READY) ## write the generated parts of docs/, and make a site of it in build/site
	@$(BIN)/python docs/pages.py
	@$(BIN)/python -m mkdocs build --strict --quiet

check: $(READY) ## lint and check types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(READY) ## format the code
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format .

clean: ## remove the environments and what the demo made
	rm -rf .venv .venv-[0-9]* outputs/demo
