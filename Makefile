# What a person types; the work is in .ci/. Everything runs from a clean clone with git, make and python3 only.

PYTEST := .venv/bin/python -m pytest
# Branches and lines that the fast tests must reach, in percent. Only ever raise it.
COVERAGE_FLOOR := 82

.PHONY: help demo test e2e soak bench lint schema clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo:  ## install what is missing and run workflows/pod.yaml on your cluster, or on podman without one
	@.ci/demo

test: lint  ## install what the tests need; check the code and run the fast tests (no cluster)
	@$(PYTEST) -m "not e2e and not podman and not soak" --numprocesses=2 --cov --cov-report= --cov-fail-under=$(COVERAGE_FLOOR) $(ARGS)

e2e:  ## run the tests that need a cluster: on KUBECONFIG=..., or on a Kubernetes that is built and started here
	@.ci/with-cluster $(PYTEST) -m "e2e or podman" --numprocesses=3 $(ARGS)

soak:  ## end runs in every way at 233 moments, 20,000 requests through forwards, no API server for 30 s (20 minutes, needs a cluster)
	@AWAY_SECONDS=30 .ci/with-cluster $(PYTEST) -m "soak or e2e" -k "soak or away" --numprocesses=4 \
		tests/e2e/test_soak.py tests/e2e/test_soak_forward.py tests/e2e/test_cleanup.py $(ARGS)

bench:  ## measure runner against a bash script of kubectl commands, and its start-up
	@.ci/with-cluster .venv/bin/python -m tests.bench $(ARGS)

lint:  ## ruff, mypy --strict, and shellcheck for the scripts
	@.ci/setup dev
	@.venv/bin/ruff check --quiet .
	@.venv/bin/ruff format --quiet --check . || { echo "Not formatted: .venv/bin/ruff format ."; exit 1; }
	@.venv/bin/mypy --no-error-summary
	@.venv/bin/shellcheck --external-sources .ci/*

schema:  ## write schemas/ anew, after a change of the workflow language
	@.ci/setup dev
	@.venv/bin/runner schema >.venv/new && cat .venv/new >schemas/workflow.schema.json
	@.venv/bin/runner schema --reference >.venv/new && cat .venv/new >schemas/reference.md

clean:  ## remove what these commands leave in this folder
	rm -rf .venv .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
