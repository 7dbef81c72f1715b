# `make` or `make help` lists what can be done. Two variables pass things on:
#   make demo ARGS="seed=1 stage.kl_coef=0.1"    more Hydra overrides
#   make setup PIP_ARGS="..."                    more arguments of pip, such as an index with the
#                                                CPU build of torch (see CONTRIBUTING.md)
PYTHON ?= python3
DIR ?= outputs/demo
ARGS ?=
PIP_ARGS ?=

BIN := .venv/bin
STAMP := .venv/.setup-done

.DEFAULT_GOAL := help
.PHONY: help setup demo compare loop test chaos check format lint types configs clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## create .venv with the tested versions (once; again when they change)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is not Python 3.11 or newer; choose one: make setup PYTHON=python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt $(PIP_ARGS) -e '.[test,dev,gguf,label]'
	touch $@

demo: setup ## SFT, reward model and PPO on real human ratings, on a CPU; DIR=..., ARGS=...
	$(BIN)/python train.py stage=rlhf model=tiny data=movie_reviews hydra.run.dir='$(DIR)' $(ARGS)

compare: setup ## SFT, best of n, DPO, PPO, GRPO and RLOO on the data of the demo, side by side; ARGS=...
	$(BIN)/python scripts/compare.py model=tiny data=movie_reviews $(ARGS)

loop: setup ## sample, rank (a stand-in, through the page), reward model of the rankings, PPO; ARGS=...
	$(BIN)/python scripts/closed_loop.py $(ARGS)

# Two workers with one thread each: more threads would fight for the same cores.
test: lint types ## lint, types, then the tests that need no GPU, no network and little time
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow and not gpu and not network"

chaos: setup ## kill runs 50 times at random moments, and see that each goes on; 15 minutes
	$(BIN)/python scripts/chaos.py

check: lint types test configs ## all that must pass before a change is handed in

format: setup ## rewrite the code in the house style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: setup ## ruff and codespell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: setup ## mypy
	$(BIN)/mypy

configs: setup ## compose every YAML under conf/
	$(BIN)/python -m pytest tests/test_configs.py

clean: ## remove caches and build leftovers; outputs/ and .venv stay
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache src/*.egg-info
	find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
