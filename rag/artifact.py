"""An artifact: one directory with everything that an endpoint needs, as it is in S3 and in /opt/ml/model.

    llm/NAME/  embedder/NAME/  reranker/NAME/   models, each under its name in answers and in the index
    index/                                      see rag/retrieval/index.py
    settings.json                               variable → value; paths are relative to the artifact
    plan.json                                   the Plan for it
    manifest.json                               size and SHA-256 of every file above

The manifest is checked at boot, which names the first file that was lost or changed in a transfer.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rag.errors import ArtifactRefused

FORMAT = "rag-artifact"
FORMAT_VERSION = 1
MANIFEST, SETTINGS, PLAN = "manifest.json", "settings.json", "plan.json"
REBUILD = "build it again (make artifact) and upload all of it"

_BLOCK_BYTES = 4 << 20

# The settings whose values are directories in the artifact, if these exist.
_PATH_SETTINGS = ("LLM", "EMBEDDING_MODEL", "RERANKER", "INDEX")

OnBytes = Callable[[int], object]
"""Called with the number of bytes read since the last call, from several threads."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file's record in the manifest."""

    size_bytes: int
    sha256: str


def write_manifest(directory: Path, on_bytes: OnBytes = lambda _: None) -> None:
    """Write manifest.json for every other file in `directory`, sorted by name."""
    paths = {path: (directory / path).stat().st_size for path in _files(directory)}
    files = {
        path: {"bytes": paths[path], "sha256": digest} for path, digest in _digests(directory, paths, on_bytes).items()
    }
    content = {"format": FORMAT, "version": FORMAT_VERSION, "files": files}
    (directory / MANIFEST).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def is_artifact(directory: Path) -> bool:
    """Whether `directory` is an artifact: it has a manifest."""
    return (directory / MANIFEST).is_file()


def verify(directory: Path, on_bytes: OnBytes = lambda _: None) -> int:
    """Check every file against the manifest, in parallel, one a core; returns the number of bytes read.

    Raises ArtifactRefused with the first file, by name, that is missing, of another size, or changed, or that is among
    the models or the index without being in the manifest.
    """
    files = read_manifest(directory)
    found = set(_files(directory))
    for path, stated in files.items():
        if path not in found:
            raise _refused(f"{path} is missing from the artifact", directory / path)
        size_bytes = (directory / path).stat().st_size
        if size_bytes != stated.size_bytes:
            raise _refused(
                f"{path} is damaged: {size_bytes} bytes, and the manifest says {stated.size_bytes}", directory / path
            )
    # A file left by a previous upload must not be loaded with the rest. At the top level an extra file is harmless.
    folders = {PurePosixPath(path).parts[0] for path in files if "/" in path}
    unlisted = sorted(path for path in found - files.keys() if PurePosixPath(path).parts[0] in folders)
    if unlisted:
        raise _refused(f"{unlisted[0]} is not in the artifact's manifest", directory / unlisted[0])
    sizes = {path: stated.size_bytes for path, stated in files.items()}
    for path, digest in _digests(directory, sizes, on_bytes).items():
        if digest != files[path].sha256:
            raise _refused(f"{path} is damaged: its SHA-256 is not the manifest's", directory / path)
    return sum(sizes.values())


def read_manifest(directory: Path) -> dict[str, FileRecord]:
    """The manifest's record of each file, by its path. Raises ArtifactRefused when it can't be read."""
    path = directory / MANIFEST
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT or content["version"] != FORMAT_VERSION:
            raise _refused(f"{path} is not the manifest of a {FORMAT} in version {FORMAT_VERSION}", path)
        files = {
            _inside(str(name)): FileRecord(int(stated["bytes"]), str(stated["sha256"]))
            for name, stated in content["files"].items()
        }
    except FileNotFoundError as error:
        raise _refused(f"{directory} is not an artifact: it has no {MANIFEST}", path) from error
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise _refused(f"{path} is damaged: {type(error).__name__}: {error}", path) from error
    return files


def read_settings(directory: Path) -> dict[str, str]:
    """The artifact's settings by variable name, with absolute paths.

    Empty where settings.json is not the file in the manifest: the check at boot reports that. Raises ArtifactRefused
    for one that is not an object of strings.
    """
    path = directory / SETTINGS
    try:
        content = path.read_bytes()
        stated = read_manifest(directory).get(SETTINGS)
    except (OSError, ArtifactRefused):
        return {}
    if stated is None or hashlib.sha256(content).hexdigest() != stated.sha256:
        return {}
    try:
        settings: Any = json.loads(content)
    except ValueError as error:
        raise _refused(f"{path} is not JSON: {error}", path) from error
    if not isinstance(settings, dict) or not all(isinstance(value, str) for value in settings.values()):
        raise _refused(f"{path} is not an object of strings", path)
    return {
        name: str(directory / value) if name in _PATH_SETTINGS and (directory / value).exists() else value
        for name, value in settings.items()
    }


def _files(directory: Path) -> list[str]:
    """The paths of all files in `directory` except the manifest, sorted."""
    paths = (path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    return sorted(path for path in paths if path != MANIFEST)


def _digests(directory: Path, sizes: dict[str, int], on_bytes: OnBytes) -> dict[str, str]:
    """SHA-256 of each file. hashlib releases the GIL while it computes, so threads run in parallel."""

    def digest(path: str) -> str:
        sha256 = hashlib.sha256()
        block = memoryview(bytearray(_BLOCK_BYTES))
        with (directory / path).open("rb", buffering=0) as file:
            while size := file.readinto(block):
                sha256.update(block[:size])
                on_bytes(size)
        return sha256.hexdigest()

    # The largest first, so that no thread is still busy with one when the others have finished.
    order = sorted(sizes, key=lambda path: sizes[path], reverse=True)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="sha256") as threads:
        found = dict(zip(order, threads.map(digest, order), strict=True))
    return {path: found[path] for path in sizes}


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts:
        raise ValueError(f"the path {path!r} leaves the artifact")
    return path


def _refused(message: str, path: Path) -> ArtifactRefused:
    return ArtifactRefused(message, field="artifact", value=str(path), remedy=REBUILD)
