# `make test` and `make demo` from a fresh clone need python3 (3.11 or newer) and make alone.
# Everything goes into .venv, at the versions and with the hashes of requirements.lock.
# Paths are relative throughout, so the clone may lie in a folder whose name holds spaces.

PYTHON ?= python3
ARGS ?=

BIN := .venv/bin
# What is installed depends on these two files' content, not on their dates: a checkout that
# touches them costs nothing, and one that changes them brings .venv up to date.
KEY := $(shell cat requirements.lock pyproject.toml | cksum | cut -d ' ' -f 1)
READY := .venv/.installed-$(KEY)

# uv does not read pip's settings. Where only pip has been told of a mirror, uv is told too.
ifdef PIP_INDEX_URL
export UV_INDEX_URL ?= $(value PIP_INDEX_URL)
endif

# Where Python is told to keep no bytecode, every process of the tests would compile torch and MONAI
# anew, 14 s of processor time each. It is kept in .venv then, and nothing lies beside the sources.
ifdef PYTHONDONTWRITEBYTECODE
export PYTHONDONTWRITEBYTECODE :=
export PYTHONPYCACHEPREFIX ?= $(CURDIR)/.venv/bytecode
endif

.PHONY: help setup demo demo-train builtin test test-fast lint docs check-tree lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

setup: $(READY) ## create .venv and install the lock (every other target runs this first)

demo: $(READY) ## simulate a patient and find its tumour with the built-in model, into demo/
	$(BIN)/medrd demo --out demo $(ARGS)

# One thread: the sums, and so the weights, depend on how many there are.
builtin: $(READY) ## train the built-in model again, on phantoms only, into builtin/
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/builtin.py configs/brats/builtin.yaml --out builtin $(ARGS)

demo-train: $(READY) ## train on simulated brains, predict, evaluate and report, into demo-train/
	$(BIN)/medrd demo --train --out demo-train $(ARGS)

test: $(READY) ## run the tests, e.g. make test ARGS="tests/metrics -x"
	@# One thread: on a busy machine threads that wait for each other cost more than they gain.
	@# All of them in three processes, since those on Ray wait more than they work, a module's tests
	@# together; a choice of them in one.
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest $(or $(ARGS),-n 3 --dist loadfile --no-loadscope-reorder)

test-fast: $(READY) ## the tests, except those that start Ray, Chromium, a notebook or processes, or train a network
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -m "not slow" \
		$(or $(ARGS),-n 2 --dist loadfile --no-loadscope-reorder)

lint: $(READY) ## ruff, mypy and the import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# A link that leads nowhere, or a page that no contents name, is an error. The tests build it too.
docs: $(READY) ## the documentation as a site, into site/
	$(BIN)/sphinx-build -W --keep-going -q -b html -d site/.doctrees docs site
	@echo 'site/index.html'

# Scans, weights and the addresses of package mirrors must never be committed, but for one model of
# phantoms, which comes with medrd. tests/run/old_run holds two tiny ones that an earlier version trained.
BUILTIN := medrd/builtin/flair/model.safetensors
BUILTIN_SHA256 := cfb1ac32393ff5efd1e0d262925552347c2d8840cb8de61c832b2e31f80b0350

check-tree: ## check that git tracks no data and no registry addresses
	@git rev-parse --is-inside-work-tree >/dev/null
	@! git ls-files ':!tests/run/old_run' ':!$(BUILTIN)' | grep -E '\.(nii|nii\.gz|mgz|mha|nrrd|dcm|npy|npz|pt|pth|ckpt|safetensors|onnx)$$' \
		|| { echo 'check-tree: the files above look like data or weights'; exit 1; }
	@$(PYTHON) -c 'import hashlib, sys; \
		sys.exit(hashlib.sha256(open("$(BUILTIN)", "rb").read()).hexdigest() != "$(BUILTIN_SHA256)")' \
		|| { echo 'check-tree: $(BUILTIN) is not the model of BUILTIN_SHA256'; exit 1; }
	@! git grep -nIE 'https?://[^ "]*(pypi|pythonhosted|npmjs)\.|^--(extra-)?index-url' \
		|| { echo 'check-tree: the lines above name a package registry'; exit 1; }
	@echo 'check-tree: no data, no registry addresses'

lock: $(READY) ## resolve requirements.lock again; ARGS=--upgrade takes the newest versions
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
		pyproject.toml --extra all --group dev --no-header -o requirements.lock $(ARGS)

clean: ## remove .venv and the files that the tools and the demo create
	rm -rf .venv demo demo-train builtin site build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment without a stamp is one whose installation was interrupted, or not ours: it is
# made anew. uv itself is installed by pip, under the same hashes as all the rest. The package's
# own build takes hatchling from the lock too, hence no build isolation.
$(READY):
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else \
		"medrd needs Python 3.11 or newer, this is " + sys.version.split()[0] + \
		": name another, as in make PYTHON=python3.12")'
	@ls .venv/.installed-* >/dev/null 2>&1 || { \
		echo 'Creating .venv (the first time: on Linux about 6.5 GB, mostly torch with CUDA)'; \
		$(PYTHON) -m venv --clear .venv; }
	@rm -f .venv/.installed-*
	@awk '/^[^ #]/ {keep = /^uv==/} keep' requirements.lock > .venv/uv.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.lock
	@$(BIN)/uv pip install --python $(BIN)/python --require-hashes -r requirements.lock
	@$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation -e .
	@touch $@
