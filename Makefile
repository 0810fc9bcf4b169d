# All paths are relative: make cannot hold a space in a target's name, and the checkout's path may have one.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# The first that works, is new enough and can make a venv; python3 to be told what is wrong with it.
PYTHON ?= $(shell for python in python3.11 python3.12 python3; do $$python -c \
	'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && exit; done; echo python3)
# Spark's line: each has an environment and a lock file of its own.
STACK ?= spark-3.5
ifeq ($(STACK),spark-3.5)
VENV := .venv
else
VENV := .venv-$(STACK)
endif
RUN := $(VENV)/bin/python

.PHONY: help venv demo test test-all beyond-test nightly pytest wheel-matrix dist publish image image-login test-image validate check format docs bench bench-quick scale scale-quick simulate chaos chaos-quick fuzz lock lock-stacks outdated audit deploy-venv bench-venv docs-venv reader-venv orchestrators-venv checkov-venv clean

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' Makefile
	@echo "  Another Python: make PYTHON=python3.12 …; pytest's arguments: make test ARGS='-k planner'"
	@echo "  make demo POISON=1: with faults; ONE_FILE=1: one large CSV, cut; INPUT=inventory: through an S3 Inventory;"
	@echo "  EACH=1: one day file a shard, not 46 or five; DAYS=90: about 90 days of the year instead of all;"
	@echo "  DISPATCH_MODE=loop|map|inline: driven by a state machine, manifests compared; TABLE=iceberg|delta|hudi: one table;"
	@echo "  ROUTE=standalone: large files go to a Spark cluster, whose first driver is killed"

venv: ## Build or update .venv from the lock files (with a Java 21, for machines that have neither 17 nor 21); STACK=spark-4.1: .venv-spark-4.1
	@command -v "$(PYTHON)" >/dev/null || { echo "no $(PYTHON) here: Sparklet needs Python 3.11 or newer"; exit 1; }
	@"$(PYTHON)" requirements/install.py $(VENV)

demo: venv ## The real NYC flights of 2013 through the whole path, checked independently; further demos: below
	@$(RUN) spark_scripts/demo/run_demo.py $(if $(POISON),--poison) $(if $(ONE_FILE),--one-file) $(if $(INPUT),--input $(INPUT)) \
		$(if $(DAYS),--days $(DAYS)) $(if $(EACH),--each $(EACH)) $(if $(DISPATCH_MODE),--dispatch-mode $(DISPATCH_MODE)) \
		$(if $(TABLE),--table $(TABLE)) $(if $(ROUTE),--route $(ROUTE))

test: check pytest ## check, and each promise once, at the cheapest level; minutes (ARGS goes to pytest)

test-all: test beyond-test ## test, then what needs more: stacks, databases, a browser, several JVMs

beyond-test: venv ## What test-all has beyond test
	@$(MAKE) --no-print-directory pytest ARGS='-m "(slow or spark or stack) and not smoke and not nightly and not campaign and not container and not validate" $(ARGS)'

# Each of them whatever became of the others; hours.
NIGHTLY := simulate scale chaos
nightly: venv reader-venv orchestrators-venv ## Campaigns at full size, the tests of their tools, and those that are marked nightly; hours
	@failed=; \
	$(MAKE) --no-print-directory pytest ARGS='-m "(nightly or campaign) and not container and not validate" --timeout 7200' || failed+=" pytest"; \
	for each in $(NIGHTLY); do $(MAKE) --no-print-directory $$each || failed+=" $$each"; done; \
	$(RUN) -m tests.mutate record tests/unit && $(RUN) -m tests.mutate run $(MUTATED) && $(RUN) -m tests.mutate report || failed+=" mutate"; \
	[ -z "$$failed" ] && echo "nightly ok" || { echo "nightly failed:$$failed"; exit 1; }
MUTATED := sparklet.ledger sparklet.worker sparklet.planning sparklet.runs

# Three at a time: half of the time tests wait for processes and deadlines. A file's tests stay together, they share a
# stand-in. In the order of their names: the long ones of contract and functional come first, the short ones of unit last.
pytest: venv ## The tests alone, ARGS as above (ARGS='-n 0' one after the other)
	@$(RUN) -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

# From nothing each, so that nothing but the wheel and what it declares is there; Spark's wheel is built once, and kept.
wheel-matrix: venv ## The wheel with the lowest and the newest versions that pyproject declares, on each Python it declares
	@REQUIRE_PYTHONS=1 $(RUN) -m pytest -n 0 -m nightly -k each_declared_version tests/end_to_end/test_installed.py $(ARGS)

# The bill lists what the wheel brings with the extra `local`, in the versions of its lock file.
dist: venv ## What a release has, in dist/: wheel, sdist, SAM application, bill of materials (TAG=v0.2.0: only of that version)
	@version=$$($(RUN) -c 'import sparklet; print(sparklet.__version__)') && \
	if [ -n "$(TAG)" ] && [ "$(TAG)" != "v$$version" ]; then echo "the tag $(TAG) is not version $$version"; exit 1; fi && \
	rm -rf dist build/billed && $(RUN) -m uv build --quiet --no-build-isolation --out-dir dist . && \
	git archive --output "dist/sparklet-sam-$$version.zip" HEAD sam runtime LICENSE && \
	$(RUN) -m uv pip install --quiet --system-certs --target build/billed -c requirements/local.lock "$$(echo dist/*.whl)[local]" && \
	$(RUN) docker/sbom.py --python build/billed >"dist/sparklet-$$version.cdx.json" && rm -rf build/billed && ls -l dist

publish: ## Upload wheel and sdist of dist/ to PyPI, as GitHub's trusted publisher
	@"$(PYTHON)" -m venv .venv-publish
	@.venv-publish/bin/python -m pip install --quiet --require-hashes -r requirements/bootstrap.lock
	@.venv-publish/bin/python -m uv publish --trusted-publishing always $(ARGS) dist/*.whl dist/*.tar.gz

image: venv ## Build the container image, without a Docker daemon (ARGS=--help: what can be chosen; ARCH=arm64: by qemu)
	@$(RUN) docker/build.py --stack $(STACK) $(if $(ARCH),--arch $(ARCH)) $(ARGS)

image-login: ## Log in where `make image ARGS='--push NAME'` pushes: REGISTRY, REGISTRY_USER, REGISTRY_TOKEN
	@printenv REGISTRY_TOKEN | skopeo login --username "$(REGISTRY_USER)" --password-stdin "$(REGISTRY)"

# One container at a time: the image's functions have two cores each. ARGS='-m campaign' builds the image again, for its digest.
# ARCH=arm64: what qemu-user can do: what the image holds, its archive, spark-submit. It lacks what the worker's guards need.
test-image: deploy-venv ## The built image under Lambda's conditions (make image first; REQUIRE_IMAGE=1: skip nothing)
	@$(RUN) -m pytest -n 0 -m "container and not campaign" tests/container \
		$(if $(ARCH),--timeout 3600 -k test_image) $(ARGS)

# Two at a time, in the order of their names: one file builds with SAM, meanwhile the other leads every function through
# its calls.
validate: deploy-venv checkov-venv ## Templates and workflows: rules, sam validate, checkov, policies, sam build, cdk synth (REQUIRE_IMAGE=1: skip nothing)
	@$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m validate tests/deploy $(ARGS)

check: venv ## Format, lint, types, import rules, templates, what tests wait for: the same as CI
	@failed=; \
	$(RUN) -m mypy $(wildcard requirements runtime spark_scripts examples benchmarks tests) & types=$$!; \
	$(RUN) -m ruff format --check . || failed+=" format"; \
	$(RUN) -m ruff check . || failed+=" lint"; \
	$(RUN) -c 'from importlinter.cli import lint_imports_command as run; run()' --no-cache || failed+=" imports"; \
	$(RUN) -c 'from cfnlint.runner.cli import main; main()' $(wildcard sam/*.yaml) && echo "cfn-lint: ok" || failed+=" templates"; \
	$(RUN) -m tests.waiting || failed+=" waiting"; \
	wait $$types || failed+=" types"; \
	MYPYPATH=docker $(RUN) -m mypy docker/archive.py docker/build.py docker/compile_java.py docker/fetch.py docker/training_job.py || failed+=" docker"; \
	[ -z "$$failed" ] && echo "check ok" || { echo "check failed:$$failed"; exit 1; }

format: venv ## Format the code and repair what ruff can
	@$(RUN) -m ruff format .
	@$(RUN) -m ruff check --fix .

# From nothing each time: Sphinx warns of a page only when it reads it. Nothing in the site may come from another host.
# Where there is a network: .venv-docs/bin/python -m sphinx -b linkcheck -c docs . build/links
docs: docs-venv ## Write docs/reference/commands.md from the commands' help, and the request's JSON Schema; build the site, build/site/index.html
	@$(RUN) -m docs.cli_reference docs/reference/commands.md
	@$(RUN) -m docs.rights docs/guide/deploy.md
	@rm -rf build/site
	@.venv-docs/bin/python -m sphinx -q -E -W --keep-going -n -d build/doctrees -c docs . build/site
	@! grep -rnoE --include='*.html' --include='*.css' \
		"(<(script|link|img|iframe|source)[^>]* (src|href)=\"|url\([\"']?|@import [\"'])(https?:)?//[^\"')]*" build/site \
		|| { echo "a page of the site would fetch this from another host"; exit 1; }

# The image's part needs `make image` and root, as the tests of the image do.
bench: bench-venv deploy-venv ## Measure every published figure on a clean tree, write docs/benchmarks.md; 100 min on two idle cores (ARGS='--only restored')
	@$(RUN) -m benchmarks.run $(ARGS)

bench-quick: bench-venv deploy-venv ## Cold, warm and restored against spark-submit for a CSV job, in about a minute
	@$(RUN) -m benchmarks.quick $(ARGS)

scale: venv ## 100,000 shards through the real handler, clean and with faults, on the stand-in; nearly an hour
	@$(RUN) -m benchmarks.scale $(ARGS)

scale-quick: venv ## The same with 5,000 shards, in two minutes
	@$(RUN) -m benchmarks.scale.leases --workers 200 --hold-s 18
	@$(RUN) -m benchmarks.scale --shards 5000 --passes map:500 faults --out build/scale-quick.json $(ARGS)

simulate: venv ## What if: the published experiment simulated, in a minute; ARGS='--shards 100000 --seconds 3 …': a run of your own
	@$(RUN) -m benchmarks.simulate $(ARGS)

chaos: reader-venv ## Tables under kills, double deliveries, zombies and network faults; hours (ARGS='--seeds 0:200')
	@$(RUN) -m benchmarks.chaos $(ARGS)

chaos-quick: reader-venv ## The same with at least ten trials, in three minutes
	@$(RUN) -m benchmarks.chaos --quick $(ARGS)

fuzz: venv ## Try over 100,000 events and environments
	@$(RUN) -m pytest -q -m campaign tests/fuzz $(ARGS)

LOCK := $(RUN) -m uv pip compile --quiet --system-certs --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-annotate --custom-compile-command 'make lock'

lock: ## Resolve the lock files anew (LOCK_ARGS=--upgrade takes newer versions)
	@[ -x $(VENV)/bin/uv ] || { echo "make lock needs the environment: make venv first"; exit 1; }
	@$(LOCK) $(LOCK_ARGS) -o requirements/bootstrap.lock requirements/bootstrap.in
	@$(LOCK) $(LOCK_ARGS) --extra local --extra tables -c requirements/bootstrap.lock -o requirements/local.lock pyproject.toml
	@$(LOCK) $(LOCK_ARGS) --extra local --extra tables --extra dev -c requirements/bootstrap.lock \
		-c requirements/local.lock -o requirements/dev.lock pyproject.toml requirements/bootstrap.in
	@mkdir -p build && sed -nE 's/ *\\$$//; /^(pyspark|delta-spark|importlib-metadata|numpy|scipy|pyarrow)=/d; /^[a-z].*==/p' requirements/dev.lock >build/but-spark.txt
	@$(LOCK) $(LOCK_ARGS) --extra local-spark4 --extra tables -c build/but-spark.txt -o requirements/local-spark-4.1.lock pyproject.toml
	@$(LOCK) $(LOCK_ARGS) --extra local-spark4 --extra tables --extra dev -c build/but-spark.txt \
		-o requirements/dev-spark-4.1.lock pyproject.toml requirements/bootstrap.in
	@$(LOCK) $(LOCK_ARGS) --extra deploy -o requirements/deploy.lock pyproject.toml
	@$(LOCK) $(LOCK_ARGS) -o requirements/emulator.lock requirements/emulator.in
	@$(LOCK) $(LOCK_ARGS) -o requirements/sbom.lock requirements/sbom.in
	@$(LOCK) $(LOCK_ARGS) -c requirements/sbom.lock -o requirements/audit.lock requirements/audit.in
	@$(LOCK) $(LOCK_ARGS) -c requirements/dev.lock -o requirements/bench.lock requirements/bench.in
	@$(LOCK) $(LOCK_ARGS) -c requirements/dev.lock -o requirements/docs.lock requirements/docs.in pyproject.toml
	@$(LOCK) $(LOCK_ARGS) -o requirements/reader.lock requirements/reader.in
	@$(LOCK) $(LOCK_ARGS) -o requirements/orchestrators.lock requirements/orchestrators.in pyproject.toml
	@$(LOCK) $(LOCK_ARGS) -o requirements/checkov.lock requirements/checkov.in
	@! grep -nE '://|index' requirements/*.lock || { echo "a lock file names a registry"; exit 1; }

lock-stacks: venv ## Fetch what docker/stacks names and note its hashes there (ARGS=docker/stacks/x.toml: one of them)
	@$(RUN) -m docker.lock_stacks $(ARGS)

outdated: venv ## What of docker/stacks has a newer version, and until when its Spark is supported
	@$(RUN) -m docker.outdated $(ARGS)

audit: venv ## Known vulnerabilities of what image and local mode install; found is a failure; no database reached is one with REQUIRE_AUDIT=1
	@[ -x .venv-audit/bin/python ] || "$(PYTHON)" -m venv .venv-audit
	@$(RUN) -m uv pip sync --quiet --system-certs --only-binary :all: --python .venv-audit/bin/python --require-hashes requirements/audit.lock
	@$(RUN) -m docker.audit $(ARGS)

deploy-venv: venv ## Build .venv-deploy with aws-sam-cli, whose pins clash with others, and CDK's example
	@[ -x .venv-deploy/bin/python ] || "$(PYTHON)" -m venv .venv-deploy
	@$(RUN) -m uv pip sync --system-certs --only-binary :all: --python .venv-deploy/bin/python --require-hashes requirements/deploy.lock
	@if command -v npm >/dev/null; then for from in requirements/asl examples/cdk; do \
		to=.venv-deploy/$${from##*/}; cmp -s $$from/package-lock.json $$to/installed.json && continue; \
		install -d $$to && cp $$from/package*.json $$to/ && \
		npm ci --prefix $$to --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error && \
		cp $$from/package-lock.json $$to/installed.json || exit 1; done; \
	else echo "no npm here: asl-validator and CDK are NOT installed, state machines are linted by our own checks only"; fi

# Beside the rivals Lambda's own client for the worker, of the version that the image has, in a folder of its own.
bench-venv: venv ## Build .venv-bench with what benchmarks compare and draw with
	@[ -x .venv-bench/bin/python ] || "$(PYTHON)" -m venv .venv-bench
	@$(RUN) -m uv pip sync --quiet --system-certs --only-binary :all: --python .venv-bench/bin/python --require-hashes requirements/bench.lock
	@$(RUN) docker/requirements_of.py docker/stacks/spark-3.5.toml \
		| grep -E '^(awslambdaric|simplejson|snapshot-restore-py)==' >.venv-bench/lambda.txt
	@$(RUN) -m uv pip sync --quiet --system-certs --only-binary :all: --python .venv/bin/python --require-hashes \
		--target .venv-bench/lambda .venv-bench/lambda.txt

docs-venv: venv ## Build .venv-docs: Sphinx, its theme, and what Sparklet imports
	@[ -x .venv-docs/bin/python ] || "$(PYTHON)" -m venv .venv-docs
	@$(RUN) -m uv pip sync --quiet --system-certs --only-binary :all: --python .venv-docs/bin/python --require-hashes requirements/docs.lock

reader-venv: venv ## Build .venv-reader: DuckDB with its extensions, PyIceberg and delta-rs, to read tables independently
	@[ -x .venv-reader/bin/python ] || "$(PYTHON)" -m venv .venv-reader
	@$(RUN) -m uv pip sync --quiet --system-certs --only-binary :all: --python .venv-reader/bin/python --require-hashes requirements/reader.lock

orchestrators-venv: venv ## Build .venv-orchestrators: Airflow, Dagster and Prefect, in which their examples are tested
	@[ -x .venv-orchestrators/bin/python ] || "$(PYTHON)" -m venv .venv-orchestrators
	@$(RUN) -m uv pip sync --quiet --system-certs --only-binary :all: --python .venv-orchestrators/bin/python --require-hashes requirements/orchestrators.lock

checkov-venv: venv ## Build .venv-checkov: what AWS's and others' baselines ask of templates, and zizmor's of workflows
	@[ -x .venv-checkov/bin/python ] || "$(PYTHON)" -m venv .venv-checkov
	@$(RUN) -m uv pip sync --quiet --system-certs --only-binary :all: --python .venv-checkov/bin/python --require-hashes requirements/checkov.lock

clean: ## Delete what was built here (not the cache of jars)
	rm -rf .venv .venv-* build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
