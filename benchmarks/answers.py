"""Is the answer right, from the question to the last token? Retrieval, prompt, LLM and grounding as they are served.

    python -m benchmarks.answers [--show]                  the project's questions over its corpus
    python -m benchmarks.answers --data squad-format.json  builds an index of the file's paragraphs and asks over it
    LLM=~/models/Qwen2.5-1.5B-Instruct INDEX=build/mine python -m benchmarks.answers --questions mine.jsonl

Takes the server's settings from the environment, so any model and index can be asked. A line of a questions' file has
`question`, `language`, `answers` (empty: the documents do not tell) and `source`, the document that answers. Of the
questions that have an answer: exact match and F1 as SQuAD counts them, how many answers hold a reference, how many were
refused, and where their document comes among those retrieved (recall@k, mean reciprocal rank within the first 50
passages); of the others, how many were refused; of all answers that claim something, the share that is grounded.
Greedy. The last line of its output is JSON.
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

from benchmarks.harness.agreement import contains, exact, f1
from benchmarks.harness.process import ROOT
from benchmarks.load import percentile
from rag.answering.ask import Ask
from rag.answering.pipeline import Pipeline
from rag.answering.prompt import NOT_IN_PASSAGES
from rag.answering.run import Answer
from rag.build_index import build
from rag.composition import load_embedder, load_pipeline
from rag.documents.folder import Folder
from rag.documents.squad import read_squad
from rag.errors import RagError
from rag.interfaces import Language, Passage, Sampling
from rag.settings import Settings

_QUESTIONS = Path(__file__).parent / "questions.jsonl"
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
    "contains": "a reference stands in it",
    "refused_wrongly": "refused wrongly",
    "retrieved": "the LLM read the right document",
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
    """What became of one question. Figures that make no sense for it are None: an unanswerable one has no match.

    `rank` is the right document's, 1 being the first; None also where it is not among the ranked passages.
    """

    question: Question
    said: str
    exact: bool | None
    contains: bool | None
    f1: float | None
    retrieved: bool | None
    rank: int | None
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


def over_squad(path: Path, settings: Settings) -> tuple[Settings, list[Question]]:
    """The questions of a file in SQuAD's format, and the settings with an index of its paragraphs, built here.

    Raises ValueError for another format, RagError where the embedder can't be loaded.
    """
    documents, asked = read_squad(path)
    index = ROOT / "build" / "benchmarks" / f"answers-{path.stem}"
    with closing(load_embedder(settings, "cpu")) as embedder:
        print(build(Folder(documents), index, embedder), file=sys.stderr)
    questions = [Question(question.text, question.language, question.answers, question.document) for question in asked]
    return settings.model_copy(update={"index": str(index)}), questions


def judge(question: Question, answer: Answer, ranked: Sequence[Passage]) -> Outcome:
    """Compare an answer with the references. A document counts as retrieved when a passage of it was read."""
    answerable = bool(question.answers)
    # A line of a .jsonl file is named after its file and its id; the index knows it by the id.
    document = question.source and question.source.rpartition("#")[2]
    documents = list(dict.fromkeys(map(_document, ranked)))
    return Outcome(
        question=question,
        said=answer.text,
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


def ask_all(pipeline: Pipeline, questions: Sequence[Question], max_new_tokens: int) -> Iterator[Outcome]:
    """Each question alone, as a client would send it; its language is the server's to find out."""
    for question in questions:
        answer = pipeline.answer(Ask((question.text,), Sampling(max_new_tokens=max_new_tokens)))
        yield judge(question, answer, pipeline.retriever.retrieve(question.text, top_k=_RANKED_PASSAGES))


def summarise(outcomes: Sequence[Outcome]) -> Figures:
    """Counts and shares; a share of nothing is None."""
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
    """The figures of all questions, and of each language's."""
    languages = sorted({outcome.question.language for outcome in outcomes})
    groups = {language: [o for o in outcomes if o.question.language == language] for language in languages}
    return {name: summarise(group) for name, group in ({"all": list(outcomes)} | groups).items()}


def _table(groups: dict[str, Figures], model: str) -> Table:
    total = groups["all"]
    title = f"{model}: {total['answerable']} questions, and {total['unanswerable']} that the documents do not answer"
    table = Table(title=title)
    table.add_column("share of the questions", no_wrap=True)
    for name in groups:
        table.add_column(name, justify="right")
    for key, label in _SHARES.items():
        shares = [figures[key] for figures in groups.values()]
        table.add_row(label, *("–" if share is None else f"{share:.1%}" for share in shares))
    for key, label in (("median_ms", "an answer takes, ms (median)"), ("p95_ms", "the same (p95)")):
        table.add_row(label, *(str(figures[key]) for figures in groups.values()))
    return table


def main(arguments: Sequence[str] | None = None, load: Callable[..., Pipeline] = load_pipeline) -> int:
    """Run the command; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--questions", type=Path, default=_QUESTIONS, help="JSON Lines, over the index that INDEX names")
    asked.add_argument(
        "--data", type=Path, help="a file in SQuAD's format; an index of its paragraphs takes INDEX's place"
    )
    parser.add_argument("--show", action="store_true", help="print every question with its answer")
    options = parser.parse_args(arguments)
    console = Console()
    try:
        settings = Settings.from_environment(os.environ)
        if options.data is None:
            questions = read_questions(options.questions)
        else:
            settings, questions = over_squad(options.data, settings)
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
