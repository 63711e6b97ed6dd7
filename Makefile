# The two commands of the README; each sets up all that it needs from Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Environments of their own, so that `make test` installs none of their tools.
DOCS := .venv-docs/.ready
UV := .venv-uv/bin/uv
# Tests that need no model, no browser and no further process: seconds each.
QUICK := tests/contracts/test_code.py tests/contracts/test_words.py tests/contracts/test_extras.py \
  tests/contracts/test_public_surface.py tests/analysis/test_pareto.py \
  tests/analysis/test_diffuseness.py tests/selectors tests/storage/test_run.py \
  tests/storage/test_features.py tests/properties tests/measures/similarity tests/cli/test_cli.py

.PHONY: demo test check lint browser signatures docs wheel test-oldest test-latest benchmark \
  clean help

help:
	@echo "make demo       the whole way on real models and data; ends with demo/report.html"
	@echo "make test       style, types and tests"
	@echo "make check      style, types and the quick tests"
	@echo "make lint       style, types and the direction of imports"
	@echo "make docs       the documentation site, site/index.html"
	@echo "make signatures write the public surface down after a change of it"
	@echo "make wheel      build and check the distribution, dist/"
	@echo "make test-oldest, test-latest   the wheel with the oldest, the latest dependencies"
	@echo "make benchmark  the speed table of docs/performance.md (about an hour)"
	@echo "make clean      remove the virtual environment and the demo's output"

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than 3.11; try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "setting up $(VENV) from requirements.lock (once, a few minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --no-deps --no-build-isolation --editable .
	@touch $(READY)

demo: $(READY)
	@$(BIN)/criticalmass demo --out demo

lint: $(READY)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy --no-error-summary
	@said=$$($(BIN)/lint-imports --no-logo --no-cache) || { echo "$$said"; exit 1; }

# A browser for the tests of the page: the system's, or one that can be had. Without one those
# tests are skipped, and pytest's last lines say so.
browser: $(READY)
	@$(BIN)/python -m tests.browser.find || { \
	  echo "looking for a browser to test the page in (at most five minutes)"; \
	  timeout 150 $(BIN)/python -m playwright install chromium >/dev/null 2>&1 || \
	  { [ "$$(id -u)" = 0 ] && timeout 150 apt-get install -y -qq chromium >/dev/null 2>&1; } || \
	  echo "none can be had here; the page will not be tested in a browser"; }

# Bytecode is written even where the environment forbids it: without it, each of the many processes
# of the tests compiles all that it imports. BLAS has one thread in each process: where two processes
# share two cores, its threads spin while they wait for each other, for longer than they compute.
TEST_SETTINGS := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

test: lint browser
	@$(TEST_SETTINGS) $(BIN)/python -m pytest --quiet --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations=25

check: lint
	@$(TEST_SETTINGS) $(BIN)/python -m pytest --quiet --numprocesses 2 --dist loadfile $(QUICK)

signatures: $(READY)
	@$(BIN)/python -m tests.contracts.public_surface

$(DOCS): docs/requirements.txt pyproject.toml
	@echo "setting up .venv-docs (once)"
	@$(PYTHON) -m venv .venv-docs
	@.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check \
	  -r docs/requirements.txt --editable .
	@touch $(DOCS)

docs: $(DOCS)
	@.venv-docs/bin/python docs/build_site.py

$(UV):
	@$(PYTHON) -m venv .venv-uv
	@.venv-uv/bin/python -m pip install --quiet --disable-pip-version-check uv build twine

wheel: $(UV)
	@rm -rf dist
	@.venv-uv/bin/python -m build --outdir dist .
	@.venv-uv/bin/python -m twine check --strict dist/*

# The wheel in a clean environment with the lowest versions that pyproject.toml allows, or the
# latest that exist; then the quick tests. Warnings of old versions are not errors.
test-oldest: RESOLUTION := lowest-direct
test-latest: RESOLUTION := highest
test-oldest test-latest: wheel
	@rm -rf .venv-$@ && $(UV) venv --quiet --python $(PYTHON) .venv-$@
	@$(UV) pip compile --quiet --resolution $(RESOLUTION) --python .venv-$@ pyproject.toml \
	  --output-file .venv-$@/versions.txt
	@$(UV) pip install --quiet --python .venv-$@ --requirement .venv-$@/versions.txt \
	  pytest pytest-xdist hypothesis
	@$(UV) pip install --quiet --python .venv-$@ --no-deps dist/*.whl
	@.venv-$@/bin/python -m pytest --quiet --numprocesses 2 --dist loadfile \
	  --override-ini filterwarnings=default -p no:cacheprovider $(filter-out tests/contracts/%,$(QUICK))

benchmark: $(READY)
	@$(BIN)/python -m benchmarks.probes --store demo/fashion-mnist/features

clean:
	@rm -rf $(VENV) .venv-* build dist site demo
