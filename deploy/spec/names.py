"""Names of AWS resources. Models and configurations are immutable: their name contains the hash of their content."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from deploy.errors import WrongOption

VARIANT = "AllTraffic"
_HASH = 10
_LONGEST_ENDPOINT = 63 - 1 - _HASH
_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*")
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/.+")


def hashed(endpoint: str, content: Mapping[str, Any]) -> str:
    """`endpoint` and the first ten hexadecimal digits of the SHA-256 of `content` as JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f"{endpoint}-{hashlib.sha256(text.encode()).hexdigest()[:_HASH]}"


def is_hashed(name: str, endpoint: str) -> bool:
    """Whether `name` has the form that `hashed` returns for `endpoint`."""
    return re.fullmatch(rf"{re.escape(endpoint)}-[0-9a-f]{{{_HASH}}}", name) is not None


def checked_endpoint(name: str | None) -> str:
    """`name`, valid for an endpoint and for the resources named after it. Raises WrongOption."""
    if not name:
        raise WrongOption("ENDPOINT_NAME is not set", "Set it, or IMAGE_NAME.")
    if len(name) > _LONGEST_ENDPOINT or _NAME.fullmatch(name) is None:
        rule = f"at most {_LONGEST_ENDPOINT} letters, digits and single hyphens"
        raise WrongOption(f"ENDPOINT_NAME {name!r} is no valid endpoint name", f"Use {rule}.")
    return name


def checked_role(arn: str | None) -> str:
    """`arn`, checked to have the form of a role's. Raises WrongOption."""
    if not arn:
        raise WrongOption("ROLE_ARN is not set", "Set it to the IAM role of the endpoint.")
    if _ROLE.fullmatch(arn) is None:
        raise WrongOption(f"ROLE_ARN {arn!r} is no role ARN", "Its form is arn:aws:iam::123456789012:role/NAME.")
    return arn


def checked_bucket(name: str | None) -> str:
    """`name` without s3:// and slashes. Raises WrongOption where there is none."""
    if not name:
        raise WrongOption("BUCKET_NAME is not set", "Set it to a bucket in the REGION of the endpoint.")
    return name.removeprefix("s3://").strip("/")
