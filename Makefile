# make help lists what there is.

BIN := .venv/bin
# The newest Python that is new enough and can make virtual environments; or say make PYTHON=/path/to/python.
PYTHON ?= $(firstword $(foreach name,python3.14 python3.13 python3.12 python3.11 python3,$(shell \
	$(name) -c 'import ensurepip, sys, venv; sys.version_info >= (3, 11) and print("$(name)")' 2>/dev/null)))
LOCKS := requirements.lock requirements-dev.lock requirements-build.lock
GENERATED := config.example.yaml config.schema.json docs/settings.md docs/errors.md
LOCK := CUSTOM_COMPILE_COMMAND="make lock" pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --upgrade
DEVELOPMENT := import tomllib; groups = tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]; \
	print(*groups["test"], *groups["check"], sep="\n")
EXTRA := import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["grpc"], sep="\n")
APPLICATIONS := import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["applications"], sep="\n")
PURE := values errors messages caching rewriting tokens oidc identity sessions handover websocket policy pages forward_auth
INTO := .
# The tests wait more than they compute.
JOBS := 3

.PHONY: help install demo test bench bench-all coverage check docs lock

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

install: .venv/installed ## make .venv with everything that the program and its tests need

# The locks are complete. Without --no-deps, pip would look for newer ones of what is asked for with extras, and refuse them.
.venv/program: requirements.lock requirements-build.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer, with venv, is needed (Debian: apt install python3-venv)." >&2; exit 1; }
	@echo "Installing into .venv. The first time, this takes half a minute."
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements.lock -r requirements-build.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.venv/installed: .venv/program requirements-dev.lock
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes $(addprefix -r ,$(LOCKS))
	@touch $@

demo: .venv/program ## a provider, an application and the gateway in front of it, in one process
	$(BIN)/oidc-proxy demo $(ARGS)

test: install ## tests; those with real servers, browsers and applications where they can be had. ARGS=--slow for all
	$(BIN)/pytest --numprocesses $(JOBS) $(ARGS)

bench: install ## CPU per request beside nginx, mod_auth_openidc and oauth2-proxy. ARGS=--quick for a first look
	$(BIN)/python -m bench $(ARGS)

bench-all: install ## that, and checks over gRPC, large bodies, workers, thousands of connections, the drain. ARGS=--quick as above
	@for part in "" .checks .transfers .workers .crowds .drain; do \
		echo "## bench$$part"; echo; $(BIN)/python -m bench$$part $(ARGS) || exit 1; echo; done

coverage: install ## every branch of each pure module, by that module's own tests
	@for module in $(PURE); do \
		$(BIN)/pytest --quiet --no-summary --no-header --real=off $$(ls -d tests/$$module tests/test_$$module*.py 2>/dev/null) \
			--cov=oidc_proxy.$$module --cov-branch --cov-fail-under=100 --cov-report=term-missing:skip-covered || exit 1; done

check: install ## format, lint, types, Dockerfile, and whether generated files are up to date
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile
	@$(MAKE) --no-print-directory --silent docs INTO=.cache/generated
	@for file in $(GENERATED); do diff -u $$file .cache/generated/$$file || { echo "$$file is out of date: make docs"; exit 1; }; done

docs: .venv/program ## make the example, the schema and the pages anew that come from the program
	mkdir -p $(INTO)/docs
	$(BIN)/oidc-proxy config example > $(INTO)/config.example.yaml
	$(BIN)/oidc-proxy config schema > $(INTO)/config.schema.json
	$(BIN)/oidc-proxy config docs > $(INTO)/docs/settings.md
	$(BIN)/oidc-proxy config errors > $(INTO)/docs/errors.md

# redis-py needs async-timeout below Python 3.11.3, Debian 12's 3.11.2 among them; a newer pip-compile does not see it.
lock: ## choose the newest versions that pyproject.toml allows (needs pip-tools and Python 3.11)
	echo 'async-timeout; python_version < "3.12"' | $(LOCK) --output-file requirements.lock pyproject.toml -
	python3 -c '$(DEVELOPMENT)' | $(LOCK) --constraint requirements.lock --output-file requirements-dev.lock -
	echo hatchling | $(LOCK) --constraint requirements-dev.lock --output-file requirements-build.lock -
	python3 -c '$(EXTRA)' | $(LOCK) --constraint requirements.lock --constraint requirements-dev.lock --output-file requirements-grpc.lock -
	python3 -c '$(APPLICATIONS)' | $(LOCK) --output-file requirements-apps.lock -
