# Two commands on a fresh machine: `make run` and `make test`. Everything they need is installed by them.

VENV    ?= .venv
PYTHON  ?= python3
# The torch to install: CPU by default. For a CUDA build name its wheel index as well:
#   make install TORCH="torch==2.13.0 --index-url <the CUDA wheels' index>"
TORCH   ?= torch==2.13.0
CORPUS  ?= corpus
INDEX   ?= build/index
HOST    ?= 127.0.0.1
PORT    ?= 8080
# The artifact: what of, where to, and as what (directory, or tar.gz for one model.tar.gz besides).
DOCUMENTS ?= $(CORPUS)
OUTPUT    ?= build/artifact
FORMAT    ?= directory
# The image: its name, the command that builds and runs it, and further words for `build`
# (BUILD_FLAGS="--platform linux/amd64 --provenance=false --build-context artifact=build/artifact").
IMAGE_NAME  ?= rag-inference
DOCKER      ?= docker
BUILD_FLAGS ?=

# Threads that spin while they wait starve the others of a small machine.
export OMP_WAIT_POLICY ?= PASSIVE
export HF_HUB_OFFLINE ?= 1

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@printf 'Usage: make TARGET [VARIABLE=value]\n\n'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\nVariables: VENV PYTHON TORCH CORPUS INDEX HOST PORT DOCUMENTS OUTPUT FORMAT STRICT IMAGE_NAME BASE_IMAGE DOCKER\n'
	@printf '  BUILD_FLAGS, and every setting that `$(PY) serve --help` lists\n'
	@printf 'On AWS: ROLE_ARN BUCKET_NAME REGION IMAGE_NAME ENDPOINT_NAME INSTANCE_TYPE INSTANCES CONTEXT CONCURRENCY VARIANT (deploy/deploy.mk)\n'

.PHONY: run
run: install index ## Install what is missing, build the index, serve, and show how to ask
	@HOST=$(HOST) PORT=$(PORT) INDEX=$(INDEX) exec $(PY) serve --example

.PHONY: install
install: $(VENV)/.installed ## Install the pinned requirements into $(VENV)

.PHONY: index
index: $(INDEX)/manifest.json ## Build the index of $(CORPUS)

$(INDEX)/manifest.json: $(VENV)/.installed-artifact $(shell find $(CORPUS) -type f 2>/dev/null)
	@echo "Building the index of $(CORPUS)"
	@$(PY) -m rag.build_index --documents $(CORPUS) --output $(INDEX) \
		$(if $(EMBEDDING_MODEL),--embedding-model $(EMBEDDING_MODEL)) $(if $(ADAPTER),--adapter $(ADAPTER)) \
		$(if $(QUERY_PREFIX),--query-prefix '$(QUERY_PREFIX)') $(if $(PASSAGE_PREFIX),--passage-prefix '$(PASSAGE_PREFIX)')

.PHONY: artifact
artifact: $(VENV)/.installed-artifact ## Documents, models, settings and plan as one directory for S3, in $(OUTPUT)
	@$(PY) -m rag.build_artifact --documents '$(DOCUMENTS)' --output '$(OUTPUT)' --format $(FORMAT) $(if $(STRICT),--strict)

.PHONY: build
build: ## Build the image $(IMAGE_NAME)
	@$(DOCKER) build --build-arg TORCH="$(TORCH)" $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) $(BUILD_FLAGS) \
		-t $(IMAGE_NAME) .

.PHONY: image-test
image-test: $(VENV)/.installed-test ## Build the image, print its size, put the contract tests on it
	@DOCKER="$(DOCKER)" IMAGE_NAME="$(IMAGE_NAME)" BUILD_FLAGS="$(BUILD_FLAGS)" $(PY) -m pytest -rs -s tests/container

.PHONY: test
test: check index ## Lint, type-check, then every test (ENDPOINT_NAME: the contract tests on that endpoint as well)
	@env -u ENDPOINT_NAME -u RUNTIME_URL $(PY) -m pytest
	@$(if $(ENDPOINT_NAME),$(MAKE) --no-print-directory smoke)

.PHONY: check
check: $(VENV)/.installed-test ## ruff, mypy and import-linter
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check --quiet .
	@$(PY) -m mypy
	@$(VENV)/bin/lint-imports --no-logo --no-cache

include deploy/deploy.mk

.PHONY: bench
bench: install index $(VENV)/.installed-test ## What is measured, one script a question (see benchmarks/)
	@$(PY) -m benchmarks.load

.PHONY: train
train: install ## Train an adapter behind the embedder from DATA=pairs.jsonl into ADAPTER (build/adapter)
	@$(PIP) install -r requirements-train.txt
	@$(PY) -m training.train_adapter $(DATA) --output $(or $(ADAPTER),build/adapter) $(TRAIN_OPTIONS)

.PHONY: notebooks
notebooks: index $(VENV)/.installed-notebooks ## Execute the notebooks into build/notebooks (KEEP=1: into the committed ones as well)
	@INDEX=$(INDEX) $(PY) -m notebooks.execute $(if $(KEEP),--keep)

.PHONY: clean
clean: $(CLEANED_ENDPOINT) ## Remove what was built, and the endpoint ENDPOINT_NAME where it is given
	@rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@test ! -e $(DEPLOYMENT) || sed -n 's/.*"endpoint": "\(.*\)".*/The endpoint \1 is still deployed: make clean ENDPOINT_NAME=\1/p' $(DEPLOYMENT)

$(PY):
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "Installing python3-venv"; apt-get -qq update && apt-get -qq install -y python3-venv; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt | $(PY)
	@echo "Installing $(firstword $(TORCH)) and requirements.txt into $(VENV) (a few minutes the first time)"
	@$(PIP) install $(TORCH)
	@$(PIP) install -r requirements.txt
	@touch $@

$(VENV)/.installed-artifact: $(VENV)/.installed requirements-artifact.txt
	@echo "Installing requirements-artifact.txt"
	@$(PIP) install -r requirements-artifact.txt
	@touch $@

$(VENV)/.installed-notebooks: $(VENV)/.installed requirements-notebooks.txt requirements-deploy.txt
	@echo "Installing requirements-notebooks.txt"
	@$(PIP) install -r requirements-notebooks.txt
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed-artifact $(VENV)/.installed-notebooks requirements-test.txt requirements-deploy.txt
	@echo "Installing requirements-test.txt"
	@$(PIP) install -r requirements-test.txt
	@touch $@
