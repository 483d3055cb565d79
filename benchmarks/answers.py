"""Is the answer right, from the question to the last token? Retrieval, prompt, LLM and grounding as they are served.

    python -m benchmarks.answers [--questions FILE] [--show]
    LLM=~/models/Qwen2.5-1.5B-Instruct python -m benchmarks.answers

Takes the server's settings from the environment, so any model and index can be asked. A line of the questions' file has
`question`, `language`, `answers` (empty: the documents do not tell) and `source`, the document that answers. Of the
questions that have an answer: exact match and F1 as SQuAD counts them, how many answers hold a reference, how many were
refused, how many had the right document among the passages; of the others, how many were refused; of all answers that
claim something, the share that is grounded. Greedy. The last line of its output is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from benchmarks.agreement import contains, exact, f1
from rag.errors import RagError
from rag.load import load_pipeline
from rag.pipeline import Pipeline
from rag.prompt import NOT_IN_PASSAGES
from rag.run import Answer
from rag.schema import Ask
from rag.seams import Language, Sampling
from rag.settings import Settings

_QUESTIONS = Path(__file__).parent / "questions.jsonl"
_REFUSALS = frozenset(NOT_IN_PASSAGES.values())

Figures: TypeAlias = dict[str, float | int | None]
_SHARES = {
    "exact": "exact match",
    "f1": "F1",
    "contains": "a reference stands in it",
    "refused_wrongly": "refused wrongly",
    "retrieved": "right document retrieved",
    "refused_rightly": "refused rightly",
    "grounded": "grounded, of what claims",
}


@dataclass(frozen=True, slots=True)
class Question:
    """A question, the references it may be answered by (none: it should be refused), and the document that answers."""

    text: str
    language: Language
    answers: tuple[str, ...]
    source: str | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one question. Figures that make no sense for it are None: an unanswerable one has no match."""

    question: Question
    said: str
    exact: bool | None
    contains: bool | None
    f1: float | None
    retrieved: bool | None
    refused: bool
    grounded: bool
    seconds: float


def read_questions(path: Path) -> list[Question]:
    """The questions of a JSON Lines file. Raises ValueError with the line that can't be read."""
    questions = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            questions.append(Question(row["question"], row["language"], tuple(row["answers"]), row["source"]))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: {error!r}; needed are question, language, answers and source"
            ) from None
    return questions


def judge(question: Question, answer: Answer) -> Outcome:
    """Compare an answer with the references. A document counts as retrieved when a passage of it was read."""
    answerable = bool(question.answers)
    # A line of a .jsonl file is named after its file and its id; the index knows it by the id.
    document = question.source and question.source.rpartition("#")[2]
    return Outcome(
        question=question,
        said=answer.text,
        exact=exact(answer.text, question.answers) if answerable else None,
        contains=contains(answer.text, question.answers) if answerable else None,
        f1=f1(answer.text, question.answers) if answerable else None,
        retrieved=any(s.passage.id.rpartition("#")[0] == document for s in answer.sources) if answerable else None,
        refused=answer.text in _REFUSALS,
        grounded=answer.grounded,
        seconds=answer.timings["total_s"],
    )


def ask_all(pipeline: Pipeline, questions: Sequence[Question], max_new_tokens: int) -> Iterator[Outcome]:
    """Each question alone, as a client would send it; its language is the server's to find out."""
    for question in questions:
        yield judge(question, pipeline.answer(Ask((question.text,), Sampling(max_new_tokens=max_new_tokens))))


def summarise(outcomes: Sequence[Outcome]) -> Figures:
    """Counts and shares; a share of nothing is None."""
    answerable = [outcome for outcome in outcomes if outcome.question.answers]
    others = [outcome for outcome in outcomes if not outcome.question.answers]
    claims = [outcome for outcome in outcomes if not outcome.refused]

    def share(of: Sequence[Outcome], value: Callable[[Outcome], float | None]) -> float | None:
        return round(statistics.fmean(float(value(outcome) or 0) for outcome in of), 4) if of else None

    return {
        "answerable": len(answerable),
        "unanswerable": len(others),
        "exact": share(answerable, lambda outcome: outcome.exact),
        "f1": share(answerable, lambda outcome: outcome.f1),
        "contains": share(answerable, lambda outcome: outcome.contains),
        "refused_wrongly": share(answerable, lambda outcome: outcome.refused),
        "retrieved": share(answerable, lambda outcome: outcome.retrieved),
        "refused_rightly": share(others, lambda outcome: outcome.refused),
        "grounded": share(claims, lambda outcome: outcome.grounded),
        "median_ms": round(1000 * statistics.median(outcome.seconds for outcome in outcomes), 1) if outcomes else None,
    }


def by_language(outcomes: Sequence[Outcome]) -> dict[str, Figures]:
    """The figures of all questions, and of each language's."""
    languages = sorted({outcome.question.language for outcome in outcomes})
    groups = {language: [o for o in outcomes if o.question.language == language] for language in languages}
    return {name: summarise(group) for name, group in ({"all": list(outcomes)} | groups).items()}


def _table(groups: dict[str, Figures], model: str) -> Table:
    total = groups["all"]
    title = f"{model}: {total['answerable']} questions, and {total['unanswerable']} that the documents do not answer"
    table = Table(title=title)
    table.add_column("share of the questions")
    for name in groups:
        table.add_column(name, justify="right")
    for key, label in _SHARES.items():
        shares = [figures[key] for figures in groups.values()]
        table.add_row(label, *("–" if share is None else f"{share:.1%}" for share in shares))
    table.add_row("an answer takes, ms (median)", *(str(figures["median_ms"]) for figures in groups.values()))
    return table


def main(arguments: Sequence[str] | None = None, load: Callable[..., Pipeline] = load_pipeline) -> int:
    """Run the command; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=Path, default=_QUESTIONS)
    parser.add_argument("--show", action="store_true", help="print every question with its answer")
    options = parser.parse_args(arguments)
    console = Console()
    try:
        questions = read_questions(options.questions)
        settings = Settings.from_environment(os.environ)
        pipeline = load(settings, lambda _phase: None)
    except (OSError, ValueError, RagError) as error:
        console.print(f"error: {error}", markup=False)
        return 2
    try:
        answered = ask_all(pipeline, questions, settings.max_new_tokens)
        outcomes = list(tqdm(answered, desc="questions", total=len(questions), unit="question"))
        name = pipeline.generator.name
    finally:
        pipeline.close()
    if options.show:
        for outcome in outcomes:
            wanted = " | ".join(outcome.question.answers) or "a refusal"
            console.print(f"{_mark(outcome)} {outcome.question.text} → {outcome.said}   ({wanted})", markup=False)
    groups = by_language(outcomes)
    console.print(_table(groups, name))
    print(json.dumps({"model": name, "questions": len(outcomes), "groups": groups}, ensure_ascii=False))
    return 0


def _mark(outcome: Outcome) -> str:
    return "+" if (outcome.exact if outcome.question.answers else outcome.refused) else "-"


if __name__ == "__main__":
    sys.exit(main())
