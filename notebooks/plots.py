"""Charts and tables of the notebooks: two languages, a colour-blind-safe palette, hatches for grey print.

Nothing here computes a figure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from IPython.display import Markdown, display
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from benchmarks.harness.wording import Locale

# Okabe and Ito's colours, ordered so that neighbours also differ in lightness.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
HATCHES = ("", "//", "..", "xx", "\\\\", "--", "++", "oo")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
INK, MUTED = "#1f2933", "#616e7c"


def axis(locale: Locale, digits: int | None = None) -> FuncFormatter:
    """Tick labels in the language's number format: `digits` decimals, or as few as needed."""
    if digits is None:
        return FuncFormatter(lambda value, _: locale.numbers.trimmed(value, 3))
    return FuncFormatter(lambda value, _: locale.numbers.number(value, digits))


def use_style() -> None:
    """Sizes and lines for paper and screen."""
    pyplot.rcParams.update(
        {
            "figure.figsize": (8.0, 3.6), "figure.dpi": 100, "savefig.dpi": 100, "figure.constrained_layout.use": True,
            "font.size": 11, "axes.titlesize": 12, "axes.titleweight": "bold", "axes.titlelocation": "left",
            "axes.edgecolor": MUTED, "axes.spines.top": False, "axes.spines.right": False,
            "axes.grid": True, "axes.axisbelow": True, "grid.color": "#d9dee4", "lines.linewidth": 2.2,
            "hatch.linewidth": 0.6, "legend.frameon": False, "text.color": INK,
        }
    )  # fmt: skip


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Display a Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    display(Markdown("\n".join(lines)))  # type: ignore[no-untyped-call, unused-ignore]


def stack(axes: Axes, parts: Mapping[str, float], write: Callable[[float], str], *, narrowest: float = 0.06) -> None:
    """A stacked horizontal bar; a part below the share `narrowest` has its figure in the legend only."""
    total, left = sum(parts.values()), 0.0
    for place, (name, value) in enumerate(parts.items()):
        shade = place % len(PALETTE)
        axes.barh(
            0, value, left=left, height=0.6, color=PALETTE[shade], hatch=HATCHES[shade], edgecolor="white",
            label=f"{name}: {write(value)}",
        )  # fmt: skip
        if value >= narrowest * total:
            label = axes.text(left + value / 2, 0, write(value), ha="center", va="center", fontsize=10)
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1.5})
        left += value
    axes.set(yticks=[], xlim=(0, total), ylim=(-0.4, 0.4))
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False)
    _legend_below(axes, 2)


def bars(
    axes: Axes,
    groups: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    write: Callable[[float], str],
    spans: Mapping[str, Sequence[tuple[float, float] | None]] | None = None,
) -> None:
    """Grouped bars with their figures; `spans`: intervals (low, high), drawn as error bars.

    A value of None has no bar.
    """
    width = 0.8 / len(series)
    highest = 0.0
    for place, (name, values) in enumerate(series.items()):
        where = [group + (place - (len(series) - 1) / 2) * width for group in range(len(groups))]
        axes.bar(
            where, [value or 0.0 for value in values], width * 0.92, color=PALETTE[place], hatch=HATCHES[place],
            edgecolor="white", label=name,
        )  # fmt: skip
        for group, value in enumerate(values):
            if value is None:
                continue
            span = spans[name][group] if spans and name in spans else None
            top = max(value, span[1]) if span else value
            highest = max(highest, top)
            if span:
                low, high = max(0.0, value - span[0]), max(0.0, span[1] - value)
                axes.errorbar(where[group], value, yerr=[[low], [high]], color=INK, capsize=3, linewidth=1.2)
            axes.annotate(
                write(value), (where[group], top), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=9
            )
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylim(0, highest * 1.18 or 1)
    whole = all(float(value).is_integer() for values in series.values() for value in values if value is not None)
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=whole))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: write(value)))
    axes.grid(visible=False, axis="x")
    if len(series) > 1:
        _legend_below(axes, len(series))


def lines(axes: Axes, xs: Sequence[float], series: Mapping[str, Sequence[float]]) -> None:
    """Lines with different colours and markers."""
    for place, (name, values) in enumerate(series.items()):
        axes.plot(xs, values, color=PALETTE[place], marker=MARKERS[place], label=name)
    axes.legend(fontsize=10)


def _legend_below(axes: Axes, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure: Any = axes.get_figure(root=True)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=10)
