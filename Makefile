PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet --constraint constraints.txt
STAMP := $(VENV)/.installed
RIVALS := $(VENV)/.rivals-installed
ZIPNN := $(VENV)/.zipnn-installed
S3FS := $(VENV)/s3fs/.installed
SERVERS := tests/npm/node_modules/.package-lock.json
EXTRAS := torch,paddle,objects,seal,safetensors,demo,bench,dev
WORKERS ?= 4
SOAK_SECONDS ?= 1800
FUZZ_SECONDS ?= 600
TORTURE_SECONDS ?= 600
STORM_SECONDS ?= 3600
STORM := kill,stop,hang,segfault,memory,full-disk,slow-disk,bit-rot,torn-pack,agent,supervisor,machine,nan
export OMP_NUM_THREADS ?= 1
SUDO := $(shell test "$$(id -u)" = 0 || echo sudo)

.PHONY: help setup system demo test test-all lint types imports check bench bench-size bench-stores bench-scale soak clean

help:  ## Show what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 13

setup: $(STAMP)  ## Make .venv with the project, its extras and the development tools

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Holdfast needs Python 3.11 or newer; set PYTHON=")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (about a minute) ..."
	@$(PIP) --editable '.[$(EXTRAS)]'
	@touch $@

# $(call debian,FILE,WHO): the packages that a file lists, one a line
define debian
	@missing=$$(sed 's/#.*//' $(1) | xargs -r -n1 | while read -r p; do \
		dpkg -s "$$p" >/dev/null 2>&1 || echo "$$p"; done); \
	test -z "$$missing" || { echo "Installing $$missing ..."; \
		$(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -qq --no-install-recommends $$missing >/dev/null; } || \
		{ echo "$(2) these packages: $$missing. Install them and try again."; exit 1; }
endef

system: tests/apt-packages.txt $(SERVERS)  ## Install the Debian packages, and the servers from npm, that the tests need
	$(call debian,$<,The tests need)

$(SERVERS): tests/npm/package-lock.json
	@command -v npm >/dev/null || { echo "Installing nodejs npm ..."; \
		$(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq --no-install-recommends nodejs npm >/dev/null; }
	@echo "Installing servers from npm for the tests (half a minute) ..."
	@npm ci --prefix tests/npm --ignore-scripts --no-audit --no-fund --silent && touch $@ || \
		{ echo "The tests need node, npm and the packages of tests/npm/package.json."; exit 1; }

demo: setup  ## Kill real training runs at random moments and compare them, bit for bit
	@$(BIN)/python examples/demo.py

test: setup system check  ## Everything that CI runs
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -q tests

test-all: setup system check  ## The same, in every way of saving and on every kind of file system (an hour)
	@HOLDFAST_ALL_TESTS=1 HOLDFAST_KILLS_PER_LOOP=30 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -q tests

check: lint types imports

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup
	@$(BIN)/mypy

imports: setup
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

bench: setup $(RIVALS)  ## Side-by-side benchmarks with the rivals; writes JSON and charts to benchmarks/out
	@$(BIN)/python benchmarks/run.py

bench-size: setup $(RIVALS) $(ZIPNN)  ## What checkpoints of real trainings take up, beside the rivals (hours; QUICK=1: a minute)
	$(if $(QUICK),,-$(call debian,benchmarks/apt-packages.txt,Two of the rivals are))
	@$(BIN)/python benchmarks/storing.py $(if $(QUICK),--quick)

bench-stores: setup $(S3FS)  ## To an object store on loopback and back, beside obstore, boto3 and s3fs
	@$(BIN)/python benchmarks/stores.py

bench-scale: setup  ## Listing, opening and pruning with 10,000 checkpoints of 1,000 tensors
	@$(BIN)/python benchmarks/scale.py

$(RIVALS): $(STAMP)
	@echo "Installing the rivals into $(VENV) (some minutes) ..."
	@$(PIP) --editable '.[bench-rivals]' && touch $@ || \
		echo "Not all rivals could be installed: the results name those that are missing."

$(S3FS): $(STAMP)
	@$(PYTHON) -m venv $(VENV)/s3fs && $(VENV)/s3fs/bin/pip --disable-pip-version-check install -q s3fs numpy && touch $@ || \
		echo "s3fs could not be installed: the results leave it out."

$(ZIPNN): $(STAMP)
	@$(PIP) --editable '.[bench-size]' && touch $@ || echo "zipnn could not be built: the results say so."

soak: setup system  ## Thousands of random kills, of forged bytes, and a storm of faults, for as long as you like
	@PYTHONPATH=tests $(BIN)/python -m crash.fuzz $(FUZZ_SECONDS)
	@PYTHONPATH=tests $(BIN)/python -m crash.soak $(SOAK_SECONDS)
	@$(BIN)/holdfast drill --storm $(STORM_SECONDS) --faults $(STORM) -- $(BIN)/python \
		tests/integration/drill/drillable.py torch --seconds 0.1 --steps $$((4 * $(STORM_SECONDS)))

torture: setup  ## Processes of all kinds killed at random in one repository, compared with a model
	@$(BIN)/python tests/crash/torture.py --seconds $(TORTURE_SECONDS)

clean:
	@rm -rf $(VENV) tests/npm/node_modules build dist demo-out .mypy_cache .ruff_cache .pytest_cache .hypothesis benchmarks/out
