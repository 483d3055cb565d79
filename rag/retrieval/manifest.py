"""The index's directory: written atomically, and opened only after every file matches the manifest.

`manifest.json` lists each file with its size and SHA-256, and how the index was built. No file is a pickle, and no file
is opened before its hash is verified.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import UnionType
from typing import get_type_hints

from rag.errors import IndexRefused

FORMAT = "rag-index"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
REBUILD = "build it again: make index"

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@dataclass(frozen=True, slots=True)
class Manifest:
    """How an index was built. The entry `files` is not part of it: read_manifest verifies the files beforehand."""

    embedder: str
    dimension: int
    factory: str
    passages: int
    documents: int
    fingerprint: str | None = None
    """The embedder's (see rag.embedding.fingerprint). None in indexes from before fingerprints existed."""
    recall_at_10: float | None = None
    """The vector search's, measured at build time (see rag.retrieval.calibration). None in older indexes."""
    search_effort: int | None = None
    """The lists or candidates that a search visits for that recall; None for an exact index."""


_TYPES: dict[str, type | UnionType] = get_type_hints(Manifest)


@contextmanager
def writing(directory: Path) -> Iterator[Path]:
    """A new sibling directory to write into, which replaces `directory` at the end of the block.

    If the block raises, `directory` is unchanged. Readers see either all old files or all new ones.
    """
    directory = Path(os.path.abspath(directory))  # noqa: PTH100 - resolve() would follow a link, which is to be replaced
    directory.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        draft.chmod(0o755)  # mkdtemp creates it with 0700, but the server may run as another user
        yield draft
        _flush(draft)
        _replace(draft, directory)
        _fsync(directory.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # after the exchange the old index, else a failed draft


def write_manifest(directory: Path, manifest: Manifest, files: Sequence[str]) -> None:
    """Write manifest.json for `files`, which are already in `directory`."""
    content = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        **{name: value for name, value in asdict(manifest).items() if value is not None},
        "files": {
            name: {"bytes": (directory / name).stat().st_size, "sha256": _sha256(directory / name)} for name in files
        },
    }
    (directory / MANIFEST).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_manifest(directory: Path, files: Sequence[str]) -> Manifest:
    """The manifest of the index in `directory`, after verifying the size and SHA-256 of each of `files`.

    Raises IndexRefused, naming the file, for a directory without an index, another format, or a changed file.
    """
    path = directory / MANIFEST
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise _refused(f"{directory} is not an index: it has no {MANIFEST}", path) from error
    except (OSError, ValueError, RecursionError) as error:
        raise _refused(f"{path} can't be read: {error}", path) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise _refused(f"{path} is not the manifest of a {FORMAT}", path)
    if content.get("version") != FORMAT_VERSION:
        version = content.get("version")
        raise _refused(f"{path} has format version {version!r}; this program reads {FORMAT_VERSION}", path)
    stated = content.get("files")
    for name in files:
        _verify(directory / name, stated.get(name) if isinstance(stated, dict) else None)
    return _manifest(path, content)


def _manifest(path: Path, content: Mapping[str, object]) -> Manifest:
    for name, kind in _TYPES.items():
        if not isinstance(content.get(name), kind):
            raise _refused(f"{path} has no valid {name!r}: {content.get(name)!r}", path)
    return Manifest(**{name: content.get(name) for name in _TYPES})  # type: ignore[arg-type]


def _verify(path: Path, stated: object) -> None:
    if not isinstance(stated, dict):
        raise _refused(f"{path} is not listed in its manifest", path)
    try:
        size_bytes = path.stat().st_size
        if size_bytes != stated.get("bytes"):
            raise _refused(f"{path} has {size_bytes} bytes; the manifest says {stated.get('bytes')}", path)
        if _sha256(path) != stated.get("sha256"):
            raise _refused(f"{path} is corrupt: its SHA-256 differs from the one in the manifest", path)
    except OSError as error:
        raise _refused(f"{path} can't be read: {error.strerror}", path) from error


def _refused(message: str, path: Path) -> IndexRefused:
    return IndexRefused(message, value=str(path), remedy=REBUILD)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _replace(draft: Path, directory: Path) -> None:
    """Rename `draft` to `directory`, and an existing `directory` to `draft`."""
    if not os.path.lexists(directory):
        draft.rename(directory)
        return
    if _exchange(draft, directory):
        return
    # Without an atomic exchange, the index is missing between two renames, but never incomplete.
    old = draft.with_name(draft.name + ".old")
    directory.rename(old)
    draft.rename(directory)
    old.rename(draft)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names atomically by Linux' renameat2, which Python lacks; False where it isn't supported."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EXDEV, errno.EPERM):
        return False
    raise OSError(code, os.strerror(code), str(other))


def _flush(directory: Path) -> None:
    """fsync every file and folder below `directory`."""
    for path in (*directory.rglob("*"), directory):
        _fsync(path)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
