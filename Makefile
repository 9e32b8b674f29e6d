# What the README, CONTRIBUTING and .ci/run call. `make demo` and `make test` set up all they need.
VENV ?= .venv
PYTEST ?= $(VENV)/bin/pytest -q -n 2

.PHONY: setup demo test check crash crash-cut coverage bench docs fixtures clean

setup: $(VENV)/.complete

$(VENV)/.complete: pyproject.toml constraints.txt scripts/setup
	scripts/setup $(VENV)
	touch $@

demo: setup
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" scripts/demo

test: setup
	$(PYTEST)

check: setup
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache

crash: setup
	NIXFETCH_CRASH=full $(VENV)/bin/pytest -q -m crash tests/crash
	NIXFETCH_CRASH=full $(VENV)/bin/pytest -q tests/e2e/test_containerd_crashes.py

crash-cut: setup
	$(PYTEST) -m crash tests/crash/test_sync_order.py tests/crash/test_full_disks.py \
		tests/crash/test_kills.py tests/crash/test_power_cuts.py

coverage: setup
	scripts/coverage $(VENV)

bench: setup
	$(VENV)/bin/python -m benchmarks.fetch_closure

docs: setup
	$(VENV)/bin/python -m scripts.make_cli_docs
	scripts/setup-docs $(VENV)
	$(VENV)/bin/sphinx-build -q -W -b html docs docs/_build/html

fixtures:
	scripts/make-fixtures

clean:
	rm -rf $(VENV) build dist docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis
