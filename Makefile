# make sweep    the main job: environment, dependencies, data, the default sweep, a summary   (ARGS="sweep.trials=40 …")
# make test     environment, test tools, lint, types, import contracts, all tests, the documentation
# make check    what a contributor runs often: lint, types, import contracts, the fast tests
# make setup    only the environment
# make docs     the documentation, as a site in docs/_build
# make bench    how fast networks are trained on this machine, against plain PyTorch and a template (about 15 minutes)
# make chaos    every fault of docs/promises.md, with 200 kills at random moments, and a table of what held (about 16 minutes)
# make screenshots   the README's pictures, of the sweep in the mlruns of this folder: that of `make sweep` (needs Chromium)
PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
BIN    := $(VENV)/bin
# Compiled once here, since Python may be told not to write bytecode (PYTHONDONTWRITEBYTECODE, as in many containers):
# each process would then compile PyTorch and MLflow anew, more than half of its start.
INSTALL := $(BIN)/uv pip install -q --python $(BIN)/python --compile-bytecode
# Nor are our own modules compiled anew by each process, of which the tests start hundreds.
export PYTHONDONTWRITEBYTECODE :=
# As many tests at a time as a sweep has workers: a container may have less than the machine, in cores or in memory.
WORKERS  = $$($(BIN)/python -c 'from mnist_sweep.hardware import usual_workers; print(usual_workers(0))')
PYTEST   = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# Names of ours may begin with an underscore, those of the libraries below not.
PRIVATE := optuna\.[a-z_.]*\._|hydra\._internal|(from|import) pytorch_lightning.*_internal|mlflow\.[a-z_.]*\._[a-z]

.PHONY: setup sweep demo cluster test check docs screenshots bench chaos lint lock wheel clean

setup: $(VENV)/.installed

sweep: setup
	@$(BIN)/python -m mnist_sweep +sweep=optuna $(ARGS)

test: lint docs
	@$(PYTEST) $(ARGS)

check: lint
	@$(PYTEST) -q -m "not slow and not browser" $(ARGS)

docs: $(VENV)/.installed-dev
	@$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build

bench: setup
	@$(BIN)/python benchmarks/throughput.py $(ARGS)

chaos: $(VENV)/.installed-dev
	@$(BIN)/python -m tests.faults.chaos $(ARGS)

screenshots: $(VENV)/.installed-dev
	@SCREENSHOTS=docs SCREENSHOTS_OF=$(CURDIR) $(BIN)/python -m pytest -m browser $(ARGS)

lint: $(VENV)/.installed-dev
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo
	@! grep -rnE '$(PRIVATE)' mnist_sweep

lock: $(BIN)/uv    # the newest versions that fit, for every platform
	@$(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 --no-annotate --no-emit-index-url \
	    --custom-compile-command "make lock" pyproject.toml -o requirements.lock
	@$(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 --no-annotate --no-emit-index-url \
	    --custom-compile-command "make lock" pyproject.toml --extra demo --extra ray --extra postgres --group dev \
	    -c requirements.lock -o requirements-dev.lock

cluster: setup      # what launcher=ray, PostgreSQL and an MLflow server with users need; the test tools have it, too
	@$(INSTALL) -c requirements-dev.lock -e '.[ray,postgres]' 'mlflow[auth]'

demo: setup         # the page to draw a digit on
	@$(INSTALL) -c requirements-dev.lock -e '.[demo]'
	@$(BIN)/python -m mnist_sweep.demo $(ARGS)

wheel: $(BIN)/uv
	@$(BIN)/uv build -q --wheel

clean:
	rm -rf $(VENV) dist docs/_build .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mnist_sweep needs Python 3.11 or newer, not " + sys.version.split()[0] + " (make PYTHON=python3.12 …)")'
	@echo "making $(VENV)" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check uv

$(VENV)/.installed: requirements.lock pyproject.toml | $(BIN)/uv
	@echo "installing the dependencies (about 6 GB with PyTorch for CUDA)" >&2
	@$(INSTALL) -r requirements.lock
	@$(INSTALL) --no-deps -e .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	@echo "installing the test tools" >&2
	@$(INSTALL) -r requirements-dev.lock
	@touch $@
