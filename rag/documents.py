"""Documents from a folder: .txt, .md and .jsonl. What can't be read is noted with its file and line, and left out.

Every document's metadata hold its `source` (the path below the folder), `folder` and `language`, so that answers can
cite and requests can filter. Knows nothing about tokens or indexes.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rag.errors import InvalidRequest
from rag.language import detect_language
from rag.seams import Scalar

# A first line longer than this is a paragraph, not a title; a longer title would also crowd the text out of its chunk.
_LONGEST_TITLE = 120


@dataclass(frozen=True, slots=True)
class Document:
    """A text with its title. `id` is the source's path, a line of it, or what a .jsonl line gives as its id."""

    id: str
    title: str
    text: str
    metadata: dict[str, Scalar]


@dataclass(frozen=True, slots=True)
class Note:
    """Something that was left out, and why. `line` counts from 1; None when it is about the whole file."""

    source: str
    line: int | None
    reason: str

    def __str__(self) -> str:
        place = self.source if self.line is None else f"{self.source}:{self.line}"
        return f"{place}: {self.reason}"


@dataclass(slots=True)
class Folder:
    """What reading a folder gave."""

    documents: list[Document] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)


def read_folder(folder: Path) -> Folder:
    """Every document below `folder`, in the order of their paths; hidden files and folders don't count.

    Raises InvalidRequest when `folder` is none.
    """
    if not folder.is_dir():
        raise InvalidRequest(f"{folder} is not a folder of documents", field="documents", value=str(folder))
    found = Folder()
    owners: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if not path.is_file() or any(part.startswith(".") for part in relative.parts):
            continue
        source = relative.as_posix()
        read = _READERS.get(path.suffix.lower())
        if read is None:
            spoken = ", ".join(_READERS)
            found.notes.append(Note(source, None, f"files of the type {path.suffix or 'none'} aren't read ({spoken})"))
            continue
        try:
            text = path.read_bytes()
        except OSError as error:
            found.notes.append(Note(source, None, f"can't be read: {error.strerror}"))
            continue
        for item in read(source, text):
            if isinstance(item, Note):
                found.notes.append(item)
            elif item.id in owners:
                found.notes.append(Note(item.id, None, f"the id is taken already, by {owners[item.id]}"))
            else:
                owners[item.id] = str(item.metadata["source"])
                found.documents.append(item)
    return found


def _read_text(source: str, content: bytes) -> Iterator[Document | Note]:
    """The title is the first line when a blank one follows, else the file's name."""
    text = _decoded(source, content)
    if isinstance(text, Note):
        yield text
        return
    first, _, rest = text.partition("\n")
    if rest.startswith("\n") and len(first) <= _LONGEST_TITLE and rest.strip():
        yield _document(source, source, first, rest)
    else:
        yield _document(source, source, Path(source).stem, text)


def _read_markdown(source: str, content: bytes) -> Iterator[Document | Note]:
    """The title is the first heading of level one, else the file's name."""
    text = _decoded(source, content)
    if isinstance(text, Note):
        yield text
        return
    heading = re.search(r"^# +(.+?)[ #]*$", text, re.MULTILINE)
    if heading is None:
        yield _document(source, source, Path(source).stem, text)
    else:
        yield _document(source, source, heading[1], text[: heading.start()] + text[heading.end() :])


def _read_json_lines(source: str, content: bytes) -> Iterator[Document | Note]:
    """A document a line: `text`, and optionally `title`, `id` and further scalars, which become metadata."""
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            yield from _read_json_line(source, number, line)


def _read_json_line(source: str, number: int, line: bytes) -> Iterator[Document | Note]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:  # bad UTF-8 is a ValueError too
        yield Note(source, number, f"is not JSON: {error}")
        return
    if not isinstance(record, dict):
        yield Note(source, number, "is not a JSON object")
        return
    text, title, identity = record.pop("text", None), record.pop("title", None), record.pop("id", None)
    if not isinstance(text, str) or not text.strip():
        yield Note(source, number, 'has no "text"')
        return
    metadata: dict[str, Scalar] = {}
    for name, value in record.items():
        if isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
            metadata[name] = value
        elif value is not None:
            yield Note(source, number, f"the field {name!r} is left out: {type(value).__name__} is not a scalar")
    yield _document(
        source,
        str(identity) if isinstance(identity, str | int) and str(identity) else f"{source}:{number}",
        title if isinstance(title, str) and title.strip() else Path(source).stem,
        text,
        metadata,
    )


_READERS: dict[str, Callable[[str, bytes], Iterator[Document | Note]]] = {
    ".txt": _read_text,
    ".md": _read_markdown,
    ".jsonl": _read_json_lines,
}


def _decoded(source: str, content: bytes) -> str | Note:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return Note(source, line, f"is not UTF-8: byte 0x{content[error.start]:02x}")
    text = text.replace("\r\n", "\n").strip()
    return text or Note(source, None, "is empty")


def _document(
    source: str, identity: str, title: str, text: str, metadata: dict[str, Scalar] | None = None
) -> Document | Note:
    title, text = unicodedata.normalize("NFC", title).strip(), unicodedata.normalize("NFC", text).strip()
    if not text:
        return Note(source, None, "has a title and no text")
    if len(title) > _LONGEST_TITLE:
        title = title[:_LONGEST_TITLE].rsplit(maxsplit=1)[0] + "…"
    metadata = dict(metadata or {})
    if metadata.get("language") not in ("pt", "en"):  # a language given by the author is better than a guess
        metadata["language"] = detect_language(f"{title}\n{text}")
    metadata["source"] = source
    metadata["folder"] = Path(source).parent.as_posix()
    return Document(identity, title, text, metadata)
