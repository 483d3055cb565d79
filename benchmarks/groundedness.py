"""Precision and recall of the grounding check on hand-labelled answers.

    python -m benchmarks.groundedness [--show]

A line has an answer, the passages that the model read, whether they state everything that the answer claims (support,
not truth), which of them do, and the kind of case. grounding.jsonl is the development set; grounding_apart.jsonl is the
test set, written without looking at the check and used only when it was finished. Precision: the share of answers
classified as grounded that are; recall: the share of grounded answers that are classified so. The last line of the
output is JSON.
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
class CheckedAnswer:
    """A labelled answer and the check's result. `cites`: whether the check cites a passage that supports it."""

    kind: str
    language: str
    answer: str
    expected: bool
    found: bool
    cites: bool


def check(line: str) -> CheckedAnswer:
    """Check the answer of a line."""
    row = json.loads(line)
    passages = [Passage(f"{n}", passage["title"], passage["text"], 1.0) for n, passage in enumerate(row["passages"])]
    found = ground(row["answer"], passages)
    cites = bool(found.cited & set(row["cited"]))
    return CheckedAnswer(row["kind"], row["language"], row["answer"], row["grounded"], found.grounded, cites)


def figures_of(checked: Sequence[CheckedAnswer]) -> dict[str, float]:
    """Counts and shares; a share of no answers is 0."""
    true_positives = [case for case in checked if case.expected and case.found]
    positives, expected = sum(case.found for case in checked), sum(case.expected for case in checked)
    return {
        "answers": len(checked),
        "grounded": expected,
        "precision": round(len(true_positives) / max(1, positives), 4),
        "recall": round(len(true_positives) / max(1, expected), 4),
        "right_passage": round(sum(case.cites for case in true_positives) / max(1, len(true_positives)), 4),
    }


def report(name: str, checked: Sequence[CheckedAnswer], console: Console) -> dict[str, object]:
    """Print the tables of a file, and return their figures."""
    groups = {"all": figures_of(checked)}
    groups |= {
        language: figures_of([case for case in checked if case.language == language]) for language in ("pt", "en")
    }
    table = Table(title=f"{name}: {len(checked)} labelled answers")
    table.add_column("")
    for group in groups:
        table.add_column(group, justify="right")
    for key in ("precision", "recall", "right_passage"):
        table.add_row(key.replace("_", " "), *(f"{figures[key]:.1%}" for figures in groups.values()))
    console.print(table)
    kinds: dict[tuple[bool, str], list[CheckedAnswer]] = defaultdict(list)
    for case in checked:
        kinds[not case.expected, case.kind].append(case)
    by_kind = Table(title="classified correctly, by kind")
    for heading in ("kind", "grounded?", "correct", "of"):
        by_kind.add_column(heading, justify="left" if heading == "kind" else "right")
    shares = {}
    for (_, kind), cases in sorted(kinds.items()):
        correct = sum(case.expected == case.found for case in cases)
        shares[kind] = [correct, len(cases)]
        by_kind.add_row(kind, "yes" if cases[0].expected else "no", str(correct), str(len(cases)))
    console.print(by_kind)
    return {"groups": groups, "kinds": shares}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="print every misclassified answer")
    options = parser.parse_args(arguments)
    console = Console()
    found = {}
    for name in _LABELLED:
        lines = (Path(__file__).parent / name).read_text(encoding="utf-8").splitlines()
        checked = [check(line) for line in lines]
        for case in checked:
            if options.show and case.expected != case.found:
                error = "false negative" if case.expected else "false positive"
                console.print(f"{error} ({case.kind}): {case.answer}", markup=False)
        found[name] = report(name, checked, console)
    print(json.dumps(found, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
