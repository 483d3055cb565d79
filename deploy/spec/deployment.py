"""The AWS calls of a deployment, computed without making any: --dry-run prints them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from capacity import Hardware, Plan, load_hardware
from capacity.units import GIB, ceil_div
from deploy.account import AwsCall
from deploy.errors import WrongOption
from deploy.spec.instance_plan import sessions_per_instance
from deploy.spec.names import VARIANT, hashed

# Assumed rate of a download from S3 and of reading weights: low, for a small instance.
_READ_BYTES_PER_S = 125e6
# Starting Python and importing the libraries, before any weight is read.
_IMPORTS_S = 120
_SHORTEST_S, _LONGEST_S = 60, 3600
_DEFAULT_VOLUME_GB, _LARGEST_VOLUME_GB = 30, 512
# Per CUDA toolkit version, the AMI with the oldest driver that runs its code.
_AMI = (
    ((12, 2), "al2-ami-sagemaker-inference-gpu-2"),
    ((12, 4), "al2-ami-sagemaker-inference-gpu-3-1"),
    ((13, 99), "al2023-ami-sagemaker-inference-gpu-4-1"),
)
_SERVERLESS_BODY_MB = "4"


@dataclass(frozen=True, slots=True)
class Options:
    """Options besides the plan. `capture_percent`: share of the requests captured; 0 captures none."""

    cuda: str = "13.0"
    network_isolation: bool = True
    kms_key: str | None = None
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    capture_percent: int = 0
    max_instances: int | None = None
    latency_s: float = 30.0
    update: str = "auto"
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Deployment:
    """The wanted endpoint. `serverless_mb`: memory of a serverless endpoint, in place of instances."""

    endpoint: str
    role_arn: str
    image: str
    model_data_uri: str
    model_bytes: int
    plan: Plan
    variant: str
    bucket: str
    options: Options = field(default_factory=Options)
    serverless_mb: int | None = None

    def __post_init__(self) -> None:
        if bool(self.options.subnets) != bool(self.options.security_groups):
            raise WrongOption("SUBNETS and SECURITY_GROUPS go together", "Set both, or neither.")
        if not 0 <= self.options.capture_percent <= 100:
            raise WrongOption(f"CAPTURE_PERCENT {self.options.capture_percent} is outside 0–100")
        if self.serverless_mb and (self.options.subnets or self.options.capture_percent or self.options.kms_key):
            raise WrongOption("a serverless endpoint has no VPC, no data capture and no volume key", "Leave them out.")

    @property
    def environment(self) -> dict[str, str]:
        """The container's variables, with the plan, so that the container runs by the plan that was deployed."""
        variables = {
            "CONTEXT": str(self.plan.context_tokens),
            "CONCURRENCY": str(sessions_per_instance(self.plan)),
            "PLAN": self.plan.pack(),
            "VARIANT": self.variant,
        }
        if self.serverless_mb:
            variables["MAX_BODY_MB"] = _SERVERLESS_BODY_MB
        return variables | dict(self.options.environment)

    @property
    def download_timeout_s(self) -> int:
        """Twice the download's time at the assumed rate."""
        return _clamped(2 * self.model_bytes / _READ_BYTES_PER_S)

    @property
    def start_up_timeout_s(self) -> int:
        """Twice the time of imports, hashing and loading (weights, embedder, index) at the assumed rate."""
        loaded = sum(self.plan.need_bytes[name] for name in ("weights", "embedder", "index"))
        return _clamped(2 * (_IMPORTS_S + (loaded + self.model_bytes) / _READ_BYTES_PER_S))

    def create_model(self) -> AwsCall:
        """The call that creates the model: image, data and environment, named by their hash."""
        data: dict[str, Any]
        if self.serverless_mb:
            data = {"ModelDataUrl": self.model_data_uri}
        else:
            source = {"S3Uri": self.model_data_uri, "S3DataType": "S3Prefix", "CompressionType": "None"}
            data = {"ModelDataSource": {"S3DataSource": source}}
        content: dict[str, Any] = {
            "ExecutionRoleArn": self.role_arn,
            "PrimaryContainer": {"Image": self.image, **data, "Environment": self.environment},
        }
        if not self.serverless_mb:
            content["EnableNetworkIsolation"] = self.options.network_isolation
        if self.options.subnets:
            content["VpcConfig"] = {
                "Subnets": list(self.options.subnets),
                "SecurityGroupIds": list(self.options.security_groups),
            }
        return AwsCall("sagemaker", "create_model", {"ModelName": hashed(self.endpoint, content), **content})

    def create_config(self) -> AwsCall:
        """The call that creates the endpoint's configuration, named by the hash of its content."""
        content: dict[str, Any] = {"ProductionVariants": [self._variant()]}
        if self.options.capture_percent:
            content["DataCaptureConfig"] = self._capture()
        if self.options.kms_key and not self._hardware.local_disk:
            content["KmsKeyId"] = self.options.kms_key
        name = hashed(self.endpoint, content)
        return AwsCall("sagemaker", "create_endpoint_config", {"EndpointConfigName": name, **content})

    @property
    def model_name(self) -> str:
        """The model's name."""
        return str(self.create_model().parameters["ModelName"])

    @property
    def config_name(self) -> str:
        """The configuration's name: the endpoint is up to date when it runs on this one."""
        return str(self.create_config().parameters["EndpointConfigName"])

    def create_endpoint(self) -> AwsCall:
        """The endpoint, where there is none yet."""
        names = {"EndpointName": self.endpoint, "EndpointConfigName": self.config_name}
        return AwsCall("sagemaker", "create_endpoint", names)

    def update_endpoint(self, alarms: tuple[str, ...], running: int = 0) -> AwsCall:
        """The call that updates the endpoint to this configuration, with a rollback when one of `alarms` fires.

        The current number of instances (`running`), which autoscaling may have set, is kept unless it is below the
        plan's.
        """
        parameters: dict[str, Any] = {
            "EndpointName": self.endpoint,
            "EndpointConfigName": self.config_name,
            "RetainAllVariantProperties": not self.serverless_mb,
        }
        if self.serverless_mb:
            return AwsCall("sagemaker", "update_endpoint", parameters)
        if running < self.plan.instances:
            parameters["ExcludeRetainedVariantProperties"] = [{"VariantPropertyType": "DesiredInstanceCount"}]
        rollback = {"AutoRollbackConfiguration": {"Alarms": [{"AlarmName": name} for name in alarms]}}
        parameters["DeploymentConfig"] = self._update_policy() | rollback
        return AwsCall("sagemaker", "update_endpoint", parameters)

    def calls(self, alarms: list[AwsCall], scaling: list[AwsCall]) -> list[AwsCall]:
        """All calls for a new endpoint, in order."""
        return [self.create_model(), self.create_config(), *alarms, self.create_endpoint(), *scaling]

    @property
    def _hardware(self) -> Hardware:
        """The instance type in the catalogue; raises UnknownName for one that is not there."""
        return load_hardware(str(self.plan.instance_type))

    def _variant(self) -> dict[str, Any]:
        common: dict[str, Any] = {"VariantName": VARIANT, "ModelName": self.model_name}
        if self.serverless_mb:
            sessions = min(200, max(1, self.plan.concurrency))
            return common | {"ServerlessConfig": {"MemorySizeInMB": self.serverless_mb, "MaxConcurrency": sessions}}
        variant = common | {
            "InstanceType": self.plan.instance_type,
            "InitialInstanceCount": self.plan.instances,
            "ContainerStartupHealthCheckTimeoutInSeconds": self.start_up_timeout_s,
            "ModelDataDownloadTimeoutInSeconds": self.download_timeout_s,
            "RoutingConfig": {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"},
        }
        if not self._hardware.is_cpu:
            variant["InferenceAmiVersion"] = ami_version(self.options.cuda)
        if not self._hardware.local_disk:
            wanted = ceil_div(2 * self.model_bytes, GIB) + _DEFAULT_VOLUME_GB
            variant["VolumeSizeInGB"] = min(_LARGEST_VOLUME_GB, wanted)
        return variant

    def _capture(self) -> dict[str, Any]:
        capture: dict[str, Any] = {
            "EnableCapture": True,
            "InitialSamplingPercentage": self.options.capture_percent,
            "DestinationS3Uri": f"s3://{self.bucket}/{self.endpoint}/captured",
            "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
            "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json", "application/jsonlines"]},
        }
        return capture | ({"KmsKeyId": self.options.kms_key} if self.options.kms_key else {})

    def _update_policy(self) -> dict[str, Any]:
        """Rolling needs at least two instances, and no extra ones during the update. One is updated blue/green."""
        longest = min(28_800, max(600, 4 * (self.start_up_timeout_s + self.download_timeout_s) * self.plan.instances))
        rolling = self.plan.instances > 1 if self.options.update == "auto" else self.options.update == "rolling"
        if rolling:
            if self.plan.instances < 2:
                raise WrongOption("UPDATE=rolling needs two instances", "Use UPDATE=blue-green, or INSTANCES=2.")
            batch = {"Type": "INSTANCE_COUNT", "Value": max(1, self.plan.instances // 2)}
            policy = {
                "MaximumBatchSize": batch,
                "WaitIntervalInSeconds": 60,
                "MaximumExecutionTimeoutInSeconds": longest,
            }
            return {"RollingUpdatePolicy": policy}
        routing = {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 120}
        return {
            "BlueGreenUpdatePolicy": {
                "TrafficRoutingConfiguration": routing,
                "TerminationWaitInSeconds": 60,
                "MaximumExecutionTimeoutInSeconds": longest,
            }
        }


def ami_version(cuda: str) -> str:
    """The AMI whose GPU driver supports torch's CUDA ("13.0", as in torch.version.cuda). Raises WrongOption."""
    try:
        major, minor = (int(part) for part in cuda.split(".")[:2])
    except ValueError:
        raise WrongOption(
            f"CUDA {cuda!r} is no version", "Use the value of torch.version.cuda, for example 13.0."
        ) from None
    for newest, name in _AMI:
        if (major, minor) <= newest:
            return name
    raise WrongOption(f"CUDA {cuda}: no driver image of SageMaker runs it", "Build the image with CUDA 13 or older.")


def _clamped(seconds: float) -> int:
    return int(min(_LONGEST_S, max(_SHORTEST_S, seconds)))
