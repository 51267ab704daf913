# Every target makes what it needs; `make` alone explains.
PYTHON ?= python3
RUNTIME ?= cpu
PORT ?= 8000
APP_PORT ?= 8501
DATA ?= data
ENCODER ?= imagenet
VERSION ?= 1.1.0
RUN ?= runs/distilled
RUNS ?= runs
RELEASED ?=
MODEL ?= models/efficientnetv2b0_unet/$(VERSION)/model.onnx
ABLATIONS ?= docs/results/ablations.toml

SERVE_ENV := .venv-serve-$(RUNTIME)
APP_ENV := .venv-app
DEV_ENV := .venv
DOCS_ENV := .venv-docs
SPECTRAL_ENV := .venv-spectral
DEV := $(DEV_ENV)/bin/
CHECK_PYTHON = $(PYTHON) -c "import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v \
	<= (3, 13) else f'Karyon needs Python 3.11 to 3.13, this is {sys.version}; try make PYTHON=python3.12')"
INSTALL := -m pip install --quiet --disable-pip-version-check --require-hashes

.PHONY: help serve app install-serve install-app install-dev test soak-delivery check format lock train export \
	quantize report bench bench-peers bench-serving newcomer image-check clean docs lint-api

help:  ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 16

serve: $(SERVE_ENV)/.ready  ## Serve the embedded model on http://127.0.0.1:8000 (RUNTIME=gpu, cpu-plain)
	$(SERVE_ENV)/bin/python -m service serve --port $(PORT)

app: $(APP_ENV)/.ready  ## The web app on http://127.0.0.1:8501, for the service at KARYON_URL (make serve)
	$(APP_ENV)/bin/python -m service.ui --server.port $(APP_PORT)

install-serve: $(SERVE_ENV)/.ready  ## Only install what serving needs

install-app: $(APP_ENV)/.ready  ## Only install what the web app needs

install-dev: $(DEV_ENV)/.ready  ## Only install what tests and training need

test: $(DEV_ENV)/.ready  ## Run all tests
	$(DEV)python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 15

soak-delivery: $(DEV_ENV)/.ready  ## Kill the service KILLS times while it delivers: none lost, none doubled (20 minutes)
	DELIVERY_KILLS=$(KILLS) $(if $(MINUTES),DELIVERY_MINUTES=$(MINUTES)) $(DEV)python -m pytest -n 0 -s --timeout 7200 \
		tests/service/lims/test_delivery_kills.py
KILLS ?= 100

check: $(DEV_ENV)/.ready  ## Format, lint, types, import rules
	$(DEV)ruff format --check .
	$(DEV)ruff check .
	$(DEV)mypy
	PYTHONPATH=. $(DEV)lint-imports

docs: $(DOCS_ENV)/.ready  ## Build the documentation into site/, links and anchors checked
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(DOCS_ENV)/bin/python -m mkdocs build --strict --quiet

lint-api: $(SPECTRAL_ENV)/.ready  ## Lint the OpenAPI document (needs node and npm)
	$(SPECTRAL_ENV)/node_modules/.bin/spectral lint --fail-severity warn tests/service/openapi.json

format: $(DEV_ENV)/.ready  ## Format, and mend what ruff can mend
	$(DEV)ruff format .
	$(DEV)ruff check --fix .

train: $(DEV_ENV)/.ready  ## Train the embedded model anew (two teachers, then it; two hours), on the folders tnbc and nuinsseg under DATA
	$(DEV)python -m training fit training/recipes/default.toml --data-root $(DATA) \
		--encoder-weights $(ENCODER) --run-dir runs/default
	$(DEV)python -m training fit training/recipes/efficientnetv2b0.toml --data-root $(DATA) \
		--encoder-weights $(ENCODER) --run-dir runs/efficientnetv2b0
	$(DEV)python -m training fit training/recipes/distilled.toml --data-root $(DATA) --run-dir $(RUN)

export: $(DEV_ENV)/.ready  ## Turn RUN into models/: convert, calibrate on held-out patients, verify, judge, card
	$(DEV)python -m export model $(RUN) --validation $(DATA)/tnbc --groups 07,08 --name efficientnetv2b0_unet \
		--version $(VERSION) --out models --half-weights

quantize: $(DEV_ENV)/.ready  ## Make int8 and fp16 variants of MODEL, kept only where they are accurate enough
	$(DEV)python -m export quantize $(MODEL) --calibration $(DATA)/tnbc \
		--calibration-groups 01,02,03,04,05,06 --validation $(DATA)/tnbc --groups 07,08

report: $(DEV_ENV)/.ready  ## Rebuild docs/results from the run folders in RUNS and the models in models and RELEASED
	$(DEV)python -m export report $(RUNS) models $(RELEASED) --out docs/results --data $(DATA)/tnbc \
		$(if $(wildcard $(ABLATIONS)),--ablations $(ABLATIONS))

bench: $(DEV_ENV)/.ready  ## Measure what README and docs quote
	$(DEV)python -m benchmarks.separation
	$(DEV)python -m benchmarks.http_overhead

bench-peers: $(DEV_ENV)/.ready  ## Karyon beside other servers, each in its own environment (PEERS="--publish")
	$(DEV)python -m benchmarks.peers.run $(PEERS)

bench-serving: $(DEV_ENV)/.ready  ## All bars of serving in one table, eleven minutes on an idle machine (BARS="--scale 0.1")
	$(DEV)python -m benchmarks.serving_bars $(BARS)

newcomer: $(DEV_ENV)/.ready  ## A fresh clone, the README's commands, an image in the browser: how long?
	$(DEV)python -m benchmarks.newcomer $(NEWCOMER)

image-check:  ## Build the Dockerfile by buildah, start it, use it (as root on Debian; 5 GB; not in CI)
	deploy/image_check.sh $(IMAGE_CHECK_DIR)

lock:  ## Pin and hash the requirements anew (needs uv)
	uv pip compile -q pyproject.toml --extra cpu $(LOCK) -o requirements/serve-cpu.txt
	uv pip compile -q pyproject.toml --extra cpu-plain $(LOCK) -o requirements/serve-cpu-plain.txt
	uv pip compile -q pyproject.toml --extra gpu $(LOCK) -o requirements/serve-gpu.txt
	uv pip compile -q pyproject.toml --extra ui $(LOCK) -o requirements/ui.txt
	uv pip compile -q pyproject.toml --extra docs $(LOCK) -o requirements/docs.txt
	uv pip compile -q pyproject.toml --extra cpu --extra train --extra dev --extra load $(LOCK) -o requirements/dev.txt
LOCK := --universal --python-version 3.11 --generate-hashes --no-annotate \
	--custom-compile-command "make lock" --upgrade

clean:  ## Remove environments and caches
	rm -rf .venv .venv-app .venv-docs .venv-serve-* .venv-spectral site build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(SERVE_ENV)/.ready: requirements/serve-$(RUNTIME).txt
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv $(SERVE_ENV)
	$(SERVE_ENV)/bin/python $(INSTALL) -r requirements/serve-$(RUNTIME).txt
	touch $@

$(APP_ENV)/.ready: requirements/ui.txt
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv $(APP_ENV)
	$(APP_ENV)/bin/python $(INSTALL) -r requirements/ui.txt
	touch $@

$(DOCS_ENV)/.ready: requirements/docs.txt
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv $(DOCS_ENV)
	$(DOCS_ENV)/bin/python $(INSTALL) -r requirements/docs.txt
	touch $@

# The lock file holds the digests and no address, so that it works with any registry or mirror.
$(SPECTRAL_ENV)/.ready: requirements/spectral/package-lock.json
	rm -rf $(SPECTRAL_ENV) && cp -r requirements/spectral $(SPECTRAL_ENV)
	npm ci --prefix $(SPECTRAL_ENV) --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@

$(DEV_ENV)/.ready: requirements/dev.txt
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv $(DEV_ENV)
	$(DEV)python $(INSTALL) -r requirements/dev.txt
	touch $@
