PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2
STAMP := .venv/.installed

.PHONY: install demo test check format lint types clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "chainsweep needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	test -d demo/gaussian_peak || $(BIN)/chainsweep init jobs/gaussian_peak/campaign.toml --out demo/gaussian_peak
	$(BIN)/chainsweep run demo/gaussian_peak

test: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

check: format lint types test

format: $(STAMP)
	$(BIN)/ruff format --check .

lint: $(STAMP)
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

clean:
	rm -rf .venv demo build dist
