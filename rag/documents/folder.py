"""Documents from a folder, of every type that rag/documents/readers.py reads. What can't be read is noted and left out.

Every document's metadata hold its `source` (the path below the folder), `folder` and `language`, so that answers can
cite and requests can filter. Knows nothing about tokens or indexes.
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
    """A text with its title. `id` is the source's path, a line of it, or what a .jsonl line gives as its id."""

    id: str
    title: str
    text: str
    metadata: dict[str, Scalar]


@dataclass(slots=True)
class Folder:
    """What reading a folder gave."""

    documents: list[Document] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)


def read_folder(folder: Path, watch: Callable[[list[Path]], Iterable[Path]] = lambda paths: paths) -> Folder:
    """Every document below `folder`, in the order of their paths; hidden files and folders don't count.

    `watch` may wrap the list of files, to show how far it has been read. Raises InvalidRequest when `folder` is none,
    or when a library that its files need is not installed.
    """
    if not folder.is_dir():
        raise InvalidRequest(f"{folder} is not a folder of documents", field="documents", value=str(folder))
    found = Folder()
    owners: dict[str, str] = {}
    for path in watch([path for path in sorted(folder.rglob("*")) if _counts(path, folder)]):
        source = path.relative_to(folder).as_posix()
        read = reader_of(source)
        if read is None:
            spoken = ", ".join(READERS)
            found.notes.append(Note(source, None, f"files of the type {path.suffix or 'none'} aren't read ({spoken})"))
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
                found.notes.append(Note(item.id, None, f"the id is taken already, by {owners[item.id]}"))
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
        return Note(source, None, "has a title and no text")
    if len(title) > LONGEST_TITLE:
        title = title[:LONGEST_TITLE].rsplit(maxsplit=1)[0] + "…"
    metadata = dict(found.metadata)
    if metadata.get("language") not in ("pt", "en"):  # a language given by the author is better than a guess
        metadata["language"] = detect_language(f"{title}\n{text}")
    metadata["source"] = source
    metadata["folder"] = Path(source).parent.as_posix()
    identity = found.id or (source if found.place is None else f"{source}:{found.place}")
    return Document(identity, title, text, metadata)
