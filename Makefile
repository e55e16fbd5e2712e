# Everything a newcomer types. Needs Python 3.11+, git and make; the rest is installed below .venv.
PYTHON ?= python3
VENV := .venv
EDGE_VENV := .venv-edge
BIN := $(VENV)/bin
export DVC_NO_ANALYTICS := true
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast lint seasons study bench clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

setup: $(VENV)/.installed $(EDGE_VENV)/.installed  ## create .venv and the device's own .venv-edge with pinned versions

$(VENV)/.installed: pyproject.toml edge/pyproject.toml constraints.txt
	@echo "installing the pinned environment into $(VENV) (about two minutes) ..."
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Headland needs Python 3.11 or later; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile -c constraints.txt -e ./edge -e '.[dev]'
	touch $@

$(EDGE_VENV)/.dependencies: edge/pyproject.toml constraints.txt
	$(PYTHON) -m venv $(EDGE_VENV)
	$(EDGE_VENV)/bin/pip install --quiet --no-compile -c constraints.txt numpy onnxruntime zstandard tuf 'securesystemslib[crypto]' paho-mqtt
	touch $@

# The device's own environment gets the wheel, as a device would; rebuilding it needs no network.
$(EDGE_VENV)/.installed: $(VENV)/.installed $(EDGE_VENV)/.dependencies $(wildcard edge/headland_edge/*.py)
	@echo "installing the device package alone into $(EDGE_VENV) ..."
	cd edge && ../$(BIN)/python -m hatchling build -t wheel -d ../dist >/dev/null
	$(EDGE_VENV)/bin/pip install --quiet --no-compile --no-deps --force-reinstall dist/headland_edge-*.whl
	touch $@

demo: setup  ## retrain the season, make the report, give advice on a device
	$(BIN)/headland retrain
	@echo; echo 'A device with this bundle and nothing else, in an environment of its own:'
	$(EDGE_VENV)/bin/headland-edge advise --text --bundle data/bundle/headland-*.tar --records data/evaluation/records_maize.csv
	$(EDGE_VENV)/bin/headland-edge advise --text --bundle data/bundle/headland-*.tar --records data/evaluation/records_wheat.csv

test: setup  ## every test, the quick ones first
	$(BIN)/python -m pytest -m 'not slow' -n 2 --dist loadfile
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile --no-loadscope-reorder

test-fast: setup  ## tests that take a moment
	$(BIN)/python -m pytest -m 'not slow' -n 2 --dist loadfile

lint: setup  ## ruff, mypy, import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

seasons: setup  ## ten seasons in a row: retrain, roll out to real device processes, farm offline, sync
	$(BIN)/python -m flows.play $(SEASONS)

study: setup  ## every season left out in turn: what the bundle earns over rules tuned as hard (an hour or more)
	$(BIN)/python -m tasks.study.run

bench: setup  ## measurements, each with the machine beside it, into metrics/bench
	$(BIN)/python -m benchmarks.device
	$(BIN)/python -m benchmarks.pipeline

clean:  ## remove environments and everything the pipeline made
	rm -rf $(VENV) $(EDGE_VENV) dist .headland registry reports metrics plots .dvc/cache .dvc/tmp
	git clean -fdXq data
