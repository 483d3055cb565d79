"""The verdict page: what is claimed for monoliths and microservices, what was measured, and whether it holds.

    python -m benchmarks.verdicts [--compared FILE] [--operation FILE] [--output docs/comparison.md]

Pure: the same two JSON documents always make the same page. Without arguments it reads notebooks/results.
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
from benchmarks.harness.host import in_words
from benchmarks.harness.process import ROOT
from benchmarks.harness.wording import LANGUAGES, Speaker, speaker

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


def verdict_words(verdict: str, spoken: Speaker) -> str:
    """The verdict as a reader sees it."""
    return {
        HOLDS: spoken.say("vale", "holds"),
        PARTLY: spoken.say("vale em parte", "holds in part"),
        FAILS: spoken.say("não vale", "does not hold"),
        UNMEASURED: spoken.say("não medido", "not measured"),
    }[verdict]


def design_words(design: str, spoken: Speaker) -> str:
    """The design as a reader sees it."""
    return spoken.say("monólito", "monolith") if design == MONOLITH else spoken.say("microsserviços", "microservices")


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
    return head + "".join(_section(compared, operation, speaker(language)) for language in LANGUAGES)


def _section(compared: Document, operation: Document, spoken: Speaker) -> str:
    verdicts = judge_all(compared, operation, spoken)
    say = spoken.say
    head = [say("afirmação", "claim"), say("sobre", "about"), say("medido", "measured"), say("veredito", "verdict")]
    rows = [
        [
            f"**{say(*verdict.claim.title)}.** {say(*verdict.claim.text)}",
            _about(verdict, spoken),
            verdict.measured,
            f"**{verdict_words(verdict.verdict, spoken)}**",
        ]
        for verdict in verdicts
    ]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    parts = [
        f"## {say('Português', 'English')}",
        conditions(compared, spoken),
        "\n".join(lines),
        f"### {say('Onde ganham os microsserviços', 'Where microservices win')}",
        _winning(verdicts, MICROSERVICES, spoken),
        f"### {say('Onde ganha o monólito', 'Where the monolith wins')}",
        _winning(verdicts, MONOLITH, spoken),
    ]
    return "\n" + "\n\n".join(parts) + "\n"


def _about(verdict: ClaimVerdict, spoken: Speaker) -> str:
    side = spoken.say("vantagem", "advantage") if verdict.claim.praise else spoken.say("desvantagem", "drawback")
    return f"{design_words(verdict.claim.about, spoken)}, {side}"


def conditions(compared: Document, spoken: Speaker) -> str:
    """On what, when and how long it was measured."""
    machine = compared["machine"]
    tokens = compared["settings"]["answer_tokens"]
    when = spoken.numbers.date(compared["began"])
    on = f"{in_words(machine)}, Python {machine['python']}"
    short = spoken.say(
        " Medição curta (`--quick`): poucos pedidos, intervalos largos.",
        " A short run (`--quick`): few requests, wide intervals.",
    )
    return spoken.say(
        f"Medido em {when}, em {on}, com os modelos que acompanham o projeto e {tokens} tokens por resposta; "
        "entre parênteses, intervalos de 95 %.",
        f"Measured on {when}, on {on}, with the models that ship and {tokens} tokens an answer; "
        "in brackets, 95 % intervals.",
    ) + (short if compared["quick"] else "")


def _winning(verdicts: list[ClaimVerdict], design: str, spoken: Speaker) -> str:
    won = [verdict for verdict in verdicts if verdict.favours == design]
    if not won:
        return spoken.say("Em nada do que foi medido.", "In nothing that was measured.")
    return "\n".join(f"- {spoken.say(*verdict.claim.title)}: {verdict.measured}." for verdict in won)


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
