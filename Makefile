# Every target sets up first whatever is missing; with an apt ROS 2 sourced, that one is used instead of the wheels.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo lint test test-lowest clean

# Demo and tests speak to this machine only, in a ROS domain of their own (0 to 101 is safe on every system).
export ROS_AUTOMATIC_DISCOVERY_RANGE := LOCALHOST
export ROS_DOMAIN_ID := $(shell echo $$((1 + $$$$ % 100)))

# Threads that wait must not spin: on two cores they would take them from the threads that work.
export OMP_WAIT_POLICY := PASSIVE

WITH_ROS := . scripts/env.sh &&

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

setup: ## Make .venv, install the libraries and ROS 2, build the messages
	@scripts/setup

demo: setup ## Run the node on a rendered clip; prints one line of JSON, leaves pictures in demo_out/
	@$(WITH_ROS) easi3r-lab demo --out demo_out

lint: setup ## Check style and the direction of imports
	@$(WITH_ROS) ruff check . && ruff format --check . && lint-imports

test: lint ## Run all checks and tests, those over real DDS included
	@$(WITH_ROS) python -m pytest

test-lowest: setup ## Run the tests that need no ROS with the oldest libraries that the requirements files admit
	@.venv/bin/python scripts/test_lowest

clean: ## Remove what was built; .venv stays
	rm -rf build install log demo_out .lowest *.egg-info lab/*.egg-info lab/build .pytest_cache .ruff_cache .import_linter_cache .hypothesis
