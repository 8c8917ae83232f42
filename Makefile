# `make demo` and `make test` set everything up by themselves; see README.md.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PY := .venv/bin/python
RUN := .venv/bin
ARGS ?=
NAME ?=
# Tests wait for processes and clocks as much as they compute: three at a time keep two cores busy.
WORKERS ?= 3
PYTEST_ARGS ?=

.PHONY: help demo up test test-sso test-pages lint format bench attacks fuzz simulator test-clients lock embedded dev

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 20

embedded:
	@deploy/setup.sh venv embedded
	@deploy/setup.sh packages demo

dev:
	@deploy/setup.sh venv dev
	@deploy/setup.sh packages test

demo: embedded ## play one governed agent session and leave the UI up (ARGS=--once ends after it)
	@LENS_DATA_DIR="$${LENS_DATA_DIR:-$(CURDIR)/data/demo}" $(PY) manage.py demo $(ARGS)

up: embedded ## start the platform, empty, on this machine
	@$(PY) manage.py up $(ARGS)

test: dev ## run all tests: on SQLite, and what touches the database on PostgreSQL and Redis
	@$(PY) -m tests.run --workers $(WORKERS) -- $(PYTEST_ARGS)

lint: dev ## every static check
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports --no-logo
	$(RUN)/djlint --check --lint --quiet templates
	$(RUN)/codespell apps lensagents tests docs templates benchmarks *.md
	DJANGO_SETTINGS_MODULE=lensagents.settings.test $(PY) manage.py makemigrations --check --dry-run
	$(PY) -m tests.docs_check

format: dev ## let the formatters write
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .
	$(RUN)/djlint --reformat --quiet templates

bench: dev ## run one benchmark: make bench NAME=chain
	@test -n "$(NAME)" || { echo "usage: make bench NAME=<name>; there are: $$(cd benchmarks && ls [a-z]*.py | sed 's/\.py//' | xargs)"; exit 2; }
	@$(PY) -m benchmarks.$(NAME) $(ARGS)

attacks: dev ## attack a real sandbox and its proxy, and stock proxy.py (ARGS=--smoke, ARGS=--mutants)
	@$(PY) -m tests.attacks $(ARGS)

fuzz: dev ## fuzz the REST API on a live server as three callers (ARGS=--smoke)
	@$(PY) -m tests.fuzz $(ARGS)

simulator: dev ## compare the policy simulator with a running egress proxy and MCP endpoint (ARGS=--smoke)
	@$(PY) -m tests.simulator $(ARGS)

test-clients: dev ## run real HTTP clients inside a sandbox
	@$(PY) -m tests.clients

lock: dev ## lock every requirements file again, with hashes
	@for f in bootstrap sandbox base embedded server dev; do \
	  $(RUN)/uv pip compile -q --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --custom-compile-command "make lock" requirements/$$f.in -o requirements/$$f.txt || exit 1; \
	done

test-sso: dev ## sign in through two real OpenID providers (npm oidc-provider) in headless Chromium
	@command -v node >/dev/null && command -v npm >/dev/null && command -v chromium >/dev/null || \
	  { echo "test-sso is skipped: it needs node, npm and chromium"; exit 0; }; \
	mkdir -p build/sso && cp tests/journeys/sso/package.json tests/journeys/sso/package-lock.json build/sso/ && \
	npm ci --prefix build/sso --ignore-scripts --no-audit --no-fund --silent && \
	$(RUN)/pytest tests/journeys/sso -q $(PYTEST_ARGS)

test-pages: dev ## open every page full of hostile text in headless Chromium, and let axe judge it
	@command -v npm >/dev/null && command -v chromium >/dev/null || \
	  { echo "test-pages is skipped: it needs npm and chromium"; exit 0; }; \
	mkdir -p build/pages && cp tests/journeys/pages/package.json tests/journeys/pages/package-lock.json build/pages/ && \
	npm ci --prefix build/pages --ignore-scripts --no-audit --no-fund --silent && \
	$(RUN)/pytest tests/journeys/pages -q $(PYTEST_ARGS)
