"""End-to-end answer quality: retrieval, prompt, LLM and grounding as in serving.

    python -m benchmarks.answers [--show]                  the project's questions over its corpus
    python -m benchmarks.answers --data squad-format.json  builds an index of the file's paragraphs and uses it
    LLM=~/models/Qwen2.5-1.5B-Instruct INDEX=build/mine python -m benchmarks.answers --questions mine.jsonl

Takes the server's settings from the environment, so any model and index can be measured. A line of a questions' file
has `question`, `language`, `answers` (empty: unanswerable) and `source`, the document that answers. For answerable
questions: exact match and F1 as in SQuAD, the shares of answers that contain a reference and of refusals, and the rank
of the right document among those retrieved (recall@k, mean reciprocal rank within the first 50 passages); for the
others, the share of refusals; for all answers that are not refusals, the share that is grounded. Greedy decoding. The
last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from benchmarks.harness.bootstrap import percentile
from benchmarks.harness.process import ROOT
from benchmarks.harness.questions import QUESTIONS, ReferenceQuestion, contains, exact, f1, read_questions
from rag.answering.ask import Ask
from rag.answering.pipeline import Pipeline
from rag.answering.prompt import NOT_IN_PASSAGES
from rag.answering.run import Answer
from rag.build_index import build
from rag.composition import load_embedder, load_pipeline
from rag.documents.folder import Folder
from rag.documents.squad import read_squad
from rag.errors import RagError
from rag.interfaces import Passage, Sampling
from rag.settings import Settings

_REFUSALS = frozenset(NOT_IN_PASSAGES.values())

Figures: TypeAlias = dict[str, float | int | None]
_RANKED_PASSAGES = 50
_SHARES = {
    "recall_at_1": "recall@1",
    "recall_at_3": "recall@3",
    "recall_at_5": "recall@5",
    "mrr": "mean reciprocal rank",
    "exact": "exact match",
    "f1": "F1",
    "contains": "contains a reference",
    "refused_wrongly": "refused wrongly",
    "retrieved": "the LLM read the right document",
    "refused_rightly": "refused rightly",
    "grounded": "grounded, of the non-refusals",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one question. Figures that do not apply are None, such as the match of an unanswerable one.

    `rank`: the right document's, counted from 1; None also if it is not among the ranked passages.
    """

    question: ReferenceQuestion
    answer: str
    exact: bool | None
    contains: bool | None
    f1: float | None
    retrieved: bool | None
    rank: int | None
    refused: bool
    grounded: bool
    seconds: float


def index_squad(path: Path, settings: Settings) -> tuple[Settings, list[ReferenceQuestion]]:
    """Build an index of the paragraphs of a file in SQuAD's format; the settings with that index, and the questions.

    Raises ValueError for another format, RagError if the embedder can't be loaded.
    """
    documents, rows = read_squad(path)
    index = ROOT / "build" / "benchmarks" / f"answers-{path.stem}"
    with closing(load_embedder(settings, "cpu")) as embedder:
        print(build(Folder(documents), index, embedder), file=sys.stderr)
    questions = [ReferenceQuestion(row.text, row.language, row.answers, row.document) for row in rows]
    return settings.model_copy(update={"index": str(index)}), questions


def judge(question: ReferenceQuestion, answer: Answer, ranked: Sequence[Passage]) -> Outcome:
    """Compare an answer with the references. A document counts as retrieved if the prompt had a passage of it."""
    answerable = bool(question.answers)
    document = question.document
    documents = list(dict.fromkeys(map(_document, ranked)))
    return Outcome(
        question=question,
        answer=answer.text,
        exact=exact(answer.text, question.answers) if answerable else None,
        contains=contains(answer.text, question.answers) if answerable else None,
        f1=f1(answer.text, question.answers) if answerable else None,
        retrieved=any(_document(source.passage) == document for source in answer.sources) if answerable else None,
        rank=documents.index(document) + 1 if answerable and document in documents else None,
        refused=answer.text in _REFUSALS,
        grounded=answer.grounded,
        seconds=answer.timings["total_s"],
    )


def _document(passage: Passage) -> str:
    return passage.id.rpartition("#")[0]


def ask_all(pipeline: Pipeline, questions: Sequence[ReferenceQuestion], max_new_tokens: int) -> Iterator[Outcome]:
    """Each question separately, without its language, which the pipeline detects."""
    for question in questions:
        answer = pipeline.answer(Ask((question.text,), Sampling(max_new_tokens=max_new_tokens)))
        yield judge(question, answer, pipeline.retriever.retrieve(question.text, top_k=_RANKED_PASSAGES))


def summarise(outcomes: Sequence[Outcome]) -> Figures:
    """Counts and shares; a share of no questions is None."""
    answerable = [outcome for outcome in outcomes if outcome.question.answers]
    others = [outcome for outcome in outcomes if not outcome.question.answers]
    claims = [outcome for outcome in outcomes if not outcome.refused]

    def share(of: Sequence[Outcome], value: Callable[[Outcome], float | None]) -> float | None:
        return round(statistics.fmean(float(value(outcome) or 0) for outcome in of), 4) if of else None

    def recall(most: int) -> float | None:
        return share(answerable, lambda outcome: outcome.rank is not None and outcome.rank <= most)

    seconds = [outcome.seconds for outcome in outcomes]
    return {
        "answerable": len(answerable),
        "unanswerable": len(others),
        "recall_at_1": recall(1),
        "recall_at_3": recall(3),
        "recall_at_5": recall(5),
        "mrr": share(answerable, lambda outcome: outcome.rank and 1 / outcome.rank),
        "exact": share(answerable, lambda outcome: outcome.exact),
        "f1": share(answerable, lambda outcome: outcome.f1),
        "contains": share(answerable, lambda outcome: outcome.contains),
        "refused_wrongly": share(answerable, lambda outcome: outcome.refused),
        "retrieved": share(answerable, lambda outcome: outcome.retrieved),
        "refused_rightly": share(others, lambda outcome: outcome.refused),
        "grounded": share(claims, lambda outcome: outcome.grounded),
        "median_ms": round(1000 * statistics.median(seconds), 1) if seconds else None,
        "p95_ms": round(1000 * percentile(seconds, 0.95), 1) if seconds else None,
    }


def by_language(outcomes: Sequence[Outcome]) -> dict[str, Figures]:
    """The figures over all questions, and by language."""
    languages = sorted({outcome.question.language for outcome in outcomes})
    groups = {language: [o for o in outcomes if o.question.language == language] for language in languages}
    return {name: summarise(group) for name, group in ({"all": list(outcomes)} | groups).items()}


def _table(groups: dict[str, Figures], model: str) -> Table:
    total = groups["all"]
    title = f"{model}: {total['answerable']} answerable and {total['unanswerable']} unanswerable questions"
    table = Table(title=title)
    table.add_column("share of the questions", no_wrap=True)
    for name in groups:
        table.add_column(name, justify="right")
    for key, label in _SHARES.items():
        shares = [figures[key] for figures in groups.values()]
        table.add_row(label, *("–" if share is None else f"{share:.1%}" for share in shares))
    for key, label in (("median_ms", "latency, ms (median)"), ("p95_ms", "latency, ms (p95)")):
        table.add_row(label, *(str(figures[key]) for figures in groups.values()))
    return table


def main(arguments: Sequence[str] | None = None, load: Callable[..., Pipeline] = load_pipeline) -> int:
    """Run the command; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--questions", type=Path, default=QUESTIONS, help="JSON Lines, for the index in INDEX")
    source.add_argument("--data", type=Path, help="a file in SQuAD's format; an index of it is built, INDEX is ignored")
    parser.add_argument("--show", action="store_true", help="print every question with its answer")
    options = parser.parse_args(arguments)
    console = Console()
    try:
        settings = Settings.from_environment(os.environ)
        if options.data is None:
            questions = read_questions(options.questions)
        else:
            settings, questions = index_squad(options.data, settings)
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
            expected = " | ".join(outcome.question.answers) or "a refusal"
            console.print(f"{_mark(outcome)} {outcome.question.text} → {outcome.answer}   ({expected})", markup=False)
    groups = by_language(outcomes)
    console.print(_table(groups, name))
    print(json.dumps({"model": name, "questions": len(outcomes), "groups": groups}, ensure_ascii=False))
    return 0


def _mark(outcome: Outcome) -> str:
    return "+" if (outcome.exact if outcome.question.answers else outcome.refused) else "-"


if __name__ == "__main__":
    sys.exit(main())
