"""Reads the documents below a folder, of every type in rag/documents/readers.py, with a note on each skipped item.

Every document's metadata hold its `source` (the path below the folder), `folder` and `language`, for citations and
request filters.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rag.documents.readers import LONGEST_TITLE, READERS, Note, Text, reader_of
from rag.errors import InvalidRequest
from rag.interfaces import Scalar
from rag.language import detect_language

__all__ = ["Document", "Folder", "Note", "read_folder"]


@dataclass(frozen=True, slots=True)
class Document:
    """A text with its title. `id`: the source's path, path and line, or the `id` of a .jsonl line."""

    id: str
    title: str
    text: str
    metadata: dict[str, Scalar]


@dataclass(slots=True)
class Folder:
    """The documents of a folder, and the notes on what was skipped."""

    documents: list[Document] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)


def read_folder(folder: Path, watch: Callable[[list[Path]], Iterable[Path]] = lambda paths: paths) -> Folder:
    """Every document below `folder`, in the order of their paths; hidden files and folders are ignored.

    `watch` may wrap the list of files, to show progress. Raises InvalidRequest when `folder` is not a folder, or when a
    library that its files need is not installed.
    """
    if not folder.is_dir():
        raise InvalidRequest(f"{folder} is not a folder of documents", field="documents", value=str(folder))
    found = Folder()
    owners: dict[str, str] = {}
    for path in watch([path for path in sorted(folder.rglob("*")) if _counts(path, folder)]):
        source = path.relative_to(folder).as_posix()
        read = reader_of(source)
        if read is None:
            supported = ", ".join(READERS)
            found.notes.append(
                Note(source, None, f"files of the type {path.suffix or 'none'} aren't read ({supported})")
            )
            continue
        try:
            content = path.read_bytes()
        except OSError as error:
            found.notes.append(Note(source, None, f"can't be read: {error.strerror}"))
            continue
        for text in read(source, content):
            item = text if isinstance(text, Note) else _document(source, text)
            if isinstance(item, Note):
                found.notes.append(item)
            elif item.id in owners:
                found.notes.append(Note(item.id, None, f"duplicate id, already used by {owners[item.id]}"))
            else:
                owners[item.id] = source
                found.documents.append(item)
    return found


def _counts(path: Path, folder: Path) -> bool:
    return path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)


def _document(source: str, found: Text) -> Document | Note:
    title = unicodedata.normalize("NFC", found.title or Path(source).stem).strip()
    text = unicodedata.normalize("NFC", found.text).strip()
    if not text:
        return Note(source, None, "has a title but no text")
    if len(title) > LONGEST_TITLE:
        title = title[:LONGEST_TITLE].rsplit(maxsplit=1)[0] + "…"
    metadata = dict(found.metadata)
    if metadata.get("language") not in ("pt", "en"):  # the author's own language tag takes precedence over detection
        metadata["language"] = detect_language(f"{title}\n{text}")
    metadata["source"] = source
    metadata["folder"] = Path(source).parent.as_posix()
    identity = found.id or (source if found.place is None else f"{source}:{found.place}")
    return Document(identity, title, text, metadata)
