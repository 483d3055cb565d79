"""Deployment errors, each as one line with the subject, the reason and the remedy.

DeployError                 exit status 1
├── WrongOption             exit status 2: an option is wrong; no AWS call was made
├── Refused                 exit status 3: the plan does not fit; no AWS call was made
└── EndpointFailed          the endpoint did not reach InService with the deployed configuration; has the reason
"""

from __future__ import annotations

from typing import ClassVar

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
)

# AWS error codes, their meaning, and the remedy.
_KNOWN = (
    (
        ("Throttling", "ThrottlingException", "TooManyRequestsException", "RequestLimitExceeded", "SlowDown"),
        "AWS throttles the account's calls",
        "Wait a minute and repeat the command.",
    ),
    (
        ("ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "UnrecognizedClientException"),
        "the credentials are not valid",
        "Run `aws configure`, or sign in again.",
    ),
    (
        ("ResourceLimitExceeded", "LimitExceededException", "ServiceQuotaExceededException"),
        "a quota of the account is exceeded",
        "Request an increase in Service Quotas, or use another INSTANCE_TYPE or fewer INSTANCES.",
    ),
    (
        ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403"),
        "not allowed",
        "Grant this identity the permission.",
    ),
    (
        ("NoSuchBucket", "404"),
        "BUCKET_NAME: the bucket does not exist",
        "Create it, in the REGION of the endpoint.",
    ),
)
_LONGEST_LINE = 600


class DeployError(Exception):
    """The base class."""

    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        self.message = " ".join(message.split())[:_LONGEST_LINE]
        self.remedy = remedy
        super().__init__(f"{self.message.rstrip('.')}. {remedy}" if remedy else self.message)


class WrongOption(DeployError):  # noqa: N818 - named for what happened
    """An option is wrong."""

    exit_status = 2


class Refused(DeployError):  # noqa: N818
    """The plan does not fit; `str()` is the refusal with its fixes, on several lines."""

    exit_status = 3

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return self.text


class EndpointFailed(DeployError):  # noqa: N818
    """The endpoint did not reach InService with the deployed configuration. `log_lines`: the container's last."""

    def __init__(self, message: str, remedy: str = "", log_lines: tuple[str, ...] = ()) -> None:
        super().__init__(message, remedy)
        self.log_lines = log_lines


def code_of(error: ClientError) -> str:
    """AWS's error code."""
    return str(error.response.get("Error", {}).get("Code", ""))


def text_of(error: ClientError) -> str:
    """AWS's error message."""
    return str(error.response.get("Error", {}).get("Message", ""))


def is_absent(error: ClientError) -> bool:
    """Whether the resource does not exist: every service reports that differently."""
    code, text = code_of(error), text_of(error).lower()
    if code in (
        "ResourceNotFound",
        "ResourceNotFoundException",
        "ObjectNotFoundException",
        "NoSuchKey",
        "RepositoryNotFoundException",
        "ImageNotFoundException",
    ):
        return True
    missing = ("could not find", "does not exist", "no scaling policy found", "no scalable target found")
    return code == "ValidationException" and any(words in text for words in missing)


def explained(error: ClientError | BotoCoreError, operation: str) -> DeployError:
    """`error` of `operation` as a DeployError."""
    if isinstance(error, BotoCoreError):
        return _explained_locally(error, operation)
    code, text = code_of(error), text_of(error)
    lower = text.lower()
    if "role" in lower and any(word in lower for word in ("assume", "trust", "does not exist", "invalid")):
        return DeployError(f"ROLE_ARN: {text}", "It must exist and let sagemaker.amazonaws.com assume it.")
    if "already exist" in lower:
        return DeployError(f"{operation}: {text}", "It was created meanwhile: repeat the command.")
    for codes, reason, remedy in _KNOWN:
        if code in codes:
            return DeployError(f"{operation}: {reason}{f' ({text})' if text else ''}", remedy)
    return DeployError(f"{operation}: {code}: {text}")


def _explained_locally(error: BotoCoreError, operation: str) -> DeployError:
    if isinstance(error, NoCredentialsError | PartialCredentialsError | CredentialRetrievalError):
        return DeployError("no AWS credentials", "Run `aws configure`, or set AWS_PROFILE.")
    if isinstance(error, NoRegionError):
        return DeployError("no region", "Set REGION, or run `aws configure`.")
    if isinstance(error, ProfileNotFound):
        return DeployError(f"AWS_PROFILE: {error}", "`aws configure list-profiles` lists the existing ones.")
    return DeployError(f"{operation}: {error}")
