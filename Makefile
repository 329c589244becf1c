# Two commands: `make run` and `make test`. Each makes its own environment in .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: run test lint venv bench-exchange bench-train bench-compress bench-density bandwidth uplink-bytes clean

run: $(STAMP)
	$(BIN)/python main.py --config configs/quickstart.yaml

test: $(STAMP) lint
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

venv: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 10) <= sys.version_info < (3, 14) else "Python 3.10 to 3.13 is needed: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $(STAMP)

# Measurements: each prints its table; the committed ones are in benchmarks/README.md and Bandwidth Analysis/.
bench-exchange: $(STAMP)
	$(BIN)/python benchmarks/exchange.py

bench-train: $(STAMP)
	$(BIN)/python benchmarks/train.py

bench-compress: $(STAMP)
	$(BIN)/python benchmarks/compress.py --data-dir $(or $(DATA),data)

bench-density: $(STAMP)
	$(BIN)/python benchmarks/density.py --data-dir $(or $(DATA),data)

uplink-bytes: $(STAMP)
	$(BIN)/python -m fl.experiment experiments/cifar10_pfl_cnn.yaml --data-dir $(or $(DATA),data) --results "Bandwidth Analysis/cifar10_pfl_cnn"

bandwidth: $(STAMP)
	$(BIN)/python -m fl.experiment experiments/cifar10_uplink.yaml --data-dir $(or $(DATA),data) \
		--results "Bandwidth Analysis/cifar10_uplink"

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
