# One virtual environment in .venv, made once; everything here runs in it.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test lint bench connectors spark kubernetes audit clean

## demo: simulated detector -> adapter -> Kafka + S3 -> two workers -> HDF5, with a summary
demo: $(STAMP)
	$(BIN)/lichtstrom demo $(ARGS)

## test: every adapter through the fault script, the services and the documents, which mostly wait,
## side by side; then all other tests; on a real broker and a real S3 server, with branch coverage
BY_THEMSELVES := $(addprefix tests/services/test_,attack_publishing.py backpressure.py bench_rows.py \
	local_runtime.py outages.py)
SIDE_BY_SIDE := tests/conformance tests/docs \
	$(filter-out $(BY_THEMSELVES),$(wildcard tests/services/test_*.py))
test: $(STAMP)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -n 3 --cov --cov-report= $(ARGS)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE:%=--ignore %) --cov --cov-append --cov-report=term $(ARGS)

## lint: format, lint, types, and the direction of imports
lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

## bench: the measurements of the README, in a few minutes
bench: $(STAMP)
	$(BIN)/lichtstrom bench --quick $(ARGS)

## connectors: the plugins for Kafka Connect, into connectors/*/target (needs a JDK 17 and Maven)
connectors:
	@command -v mvn >/dev/null || { echo "no Maven here (Debian: apt install maven)"; exit 1; }
	@set -e; for pom in connectors/*/pom.xml; do \
		test -f "$$pom" || { echo "no connector here: connectors/*/pom.xml"; exit 1; }; \
		echo "building $$pom"; mvn -q -B -f "$$pom" package $(ARGS); done

## spark: Spark Structured Streaming over the topics, tested (needs a Java 17; installs pyspark, 450 MB)
spark: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[spark]'
	LICHTSTROM_NEED_SPARK=1 $(BIN)/python -m pytest tests/services/test_spark.py $(ARGS)

## kubernetes: build compose/kubernetes and hold it to the schemas of Kubernetes, Strimzi and KEDA
kubernetes: $(STAMP)
	$(BIN)/python tests/kubernetes/kube_check.py

$(STAMP): setup.cfg pyproject.toml
	@test -n "$(PYTHON)" || { echo "lichtstrom needs Python 3.11 or newer and found none:" \
		"install one (Debian: apt install python3 python3-venv), or name it: make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is older than Python 3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv module" \
		"(Debian: apt install python3-venv)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[array,test,dev]'
	@touch $@

clean:
	rm -rf .venv .demo build dist *.egg-info .coverage .coverage.* connectors/*/target \
		.pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find pipeline schemas tests -name __pycache__ -type d -prune -exec rm -rf {} +

## audit: known holes in what we depend on (needs the advisory databases on the network)
audit: $(STAMP)
	$(BIN)/python -m venv .venv/audit && .venv/audit/bin/pip install -q pip-audit
	.venv/audit/bin/pip-audit --strict --path $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
	go run golang.org/x/vuln/cmd/govulncheck@v1.1.4 -mode=binary $$($(BIN)/python -c 'from pipeline.local.s3 import find_versitygw; print(find_versitygw())')
	@echo "jars, for an audit by OSV or OWASP dependency-check:"; grep -hv '^#' pipeline/local/*.lock | cut -d' ' -f1
