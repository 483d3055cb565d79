# Two commands on a fresh machine: `make run` and `make test`. They install everything they need into $(VENV).

VENV    ?= .venv
PYTHON  ?= python3
# The torch to install: CPU by default. For a CUDA build name its wheel index as well:
#   make install TORCH="torch==2.13.0 --index-url <the CUDA wheels' index>"
TORCH   ?= torch==2.13.0
CORPUS  ?= corpus
INDEX   ?= build/index
HOST    ?= 127.0.0.1
PORT    ?= 8080
# The artifact: source, destination, format (directory, or tar.gz for an additional model.tar.gz).
DOCUMENTS ?= $(CORPUS)
OUTPUT    ?= build/artifact
FORMAT    ?= directory
# The image: its name, the command that builds and runs it, and further options of `build`
# (BUILD_FLAGS="--platform linux/amd64 --provenance=false --build-context artifact=build/artifact").
IMAGE_NAME  ?= rag-inference
DOCKER      ?= docker
BUILD_FLAGS ?=
VERSION      = $(shell sed -n 's/^version = "\([^"]*\)".*/\1/p' pyproject.toml)

# Idle OpenMP threads would spin and take the cores from the others on a small machine.
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
run: install index ## Install, build the index, serve, and show an example request
	@HOST=$(HOST) PORT=$(PORT) INDEX=$(INDEX) exec $(PY) serve --example

.PHONY: install
install: $(VENV)/.installed ## Install the container's locked packages into $(VENV)

.PHONY: index
index: $(INDEX)/manifest.json ## Build the index of $(CORPUS)

$(INDEX)/manifest.json: $(VENV)/.installed $(VENV)/.installed-documents $(shell find $(CORPUS) -type f 2>/dev/null)
	@echo "Building the index of $(CORPUS)"
	@$(PY) -m rag.build_index --documents $(CORPUS) --output $(INDEX) \
		$(if $(EMBEDDING_MODEL),--embedding-model $(EMBEDDING_MODEL)) $(if $(ADAPTER),--adapter $(ADAPTER)) \
		$(if $(QUERY_PREFIX),--query-prefix '$(QUERY_PREFIX)') $(if $(PASSAGE_PREFIX),--passage-prefix '$(PASSAGE_PREFIX)')

.PHONY: artifact
artifact: install $(VENV)/.installed-documents ## Pack documents, models, settings and plan as one directory for S3, $(OUTPUT)
	@$(PY) -m rag.build_artifact --documents '$(DOCUMENTS)' --output '$(OUTPUT)' --format $(FORMAT) $(if $(STRICT),--strict)

.PHONY: build
build: ## Build the image $(IMAGE_NAME)
	@$(DOCKER) build --build-arg VERSION=$(VERSION) --build-arg TORCH="$(TORCH)" $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) $(BUILD_FLAGS) \
		-t $(IMAGE_NAME) .

.PHONY: image-test
image-test: install $(VENV)/.installed-test ## Build the image, print its size, run the contract tests against it
	@DOCKER="$(DOCKER)" IMAGE_NAME="$(IMAGE_NAME)" BUILD_FLAGS="$(BUILD_FLAGS)" $(PY) -m pytest -rs -s tests/container

.PHONY: test
test: check index ## make check, then all tests, with the unit tests' coverage (ENDPOINT_NAME: the contract tests on it as well)
	@$(PY) -m pytest tests/unit -n 2 --dist worksteal --cov --cov-report=
	@printf 'Coverage of the unit tests: %s %%\n' "$$($(PY) -m coverage report --format=total)"
	@env -u ENDPOINT_NAME -u RUNTIME_URL $(PY) -m pytest --ignore tests/unit
	@$(if $(ENDPOINT_NAME),$(MAKE) --no-print-directory smoke)

.PHONY: unit
unit: install $(VENV)/.installed-test ## The unit tests, in seconds (T=words: only those whose names contain them)
	@$(PY) -m pytest tests/unit $(if $(T),-k '$(T)',-n 2 --dist worksteal -m 'not slow')

.PHONY: check
check: install $(VENV)/.installed-test ## ruff, mypy and import-linter
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check --quiet .
	@$(PY) -m mypy
	@$(VENV)/bin/lint-imports --no-logo --no-cache

include deploy/deploy.mk

.PHONY: bench
bench: index $(VENV)/.installed-test ## The load benchmark; benchmarks/ has the others
	@$(PY) -m benchmarks.load

.PHONY: train
train: install $(VENV)/.installed-train ## Train an embedding adapter from DATA=pairs.jsonl into ADAPTER (build/adapter)
	@$(PY) -m training.train_adapter $(DATA) --output $(or $(ADAPTER),build/adapter) $(TRAIN_OPTIONS)

.PHONY: notebooks
notebooks: index $(VENV)/.installed-notebooks ## Execute the notebooks into build/notebooks (KEEP=1: into the committed ones as well)
	@INDEX=$(INDEX) $(PY) -m notebooks.execute $(if $(KEEP),--keep)

.PHONY: clean
clean: $(CLEANED_ENDPOINT) ## Remove build outputs and caches, and the endpoint ENDPOINT_NAME if given
	@rm -rf build .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@test ! -e $(DEPLOYMENT) || sed -n 's/.*"endpoint": "\(.*\)".*/The endpoint \1 is still deployed: make clean ENDPOINT_NAME=\1/p' $(DEPLOYMENT)

$(PY):
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "Installing python3-venv"; apt-get -qq update && apt-get -qq install -y python3-venv; }
	@$(PYTHON) -m venv $(VENV)

# torch comes last and without a hash, because TORCH chooses the build: its Python dependencies are in the lock, so a
# CPU build adds nothing, and a CUDA build only the CUDA libraries.
$(VENV)/.installed: requirements.txt | $(PY)
	@echo "Installing requirements.txt and $(firstword $(TORCH)) into $(VENV) (a few minutes the first time)"
	@$(PIP) install --require-hashes --no-deps -r requirements.txt
	@$(PIP) install $(TORCH)
	@touch $@

# An extra of pyproject.toml, and the project itself as a link to this directory.
$(VENV)/.installed-%: constraints.txt | $(PY)
	@echo "Installing the extra $*"
	@$(PIP) install --constraint constraints.txt --editable '.[$*]'
	@touch $@

LOCK = $(VENV)/bin/uv pip compile pyproject.toml --quiet --upgrade --python-version 3.11 --no-emit-package torch \
	--custom-compile-command 'make lock'
.PHONY: lock
lock: $(VENV)/.installed-test ## Resolve the pins of pyproject.toml again, into requirements.txt and constraints.txt
	@$(LOCK) --generate-hashes --extra container -o requirements.txt
	@$(LOCK) --no-annotate $(addprefix --extra ,client deploy documents notebooks ray train test) -c requirements.txt -o constraints.txt
