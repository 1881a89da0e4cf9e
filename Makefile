# `make train` and `make test` are all one needs; both set up .venv first, once.
# ARGS goes to the command:  make train ARGS='model=axial_hybrid_tiny trainer.max_steps=200'

.PHONY: train evaluate test bench setup lint format docs
.DELETE_ON_ERROR:

VENV := .venv
INSTALLED := $(VENV)/.installed

train: setup
	$(VENV)/bin/python train.py $(ARGS)

evaluate: setup
	$(VENV)/bin/python evaluate.py $(ARGS)

test: setup
	$(VENV)/bin/python -m pytest -n auto --dist worksteal $(ARGS)

# Every benchmark in its short version, beside the peers if they can be installed: 15 minutes.
bench: setup
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		-e '.[dev,sweep,bench]' || echo "The peers could not be installed; their rows will say so." >&2
	$(VENV)/bin/python benchmarks/run_all.py $(ARGS)

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest --quiet tests/test_known_bad_versions.py

# The documentation as a site in build/site; a broken link, anchor or docstring ends it.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --quiet

format: setup
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

setup: $(INSTALLED)

# A stamp file: installed again only when one of these files changes.
$(INSTALLED): pyproject.toml setup.py constraints.txt
	@python=$${PYTHON:-}; \
	for candidate in python3.11 python3.12 python3.13 python3; do \
		[ -n "$$python" ] && break; \
		$$candidate -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
			>/dev/null 2>&1 && python=$$candidate; \
	done; \
	if [ -z "$$python" ]; then \
		echo "No Python >= 3.11 with the venv module was found: install one, or say" >&2; \
		echo "  make setup PYTHON=/path/to/python3" >&2; exit 1; \
	fi; \
	[ -x $(VENV)/bin/python ] || $$python -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,sweep,docs]'
	@touch $@
