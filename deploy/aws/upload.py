"""Upload an artifact to S3, uncompressed, under a prefix with its hash: files of a running version never change.

A file that an earlier version has with the same hash is copied inside S3; only new files are sent.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import BotoCoreError, ClientError

from deploy.account import Account, AwsCall
from deploy.errors import DeployError, explained
from deploy.spec.artifact_reader import MANIFEST, Artifact

OnBytes = Callable[[int], object]
_MOST_VERSIONS = 20


@dataclass(frozen=True, slots=True)
class Uploaded:
    """The artifact's URI, and its bytes by how they got there: sent, copied inside S3, or already present (kept)."""

    uri: str
    sent_bytes: int
    copied_bytes: int
    kept_bytes: int


def versions_prefix(endpoint: str) -> str:
    """The prefix of an endpoint's artifacts in the bucket, with one prefix per version below it."""
    return f"{endpoint}/artifacts/"


def artifact_uri(bucket: str, endpoint: str, artifact: Artifact) -> str:
    """The URI of the uploaded `artifact`. SageMaker requires the slash at the end."""
    return f"s3://{bucket}/{versions_prefix(endpoint)}{artifact.digest[:12]}/"


def archive_uri(bucket: str, endpoint: str, artifact: Artifact) -> str:
    """The URI of its model.tar.gz, for a serverless endpoint."""
    return f"s3://{bucket}/{versions_prefix(endpoint)}{artifact.digest[:12]}.tar.gz"


def upload(
    account: Account,
    artifact: Artifact,
    bucket: str,
    endpoint: str,
    *,
    kms_key: str | None = None,
    on_bytes: OnBytes = lambda _: None,
) -> Uploaded:
    """Upload `artifact` to its prefix. The manifest goes last, so its presence means that the upload is complete.

    Raises DeployError where the bucket does not exist or is not writable.
    """
    account.do(AwsCall("s3", "head_bucket", {"Bucket": bucket}))
    uri = artifact_uri(bucket, endpoint, artifact)
    prefix = uri.removeprefix(f"s3://{bucket}/")
    there = {item["Key"]: item["Size"] for item in _objects(account, bucket, prefix)}
    earlier = _earlier(account, bucket, endpoint, prefix)
    sent = copied = kept = 0
    extra = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key} if kms_key else {}
    client = account.client("s3")
    for file in artifact.files:
        key, source = prefix + file.path, earlier.get(file.sha256)
        if there.get(key) == file.size_bytes:
            kept += file.size_bytes
            on_bytes(file.size_bytes)
        elif source is not None:
            with _explaining("copy"):
                client.copy({"Bucket": bucket, "Key": source}, bucket, key, ExtraArgs=extra, Callback=on_bytes)
            copied += file.size_bytes
        else:
            with _explaining("upload_file"):
                client.upload_file(str(artifact.directory / file.path), bucket, key, ExtraArgs=extra, Callback=on_bytes)
            sent += file.size_bytes
    if prefix + MANIFEST not in there:
        with _explaining("upload_file"):
            client.upload_file(str(artifact.directory / MANIFEST), bucket, prefix + MANIFEST, ExtraArgs=extra)
    return Uploaded(uri, sent, copied, kept)


def upload_archive(
    account: Account, artifact: Artifact, bucket: str, endpoint: str, *, on_bytes: OnBytes = lambda _: None
) -> Uploaded:
    """Upload it as one model.tar.gz, as a serverless endpoint requires."""
    account.do(AwsCall("s3", "head_bucket", {"Bucket": bucket}))
    uri = archive_uri(bucket, endpoint, artifact)
    key = uri.removeprefix(f"s3://{bucket}/")
    if list(_objects(account, bucket, key)):
        on_bytes(artifact.size_bytes)
        return Uploaded(uri, 0, 0, artifact.size_bytes)
    with tempfile.TemporaryDirectory() as directory:
        archive = Path(directory) / "model.tar.gz"
        with tarfile.open(archive, "w:gz", compresslevel=1, dereference=True) as tar:
            for path in [*(file.path for file in artifact.files), MANIFEST]:
                tar.add(artifact.directory / path, path, recursive=False)
        with _explaining("upload_file"):
            account.client("s3").upload_file(str(archive), bucket, key)
        on_bytes(artifact.size_bytes)
        return Uploaded(uri, archive.stat().st_size, 0, 0)


def remove_artifacts(account: Account, bucket: str, endpoint: str) -> int:
    """Delete every version of the endpoint's artifacts; the number of objects."""
    keys = [item["Key"] for item in _objects(account, bucket, versions_prefix(endpoint))]
    for start in range(0, len(keys), 1000):
        objects = [{"Key": key} for key in keys[start : start + 1000]]
        account.do(AwsCall("s3", "delete_objects", {"Bucket": bucket, "Delete": {"Objects": objects, "Quiet": True}}))
    return len(keys)


def _objects(account: Account, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    return account.pages(AwsCall("s3", "list_objects_v2", {"Bucket": bucket, "Prefix": prefix}), "Contents")


def _earlier(account: Account, bucket: str, endpoint: str, without: str) -> dict[str, str]:
    """SHA-256 → key, of the files of other versions whose upload was completed."""
    listing = AwsCall(
        "s3", "list_objects_v2", {"Bucket": bucket, "Prefix": versions_prefix(endpoint), "Delimiter": "/"}
    )
    prefixes = [item["Prefix"] for item in account.pages(listing, "CommonPrefixes") if item["Prefix"] != without]
    found: dict[str, str] = {}
    for prefix in prefixes[-_MOST_VERSIONS:]:
        response = account.find(AwsCall("s3", "get_object", {"Bucket": bucket, "Key": prefix + MANIFEST}))
        if response is not None:
            files = json.loads(response["Body"].read())["files"]
            found.update({file["sha256"]: prefix + path for path, file in files.items()})
    return found


class _explaining:  # noqa: N801 - reads as a word of the with statement
    """boto3's transfers raise errors of their own."""

    def __init__(self, operation: str) -> None:
        self._operation = operation

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, ClientError | BotoCoreError):
            raise explained(error, self._operation) from error
        if isinstance(error, S3UploadFailedError):
            raise DeployError(f"{self._operation}: {error}") from error
