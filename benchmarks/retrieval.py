"""Does the right document come first? BM25, vectors, reciprocal rank fusion, and the fusion that is served.

    python -m benchmarks.retrieval SQUAD.json                  paragraphs and questions of a file in SQuAD's format
    python -m benchmarks.retrieval --documents corpus          the questions of benchmarks/questions.jsonl, by language
    python -m benchmarks.retrieval … --adapter build/adapter   beside them the same with an adapter

Documents are cut, indexed and searched as the server does it. A document's score is its best chunk's. Prints recall@1,
recall@5 and the mean reciprocal rank (MRR), the time one question takes, and for the questions without an answer how
high the best passage scores. The last line of its output is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from rag.build_index import DEFAULT_CHUNK_TOKENS, DEFAULT_OVERLAP_TOKENS
from rag.documents.chunking import Chunker
from rag.documents.folder import Document, read_folder
from rag.documents.squad import read_squad
from rag.embedding.adapter import LocalEmbedder, load_adapter
from rag.embedding.sentence_transformer import DEFAULT_MODEL, SentenceTransformerEmbedder
from rag.errors import RagError
from rag.retrieval.fusion import ENGLISH_EMBEDDER, MULTILINGUAL_EMBEDDER, Fusion
from rag.retrieval.hybrid import HybridRetriever
from rag.retrieval.index import Index, build_index, indexed_text

_QUESTIONS = Path(__file__).parent / "questions.jsonl"
_RRF_CONSTANT = 60  # Cormack, Clarke and Büttcher, SIGIR 2009

Scores = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the id of the document that answers it; None when none does."""

    text: str
    document: str | None


@dataclass(frozen=True, slots=True)
class Quality:
    """Shares of the questions, and the mean of 1 / rank."""

    recall_at_1: float
    recall_at_5: float
    mrr: float

    @classmethod
    def of(cls, ranks: Sequence[int]) -> Quality:
        """From the rank of the right document, 1 being the first, for each question."""
        found = np.array(ranks)
        return cls(float(np.mean(found == 1)), float(np.mean(found <= 5)), float(np.mean(1 / found)))


def read_corpus(folder: Path, questions: Path) -> tuple[list[Document], dict[str, list[Question]]]:
    """The folder's documents, and the questions over them by language."""
    documents = read_folder(folder).documents
    groups: dict[str, list[Question]] = {}
    for line in questions.read_text(encoding="utf-8").splitlines():
        asked = json.loads(line)
        # A line of a .jsonl file is named after its file and its id; the index knows it by the id.
        document = asked["source"] and asked["source"].rpartition("#")[2]
        groups.setdefault(asked["language"], []).append(Question(asked["question"], document))
    return documents, groups


class Bench:
    """An index of the documents and everything that searches it."""

    def __init__(self, documents: Sequence[Document], embedder: LocalEmbedder, directory: Path) -> None:
        self._embedder = embedder
        chunker = Chunker(embedder.token_spans, min(DEFAULT_CHUNK_TOKENS, embedder.max_tokens), DEFAULT_OVERLAP_TOKENS)
        chunks = list(chunker(documents))
        with tqdm(total=len(chunks), desc="embedding", unit="passage") as bar:
            vectors = embedder.embed_passages([indexed_text(chunk) for chunk in chunks], progress=bar.update)
        build_index(chunks, vectors, directory, embedder=embedder)
        self._index = Index.load(directory, embedder)
        weights = MULTILINGUAL_EMBEDDER if embedder.reads_portuguese() else ENGLISH_EMBEDDER
        self._fusion = Fusion(embedder, weights)
        self._retriever = HybridRetriever(self._index, embedder, fusion=self._fusion)
        self._numbers = {name: i for i, name in enumerate(dict.fromkeys(chunk.document for chunk in chunks))}
        self._document_of_row = np.array([self._numbers[chunk.document] for chunk in chunks])
        self.passages = len(chunks)

    def ranks(self, question: Question) -> dict[str, int]:
        """Where each way of ranking puts the right document."""
        query = self._embedder.embed_queries([question.text])[0]
        cosines = self._index.cosines(query, np.arange(self.passages))
        lexical = self._index.lexical_scores(question.text)
        fused = self._fusion.scores(
            question.text, query, cosines=cosines, lexical=lexical, is_english=self._index.is_english
        )
        by_document = {"BM25": lexical, "vectors": cosines, "weighted": fused}
        by_document = {name: self._best_of_documents(scores) for name, scores in by_document.items()}
        by_document["RRF"] = reciprocal_ranks(by_document["BM25"]) + reciprocal_ranks(by_document["vectors"])
        right = self._numbers[str(question.document)]
        return {name: int(np.flatnonzero(_order(scores) == right)[0]) + 1 for name, scores in by_document.items()}

    def best_score(self, question: str) -> tuple[float, float]:
        """The score of the best passage as it is served, and the seconds it took."""
        start_s = time.perf_counter()
        passages = self._retriever.retrieve(question, top_k=3)
        return passages[0].score, time.perf_counter() - start_s

    def _best_of_documents(self, scores: Scores) -> Scores:
        best = np.full(len(self._numbers), -np.inf, dtype=np.float32)
        np.maximum.at(best, self._document_of_row, scores)
        return best


def _order(scores: Scores) -> NDArray[np.int64]:
    return np.argsort(-scores, kind="stable")


def reciprocal_ranks(scores: Scores) -> Scores:
    """1 / (60 + rank) of each of `scores` (documents,): what reciprocal rank fusion adds up."""
    ranks = np.empty(len(scores), dtype=np.float32)
    ranks[_order(scores)] = np.arange(1, len(scores) + 1)
    return np.float32(1) / (_RRF_CONSTANT + ranks)


def measure(
    benches: Mapping[str, Bench], name: str, questions: Sequence[Question], console: Console
) -> dict[str, object]:
    """Print one group's table; the figures in it. A bench's key is added to the names of its rankings.

    Time and scores are the last bench's.
    """
    *_, served = benches.values()
    ranks: dict[str, list[int]] = {}
    best: dict[bool, list[float]] = {True: [], False: []}
    seconds = []
    for question in tqdm(questions, desc=name, unit="question"):
        for added, bench in benches.items():
            if question.document is not None:
                for way, rank in bench.ranks(question).items():
                    if not added or way in ("vectors", "weighted"):  # what an adapter can change
                        ranks.setdefault(way + added, []).append(rank)
        score, took_s = served.best_score(question.text)
        seconds.append(took_s)
        best[question.document is not None].append(score)
    qualities = {way: Quality.of(found) for way, found in ranks.items()}
    table = Table(title=f"{name}: {len(best[True])} questions, {served.passages} passages")
    for heading in ("ranking", "recall@1", "recall@5", "MRR"):
        table.add_column(heading, justify="left" if heading == "ranking" else "right")
    for way, quality in qualities.items():
        table.add_row(way, f"{quality.recall_at_1:.3f}", f"{quality.recall_at_5:.3f}", f"{quality.mrr:.3f}")
    console.print(table)
    milliseconds = 1000 * statistics.median(seconds)
    line = f"a question takes {milliseconds:.1f} ms (median); its best passage scores {_spread(best[True])}"
    console.print(line + (f", {_spread(best[False])} when nothing answers it" if best[False] else ""), "\n")
    return {
        **{way: {"recall@1": q.recall_at_1, "recall@5": q.recall_at_5, "mrr": q.mrr} for way, q in qualities.items()},
        "questions": len(best[True]),
        "median_ms": milliseconds,
        "best_score_answerable": best[True] and statistics.median(best[True]),
        "best_score_unanswerable": best[False] and statistics.median(best[False]),
    }


def _spread(scores: Sequence[float]) -> str:
    low, middle, high = np.quantile(scores, (0.05, 0.5, 0.95))
    return f"{middle:.2f} ({low:.2f} to {high:.2f} in nine of ten)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("squad", nargs="?", type=Path, help="a file in SQuAD's format")
    source.add_argument("--documents", type=Path, help="a folder, asked the questions of --questions")
    parser.add_argument(
        "--questions", type=Path, default=_QUESTIONS, help="as in benchmarks/questions.jsonl, the default"
    )
    parser.add_argument("--embedding-model", default=DEFAULT_MODEL)
    parser.add_argument("--adapter", type=Path, help="a directory that training.train_adapter wrote")
    options = parser.parse_args(arguments)
    if options.documents:
        documents, groups = read_corpus(options.documents, options.questions)
    else:
        documents, asked = read_squad(options.squad)
        groups = {options.squad.name: [Question(question.text, question.document) for question in asked]}
    console = Console()
    try:
        embedder = SentenceTransformerEmbedder.load(options.embedding_model)
        adapted = None if options.adapter is None else load_adapter(options.adapter, embedder)
    except RagError as error:
        console.print(f"error: {error.message}")
        return 2
    with tempfile.TemporaryDirectory() as directory:
        benches = {"": Bench(documents, embedder, Path(directory) / "index")}
        if adapted is not None:
            benches[" + adapter"] = Bench(documents, adapted, Path(directory) / "adapted")
        figures = {name: measure(benches, name, questions, console) for name, questions in groups.items()}
    embedder.close()
    print(
        json.dumps({"embedder": embedder.name, "passages": benches[""].passages, "groups": figures}, ensure_ascii=False)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
