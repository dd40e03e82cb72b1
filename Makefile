# Every target makes its environment first. `make` alone prints the list of targets.

PYTHON ?= python3.11
VENV ?= .venv
COMPAT ?= .venv-compat
TORCH := torch==2.13.0

PY := $(VENV)/bin/python
STAMP := $(VENV)/.stamp
COMPAT_STAMP := $(COMPAT)/.stamp

# peft's own tests, as its source distribution has them, at the version of the lock.
PEFT := $(shell sed -n 's/^peft==//p' requirements.lock)
PEFT_TESTS := .peft-tests/$(PEFT)

# No test touches a network, and idle OpenMP threads sleep instead of taking a core from the next process.
TEST_ENV := HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 HF_EVALUATE_OFFLINE=1 WANDB_MODE=offline OMP_WAIT_POLICY=PASSIVE
TEST_ENV += $(if $(GLUE_DIR),CRAFT_GLUE_DIR="$(GLUE_DIR)")

MINUTES ?= 18

.DEFAULT_GOAL := help
.PHONY: help setup study test test-slurm faults test-slow test-compat test-peft lint format report report-check notebooks prepare sweep-status sweep-cancel promote speed bench doctor pretrain-mini reproduce-glue clean

help: ## this list (at once)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# torch goes first, so that nothing in the lock pulls another one.
$(STAMP): pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet $(TORCH) --constraint requirements.lock
	$(PY) -m pip install --quiet --requirement requirements.lock
	$(PY) -m pip install --quiet --no-deps --editable .
	@touch $@

# The oldest peft and transformers that the tuners support.
$(COMPAT_STAMP): pyproject.toml requirements.lock
	$(PYTHON) -m venv $(COMPAT)
	$(COMPAT)/bin/python -m pip install --quiet $(TORCH) transformers==4.57.6 peft==0.18.1 \
		$$(grep -E '^(tensorly|safetensors|pytest|hypothesis)==' requirements.lock)
	$(COMPAT)/bin/python -m pip install --quiet --no-deps --editable .
	@touch $@

setup: $(STAMP) ## the environment in VENV=.venv, remade when the lock changes (1 to 3 min and 2 GB of downloads)

test: $(STAMP) ## the fast tests, offline; GLUE_DIR=<folder> adds those on real data (< 5 min on 2 cores)
	$(TEST_ENV) $(PY) -m pytest -q -n 2 -m "not slow and not gpu and not slurm"

test-slurm: $(STAMP) ## a sweep on a Slurm of two nodes on this machine; needs root, slurm-wlm and munge (10 min)
	$(TEST_ENV) $(PY) -m pytest -q -m slurm tests/bench/sweep/slurm

faults: $(STAMP) ## inject every fault and write results/faults.md (10 min)
	$(TEST_ENV) $(PY) -m pytest -q tests/bench/run/test_faults.py tests/bench/run/test_kill.py tests/bench/run/test_lease.py \
		tests/bench/cli/test_commands.py::test_sweep_finishes_the_rest_when_one_job_breaks \
		tests/bench/cli/test_commands.py::test_full_disk_at_the_adapters_is_one_line_and_the_run_goes_on --faults results/faults.md

test-slow: $(STAMP) ## what `make test` leaves out; GPU and Slurm tests skip where there is none (< 30 min on 2 cores)
	$(TEST_ENV) $(PY) -m pytest -q -m "slow or gpu or slurm"

# peft 0.18 warns at each save of a model that was not loaded from a folder.
test-compat: $(COMPAT_STAMP) ## the tuners on the oldest peft and transformers, in COMPAT=.venv-compat (1 min to set up, < 5 min)
	$(TEST_ENV) $(COMPAT)/bin/python -m pytest -q -m "not slow and not gpu" \
		-W "ignore:Could not find a config file in:UserWarning" tests/test_tucker.py tests/test_export.py tests/test_vertical.py tests/tuners

$(PEFT_TESTS): | $(STAMP)
	rm -rf $@ $@.tmp && mkdir -p $@.tmp
	$(PY) -m pip download --quiet --no-deps --no-binary peft --dest $@.tmp peft==$(PEFT)
	tar -xzf $@.tmp/peft-$(PEFT).tar.gz -C $@.tmp --strip-components=1 peft-$(PEFT)/tests
	touch $@.tmp/tests/__init__.py
	mv $@.tmp $@

test-peft: $(STAMP) $(PEFT_TESTS) ## peft's own tests on our tuners, against tests/peft/expected_failures.json (6 min on 2 cores)
	cd $(PEFT_TESTS) && $(TEST_ENV) PYTHONPATH="$(CURDIR):$(CURDIR)/tests/peft" \
		$(abspath $(PY)) -m pytest -q -n 2 -p matrix -c "$(CURDIR)/tests/peft/pytest.ini" --rootdir .

lint: $(STAMP) ## ruff, pyright and the direction of imports (1 min)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright --pythonpath $(PY)
	$(VENV)/bin/lint-imports --no-cache

format: $(STAMP) ## let ruff rewrite what it can (seconds)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

report: $(STAMP) ## tables, figures and the model card from the run records (< 1 min)
	$(PY) scripts/report.py
	$(PY) scripts/model_card.py

report-check: $(STAMP) ## rebuild the report aside and compare it with what is committed (< 1 min)
	$(PY) scripts/report.py --check
	$(PY) scripts/model_card.py --check

# The same command line as a sweep: ARGS="experiment=table2_base ..."
prepare: $(STAMP) ## fetch and compute what the jobs of a sweep need, for nodes without a network: ARGS="..." (minutes)
	$(PY) scripts/prepare.py $(ARGS)

sweep-status: $(STAMP) ## the newest sweep on Slurm, or SWEEP=<folder>: runs by state, failures, time left (seconds)
	$(PY) scripts/sweep.py status $(if $(SWEEP),"sweep=$(SWEEP)") $(if $(OUTPUTS),"outputs=$(OUTPUTS)")

sweep-cancel: $(STAMP) ## cancel the jobs of the newest sweep on Slurm, or of SWEEP=<folder>, alone (seconds)
	$(PY) scripts/sweep.py cancel $(if $(SWEEP),"sweep=$(SWEEP)") $(if $(OUTPUTS),"outputs=$(OUTPUTS)")

# It makes a clone and an environment of its own, of the commit that the study is frozen at.
study: ## work off the study of results/STUDY.md in outputs/study: GLUE_DIR=<folder>; LAST=<stage> (days on 2 cores; stop and go on at will)
	$(PYTHON) scripts/study.py "$(GLUE_DIR)" $(if $(LAST),"last=$(LAST)")

notebooks: $(STAMP) ## execute the notebooks on the committed records and keep their outputs (2 min)
	$(PY) scripts/notebooks.py

promote: $(STAMP) ## copy clean run records into results/: RUNS="<name or pattern> ..." (seconds)
	$(PY) scripts/promote.py $(RUNS)

speed: $(STAMP) ## speed and memory beside what one would take instead; SPEED="trainer ..." GLUE_DIR TOKENIZER (45 min on 2 idle cores)
	HF_HUB_OFFLINE=1 WANDB_MODE=offline OMP_WAIT_POLICY=PASSIVE $(PY) scripts/speed.py $(SPEED) \
		$(if $(GLUE_DIR),"glue_dir=$(GLUE_DIR)") $(if $(TOKENIZER),"tokenizer=$(TOKENIZER)")

bench: ## called speed now (at once)
	@echo "make bench is make speed now, and BENCH=... is SPEED=..." >&2; exit 2

doctor: $(STAMP) ## what this machine has and lacks: GPU, weights, GLUE; SUITE GLUE_DIR MODEL_DIR (seconds)
	$(PY) scripts/doctor.py \
		$(if $(SUITE),"suite=$(SUITE)") \
		$(if $(GLUE_DIR),"glue_dir=$(GLUE_DIR)") \
		$(if $(MODEL_DIR),"model_dir=$(MODEL_DIR)")

# Refused while the Makefile is read: before minutes of set-up.
ifneq ($(filter pretrain-mini,$(MAKECMDGOALS)),)
$(if $(CORPUS),,$(error pretrain-mini needs CORPUS=<text file, .xz text file or folder of them>))
endif

pretrain-mini: $(STAMP) ## pre-train the mini RoBERTa on CORPUS=<file or folder>; OPTIONS="--lr 2e-3 ..." (MINUTES=18, and the tokenizing)
	$(PY) scripts/pretrain_mini.py --corpus "$(CORPUS)" --minutes $(MINUTES) $(OPTIONS)

# Only what was given is passed on: every default lives in the script's own config.
reproduce-glue: $(STAMP) ## the paper's tables and figures; SUITE LAUNCHER=slurm SLURM YES SEEDS GLUE_DIR MODEL_DIR METHODS TASKS WORKERS (mini: minutes, paper: GPU hours)
	@$(PY) scripts/reproduce.py \
		$(if $(SUITE),"suite=$(SUITE)") \
		$(if $(LAUNCHER),"launcher=$(LAUNCHER)") \
		$(if $(SEEDS),"seeds=$(SEEDS)") \
		$(if $(GLUE_DIR),"glue_dir=$(GLUE_DIR)") \
		$(if $(MODEL_DIR),"model_dir=$(MODEL_DIR)") \
		$(if $(METHODS),"methods=$(METHODS)") \
		$(if $(TASKS),"tasks=$(TASKS)") \
		$(if $(WORKERS),"workers=$(WORKERS)") \
		$(if $(SLURM),"slurm=$(SLURM)") \
		$(if $(YES),"yes=$(YES)")

clean: ## remove caches and build products, never outputs/ or results/ (seconds)
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find craft scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
