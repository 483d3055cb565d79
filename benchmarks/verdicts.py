"""Writes the comparison page: common claims on monoliths and microservices, the measurements, and the verdicts.

    python -m benchmarks.verdicts [--compared FILE] [--operation FILE] [--output docs/comparison.md]

Deterministic: the page depends only on the two JSON documents. Without arguments it reads notebooks/results.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.harness.design_claims import (
    FAILS,
    HOLDS,
    MICROSERVICES,
    MONOLITH,
    PARTLY,
    UNMEASURED,
    ClaimVerdict,
    Document,
    judge_all,
)
from benchmarks.harness.host import machine_line
from benchmarks.harness.process import ROOT
from benchmarks.harness.wording import LANGUAGES, Locale, locale_for

RESULTS = ROOT / "notebooks" / "results"
PAGE = ROOT / "docs" / "comparison.md"


def read(compared: Path | None = None, operation: Path | None = None) -> tuple[Document, Document]:
    """The two documents; by default those of notebooks/results. Raises FileNotFoundError."""
    return _load(compared, "compare"), _load(operation, "operation")


def _load(path: Path | None, kind: str) -> Document:
    if path is None:
        found = sorted(RESULTS.glob(f"{kind}-*.json"))
        if not found:
            raise FileNotFoundError(f"no {RESULTS}/{kind}-*.json: run python -m benchmarks.{kind} --output there")
        path = found[-1]
    document: Document = json.loads(path.read_text(encoding="utf-8"))
    return document


def verdict_words(verdict: str, locale: Locale) -> str:
    """The verdict as a phrase."""
    return {
        HOLDS: locale.text("vale", "holds"),
        PARTLY: locale.text("vale em parte", "holds in part"),
        FAILS: locale.text("não vale", "does not hold"),
        UNMEASURED: locale.text("não medido", "not measured"),
    }[verdict]


def design_words(design: str, locale: Locale) -> str:
    """The design's name."""
    return locale.text("monólito", "monolith") if design == MONOLITH else locale.text("microsserviços", "microservices")


def render(compared: Document, operation: Document) -> str:
    """The whole page, Portuguese first."""
    commands = (
        "python -m benchmarks.compare --output notebooks/results/compare-NAME.json\n"
        "python -m benchmarks.operation --output notebooks/results/operation-NAME.json\n"
        "python -m benchmarks.verdicts"
    )
    head = (
        "<!-- Written by `python -m benchmarks.verdicts` from notebooks/results; edit that, not this. -->\n\n"
        "# Monólito ou microsserviços · Monolith or microservices\n\n"
        f"```sh\n{commands}\n```\n"
    )
    return head + "".join(_section(compared, operation, locale_for(language)) for language in LANGUAGES)


def _section(compared: Document, operation: Document, locale: Locale) -> str:
    verdicts = judge_all(compared, operation, locale)
    text = locale.text
    head = [text("afirmação", "claim"), text("sobre", "about"), text("medido", "measured"), text("veredito", "verdict")]
    rows = [
        [
            f"**{text(*verdict.claim.title)}.** {text(*verdict.claim.text)}",
            _about(verdict, locale),
            verdict.measured,
            f"**{verdict_words(verdict.verdict, locale)}**",
        ]
        for verdict in verdicts
    ]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    parts = [
        f"## {text('Português', 'English')}",
        conditions(compared, locale),
        "\n".join(lines),
        f"### {text('Onde ganham os microsserviços', 'Where microservices win')}",
        _winning(verdicts, MICROSERVICES, locale),
        f"### {text('Onde ganha o monólito', 'Where the monolith wins')}",
        _winning(verdicts, MONOLITH, locale),
    ]
    return "\n" + "\n\n".join(parts) + "\n"


def _about(verdict: ClaimVerdict, locale: Locale) -> str:
    side = locale.text("vantagem", "advantage") if verdict.claim.praise else locale.text("desvantagem", "drawback")
    return f"{design_words(verdict.claim.about, locale)}, {side}"


def conditions(compared: Document, locale: Locale) -> str:
    """Date, machine and extent of the measurement."""
    machine = compared["machine"]
    tokens = compared["settings"]["answer_tokens"]
    when = locale.numbers.date(compared["began"])
    on = f"{machine_line(machine)}, Python {machine['python']}"
    short = locale.text(
        " Medição curta (`--quick`): poucos pedidos, intervalos largos.",
        " A short run (`--quick`): few requests, wide intervals.",
    )
    return locale.text(
        f"Medido em {when}, em {on}, com os modelos que acompanham o projeto e {tokens} tokens por resposta; "
        "entre parênteses, intervalos de 95 %.",
        f"Measured on {when}, on {on}, with the models that ship and {tokens} tokens an answer; "
        "in brackets, 95 % intervals.",
    ) + (short if compared["quick"] else "")


def _winning(verdicts: list[ClaimVerdict], design: str, locale: Locale) -> str:
    won = [verdict for verdict in verdicts if verdict.favours == design]
    if not won:
        return locale.text("Em nada do que foi medido.", "In nothing that was measured.")
    return "\n".join(f"- {locale.text(*verdict.claim.title)}: {verdict.measured}." for verdict in won)


def main() -> int:
    """Exit status 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compared", type=Path, help="the JSON of benchmarks.compare")
    parser.add_argument("--operation", type=Path, help="the JSON of benchmarks.operation")
    parser.add_argument("--output", type=Path, default=PAGE)
    arguments = parser.parse_args()
    arguments.output.write_text(render(*read(arguments.compared, arguments.operation)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
