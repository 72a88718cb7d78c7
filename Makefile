# Everything runs inside .venv, which the first target that needs it creates.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install format lint test test-latest test-quick fuzz bench bench-smoke scaling \
	accelerator-check demo report docs \
	docs-serve picture parity-lunar-lander parity-metaworld clean cartpole10 \
	lunar_lander20 mt3 mt10 kl-prior leave-one-out step-size

help:  ## these lines
	@awk -F ':.*## ' '/^[a-z0-9_-]+:.*## / {printf "%-22s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## make .venv with the pinned dependencies and the console scripts in it

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: PYTHON=$(PYTHON): not found, or older than Python 3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

format: install  ## sort imports, mend what ruff can
	$(BIN)/ruff check --fix .

lint: install  ## what CI refuses: style, and types
	$(BIN)/ruff check .
	$(BIN)/mypy

# A process for each file, the slowest first: one that compiles for all of them does not live.
SLOW := $(patsubst %,tests/test_%.py,matrix reliability ppo learner methods experiment dqn sac ddpg \
	folds adapting)
TESTS := $(SLOW) $(filter-out $(SLOW),$(wildcard tests/test_*.py))
IN_TURN := printf '%s\n' $(TESTS) | xargs -n 1 -P 2
test: install  ## the tests, two files at a time (less with a warm compile cache)
	@$(IN_TURN) $(BIN)/python -m pytest -n 0

LATEST := build/latest
test-latest:  ## the tests with the newest versions of everything, in an environment of its own
	$(PYTHON) -m venv --clear $(LATEST)
	$(LATEST)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	$(LATEST)/bin/python -m pip list | grep -E '^(jax|flax|optax|distrax|gymnax|mujoco|metaworld|numpy) '
	@$(IN_TURN) $(LATEST)/bin/python -m pytest -n 0

# Files that compile little: what most changes break first.
QUICK := $(patsubst %,tests/test_%.py,report objectives controllers gradients docs checkpoint critics \
	variational house library statistics)
test-quick: install  ## those tests that compile little, for daily work
	$(BIN)/python -m pytest -n 2 --dist loadfile $(QUICK)

fuzz: install  ## twenty times as much of what `test` leaves to chance, fifty kills, all pairs of method and algorithm
	FUZZ=20 $(BIN)/python -m pytest -n 2 tests/test_fuzz.py
	FUZZ=20 $(BIN)/python -m pytest -n 0 tests/test_reliability.py -k kills
	FUZZ=20 $(BIN)/python -m pytest -n 2 tests/test_folds.py tests/test_adapting.py \
		tests/test_matrix.py tests/test_sac.py tests/test_ddpg.py tests/test_mpo.py \
		tests/test_unlike.py
	FUZZ=20 $(BIN)/python -m pytest -n 0 tests/test_distributed.py
	$(BIN)/python -m benchmarks.accelerator --smoke

bench: install  ## throughput; peers through BENCH_FLAGS, see benchmarks/throughput.py
	$(BIN)/python -m benchmarks.throughput --out=benchmarks/results/throughput.json $(BENCH_FLAGS)

scaling: install  ## seconds and memory against seeds, tasks, environments and width
	$(BIN)/python -m benchmarks.scaling $(BENCH_FLAGS)

accelerator-check: install  ## ten minutes on a GPU or TPU: is it right, how fast; BENCH_FLAGS=--smoke: anywhere
	$(BIN)/python -m benchmarks.accelerator $(BENCH_FLAGS)

bench-smoke: install  ## the benchmarks at tiny sizes: do they still run?
	$(BIN)/python -m benchmarks.throughput --smoke

demo: install  ## four methods on ten cart-poles, four seeds each, and the report
	$(BIN)/varshare-experiment demo

cartpole10: install  ## ten methods on ten cart-poles, tuned, ten seeds
	$(BIN)/varshare-experiment stage3_baselines_cartpole10

lunar_lander20: install  ## six methods on twenty landings
	$(BIN)/varshare-experiment stage3_baselines_lunar_lander20

mt3: install  ## three tasks of Meta-World, for a CPU
	$(BIN)/varshare-experiment stage4_mt3

mt10: install  ## ten methods on ten tasks of Meta-World, on a CPU; stage5_mt10_gpu: on a GPU
	$(BIN)/varshare-experiment stage5_mt10

kl-prior: install  ## seven ways to set β and σ_prior
	$(BIN)/varshare-experiment kl_prior_pack

leave-one-out: install  ## six methods adapt to cart-poles that they have not seen
	$(BIN)/varshare-experiment stage6_loo_cartpole

step-size: install  ## every method over the same grid of learning rates, on cart-poles in conflict
	$(BIN)/varshare-experiment step_size_cartpole_conflict

report: install  ## one page over everything in runs/
	$(BIN)/varshare-report $$(find runs -name config.json -exec dirname {} \;) --out runs/report.html

# Material for MkDocs tells in every build what may come after MkDocs 1.
DOCS := $(VENV)/.docs
MKDOCS := PATH=$(abspath $(BIN)):$$PATH NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs
docs: $(DOCS)  ## the site, into build/site
	$(MKDOCS) build --strict

docs-serve: $(DOCS)  ## the site at http://127.0.0.1:8000, new with every change
	$(MKDOCS) serve --strict --dev-addr=127.0.0.1:8000

$(DOCS): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

picture: install  ## the picture of the README, from the demo
	$(BIN)/varshare-experiment demo --figure_png=docs/images/demo.png

parity-lunar-lander: install  ## LunarLander against Gymnasium's, 1000 seeds a row (an hour)
	$(BIN)/python -m varshare_jax.validation.lunar_lander

parity-metaworld: install  ## the Meta-World port against Meta-World (about 40 minutes on 2 cores)
	$(BIN)/python -m varshare_jax.validation.metaworld --out=parity_metaworld.jsonl $(PARITY_FLAGS)

clean:  ## everything that these targets made, but runs/
	rm -rf $(VENV) .cache build dist *.egg-info .pytest_cache .ruff_cache
