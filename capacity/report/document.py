"""The report's content in no output format: sections of blocks. Renderers know blocks; only sections know figures.

Text may contain **strong** marks and no other markup; renderers escape the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph of text."""

    text: str


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading within a section."""

    text: str


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list; numbered where the order matters."""

    items: tuple[str, ...]
    numbered: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a head; a row's first cell is its heading. `wide` tables are set in a smaller font."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart by name, with its caption; formats without graphics leave it out."""

    name: str
    caption: str


Block = Paragraph | Heading | Bullets | Table | Chart


@dataclass(frozen=True, slots=True)
class Section:
    """A numbered section."""

    number: int
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class ReportDocument:
    """A whole report; `facts` are the lines under its title, `colophon` those at its end."""

    language: str
    title: str
    subtitle: str
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    colophon_title: str
    colophon: tuple[tuple[str, str], ...]
    closing: str


def bullets(items: Sequence[str], *, numbered: bool = False) -> Bullets:
    """A list of the items."""
    return Bullets(tuple(items), numbered)
