"""A bar chart per claim, with the figures that benchmarks.harness.design_claims judges."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from benchmarks.harness.design_claims import MIB, ClaimVerdict
from benchmarks.harness.wording import Locale
from benchmarks.verdicts import verdict_words
from notebooks.plots import PALETTE, bars

Document = Mapping[str, Any]
_DESIGNS = ("monolith", "microservices")


@dataclass(frozen=True, slots=True)
class Panel:
    """Bars with labels and unit; a value of None is drawn as "never". `spans`: 95 % intervals."""

    unit: str
    labels: Sequence[str]
    values: Sequence[float | None]
    digits: int = 0
    spans: Sequence[tuple[float, float] | None] | None = None


def draw(axes: Axes, verdict: ClaimVerdict, compared: Document, operation: Document, locale: Locale) -> None:
    """Draw the claim's chart with its verdict in the title, or a text if it was not measured."""
    axes.set_title(f"{locale.text(*verdict.claim.title)}:\n{verdict_words(verdict.verdict, locale)}", fontsize=11)
    try:
        panel = _PANELS[verdict.claim.name](compared, operation, locale)
    except KeyError:
        axes.text(0.5, 0.5, locale.text("não medido", "not measured"), ha="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    bars(
        axes, panel.labels, {panel.unit: panel.values}, lambda value: locale.numbers.number(value, panel.digits),
        {panel.unit: panel.spans} if panel.spans else None,
    )  # fmt: skip
    for patch, colour in zip(axes.patches, PALETTE, strict=False):
        patch.set_facecolor(colour)
    for place, value in enumerate(panel.values):
        if value is None:
            axes.text(place, 0, locale.text("nunca", "never"), ha="center", va="bottom", fontsize=9)
    axes.set_ylabel(panel.unit, fontsize=10)
    axes.tick_params(labelsize=9)


def _names(locale: Locale) -> list[str]:
    return [locale.text("monólito", "monolith"), locale.text("micros-\nserviços", "micro-\nservices")]


def _counted(figure: str, portuguese: str, english: str) -> Callable[[Document, Document, Locale], Panel]:
    def panel(_: Document, operation: Document, locale: Locale) -> Panel:
        return Panel(locale.text(portuguese, english), _names(locale), [operation[name][figure] for name in _DESIGNS])

    return panel


def _measured(figures: Sequence[Document], unit: str, labels: Sequence[str], scale: float, digits: int) -> Panel:
    spans = [(figure["low"] * scale, figure["high"] * scale) if figure["samples"] > 1 else None for figure in figures]
    return Panel(unit, labels, [figure["value"] * scale for figure in figures], digits, spans)


def _latency(compared: Document, _: Document, locale: Locale) -> Panel:
    figures = [compared["added"][name]["added_s"]["p50"] for name in _DESIGNS]
    return _measured(figures, locale.text("ms além dos modelos", "ms beyond the models"), _names(locale), 1e3, 1)


def _boot(compared: Document, _: Document, locale: Locale) -> Panel:
    unit = locale.text("s até /ping 200", "s until /ping 200")
    return _measured([compared["boot"][name] for name in _DESIGNS], unit, _names(locale), 1, 1)


def _cascade(compared: Document, _: Document, locale: Locale) -> Panel:
    faults = compared["faults"]["monolith"]
    labels = [
        locale.text("processo\nmorto", "process\nkilled"),
        locale.text("alocação\nrecusada", "allocation\nrefused"),
    ]
    values = [faults[name]["modes"]["retrieve"]["out_s"] for name in ("llm_killed", "memory_refused")]
    return Panel(locale.text("s sem busca, monólito", "s without retrieval, monolith"), labels, values, 1)


def _cards(
    figure: str, split: str, unit: tuple[str, str], digits: int
) -> Callable[[Document, Document, Locale], Panel]:
    def panel(compared: Document, _: Document, locale: Locale) -> Panel:
        cost = compared["cost"]
        shared = {key.removeprefix("monolith with "): cost[key] for key in cost if key.startswith("monolith with ")}
        labels = [f"{locale.text('com', 'with')}\n{name.removesuffix('-v2')}" for name in shared]
        values = [part[figure] for part in shared.values()]
        return Panel(
            locale.text(*unit),
            [*labels, locale.text("só o\nLLM", "LLM\nalone")],
            [*values, cost["split"][split]],
            digits,
        )

    return panel


def _coupling(_: Document, operation: Document, locale: Locale) -> Panel:
    values = [operation[name]["damaged_llm"]["retrieves_after_s"] for name in _DESIGNS]
    return Panel(locale.text("s até buscar sem LLM", "s until it retrieves, no LLM"), _names(locale), values, 1)


def _isolation(compared: Document, _: Document, locale: Locale) -> Panel:
    modes = [compared["faults"][name]["llm_killed"]["modes"]["retrieve"] for name in _DESIGNS]
    unit = locale.text("s sem busca, LLM morto", "s without retrieval, LLM killed")
    return Panel(unit, _names(locale), [mode["out_s"] for mode in modes], 1)


def _scaling(compared: Document, _: Document, locale: Locale) -> Panel:
    figures = [compared["scaling"][count]["requests_per_s"] for count in ("1", "2")]
    labels = [locale.text("1 serviço\nde LLM", "1 LLM\nservice"), locale.text("2 serviços\nde LLM", "2 LLM\nservices")]
    return _measured(figures, locale.text("pedidos/s", "requests/s"), labels, 1, 1)


def _overhead(compared: Document, _: Document, locale: Locale) -> Panel:
    calls = compared["hops"]
    labels = [locale.text("busca", "retrieval"), locale.text("geração", "generation")]
    values = [1e3 * calls[name]["added_s"] for name in ("vector/retrieve", "llm/generate")]
    return Panel(locale.text("ms por troca, além dos modelos", "ms an exchange, beyond models"), labels, values, 1)


def _memory(compared: Document, _: Document, locale: Locale) -> Panel:
    return Panel("PSS, MiB", _names(locale), [compared["memory"][name]["pss_bytes"] / MIB for name in _DESIGNS])


_PANELS: Mapping[str, Callable[[Document, Document, Locale], Panel]] = {
    "simplicity": _counted("processes", "processos", "processes"),
    "internal_latency": _latency,
    "boot": _boot,
    "cascade_crash": _cascade,
    "hardware_waste": _cards("sessions", "sessions", ("sessões por placa", "sessions a card"), 0),
    "coupling": _coupling,
    "heterogeneous_hardware": _cards(
        "usd_per_1000", "gpu_usd_per_1000", ("US$ por 1.000, GPU", "US$ per 1,000, GPU"), 3
    ),
    "isolation": _isolation,
    "independent_scaling": _scaling,
    "operational_complexity": _counted("ports", "portas", "ports"),
    "network_overhead": _overhead,
    "base_ram": _memory,
}
