"""The report in a terminal: the three scenarios in one table, then alerts. Only this module imports `rich`."""

from __future__ import annotations

import io
from typing import Any

from capacity.errors import InvalidInput
from capacity.report.document import Bullets, Heading, Paragraph, ReportDocument, Table


def render(document: ReportDocument, width: int = 100) -> str:
    """Sections 1, 3, 5, 7 and the alerts, tables drawn; raises InvalidInput where `rich` is not installed."""
    rich_table, console, out = _console(width)
    console.print(f"{document.title}: {document.subtitle}", style="bold", markup=False)
    for name, value in document.facts:
        console.print(f"{name}: {value}", markup=False)
    for number in (1, 3, 5, 7):
        section = document.sections[number - 1]
        console.print()
        console.print(f"{section.number}. {section.title}", style="bold", markup=False)
        if number == 3:
            _print_table(console, rich_table, _side_by_side(document))
            continue
        for block in section.blocks:
            if isinstance(block, Paragraph | Heading):
                console.print(_plain(block.text), markup=False)
            elif isinstance(block, Bullets):
                for item in block.items:
                    console.print(f"  • {_plain(item)}", markup=False)
            elif isinstance(block, Table):
                _print_table(console, rich_table, block)
    alerts = document.sections[5].blocks[-1]
    if isinstance(alerts, Bullets):
        console.print()
        for item in alerts.items:
            console.print(f"! {_plain(item)}", markup=False)
    return out.getvalue()


def render_tables(document: ReportDocument, width: int = 140) -> str:
    """Only the tables and lists of a document; raises InvalidInput where `rich` is not installed."""
    rich_table, console, out = _console(width)
    console.print(f"{document.title}: {document.subtitle}", style="bold", markup=False)
    for section in document.sections:
        for block in section.blocks:
            if isinstance(block, Table):
                _print_table(console, rich_table, block)
            elif isinstance(block, Bullets):
                for item in block.items:
                    console.print(f"! {_plain(item)}", markup=False)
    return out.getvalue()


def _console(width: int) -> tuple[Any, Any, io.StringIO]:
    """(rich's table class, a console, the text it writes to)."""
    try:
        from rich.console import Console  # noqa: PLC0415 - needed by this format alone
        from rich.table import Table as RichTable  # noqa: PLC0415
    except ImportError as error:
        raise InvalidInput("format", "table needs the package rich; md, html and json need nothing") from error
    out = io.StringIO()
    return RichTable, Console(file=out, width=width, highlight=False, force_terminal=False), out


def _side_by_side(document: ReportDocument) -> Table:
    """Section 3's three tables as one, a column a scenario."""
    blocks = document.sections[2].blocks
    names = [block.text for block in blocks if isinstance(block, Heading)]
    tables = [block for block in blocks if isinstance(block, Table)]
    keys = list(dict.fromkeys(row[0] for table in tables for row in table.rows))
    found = [{row[0]: row[1] for row in table.rows} for table in tables]
    rows = tuple((key, *(values.get(key, "—") for values in found)) for key in keys)
    return Table((tables[0].head[0], *names), rows)


def _print_table(console: Any, rich_table: Any, table: Table) -> None:
    drawn = rich_table(show_lines=False)
    for cell in table.head:
        drawn.add_column(_plain(cell), overflow="fold")
    for row in table.rows:
        drawn.add_row(*(_plain(cell).replace("[", r"\[") for cell in row))
    console.print(drawn)


def _plain(text: str) -> str:
    return text.replace("**", "").replace("`", "")
