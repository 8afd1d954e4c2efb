# `make` alone lists what there is to do.
SHELL := bash
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
# Commands of the environment (papermill, jupyter, snakemake) are found without activating it.
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
# One thread per process: two PyTorch threads that share a busy core spin instead of working.
RUN_ONE_THREAD := OMP_NUM_THREADS=1 $(RUN)

# Versions that committed results were made with: make env CONSTRAINTS=constraints.txt
CONSTRAINTS ?=

.PHONY: help env figures evolution convolutional live test test-slow test-slurm wheel bench lab docs clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

env: $(STAMP) ## create .venv with modspec and everything it needs (Python 3.11 or newer: make env PYTHON=python3.12)

# Runs again when the requirements change. Pip's report is cut down to what is fetched.
$(STAMP): settings.ini setup.py
	@if ! $(VENV)/bin/python -m pip --version >/dev/null 2>&1; then \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "modspec needs Python 3.11 or newer, which '$(PYTHON)' is not. Name another one: make env PYTHON=python3.12" >&2; \
	    exit 1; }; \
	  echo "Creating $(VENV) with $$($(PYTHON) --version)"; \
	  $(PYTHON) -m venv --clear $(VENV) || exit 1; \
	fi
	@echo "Installing modspec and its libraries into $(VENV): a few minutes and about 6 GB the first time"
	@set -o pipefail; PYTHONUNBUFFERED=1 $(VENV)/bin/python -m pip install --disable-pip-version-check \
	  $(if $(CONSTRAINTS),--constraint '$(CONSTRAINTS)') -e '.[dev]' \
	  | sed -nE -e '/\.metadata/d' -e '/^ *(Downloading|Using cached)/p' -e 's/^(Installing collected packages).*/\1/p'
	@touch $@

figures: env ## run the quick sweep and draw the paper's figures (minutes, no download of data)
	@$(RUN) modspec reproduce config/extreme_sparsity/quick.yaml

evolution: env ## evolve networks under fixed and switching goals, six arms of five runs (about 10 minutes on two idle cores)
	@$(RUN_ONE_THREAD) python -c "from concurrent.futures import ProcessPoolExecutor as Pool; \
	  from modspec.studies.causes.evolved import six_arms; \
	  six_arms(each=Pool().map).to_csv('results/evolution.csv', index=False)"

convolutional: env ## train a convolutional network on MNIST, and compare its channels with untrained ones (8 minutes on an idle core)
	@$(RUN_ONE_THREAD) python -c "from modspec.core.data import load_dataset; \
	  from modspec.studies.upstream_downstream.convolutional import ConvolutionalTraining, convolutional_table; \
	  table = convolutional_table(load_dataset('mnist'), ConvolutionalTraining(most_epochs=6)); \
	  table.to_csv('results/convolutional.csv', index=False)"

live: env ## train the networks of the figure on the home page, and write what it shows (40 seconds of an idle core)
	@$(RUN_ONE_THREAD) python -c "from pathlib import Path; \
	  from modspec.analysis.tables import read_table; \
	  from modspec.core.data import load_dataset; \
	  from modspec.explorer.live import live_data, live_script, train_live; \
	  dataset, table = load_dataset('digits'), read_table('results/mixture'); \
	  networks = train_live(dataset, sorted(set(table['sparsity']))[::2]); \
	  Path('nbs/live/data.js').write_text(live_script(live_data(networks, dataset, table)), encoding='utf-8')"

test: env ## check that code and notebooks agree, lint, check types, run every notebook and the tests
	@echo "== modules in sync, notebooks clean"
	@$(RUN) python tests/check_sync.py
	@echo "== ruff"
	@$(RUN) ruff check
	@echo "== types"
	@$(RUN) mypy
	@echo "== notebooks"
	@$(RUN_ONE_THREAD) nbdev_test --n_workers 2
	@echo "== tests"
	@$(RUN_ONE_THREAD) python -m pytest -n 2 --dist loadfile

test-slow: env ## provoke every fault that nbs/faults.ipynb lists, and record what happened (1.5 hours; MODSPEC_RUNS=20: half an hour)
	@$(RUN_ONE_THREAD) python -m pytest -m provokes --record=results/faults.csv

test-slurm: env ## run sweeps on a Slurm of one node that the tests start (Linux with the packages slurm-wlm and munge; 10 minutes)
	@$(RUN_ONE_THREAD) python -m pytest -m slurm tests/slurm

# Needs no .venv: the wheel must not find anything in it.
wheel: ## build dist/, install the wheel in an environment of its own, and reproduce smoke sweeps there from an empty folder
	rm -rf dist build
	$(PYTHON) -m venv build/tools
	build/tools/bin/python -m pip install -q build
	build/tools/bin/python -m build
	$(PYTHON) -m venv build/clean
	build/clean/bin/python -m pip install -q dist/*.whl
	build/clean/bin/python tests/try_wheel.py extreme_sparsity causes upstream_downstream

bench: env ## measure speed: throughput, memory, times of metrics and sweeps (half an hour, MNIST, an idle machine)
	@$(RUN) python -m benchmarks.bench

lab: env ## open the chapters in JupyterLab
	@$(RUN) jupyter lab --notebook-dir=nbs

docs: env ## build the website in _docs (needs Quarto, https://quarto.org)
	@command -v quarto >/dev/null || { echo "The docs need Quarto on the PATH: https://quarto.org/docs/get-started" >&2; exit 1; }
	@touch README.md  # newer than index.ipynb, so that nbdev leaves the README as it is
	@touch nbs/gallery.ipynb  # which is made of other chapters: nbdev would keep it while they change
	@$(RUN) PYTHONPATH="$(CURDIR)" nbdev_docs  # for tools/

clean: ## remove caches and built docs (keeps .venv and results)
	rm -rf _docs _proc build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .snakemake
	find . -path ./$(VENV) -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -prune -exec rm -rf {} +
