# The two commands of the README; each sets up all that it needs from Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint browser benchmark clean help

help:
	@echo "make demo       the whole way on real models and data; ends with demo/report.html"
	@echo "make test       style, types and tests"
	@echo "make lint       style, types and the direction of imports"
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
# of the tests compiles all that it imports.
test: lint browser
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --quiet --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations=25

benchmark: $(READY)
	@$(BIN)/python -m benchmarks.probes --store demo/fashion-mnist/features

clean:
	@rm -rf $(VENV) demo
