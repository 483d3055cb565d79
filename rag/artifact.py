"""An artifact: one directory with all that an endpoint needs, as it lies in S3 and below /opt/ml/model.

    llm/NAME/  embedder/NAME/  reranker/NAME/   models, each under the name that answers and the index call it by
    index/                                      see rag/retrieval/index.py
    settings.json                               variable → value; paths are relative to the artifact
    plan.json                                   the Plan that was made for it
    manifest.json                               size and SHA-256 of every file above

The manifest is checked at boot, so a transfer that lost or changed something is told by the file's name.
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
REBUILD = "make it again (make artifact) and upload all of it"

_BLOCK_BYTES = 4 << 20

# The settings whose values are directories of the artifact, where they are there.
_PATH_SETTINGS = ("LLM", "EMBEDDING_MODEL", "RERANKER", "INDEX")

OnBytes = Callable[[int], object]
"""Called with the bytes that were read since the last call, from several threads."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What the manifest says of a file."""

    size_bytes: int
    sha256: str


def write_manifest(directory: Path, on_bytes: OnBytes = lambda _: None) -> None:
    """Write manifest.json over every other file in `directory`, the file names sorted."""
    paths = {path: (directory / path).stat().st_size for path in _files(directory)}
    files = {
        path: {"bytes": paths[path], "sha256": digest} for path, digest in _digests(directory, paths, on_bytes).items()
    }
    content = {"format": FORMAT, "version": FORMAT_VERSION, "files": files}
    (directory / MANIFEST).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def is_artifact(directory: Path) -> bool:
    """Whether `directory` has a manifest, which is what makes it an artifact."""
    return (directory / MANIFEST).is_file()


def verify(directory: Path, on_bytes: OnBytes = lambda _: None) -> int:
    """Hold every file to the manifest; the bytes that were read. Files are read side by side, one a core.

    Raises ArtifactRefused naming the first file, in their order, that is missing, shorter, longer, or changed, or that
    lies among the models and is vouched for by nobody.
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
    # What a previous upload left behind must not be loaded with the rest. Elsewhere, a file more does no harm.
    rooms = {PurePosixPath(path).parts[0] for path in files if "/" in path}
    strangers = sorted(path for path in found - files.keys() if PurePosixPath(path).parts[0] in rooms)
    if strangers:
        raise _refused(f"{strangers[0]} is not named by the artifact's manifest", directory / strangers[0])
    sizes = {path: stated.size_bytes for path, stated in files.items()}
    for path, digest in _digests(directory, sizes, on_bytes).items():
        if digest != files[path].sha256:
            raise _refused(f"{path} is damaged: its SHA-256 is not the manifest's", directory / path)
    return sum(sizes.values())


def read_manifest(directory: Path) -> dict[str, FileRecord]:
    """What the manifest says of each file, by its path. Raises ArtifactRefused when it can't be read."""
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
        raise _refused(f"{directory} is no artifact: it has no {MANIFEST}", path) from error
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise _refused(f"{path} is damaged: {type(error).__name__}: {error}", path) from error
    return files


def read_settings(directory: Path) -> dict[str, str]:
    """The settings that the artifact brings, by the names of their variables, with paths made absolute.

    None from a settings.json that the manifest does not vouch for: the boot's check will name it. Raises
    ArtifactRefused for one that is not an object of strings.
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
    """Every file below `directory` but the manifest, by its path, sorted."""
    paths = (path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    return sorted(path for path in paths if path != MANIFEST)


def _digests(directory: Path, sizes: dict[str, int], on_bytes: OnBytes) -> dict[str, str]:
    """SHA-256 of each file. hashlib lets go of the interpreter while it computes, so threads run side by side."""

    def digest(path: str) -> str:
        sha256 = hashlib.sha256()
        block = memoryview(bytearray(_BLOCK_BYTES))
        with (directory / path).open("rb", buffering=0) as file:
            while size := file.readinto(block):
                sha256.update(block[:size])
                on_bytes(size)
        return sha256.hexdigest()

    # The largest first, so that none is left alone at the end.
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
