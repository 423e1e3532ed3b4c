# esper-ray. `make train` and `make test` do all the set-up on a machine that has Python and a registry.

SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
UV := $(or $(shell command -v uv 2>/dev/null),.tools/uv/bin/uv)
# Not `uv run`: with RAY_ADDRESS Ray would have the workers of every node start with that command too.
RUN := .venv/bin
STAMP := .venv/.synced
ARGS ?=
ONLY ?=
# Four processes for two cores: tests with Ray or Prometheus often wait. See tests/conftest.py for the groups.
PARALLEL := -n 4 --dist loadscope --no-loadscope-reorder
MARKED := -m "not ray and not slow and not integration and not packaging and not nightly"
# Folders with hardly a fast test that take seconds to import, and tests that read all our files, are not even collected.
FAST := $(MARKED) $(addprefix --ignore=tests/,actors/cluster actors/rllib actors/sweep benchmarks chaos docker docs \
	examples growing integrations karn/overwatch karn/sanctum robustness zoo test_public_names.py test_user_errors.py)
export PYTHONDONTWRITEBYTECODE := # compiled tests are kept: without them every run spends ten seconds on that

.PHONY: train monitoring test collect lint fast nightly lowest chaos bench evidence pages screens vendor docs presets setup help clean

train: setup ## train Tamiyo on growing networks over real digits (about three minutes)
	$(RUN)/esper train ppo --preset digits $(ARGS)

monitoring: setup ## the same with a Prometheus beside it: links, what to look at, alerts
	$(RUN)/esper monitor -- --preset digits $(ARGS)

test: setup ## every check within ten minutes: ruff, format, mypy, import contracts, all default tests
	$(MAKE) --no-print-directory -j2 --output-sync lint collect
	$(RUN)/pytest $(PARALLEL)

collect: setup # compiles the tests once, not in each process; errors are shown by the tests themselves
	-@$(RUN)/pytest --collect-only -qq >/dev/null 2>&1

lint: setup ## ruff, format check, mypy, import contracts
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports --no-logo

fast: setup ## the tests that play no runs and need no Ray, under a minute
	HYPOTHESIS_PROFILE=fast $(RUN)/pytest $(FAST) -n 2 --dist loadscope --no-loadscope-reorder

nightly: lint lowest ## every test there is, random kills, packaging, lowest versions, 200 Hypothesis examples (over an hour)
	HYPOTHESIS_PROFILE=nightly $(RUN)/pytest -m "" $(PARALLEL)

lowest: | $(UV) ## the fast tests in a fresh environment with the lowest versions that pyproject.toml allows
	rm -rf build/lowest
	$(UV) venv --quiet build/lowest
	$(UV) pip install --quiet --python build/lowest --resolution lowest-direct --group dev \
		--editable ".[grafana,karn,lightning,mlflow,tensorboard,transformers,wandb]"
	build/lowest/bin/pytest $(MARKED) $(addprefix --ignore=tests/,benchmarks karn/overwatch) -n 2 --dist loadscope --no-loadscope-reorder

chaos: setup ## disturb real runs and kill their processes; tables of reactions, results and costs (about half an hour)
	$(RUN)/python tests/chaos/scenarios.py $(ARGS)

bench: setup ## measure speed, write benchmarks/results/<date>.md
	$(RUN)/python -m benchmarks $(ARGS)

evidence: setup ## train and evaluate what the results are made of, hours; resumable; ONLY=digits names some
	$(RUN)/python -m evidence $(ONLY) $(ARGS)

pages: setup ## write the pages of the reference that are generated from the code
	$(RUN)/python docs/generate.py

screens: setup ## write the screenshots of Sanctum that the tests compare with; look at each
	ESPER_SCREENS=write $(RUN)/pytest tests/karn/sanctum/test_screens.py

vendor: setup ## fetch the libraries of Overwatch's pages with npm, checked against vendor.json
	$(RUN)/python docs/vendor.py

docs: setup ## build the documentation site into build/site, strictly and without network
	NO_MKDOCS_2_WARNING=1 $(RUN)/mkdocs build -f docs/mkdocs.yml --strict --quiet

presets: setup ## complete the presets in configs/ with new keys, in the order of the configuration
	$(RUN)/python -m esper_ray.leyline.config.presets --write

setup: $(STAMP) ## bring uv and everything the project needs into the repository

$(STAMP): pyproject.toml uv.lock | $(UV)
	$(UV) sync --frozen
	@touch $(STAMP)

.tools/uv/bin/uv:
	$(PYTHON) -m venv .tools/uv
	.tools/uv/bin/pip install --quiet uv

clean: ## remove what setup and runs have made
	rm -rf .venv .tools build runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 20
