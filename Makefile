# `make help` lists what there is. Everything lives in .venv and build/; nothing needs root.
# Stamps in .venv make a second call instant; `make clean` starts over.

VENV   := .venv
BIN    := $(VENV)/bin
# The first Python >= 3.11 found; `make PYTHON=/path/to/python` chooses another.
PYTHON ?= $(shell hack/find-python)

.DEFAULT_GOAL := help
.PHONY: help setup run test check generate bench study peers chaos lab soak lab-shell scan audit sbom fuzz lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.stamp-package $(VENV)/.stamp-torch $(VENV)/.stamp-helm $(VENV)/.stamp-promtool  ## make .venv with everything, PyTorch included (also: TORCH_INDEX_URL)

run: setup  ## show what it does: the policies compared, then a real MoE model served on this machine
	@$(BIN)/hortator demo

test: setup  ## run the test suite, tier by tier (tests/tiers.toml)
	@$(BIN)/python hack/run-tiers

check: setup  ## format, lint, types, import contracts, protos, generated files
	@$(BIN)/python hack/check

generate: setup  ## write the generated files again: proto/gen, docs/reference, charts, manifests
	@hack/generate-proto
	@$(BIN)/python hack/generate-docs
	@$(BIN)/python hack/generate-crds
	@$(BIN)/python hack/generate-charts
	@$(BIN)/python hack/render-manifests

bench: setup  ## measure this machine; writes benchmarks/results/*.json
	@for name in core service stream failover simulator; do \
	  $(BIN)/hortator bench $$name --json benchmarks/results/$$name.json || exit 1; done
	@$(BIN)/python benchmarks/micro/trtllm_adapter.py --json benchmarks/results/trtllm-adapter.json

study: setup  ## the studies in virtual time (TRACES=DIR adds the public traces); writes benchmarks/sim/{study,paper,sensitivity,ablation}.*
	@$(BIN)/hortator study $(if $(TRACES),--traces $(TRACES))
	@$(BIN)/hortator study paper $(if $(TRACES),--traces $(TRACES))
	@$(BIN)/hortator study sensitivity
	@$(BIN)/hortator study ablation

peers: setup  ## other routers on the same engines, half an hour; writes benchmarks/peers/results.* (ARGS="--quick", "--help")
	@PYTHONPATH=benchmarks $(BIN)/python -m peers $(ARGS)

chaos: setup  ## kill, stop and cut everything under load, from a clean checkout; writes benchmarks/reliability/chaos.* (ARGS="--seed 7")
	@PYTHONPATH=e2e:tests $(BIN)/python -m chaos --json benchmarks/reliability/chaos.json $(ARGS)

lab: setup  ## install the Kubernetes lab for the cluster tests (Debian 12, root; asks first; about 10 min once)
	@PYTHONPATH=e2e $(BIN)/python -m cluster install

soak: setup  ## what takes too long for `make test`, on the lab: about an hour; writes benchmarks/results/cluster/*.json
	@$(BIN)/python hack/soak

lab-shell: setup  ## a shell in a Kubernetes cluster of its own (ARGS="--nodes 8 --true-node --crd FILE")
	@PYTHONPATH=e2e $(BIN)/python -m cluster shell $(ARGS)

scan: setup build/checkov-env/.stamp  ## scan the chart and what the operator makes with checkov (docs/how-to/secure.md)
	@$(BIN)/python hack/scan

audit: setup build/audit-env/.stamp  ## look for known vulnerabilities in everything that is locked (HORTATOR_AUDIT=require: not to know is a failure)
	@$(BIN)/python hack/audit

sbom: build/audit-env/.stamp  ## list what a release is made of: build/hortator.cdx.json (docs/how-to/release.md)
	@build/audit-env/bin/python hack/sbom

fuzz: setup build/fuzz-env/.stamp  ## fuzz every boundary, a minute each, guided by coverage (ARGS="TARGET --seconds 600", ARGS=--help)
	@$(BIN)/python hack/fuzz $(ARGS)

lock: build/lock-env/.stamp  ## write requirements/*.lock again (UPGRADE=1 moves every pin)
	@build/lock-env/bin/python hack/lock $(if $(UPGRADE),--upgrade)

clean:  ## remove .venv, build/ and the caches
	rm -rf $(VENV) build dist .hortator .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "needs Python >= 3.11: install one, or make PYTHON=/path/to/python" >&2; exit 2; }
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.stamp-lock: requirements/dev.lock | $(BIN)/python
	@echo "installing the locked dependencies"
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	@touch $@

$(VENV)/.stamp-package: pyproject.toml $(VENV)/.stamp-lock
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.stamp-torch: pyproject.toml hack/install-torch $(VENV)/.stamp-lock
	@$(BIN)/python hack/install-torch
	@touch $@

$(VENV)/.stamp-helm: requirements/helm.lock hack/install-helm | $(BIN)/python
	@$(BIN)/python hack/install-helm
	@touch $@

$(VENV)/.stamp-promtool: hack/install-promtool | $(BIN)/python
	@$(BIN)/python hack/install-promtool
	@touch $@

build/%-env/.stamp: requirements/%.lock
	@$(PYTHON) -m venv build/$*-env
	@build/$*-env/bin/python -m pip install --quiet --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

build/lock-env/.stamp:
	@$(PYTHON) -m venv build/lock-env
	@build/lock-env/bin/python -m pip install --quiet --quiet --disable-pip-version-check "pip-tools>=7.5,<8"
	@touch $@
