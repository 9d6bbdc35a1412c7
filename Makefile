# `make repro` runs the pipeline, `make test` its tests. Each sets up what it needs in .venv.

SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
# DVC starts `python` and, for queued experiments, `dvc` by name.
IN_VENV := export PATH="$(CURDIR)/$(VENV)/bin:$$PATH";

.PHONY: help install check repro test test-record lint profile lock

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/'

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --requirement requirements.txt
	@touch $@

$(VENV)/installed-test: requirements-test.txt $(VENV)/installed
	$(VENV)/bin/pip install --quiet --requirement requirements-test.txt
	@touch $@

install: $(VENV)/installed  ## the environment of the pipeline

check: $(VENV)/installed  ## read all of params.yaml as the stages will: what is wrong is told now, not after hours
	$(IN_VENV) python -m profiles.check_params

repro: $(VENV)/installed  ## run every stage that is out of date
	$(IN_VENV) python -m profiles.check_params --without-models && dvc repro

test: $(VENV)/installed-test lint  ## the tests of the code
	$(IN_VENV) OMP_NUM_THREADS=1 python -m pytest -m "not record" --numprocesses auto --dist loadfile --no-loadscope-reorder

test-record: $(VENV)/installed-test  ## whether the run that is committed is the one that README.md tells of
	$(IN_VENV) python -m pytest -m record

lint: $(VENV)/installed-test  ## style and types
	$(IN_VENV) ruff check . && ruff format --check . && mypy

PROFILE ?= default

profile:  ## PROFILE=name takes that profile's parameters; PROFILE=default goes back
ifeq ($(PROFILE),default)
	git restore --source=HEAD params.yaml
	@echo "params.yaml is now as last committed"
else
	cp profiles/$(PROFILE)/params.yaml params.yaml
	@echo "params.yaml is now that of: $(PROFILE)"
endif

COMPILE := $(VENV)/bin/pip-compile --quiet --no-header --strip-extras --no-emit-find-links --no-emit-index-url --annotation-style=line
COMPILED := Compiled from pyproject.toml by `make lock`; do not edit.

# A CPU build of torch calls itself 2.13.0+cpu; the pin must fit every build.
lock: $(VENV)/installed-test  ## pin all dependencies anew, from pyproject.toml
	$(VENV)/bin/pip install --quiet pip-tools
	$(COMPILE) --output-file requirements.txt pyproject.toml
	$(COMPILE) --extra test --constraint requirements.txt --output-file requirements-test.txt pyproject.toml
	sed -i 's/+cpu//' requirements.txt requirements-test.txt
	sed -i '1i # Every package of the pipeline, pinned. $(COMPILED)' requirements.txt
	sed -i '1i # Every package of the pipeline and its tests, pinned. $(COMPILED)' requirements-test.txt
