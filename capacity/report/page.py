"""The report as one self-contained HTML page, with A4 page breaks for print."""

from __future__ import annotations

import html
import re

from capacity.report.charts import draw
from capacity.report.document import Block, Bullets, Chart, Heading, Paragraph, ReportDocument, Section, Table
from capacity.report.writer import Writer

_STYLE = """
@page { size: A4; margin: 16mm 15mm 18mm; }
:root { --ink: #1f2933; --muted: #616e7c; --rule: #d9dee4; --accent: #1f5f8b; --band: #f3f6f9; }
* { box-sizing: border-box; }
html { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
body { margin: 0 auto; padding: 40px 32px 64px; max-width: 900px; color: var(--ink); background: #fff;
  font: 15px/1.55 "Segoe UI", "Helvetica Neue", "DejaVu Sans", Arial, sans-serif; }
header { border-top: 6px solid var(--accent); padding-top: 22px; margin-bottom: 28px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0; }
header p.subtitle { font-size: 17px; color: var(--muted); margin: 4px 0 18px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 5px 18px; margin: 0; font-size: 14px; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 21px; margin: 38px 0 12px; padding-bottom: 6px; color: var(--accent);
  border-bottom: 1px solid var(--rule); }
h3 { font-size: 16px; margin: 26px 0 8px; }
p { margin: 10px 0; }
ul, ol { margin: 8px 0; padding-left: 24px; } li { margin: 5px 0; }
table { border-collapse: collapse; width: 100%; margin: 12px 0; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 6px 9px; overflow-wrap: break-word;
  border-bottom: 1px solid var(--rule); }
thead th { background: var(--band); border-bottom: 2px solid var(--accent); font-size: 12.5px; }
tbody th { font-weight: 600; }
table.wide { font-size: 12.3px; } table.wide th, table.wide td { padding: 5px 7px; }
figure { margin: 14px 0; padding: 14px 14px 8px; border: 1px solid var(--rule); border-radius: 4px; }
figure svg { display: block; width: 100%; height: auto;
  font-family: "Segoe UI", "Helvetica Neue", "DejaVu Sans", Arial, sans-serif; }
figcaption { font-size: 12.5px; color: var(--muted); margin-top: 8px; }
footer { margin-top: 44px; padding-top: 14px; border-top: 1px solid var(--rule); font-size: 13px; }
footer p { color: var(--muted); font-style: italic; }
@media print {
  body { padding: 0; max-width: none; font-size: 10.5pt; }
  h1 { font-size: 22pt; } h2 { font-size: 15pt; margin-top: 20pt; } h3 { font-size: 11.5pt; margin-top: 13pt; }
  table { font-size: 9pt; } table.wide { font-size: 8pt; }
  section.breaks { break-before: page; }
  section.breaks h2 { margin-top: 0; }
  h2, h3 { break-after: avoid; }
  tr, figure, li, table.whole { break-inside: avoid; }
  thead { display: table-header-group; }
  p { orphans: 3; widows: 3; }
  div.kept { break-inside: avoid; }
}
"""
# Sections that start a new page in print: results, rationale, recommendation.
_ON_A_NEW_PAGE = {3, 4, 7}
# Tables of at most this many rows are not split across pages.
_KEPT_ROWS = 14


def render(document: ReportDocument, writer: Writer, after: str = "") -> str:
    """The whole page; charts are drawn from the same figures as the text. `after` is markup for the end of <main>."""
    facts = "".join(f"<dt>{_inline(name)}</dt><dd>{_inline(value)}</dd>" for name, value in document.facts)
    colophon = "".join(f"<dt>{_inline(name)}</dt><dd>{_inline(value)}</dd>" for name, value in document.colophon)
    sections = "\n".join(_section(section, writer) for section in document.sections)
    title = f"{document.title}: {document.subtitle}"
    return (
        f'<!doctype html>\n<html lang="{document.language}">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{html.escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n"
        f'<header><h1>{_inline(document.title)}</h1><p class="subtitle">{_inline(document.subtitle)}</p>'
        f"<dl>{facts}</dl></header>\n<main>\n{sections}\n{after}</main>\n"
        f"<footer><h3>{_inline(document.colophon_title)}</h3><dl>{colophon}</dl>"
        f"<p>{_inline(document.closing)}</p></footer>\n</body>\n</html>\n"
    )


def _section(section: Section, writer: Writer) -> str:
    kept = ' class="breaks"' if section.number in _ON_A_NEW_PAGE else ""
    title = f"{section.number}. {_inline(section.title)}"
    return f"<section{kept}>\n<h2>{title}</h2>\n{_flow(section.blocks, writer)}\n</section>"


def _flow(blocks: tuple[Block, ...], writer: Writer) -> str:
    """The blocks; a heading and the table, list or chart after it stay on one page."""
    found, open_heading = [], False
    for place, block in enumerate(blocks):
        follows = blocks[place + 1] if place + 1 < len(blocks) else None
        if isinstance(block, Heading) and isinstance(follows, Table | Bullets | Chart):
            found.append('<div class="kept">')
            open_heading = True
            found.append(_block(block, writer))
            continue
        found.append(_block(block, writer))
        if open_heading:
            found.append("</div>")
            open_heading = False
    return "\n".join(found)


def _block(block: Block, writer: Writer) -> str:
    if isinstance(block, Paragraph):
        return f"<p>{_inline(block.text)}</p>"
    if isinstance(block, Heading):
        return f"<h3>{_inline(block.text)}</h3>"
    if isinstance(block, Bullets):
        kind = "ol" if block.numbered else "ul"
        return f"<{kind}>{''.join(f'<li>{_inline(item)}</li>' for item in block.items)}</{kind}>"
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Chart):
        return figure(draw(block.name, writer), block.caption)
    raise TypeError(f"no HTML for {type(block).__name__}")


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{_inline(cell)}</th>' for cell in table.head)
    rows = []
    for row in table.rows:
        first = f'<th scope="row">{_inline(row[0])}</th>'
        rows.append(f"<tr>{first}{''.join(f'<td>{_inline(cell)}</td>' for cell in row[1:])}</tr>")
    marks = [name for name, on in (("wide", table.wide), ("whole", len(table.rows) <= _KEPT_ROWS)) if on]
    return f'<table class="{" ".join(marks)}"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def figure(svg: str, caption: str) -> str:
    """A drawing with its caption."""
    return f"<figure>{svg}<figcaption>{_inline(caption)}</figcaption></figure>"


def _inline(text: str) -> str:
    """Escaped text, with **strong** and `code` marks turned into elements."""
    safe = html.escape(text)
    safe = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", safe)
    return re.sub(r"`(.+?)`", r"<code>\1</code>", safe)
