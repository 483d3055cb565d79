"""Does `grounded` mean something? Precision and recall of the check on answers that were labelled by hand.

    python -m benchmarks.groundedness [--show]

A line has an answer, the passages that the model read, whether they state all that the answer claims (support, not
truth), which of them do, and the kind of case. grounding.jsonl was at hand while the check was written;
grounding_apart.jsonl was written without a look at the check and asked only when it was done. Precision is the share of
answers called grounded that are, recall the share of grounded ones that are called so. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rag.answering.grounding import ground
from rag.interfaces import Passage

_LABELLED = ("grounding.jsonl", "grounding_apart.jsonl")


@dataclass(frozen=True, slots=True)
class Judged:
    """A labelled answer and what the check says of it. `cites` is whether it names a passage that supports it."""

    kind: str
    language: str
    answer: str
    wanted: bool
    found: bool
    score: float
    cites: bool


def judge(line: str) -> Judged:
    """Check the answer of a line."""
    row = json.loads(line)
    passages = [Passage(f"{n}", passage["title"], passage["text"], 1.0) for n, passage in enumerate(row["passages"])]
    found = ground(row["answer"], passages)
    cites = bool(found.cited & set(row["cited"]))
    return Judged(row["kind"], row["language"], row["answer"], row["grounded"], found.grounded, found.score, cites)


def figures_of(judged: Sequence[Judged]) -> dict[str, float]:
    """Counts and shares; a share of nothing is 0."""
    right = [case for case in judged if case.wanted and case.found]
    called, wanted = sum(case.found for case in judged), sum(case.wanted for case in judged)
    return {
        "answers": len(judged),
        "grounded": wanted,
        "precision": round(len(right) / max(1, called), 4),
        "recall": round(len(right) / max(1, wanted), 4),
        "right_passage": round(sum(case.cites for case in right) / max(1, len(right)), 4),
    }


def report(name: str, judged: Sequence[Judged], console: Console) -> dict[str, object]:
    """Print one file's tables; the figures in them."""
    groups = {"all": figures_of(judged)}
    groups |= {
        language: figures_of([case for case in judged if case.language == language]) for language in ("pt", "en")
    }
    table = Table(title=f"{name}: {len(judged)} labelled answers")
    table.add_column("")
    for group in groups:
        table.add_column(group, justify="right")
    for key in ("precision", "recall", "right_passage"):
        table.add_row(key.replace("_", " "), *(f"{figures[key]:.1%}" for figures in groups.values()))
    console.print(table)
    kinds: dict[tuple[bool, str], list[Judged]] = defaultdict(list)
    for case in judged:
        kinds[not case.wanted, case.kind].append(case)
    by_kind = Table(title="judged rightly, by kind")
    for heading in ("kind", "grounded?", "rightly", "of"):
        by_kind.add_column(heading, justify="left" if heading == "kind" else "right")
    shares = {}
    for (_, kind), cases in sorted(kinds.items()):
        rightly = sum(case.wanted == case.found for case in cases)
        shares[kind] = [rightly, len(cases)]
        by_kind.add_row(kind, "yes" if cases[0].wanted else "no", str(rightly), str(len(cases)))
    console.print(by_kind)
    return {"groups": groups, "kinds": shares}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="print every answer that is judged wrongly")
    options = parser.parse_args(arguments)
    console = Console()
    found = {}
    for name in _LABELLED:
        lines = (Path(__file__).parent / name).read_text(encoding="utf-8").splitlines()
        judged = [judge(line) for line in lines]
        for case in judged:
            if options.show and case.wanted != case.found:
                console.print(
                    f"{'missed' if case.wanted else 'let through'} ({case.kind}): {case.answer}", markup=False
                )
        found[name] = report(name, judged, console)
    print(json.dumps(found, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
