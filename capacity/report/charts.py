"""The report's charts as inline SVG: memory by term, sessions against context, scenarios side by side."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from capacity.report.writer import SCENARIOS, Writer

_WIDTH = 720
_INK, _MUTED, _GRID, _ACCENT, _WARN = "#1f2933", "#616e7c", "#d9dee4", "#1f5f8b", "#c2410c"
# One colour a term; in grey print lightness and labels distinguish them.
_TERM_COLOURS = {
    "weights": "#16425b",
    "activation": "#c2410c",
    "graphs": "#e08e45",
    "runtime": "#8d6a9f",
    "collectives": "#b8a1c9",
    "embedder": "#3f7d20",
    "index": "#7fb069",
    "reserve": "#9aa5b1",
    "kv": "#2f80b7",
    "free": "#dbe9f4",
    "outside": "#eceff2",
}


def draw(name: str, writer: Writer) -> str:
    """The chart called `name` (memory, scenarios, curve) as one SVG element."""
    return _DRAWERS[name](writer)


def _memory(writer: Writer) -> str:
    """One bar for the device with a segment for each term, and a legend with the figures."""
    terms = [term for term in writer.figures["terms"] if term["gib"] > 0]
    total = sum(term["gib"] for term in terms)
    parts, left, bar_top, bar_height = [], 0.0, 8, 56
    for term in terms:
        width = term["gib"] / total * _WIDTH
        colour = _TERM_COLOURS[term["name"]]
        parts.append(f'<rect x="{left:.1f}" y="{bar_top}" width="{width:.1f}" height="{bar_height}" fill="{colour}"/>')
        label = writer.numbers.number(term["gib"], 1)
        if width > 9 * len(label):
            ink = _INK if term["name"] in ("free", "outside", "collectives", "index", "graphs") else "#ffffff"
            parts.append(_text(left + width / 2, bar_top + 34, label, colour=ink, anchor="middle", weight=600))
        left += width
    limit = writer.figures["plan"]["have_bytes"] / 2**30
    if not writer.figures["fits"]:
        x, end = limit / total * _WIDTH, bar_top + bar_height + 8
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{end}" stroke="{_WARN}" stroke-width="2.5"/>')
        text = writer.say("device_limit", limit=writer.numbers.gib(limit, 1))
        parts.append(
            _text(min(x + 6, _WIDTH - 190), bar_top + bar_height + 16, text, size=11.5, colour=_WARN, weight=600)
        )
        bar_height += 18
    rows = math.ceil(len(terms) / 2)
    for place, term in enumerate(terms):
        column, row = divmod(place, rows)
        x, y = column * (_WIDTH / 2), bar_top + bar_height + 28 + row * 22
        parts.append(
            f'<rect x="{x:.0f}" y="{y - 11:.0f}" width="13" height="13" rx="2" fill="{_TERM_COLOURS[term["name"]]}" '
            f'stroke="{_MUTED}" stroke-width="0.4"/>'
        )
        what, label = writer.text[f"term_{term['name']}"], writer.text[f"label_{term['label']}"]
        parts.append(_text(x + 19, y, f"{what}: {writer.size(term['gib'])} ({label})", size=12))
    return _svg(parts, bar_top + bar_height + 28 + rows * 22, writer.on_device("chart_memory"))


def _scenarios(writer: Writer) -> str:
    """Two bars a scenario (running; after tolerated failures) against the nominal load."""
    found = [(name, writer.scenario(name)) for name in SCENARIOS]
    demand = writer.load["concurrency"]
    running = [(scenario["nodes"] or 0) * scenario["sessions_per_node"] for _, scenario in found]
    surviving = [scenario["surviving_sessions"] or 0 for _, scenario in found]
    top, base, left = 44, 250, 70
    most = max([*running, demand]) * 1.08
    parts = _grid(writer, most, top, base, left)
    slot = (_WIDTH - left) / len(found)
    for place, (name, scenario) in enumerate(found):
        x = left + place * slot + slot * 0.2
        for value, colour, shift in ((running[place], _ACCENT, 0.0), (surviving[place], "#9fc3dd", slot * 0.31)):
            height = value / most * (base - top)
            parts.append(
                f'<rect x="{x + shift:.1f}" y="{base - height:.1f}" width="{slot * 0.27:.1f}" '
                f'height="{height:.1f}" fill="{colour}"/>'
            )
            label = writer.numbers.number(value)
            parts.append(
                _text(x + shift + slot * 0.135, base - height - 5, label, size=12, anchor="middle", weight=600)
            )
        middle = left + place * slot + slot / 2
        parts.append(_text(middle, base + 20, writer.text[name], anchor="middle", weight=600))
        nodes = writer.nodes(scenario["nodes"])
        parts.append(_text(middle, base + 37, nodes, anchor="middle", colour=_MUTED, size=12))
    y = base - demand / most * (base - top)
    parts.append(
        f'<line x1="{left}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_WARN}" stroke-width="1.5" '
        'stroke-dasharray="6 4"/>'
    )
    legend = [(_ACCENT, "legend_running"), ("#9fc3dd", "legend_surviving"), (_WARN, "legend_demand")]
    parts += _legend(writer, legend, left)
    return _svg(parts, base + 46, writer.text["chart_scenarios"])


def _curve(writer: Writer) -> str:
    """Sessions a node against context, both on logarithmic axes; the requested context is marked."""
    points = [point for point in writer.figures["curve"] if point["sessions_per_node"] > 0]
    top, base, left, right = 16, 250, 80, _WIDTH - 30
    xs = [math.log2(point["context_tokens"]) for point in points]
    ys = [math.log10(point["sessions_per_node"]) for point in points]
    low, high = math.floor(min(ys)), max(math.ceil(max(ys)), math.floor(min(ys)) + 1)
    span = (max(xs) - min(xs)) or 1.0

    def place(index: int) -> tuple[float, float]:
        x = left + 20 + (xs[index] - min(xs)) / span * (right - left - 40)
        return x, base - (ys[index] - low) / (high - low) * (base - top)

    parts = []
    for power in range(low, high + 1):
        y = base - (power - low) / (high - low) * (base - top)
        parts.append(f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_GRID}"/>')
        parts.append(_text(left - 8, y + 4, writer.numbers.number(10**power), size=12, anchor="end", colour=_MUTED))
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, range(len(points))))
    parts.append(f'<polyline points="{line}" fill="none" stroke="{_ACCENT}" stroke-width="2.5"/>')
    for index, point in enumerate(points):
        x, y = place(index)
        requested = point["context_tokens"] == writer.load["context_tokens"]
        colour, radius = (_WARN, 6) if requested else (_ACCENT, 4)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}"/>')
        label = writer.numbers.number(point["sessions_per_node"])
        parts.append(_text(x + 8, y - 8, label, size=12, colour=colour, weight=700 if requested else 500))
        shown = writer.numbers.number(point["context_tokens"])
        parts.append(_text(x, base + 18, shown, size=11, anchor="middle", colour=colour if requested else _MUTED))
    parts.append(
        _text((left + right) / 2, base + 38, writer.text["axis_context"], anchor="middle", colour=_MUTED, size=12)
    )
    return _svg(parts, base + 46, writer.text["chart_curve"])


_DRAWERS = {"memory": _memory, "scenarios": _scenarios, "curve": _curve}


def variants(writer: Writer, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Nodes of the recommended scenario, one horizontal bar a case."""
    most = max((row["nodes"] or 0 for _, row in rows), default=0) or 1
    parts, left = [], 300
    for place, (label, row) in enumerate(rows):
        y = 14 + place * 34
        parts.append(_text(left - 10, y + 15, label, size=12, anchor="end"))
        nodes = row["nodes"]
        if nodes is None:
            parts.append(_text(left, y + 15, writer.text["infeasible"], size=12, colour=_WARN))
            continue
        width = nodes / most * (_WIDTH - left - 120)
        parts.append(f'<rect x="{left}" y="{y}" width="{width:.1f}" height="22" fill="{_ACCENT}"/>')
        parts.append(_text(left + width + 8, y + 16, writer.nodes(nodes), size=12, weight=600))
    return _svg(parts, 20 + len(rows) * 34, writer.text["chart_variants"])


def _grid(writer: Writer, most: float, top: int, base: int, left: int) -> list[str]:
    """Horizontal lines at round values."""
    step = 10 ** math.floor(math.log10(max(most, 1)))
    step = next((step * share for share in (0.2, 0.5, 1.0) if most / (step * share) <= 6), step * 2)
    parts, value = [], 0.0
    while value <= most:
        y = base - value / most * (base - top)
        parts.append(f'<line x1="{left}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_GRID}"/>')
        parts.append(_text(left - 8, y + 4, writer.numbers.number(value), size=12, anchor="end", colour=_MUTED))
        value += step
    return parts


def _legend(writer: Writer, entries: Sequence[tuple[str, str]], left: float) -> list[str]:
    parts, x = [], left
    for colour, key in entries:
        parts.append(f'<rect x="{x:.0f}" y="8" width="13" height="13" rx="2" fill="{colour}"/>')
        parts.append(_text(x + 19, 19, writer.text[key], size=12))
        x += 34 + 7.0 * len(writer.text[key])
    return parts


def _text(
    x: float, y: float, text: str, *, size: float = 13, anchor: str = "start", colour: str = _INK, weight: int = 400
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}" fill="{colour}" '
        f'font-weight="{weight}">{html.escape(text)}</text>'
    )


def _svg(parts: Sequence[str], height: float, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{html.escape(title)}</title>{''.join(parts)}</svg>"
    )
