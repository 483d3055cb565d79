"""The report as Markdown, without charts: their figures are in the tables."""

from __future__ import annotations

from capacity.report.document import Block, Bullets, Chart, Heading, Paragraph, ReportDocument, Table


def render(document: ReportDocument) -> str:
    """The whole report; ends in a newline."""
    lines = [f"# {document.title}", f"## {document.subtitle}", ""]
    lines += [f"**{name}:** {value}  " for name, value in document.facts]
    for section in document.sections:
        lines += ["", "---", "", f"## {section.number}. {section.title}"]
        for block in section.blocks:
            lines += _block(block)
    lines += ["", "---", "", f"## {document.colophon_title}", ""]
    lines += [f"- **{name}:** {value}" for name, value in document.colophon]
    return "\n".join([*lines, "", f"*{document.closing}*", ""])


def _block(block: Block) -> list[str]:
    if isinstance(block, Paragraph):
        return ["", block.text]
    if isinstance(block, Heading):
        return ["", f"### {block.text}"]
    if isinstance(block, Bullets):
        marks = [f"{number}." if block.numbered else "-" for number in range(1, len(block.items) + 1)]
        return ["", *(f"{mark} {item}" for mark, item in zip(marks, block.items, strict=True))]
    if isinstance(block, Table):
        rows = [block.head, ("---",) * len(block.head), *block.rows]
        return ["", *("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows)]
    if isinstance(block, Chart):
        return []
    raise TypeError(f"no Markdown for {type(block).__name__}")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
