# `make run`, `make check` and `make test`: each makes its own environment in .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: run check test lint docs venv bench-exchange bench-train bench-compress bench-density bench-submodel bench-clients bench-memory bench-events bench-peers soak fuzz attacks privacy bandwidth uplink-bytes both-ways table1 quantise recovery unequal unequal-half unequal-compressed unequal-long lowcomm lowcomm-codecs links sites same browser figures ablation server-optimizers codecs partitions compression hour clean

run: $(STAMP)
	$(BIN)/python main.py --config configs/quickstart.yaml

# In random order, on half as many processes again as there are cores (tests/conftest.py). Neighbouring tests stay together,
# because those of a file share what is slow to make, until a process is idle and takes half of what another has left.
# `pytest -p no:randomly` keeps the order of the files, `--randomly-seed=N` repeats one.
test: $(STAMP) lint browser
	$(BIN)/python -m pytest -n auto --dist worksteal

# While you work: a minute and a half on two cores. Whole runs and several ranks are left to `make test`.
check: $(STAMP) lint
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow" tests/compression tests/fl

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The pages of docs/ and the reference, in site/: a link that leads nowhere is an error. Needs Python 3.11.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

# Optional, for one test: a browser in which report.html is opened. Not fatal where it cannot be had.
browser:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
		apt-get install -y -qq --no-install-recommends chromium >/dev/null; } || \
		echo "no browser (Debian: apt-get install chromium): the test of report.html will be skipped"

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "Python 3.10 or newer is needed: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(STAMP)

# Whether the working tree still trains to the bits and bytes of an older commit: make same OLD=HEAD~3. Minutes.
same: $(STAMP)
	$(BIN)/python benchmarks/same.py $(OLD)

# Scripts that import `compression`: from Python 3.14 on the standard library's would come before that of the installed project.
attacks bench-exchange bench-compress bench-density links: export PYTHONPATH := .

# Measurements: each prints its table; the committed ones are in benchmarks/README.md and Bandwidth Analysis/.
bench-exchange: $(STAMP)
	$(BIN)/python benchmarks/exchange.py

bench-train: $(STAMP)
	$(BIN)/python benchmarks/train.py

bench-compress: $(STAMP)
	$(BIN)/python benchmarks/compress.py --data-dir $(or $(DATA),data)

bench-density: $(STAMP)
	$(BIN)/python benchmarks/density.py --data-dir $(or $(DATA),data)

bench-submodel: $(STAMP)
	$(BIN)/python benchmarks/submodel.py

# Needs 60 GB of disk, and half an hour.
bench-clients: $(STAMP)
	$(BIN)/python benchmarks/clients.py --data-dir $(or $(DATA),data)

bench-memory: $(STAMP)
	$(BIN)/python benchmarks/memory.py --data-dir $(or $(DATA),data)

# PFL and FLOWER are interpreters of environments with pfl 0.6.0 and with flwr[simulation] 1.42; either may be left out.
bench-peers: $(STAMP)
	$(BIN)/python benchmarks/peers.py --data-dir $(or $(DATA),data) $(if $(PFL),--pfl $(PFL)) $(if $(FLOWER),--flower $(FLOWER))

bench-events: $(STAMP)
	$(BIN)/python benchmarks/events.py

# A million damaged payloads, a hundred thousand damaged files: make fuzz SEED=7. A quarter of an hour.
fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz $(if $(SEED),--seed $(SEED))

# Ranks killed at random moments, and 2,000 rounds watched for leaks: an hour, no part of `make test`.
soak: $(STAMP)
	$(BIN)/python benchmarks/soak.py

# Every rule of --aggregate while a fifth of the clients attack: six minutes on a core.
attacks: $(STAMP)
	$(BIN)/python benchmarks/attacks.py --data-dir $(or $(DATA),data)

uplink-bytes: $(STAMP)
	$(BIN)/python -m fl.experiment experiments/cifar10_pfl_cnn.yaml --data-dir $(or $(DATA),data) --results "Bandwidth Analysis/cifar10_pfl_cnn"

both-ways: $(STAMP)
	$(BIN)/python -m fl.experiment experiments/cifar10_both_ways.yaml --data-dir $(or $(DATA),data) \
		--results "Bandwidth Analysis/cifar10_both_ways"

bandwidth: $(STAMP)
	$(BIN)/python -m fl.experiment experiments/cifar10_uplink.yaml --data-dir $(or $(DATA),data) \
		--results "Bandwidth Analysis/cifar10_uplink"

# An hour or two: four experiments, then theirs and ours side by side in one table and one figure.
table1: export PYTHONPATH := Bandwidth Analysis:.
table1: $(STAMP)
	for each in lenet5 lenet5_wires resnet12_mnist resnet12_cifar10; do \
		$(BIN)/python -m fl.experiment experiments/table1_$$each.yaml --data-dir $(or $(DATA),data) \
			--results "Bandwidth Analysis/table1_$$each" || exit 1; \
	done
	$(BIN)/python "Bandwidth Analysis/table1_wires.py" --data-dir $(or $(DATA),data)
	$(BIN)/python "Bandwidth Analysis/table1.py"

quantise: $(STAMP)
	$(BIN)/python -m fl.experiment experiments/mnist_quantise.yaml --data-dir $(or $(DATA),data) --results "Bandwidth Analysis/quantise"
	$(BIN)/python "Bandwidth Analysis/quantise/corners.py" --data-dir $(or $(DATA),data)

recovery: $(STAMP)
	$(BIN)/python -m fl.experiment experiments/cifar10_recovery.yaml --data-dir $(or $(DATA),data) \
		--results "Bandwidth Analysis/cifar10_recovery"

# Time and bytes to an accuracy with unequal clients, about an hour on two cores; the longer ones take a day.
unequal unequal-long: $(STAMP)
	for each in cifar10 femnist; do \
		$(BIN)/python -m fl.experiment experiments/$${each}_$(subst -,_,$@).yaml --data-dir $(or $(DATA),data) \
			--results "Bandwidth Analysis/$${each}_$(subst -,_,$@)" || exit 1; \
	done

# How near to FedAvg's accuracy half of its virtual time leads, on CIFAR-10, five seeds: about three quarters of an hour on a core.
unequal-half: $(STAMP)
	$(BIN)/python -m fl.experiment experiments/cifar10_unequal_half.yaml --data-dir $(or $(DATA),data) \
		--results "Bandwidth Analysis/cifar10_unequal_half"

# The same clients with compression in both directions: three quarters of an hour on a core.
unequal-compressed: $(STAMP)
	$(BIN)/python -m fl.experiment experiments/cifar10_unequal_compressed.yaml --data-dir $(or $(DATA),data) \
		--results "Bandwidth Analysis/cifar10_unequal_compressed"

# Schemes of low-communication training of a language model on equal tokens, two seeds: three quarters of an hour on a core.
lowcomm: $(STAMP)
	$(BIN)/python -m fl.experiment experiments/lowcomm.yaml --data-dir $(or $(DATA),data) \
		--results "Bandwidth Analysis/lowcomm"
	$(BIN)/python "Bandwidth Analysis/lowcomm/seconds.py"

# What codecs cost a language model, by rounds, to check `leanfed advise`: twenty minutes on a core.
lowcomm-codecs: $(STAMP)
	$(BIN)/python -m fl.experiment experiments/lowcomm_codecs.yaml --data-dir $(or $(DATA),data) \
		--results "Bandwidth Analysis/lowcomm_codecs"

# Seconds of an exchange over real links between network namespaces; needs root. About seven minutes.
links: $(STAMP)
	$(BIN)/python "Bandwidth Analysis/measure_links.py" $(if $(DATA),--data-dir $(DATA))

# Sites on Flower's engine behind links of 10 Mbit/s, and what the engine itself takes; FLOWER is the interpreter of an
# environment with flwr[simulation] 1.42. Needs root. A quarter of an hour.
sites: export PYTHONPATH := Bandwidth Analysis:.
sites:
	$(FLOWER) "Bandwidth Analysis/sites/measure.py" --data-dir $(or $(DATA),data)
	$(FLOWER) "Bandwidth Analysis/sites/overhead.py"

# Pruning and sparsification alone and together; server optimizers, codecs, partitions, and what --dp costs: a quarter of an
# hour each, or less.
ablation: FILES := mnist_ablation mnist_ablation_fresh
server-optimizers: FILES := server_optimizers
codecs: FILES := codecs codecs_more
partitions: FILES := partitions
privacy: FILES := mnist_privacy femnist_privacy
ablation server-optimizers codecs partitions privacy: $(STAMP)
	for each in $(FILES); do \
		$(BIN)/python -m fl.experiment experiments/$$each.yaml --data-dir $(or $(DATA),data) \
			--results "Bandwidth Analysis/$$each" || exit 1; \
	done

# Dense, compressed, fp16 and ours, with computing and communicating apart: one local step a round.
compression: $(STAMP)
	$(BIN)/torchrun --nproc_per_node 2 -m fl.experiment experiments/cifar10_compression.yaml --data-dir $(or $(DATA),data) \
		--results "Bandwidth Analysis/cifar10_compression"
	$(BIN)/python "Bandwidth Analysis/cifar10_compression/step_times.py"

# ResNet-18 as far as an hour carries it: two arms at the same time, a core each; the last command makes the tables.
hour: HOUR = $(BIN)/python -m fl.experiment experiments/cifar10_hour.yaml --data-dir $(or $(DATA),data) \
		--results "Bandwidth Analysis/cifar10_hour"
hour: $(STAMP)
	$(HOUR) --only dense >/dev/null 2>&1 & dense=$$!; trap "kill $$dense" INT TERM; \
		$(HOUR) --only "top 10 %" || { kill $$dense; exit 1; }; wait $$dense
	$(HOUR)

# The README's pictures and numbers, and those of Bandwidth Analysis, from the committed tables.
figures: $(STAMP)
	$(BIN)/python benchmarks/figures.py $(if $(DATA),--data-dir $(DATA))

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
