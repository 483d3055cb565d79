"""Retrieval quality of BM25, vectors, reciprocal rank fusion (RRF), and the weighted fusion used in serving.

    python -m benchmarks.retrieval SQUAD.json                  paragraphs and questions of a file in SQuAD's format
    python -m benchmarks.retrieval --documents corpus          the questions of benchmarks/questions.jsonl, by language
    python -m benchmarks.retrieval … --adapter build/adapter   also with an adapter

Documents are chunked, indexed and searched as in serving. A document's score is that of its best chunk. Prints
recall@1, recall@5 and the mean reciprocal rank (MRR), the latency per question, and the best passage's score for
answerable and unanswerable questions. The last line of the output is JSON.
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
from rich.console import Console
from tqdm import tqdm

from benchmarks.harness.questions import QUESTIONS, read_questions
from benchmarks.harness.ranking import RankingQuality, Scores, order, quality_table, reciprocal_ranks
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


@dataclass(frozen=True, slots=True)
class DocumentQuestion:
    """A question and the id of the document that answers it; None for an unanswerable one."""

    text: str
    document: str | None


def read_corpus(folder: Path, questions: Path) -> tuple[list[Document], dict[str, list[DocumentQuestion]]]:
    """The folder's documents, and the questions over them by language."""
    documents = read_folder(folder).documents
    groups: dict[str, list[DocumentQuestion]] = {}
    for question in read_questions(questions):
        groups.setdefault(question.language, []).append(DocumentQuestion(question.text, question.document))
    return documents, groups


class SearchBench:
    """An index of the documents, and every ranking over it."""

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

    def ranks(self, question: DocumentQuestion) -> dict[str, int]:
        """The rank of the right document in each ranking."""
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
        return {name: int(np.flatnonzero(order(scores) == right)[0]) + 1 for name, scores in by_document.items()}

    def best_score(self, question: str) -> tuple[float, float]:
        """The best passage's score as served, and the seconds of the retrieval."""
        start_s = time.perf_counter()
        passages = self._retriever.retrieve(question, top_k=3)
        return passages[0].score, time.perf_counter() - start_s

    def _best_of_documents(self, scores: Scores) -> Scores:
        best = np.full(len(self._numbers), -np.inf, dtype=np.float32)
        np.maximum.at(best, self._document_of_row, scores)
        return best


def measure(
    benches: Mapping[str, SearchBench], name: str, questions: Sequence[DocumentQuestion], console: Console
) -> dict[str, object]:
    """Print the table of a group of questions, and return its figures. The keys of `benches` are suffixes of rankings.

    Latency and scores are those of the last bench.
    """
    *_, served = benches.values()
    ranks: dict[str, list[int]] = {}
    best: dict[bool, list[float]] = {True: [], False: []}
    seconds = []
    for question in tqdm(questions, desc=name, unit="question"):
        for added, bench in benches.items():
            if question.document is not None:
                for ranking, rank in bench.ranks(question).items():
                    if not added or ranking in ("vectors", "weighted"):  # the rankings that depend on the adapter
                        ranks.setdefault(ranking + added, []).append(rank)
        score, took_s = served.best_score(question.text)
        seconds.append(took_s)
        best[question.document is not None].append(score)
    qualities = {ranking: RankingQuality.of(found) for ranking, found in ranks.items()}
    console.print(quality_table(f"{name}: {len(best[True])} questions, {served.passages} passages", qualities))
    milliseconds = 1000 * statistics.median(seconds)
    line = f"latency {milliseconds:.1f} ms per question (median); score of the best passage {_spread(best[True])}"
    console.print(line + (f", {_spread(best[False])} for unanswerable questions" if best[False] else ""), "\n")
    return {
        **{ranking: quality.figures() for ranking, quality in qualities.items()},
        "questions": len(best[True]),
        "median_ms": milliseconds,
        "best_score_answerable": best[True] and statistics.median(best[True]),
        "best_score_unanswerable": best[False] and statistics.median(best[False]),
    }


def _spread(scores: Sequence[float]) -> str:
    low, middle, high = np.quantile(scores, (0.05, 0.5, 0.95))
    return f"{middle:.2f} (90 %: {low:.2f} to {high:.2f})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("squad", nargs="?", type=Path, help="a file in SQuAD's format")
    source.add_argument("--documents", type=Path, help="a folder, with the questions of --questions")
    parser.add_argument("--questions", type=Path, default=QUESTIONS, help="default: benchmarks/questions.jsonl")
    parser.add_argument("--embedding-model", default=DEFAULT_MODEL)
    parser.add_argument("--adapter", type=Path, help="a directory that training.train_adapter wrote")
    options = parser.parse_args(arguments)
    if options.documents:
        documents, groups = read_corpus(options.documents, options.questions)
    else:
        documents, rows = read_squad(options.squad)
        groups = {options.squad.name: [DocumentQuestion(row.text, row.document) for row in rows]}
    console = Console()
    try:
        embedder = SentenceTransformerEmbedder.load(options.embedding_model)
        adapted = None if options.adapter is None else load_adapter(options.adapter, embedder)
    except RagError as error:
        console.print(f"error: {error.message}")
        return 2
    with tempfile.TemporaryDirectory() as directory:
        benches = {"": SearchBench(documents, embedder, Path(directory) / "index")}
        if adapted is not None:
            benches[" + adapter"] = SearchBench(documents, adapted, Path(directory) / "adapted")
        figures = {name: measure(benches, name, questions, console) for name, questions in groups.items()}
    embedder.close()
    print(
        json.dumps({"embedder": embedder.name, "passages": benches[""].passages, "groups": figures}, ensure_ascii=False)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
