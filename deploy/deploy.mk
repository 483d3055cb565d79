# Deploying to Amazon SageMaker: make build push deploy status test clean.
#   ROLE_ARN BUCKET_NAME REGION IMAGE_NAME       role, bucket, region and image
#   ENDPOINT_NAME                                default: the image's name
#   INSTANCE_TYPE INSTANCES CONTEXT CONCURRENCY  default: from the artifact and its plan
#   VARIANT MAX_INSTANCES UPDATE CUDA KMS_KEY SUBNETS SECURITY_GROUPS CAPTURE_PERCENT DRY_RUN=1 OPEN_NETWORK=1

ARTIFACT_DIR ?= $(or $(OUTPUT),build/artifact)
DOCKER       ?= docker
RUNTIME_PORT ?= 8090

# torch's CUDA version, which decides SageMaker's GPU driver: from the wheel index in TORCH, if any (.../cu128: 12.8).
CUDA ?= $(shell printf '%s' '$(TORCH)' | sed -n 's|.*/cu\([0-9][0-9]\)\([0-9]\).*|\1.\2|p')

DEPLOYMENT := .deployment.json
# IMAGE_NAME where the user set it. Only then may `make clean` remove the endpoint of that image, never by the default.
GIVEN_IMAGE := $(if $(filter command environment,$(origin IMAGE_NAME)),$(IMAGE_NAME))
# The target by which `make clean` removes an endpoint on AWS: empty unless one is named.
CLEANED_ENDPOINT := $(if $(ENDPOINT_NAME)$(and $(GIVEN_IMAGE),$(wildcard $(DEPLOYMENT))),clean-endpoint)

IN_REGION := $(if $(REGION),--region $(REGION))
NAMED := $(if $(ENDPOINT_NAME),--endpoint-name $(ENDPOINT_NAME)) $(if $(IMAGE_NAME),--image-name $(IMAGE_NAME))
DEPLOYED := $(IN_REGION) $(NAMED) --artifact '$(ARTIFACT_DIR)' \
	$(if $(ROLE_ARN),--role-arn '$(ROLE_ARN)') $(if $(BUCKET_NAME),--bucket-name '$(BUCKET_NAME)') \
	$(if $(CONTEXT),--context $(CONTEXT)) $(if $(CONCURRENCY),--concurrency $(CONCURRENCY)) \
	$(if $(VARIANT),--variant $(VARIANT)) $(if $(DRY_RUN),--dry-run)
ON_INSTANCES := $(if $(INSTANCE_TYPE),--instance-type $(INSTANCE_TYPE)) $(if $(INSTANCES),--instances $(INSTANCES)) \
	$(if $(MAX_INSTANCES),--max-instances $(MAX_INSTANCES)) $(if $(UPDATE),--update $(UPDATE)) \
	$(if $(CUDA),--cuda $(CUDA)) $(if $(KMS_KEY),--kms-key '$(KMS_KEY)') $(if $(SUBNETS),--subnets '$(SUBNETS)') \
	$(if $(SECURITY_GROUPS),--security-groups '$(SECURITY_GROUPS)') \
	$(if $(CAPTURE_PERCENT),--capture-percent $(CAPTURE_PERCENT)) $(if $(OPEN_NETWORK),--no-network-isolation)

.PHONY: push
push: $(VENV)/.installed-deploy ## Push the image $(IMAGE_NAME) to the account's registry (ECR)
	@$(PY) -m deploy push $(IN_REGION) --image-name '$(IMAGE_NAME)' --docker "$(DOCKER)"

.PHONY: deploy
deploy: $(VENV)/.installed-deploy $(ARTIFACT_DIR)/manifest.json ## Plan, upload, create or update the endpoint, wait until it is in service
	@$(PY) -m deploy deploy $(DEPLOYED) $(ON_INSTANCES)

.PHONY: serverless
serverless: $(VENV)/.installed-deploy $(ARTIFACT_DIR)/manifest.json ## The same as a serverless endpoint, for the small CPU profile
	@$(PY) -m deploy serverless $(DEPLOYED)

$(ARTIFACT_DIR)/manifest.json:
	@$(MAKE) artifact

.PHONY: status
status: $(VENV)/.installed-deploy ## Watch the endpoint until it is in service or has failed
	@$(PY) -m deploy status $(IN_REGION) $(if $(ENDPOINT_NAME),--endpoint-name $(ENDPOINT_NAME))

.PHONY: cost
cost: $(VENV)/.installed-deploy ## Endpoints running in the region, and their cost per hour
	@$(PY) -m deploy cost $(IN_REGION)

.PHONY: smoke
smoke: install $(VENV)/.installed-test ## Run the contract tests against the live endpoint ENDPOINT_NAME
	@test -n "$(ENDPOINT_NAME)" || { echo "ENDPOINT_NAME is not set"; exit 2; }
	@ENDPOINT_NAME='$(ENDPOINT_NAME)' REGION='$(REGION)' RUNTIME_URL='$(RUNTIME_URL)' $(PY) -m pytest -rs tests/contract

.PHONY: clean-endpoint
clean-endpoint: $(VENV)/.installed-deploy ## Remove the endpoint, its alarms, scaling and models (PURGE=1: artifacts too)
	@$(PY) -m deploy clean $(IN_REGION) $(NAMED) $(if $(PURGE),--bucket-name '$(BUCKET_NAME)')

.PHONY: local-endpoint
local-endpoint: install index $(VENV)/.installed-deploy ## Serve the container behind a local stand-in of the SageMaker Runtime, for boto3
	@INDEX=$(INDEX) exec $(PY) -m deploy local --port $(RUNTIME_PORT) $(if $(ENDPOINT_NAME),--endpoint-name $(ENDPOINT_NAME))

SDK_VENV ?= .venv-sagemaker-core

.PHONY: sagemaker-core
sagemaker-core: $(SDK_VENV)/.installed ## Invoke ENDPOINT_NAME through the SageMaker SDK (RUNTIME_URL: the local stand-in)
	@$(SDK_VENV)/bin/python examples/sagemaker_core.py --endpoint-name '$(or $(ENDPOINT_NAME),rag)' \
		$(if $(RUNTIME_URL),--runtime-url '$(RUNTIME_URL)')

# Not in $(VENV): sagemaker-core needs rich < 15.
$(SDK_VENV)/.installed: pyproject.toml
	@$(PYTHON) -m venv $(SDK_VENV)
	@$(SDK_VENV)/bin/python -m pip --disable-pip-version-check --quiet install '.[sagemaker-core]'
	@touch $@
