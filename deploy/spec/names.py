"""Names of what is made on AWS. Models and configurations are never edited: a name carries a hash of what it says."""

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
    """Whether `name` is one that `hashed` makes for `endpoint`."""
    return re.fullmatch(rf"{re.escape(endpoint)}-[0-9a-f]{{{_HASH}}}", name) is not None


def checked_endpoint(name: str | None) -> str:
    """`name`, fit for an endpoint and what is named after it. Raises WrongOption."""
    if not name:
        raise WrongOption("ENDPOINT_NAME is not set", "Set it, or IMAGE_NAME.")
    if len(name) > _LONGEST_ENDPOINT or _NAME.fullmatch(name) is None:
        rule = f"at most {_LONGEST_ENDPOINT} letters, digits and single hyphens"
        raise WrongOption(f"ENDPOINT_NAME {name!r} is no endpoint's name", f"Take {rule}.")
    return name


def checked_role(arn: str | None) -> str:
    """`arn`, shaped as a role's. Raises WrongOption."""
    if not arn:
        raise WrongOption("ROLE_ARN is not set", "Set it to the role that the endpoint runs as.")
    if _ROLE.fullmatch(arn) is None:
        raise WrongOption(f"ROLE_ARN {arn!r} is no role", "It looks like arn:aws:iam::123456789012:role/NAME.")
    return arn


def checked_bucket(name: str | None) -> str:
    """`name`, if there is one. Raises WrongOption."""
    if not name:
        raise WrongOption("BUCKET_NAME is not set", "Set it to a bucket in the REGION of the endpoint.")
    return name.removeprefix("s3://").strip("/")
