# Commands a person types; `make help` lists them. Logic is Python's.
PYTHON ?= python3
BIN := .venv/bin
RAY_ENV := RAY_AUTH_MODE=token RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=1 MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=8589934592

.PHONY: help setup third-party trouble docs fuzz demo sweep test test-long pages chaos hosts calibrate bench check fmt compare assets cluster-up cluster-down submit clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(BIN)/.ready  ## create .venv and install the pinned versions; CPU_TORCH=INDEX takes torch without CUDA (docs/start.md)

# Of a lock without CUDA torch and torchaudio come from an index of their builds for CPUs, and nothing of NVIDIA's.
$(BIN)/.ready: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: no $(PYTHON) here; install it (Debian 12, Ubuntu 24.04: apt-get install python3 python3-venv), or say make setup PYTHON=python3.12 if that is there" >&2; exit 2; }
	@$(PYTHON) cluster/before_setup.py
	$(PYTHON) -m venv .venv
ifdef CPU_TORCH
	mkdir -p build && $(PYTHON) cluster/cpu_lock.py build/requirements-cpu.lock
	$(BIN)/pip install --quiet --no-compile --no-deps --extra-index-url $(CPU_TORCH) --requirement build/requirements-cpu.lock
else
	$(BIN)/pip install --quiet --no-compile --no-deps --requirement requirements.lock
endif
	$(BIN)/pip install --quiet --no-deps --editable .
	$(BIN)/python -m compileall -q -j 0 -x '/tests?/' .venv/lib slamray  # Ray's workers import it all
	touch $@

demo: setup  ## one command to a speech language model: 10 minutes on 2 cores, no network
	$(BIN)/python jobs/slam.py profile=laptop

sweep: setup  ## how much of the budget should be DPO: six shares x three seeds, 45 minutes on 2 cores, no network
	$(BIN)/python jobs/sweep.py recipe=dpo_budget_laptop profile=laptop compute.cpus_per_worker=1

test: setup  ## the tests that CI runs, the fast ones first, on every core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadfile -m "not slow" tests
	$(BIN)/python -m pytest -q -m slow tests/commands/test_run.py  # by itself: it starts a cluster as a person would
	$(BIN)/python -m pytest -q -m "slow and not long" tests --ignore tests/commands/test_run.py

test-long: setup  ## whole sweeps, studies, assets, a published recipe, struck runs, the GPU benchmark's toy (40 minutes)
	$(BIN)/python -m pytest -q -m long tests

pages: setup  ## pictures of the report and of MLflow's pages in a headless browser, and what is wrong with ours (minutes; needs chromium-driver); RUNS=FOLDER shows those runs
	$(BIN)/python tests/browser/pages.py $(if $(RUNS),runs=$(RUNS))

JOB ?= demo
chaos: setup  ## kill N=50 runs of JOB (demo, encoder, decoder, joint) at random moments, and compare with the untouched one (a minute or two each)
	$(BIN)/python tests/faults/chaos.py N=$(or $(N),50) JOB=$(JOB)

fuzz: setup  ## arbitrary text, bytes and files through every reader for SECONDS=3600; what comes out wrong is told with the input
	OMP_NUM_THREADS=1 $(BIN)/python tests/contract/fuzz.py SECONDS=$(or $(SECONDS),3600) $(if $(ONLY),ONLY="$(ONLY)")

ROOT ?= shared
hosts: setup  ## N=15 runs on a cluster of four hosts in network namespaces, struck three times each, in nine ways (as root; minutes a run); JOB=sweep, ROOT=s3
	$(BIN)/python tests/faults/hosts.py N=$(or $(N),15) JOB=$(JOB) ROOT=$(ROOT)

calibrate: setup  ## how fast this machine is, for the hours that `--plan` prints (a minute or two)
	$(BIN)/python jobs/calibrate.py profile=laptop

bench: setup  ## how fast it is: writes docs/results/speed.md (20 minutes on 2 quiet cores); SLAMKIT=FOLDER compares with a clone of it
	$(BIN)/python benchmarks/table.py

check: setup  ## linter and type checker
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

fmt: setup  ## format the code
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

compare: setup  ## the runs in runs/mlflow.db beside the paper's tables; draws comparison.png
	$(BIN)/python jobs/compare.py

trouble: setup  ## write docs/trouble.md: every one-line error, from the code
	$(BIN)/python docs/trouble.py

docs: .venv-docs/.ready  ## build the pages of docs/ as a site in build/site
	.venv-docs/bin/mkdocs build --quiet --strict --config-file docs/mkdocs.yml

# Apart from .venv: nothing that runs needs it. mkdocs rather than zensical, which is at 0.0 and changes its configuration.
.venv-docs/.ready: docs/requirements.lock
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/pip install --quiet --no-deps --requirement docs/requirements.lock
	touch $@

third-party: setup  ## write THIRD_PARTY.md: the licences of all that is locked, and of the assets
	$(BIN)/python docs/third_party.py

assets: setup  ## make slamray/assets anew (about two hours on 2 cores)
	$(BIN)/python jobs/assets.py

cluster-up: setup  ## a one-machine Ray cluster, loopback dashboard, token authentication
	$(RAY_ENV) $(BIN)/ray start --head --dashboard-host=127.0.0.1

cluster-down:  ## stop it
	$(BIN)/ray stop

submit: setup  ## the demo as a Ray job on that cluster
	$(RAY_ENV) $(BIN)/ray job submit --address http://127.0.0.1:8265 --working-dir . \
		--runtime-env-json '{"env_vars": {"SLAMRAY_COMMIT": "$(shell git rev-parse HEAD)"}}' \
		-- python jobs/slam.py profile=laptop root=$(CURDIR)/runs

clean:  ## remove runs (results!) and caches, keep .venv
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache build *.egg-info
