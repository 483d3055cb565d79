"""File readers by type, .txt .md .html .pdf .docx .csv .jsonl: bytes to texts with titles.

A reader yields a Text for each document in the file, and a Note for each part that it skips. The libraries for markup
and office formats (requirements-artifact.txt) are needed only here, and imported with the first such file.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rag.errors import InvalidRequest
from rag.interfaces import Scalar

# A longer first line is a paragraph, not a title; a longer title would also leave its chunks too little space for text.
LONGEST_TITLE = 120

_LONGEST_CELL = 10_000_000
_DELIMITERS = ",;\t|"
_BLOCKS = [
    "address", "article", "blockquote", "dd", "details", "div", "dl", "dt", "figcaption", "figure", "hr", "li", "main",
    "h1", "h2", "h3", "h4", "h5", "h6", "ol", "p", "pre", "section", "table", "tr", "ul",
]  # fmt: skip
_NO_TEXT = ["script", "style", "noscript", "template", "svg", "nav", "footer", "aside", "form", "button", "iframe"]


@dataclass(frozen=True, slots=True)
class Text:
    """One document of a file. `place`, its line or page, distinguishes it from the file's others.

    `title` None: the file's name is used. `id` None: the file's path and the place are used.
    """

    text: str
    title: str | None = None
    place: str | None = None
    id: str | None = None
    metadata: dict[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Note:
    """Something that was skipped, and why. `line` (a PDF's page) counts from 1; None: the whole file."""

    source: str
    line: int | None
    reason: str

    @property
    def place(self) -> str:
        """The file, and the line where it has one."""
        return self.source if self.line is None else f"{self.source}:{self.line}"

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


Reader = Callable[[str, bytes], Iterator[Text | Note]]


def reader_of(source: str) -> Reader | None:
    """The reader for a file of this name; None for an unsupported type."""
    return READERS.get(Path(source).suffix.lower())


def _read_text(source: str, content: bytes) -> Iterator[Text | Note]:
    """The title is the first line if a blank line follows it."""
    text = _decoded(source, content)
    if isinstance(text, Note):
        yield text
        return
    first, _, rest = text.partition("\n")
    if rest.startswith("\n") and len(first) <= LONGEST_TITLE and rest.strip():
        yield Text(rest, first)
    else:
        yield Text(text)


def _read_markdown(source: str, content: bytes) -> Iterator[Text | Note]:
    """The title is the first heading of level one."""
    text = _decoded(source, content)
    if isinstance(text, Note):
        yield text
        return
    heading = re.search(r"^# +(.+?)[ #]*$", text, re.MULTILINE)
    if heading is None:
        yield Text(text)
    else:
        yield Text(text[: heading.start()] + text[heading.end() :], heading[1])


def _read_json_lines(source: str, content: bytes) -> Iterator[Text | Note]:
    """One document per line: `text`, and optionally `title`, `id` and further scalars, which become metadata."""
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:  # invalid UTF-8 is a ValueError too
            yield Note(source, number, f"is not JSON: {error}")
            continue
        if isinstance(record, dict):
            yield from _record(source, number, record)
        else:
            yield Note(source, number, "is not a JSON object")


def _read_csv(source: str, content: bytes) -> Iterator[Text | Note]:
    """One document per row. With a column `text`, like a line of .jsonl; without, the cells as "column: value" lines.

    The delimiter is the most frequent one of comma, semicolon, tab and bar in the header.
    """
    text = _decoded(source, content)
    if isinstance(text, Note):
        yield text
        return
    header_line = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=header_line.count)
    csv.field_size_limit(_LONGEST_CELL)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = [column.strip() for column in next(rows)]
        # Cells may contain line breaks: notes name the line on which the row ends.
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(columns):
                yield Note(source, rows.line_num, f"has {len(row)} cells under {len(columns)} columns")
                continue
            cells = {column: cell for column, cell in zip(columns, row, strict=True) if column and cell.strip()}
            if "text" in columns:
                yield from _record(source, rows.line_num, cells)
            else:
                lines = [f"{column}: {cell.strip()}" for column, cell in cells.items()]
                yield Text("\n".join(lines), place=str(rows.line_num))
    except csv.Error as error:
        yield Note(source, rows.line_num, f"is not valid CSV, and the rest of the file is skipped: {error}")
        return
    if rows.line_num == 1:
        yield Note(source, None, "has a header but no rows")


def _record(source: str, number: int, record: Mapping[str, Any]) -> Iterator[Text | Note]:
    """A mapping with `text`; every key but text, title and id becomes metadata."""
    text, title, identity = record.get("text"), record.get("title"), record.get("id")
    if not isinstance(text, str) or not text.strip():
        yield Note(source, number, 'has no "text"')
        return
    metadata: dict[str, Scalar] = {}
    for name, value in record.items():
        if name in ("text", "title", "id") or value is None:
            continue
        if isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
            metadata[name] = value
        else:
            yield Note(source, number, f"the field {name!r} is skipped: {type(value).__name__} is not a scalar")
    yield Text(
        text,
        title if isinstance(title, str) and title.strip() else None,
        str(number),
        str(identity) if isinstance(identity, str | int) and str(identity) else None,
        metadata,
    )


def _read_html(source: str, content: bytes) -> Iterator[Text | Note]:
    """The main part of a page: <main>, else <article>, else all but navigation, forms and scripts.

    The title is the <title>. Table cells are separated by bars. The encoding is detected as browsers do.
    """
    page = _library("bs4", "beautifulsoup4").BeautifulSoup(content, "html.parser")
    title = page.title.get_text() if page.title else None
    language = str(page.html.get("lang") or "")[:2].lower() if page.html else ""
    for element in page(_NO_TEXT):
        element.decompose()
    articles = page("article")
    part = page.find("main") or (articles[0] if len(articles) == 1 else None) or page.body or page
    heading = part.find("h1")
    for piece in list(part.strings):  # line breaks of the source have no meaning; those of the layout are added below
        if piece.find_parent("pre") is None:
            piece.replace_with(re.sub(r"\s+", " ", piece))
    for cell in part(["td", "th"]):
        if cell.find_next_sibling(["td", "th"]):
            cell.append(" | ")
    for element in part(["br", *_BLOCKS]):
        element.insert_before("\n" if element.name in ("br", "li", "tr") else "\n\n")
        element.insert_after("" if element.name == "br" else "\n")
    text = _tidied(part.get_text())
    if not text:
        yield Note(source, None, "has no text")
        return
    metadata: dict[str, Scalar] = {"language": language} if language in ("pt", "en") else {}
    title = re.sub(r"\s+", " ", title or (heading.get_text() if heading else "")).strip()
    yield Text(text, title or None, metadata=metadata)


def _read_pdf(source: str, content: bytes) -> Iterator[Text | Note]:
    """One document per page, so that citations name the page; `page` in the metadata counts from 1.

    Scanned pages have no text; a note says how many.
    """
    pypdf = _library("pypdf", "pypdf")
    errors = importlib.import_module("pypdf.errors")
    try:
        pdf = pypdf.PdfReader(io.BytesIO(content))
        if pdf.is_encrypted and not pdf.decrypt(""):
            yield Note(source, None, "is protected by a password")
            return
        title = str(pdf.metadata.title or "") if pdf.metadata else ""
        pages = list(pdf.pages)
    except (errors.PyPdfError, errors.DependencyError, ValueError, KeyError, TypeError, RecursionError) as error:
        yield Note(source, None, f"is not a readable PDF: {error}")
        return
    unread = []
    for number, page in enumerate(pages, start=1):
        try:
            text = _tidied(page.extract_text())
        except Exception as error:  # a broken page may raise anything in the parser; the other pages are still read
            yield Note(source, number, f"the page can't be read: {type(error).__name__}: {error}")
            continue
        if text:
            # Join words that are hyphenated at a line break.
            text = re.sub(r"(?<=[a-zà-ÿ])-\n(?=[a-zà-ÿ])", "", text)
            yield Text(text, title.strip() or None, str(number), metadata={"page": number})
        else:
            unread.append(number)
    if unread:
        which = "no page" if len(unread) == len(pages) else f"{len(unread)} of {len(pages)} pages"
        reason = "has text" if len(unread) == len(pages) else f"have no text, first page {unread[0]}"
        yield Note(source, None, f"{which} {reason}: scanned pages need OCR first")


def _read_docx(source: str, content: bytes) -> Iterator[Text | Note]:
    """Paragraphs and tables in order. The title is the document property, else the first heading."""
    docx = _library("docx", "python-docx")
    table_type = importlib.import_module("docx.table").Table
    try:
        document = docx.Document(io.BytesIO(content))
        title = document.core_properties.title.strip()
        blocks = []
        for block in document.iter_inner_content():
            if isinstance(block, table_type):
                rows = (" | ".join(cell.text.strip() for cell in row.cells) for row in block.rows)
                blocks.append("\n".join(rows))
                continue
            style = str(getattr(block.style, "name", "") or "")
            if not title and block.text.strip() and style in ("Title", "Heading 1"):
                title = block.text.strip()
            else:
                blocks.append(block.text)
    except Exception as error:  # zip, XML and packaging errors have no common base class, and all mean the same
        yield Note(source, None, f"is not a readable Word document: {_first_line(error)}")
        return
    text = _tidied("\n\n".join(blocks))
    yield Text(text, title or None) if text else Note(source, None, "has no text")


READERS: dict[str, Reader] = {
    ".txt": _read_text,
    ".md": _read_markdown,
    ".html": _read_html,
    ".htm": _read_html,
    ".pdf": _read_pdf,
    ".docx": _read_docx,
    ".csv": _read_csv,
    ".jsonl": _read_json_lines,
}


def _library(module: str, package: str) -> Any:
    """The module, imported at its first use, untyped. Raises InvalidRequest, naming the package, if it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InvalidRequest(
            f"reading these documents needs the package {package}",
            field="documents",
            value=package,
            remedy="pip install -e '.[documents]'",
        ) from error


def _decoded(source: str, content: bytes) -> str | Note:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return Note(source, line, f"is not UTF-8: byte 0x{content[error.start]:02x}")
    text = text.replace("\r\n", "\n").strip()
    return text or Note(source, None, "is empty")


def _tidied(text: str) -> str:
    """Without spaces at the ends of lines, and with at most one blank line between two others."""
    lines = "\n".join(re.sub(r"[^\S\n]+", " ", line).strip(" |") for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", lines).strip()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
