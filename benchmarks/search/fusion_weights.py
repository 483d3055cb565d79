"""Selects the fusion weights and the lexical terms, by cross-validation over articles.

    python -m benchmarks.search.fusion_weights train.json           a file in SQuAD's format; folds of whole articles
    python -m benchmarks.search.fusion_weights --documents corpus   the project's questions; folds of whole documents

Compares BM25 over stems, over unstemmed words, over character 4-grams, and over stems and 4-grams (as indexed), each
also with pseudo-relevance feedback, then vectors, reciprocal rank fusion and the weighted fusion. Its weight is
cross-validated in five folds of articles: the weight with the best MRR on four is tested on the fifth. Differences have
intervals by a paired bootstrap over articles. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from tqdm import tqdm

from benchmarks.harness.process import ROOT
from benchmarks.harness.ranking import RankingQuality, Scores, quality_table, reciprocal_ranks
from rag.build_index import DEFAULT_CHUNK_TOKENS, DEFAULT_OVERLAP_TOKENS
from rag.documents.chunking import Chunker
from rag.documents.embedding_store import EmbeddingStore, embed_texts
from rag.documents.folder import Document, read_folder
from rag.documents.squad import read_squad
from rag.embedding.adapter import LocalEmbedder, load_adapter
from rag.embedding.sentence_transformer import DEFAULT_MODEL, SentenceTransformerEmbedder
from rag.interfaces import Language
from rag.retrieval import lexical_index
from rag.retrieval.fusion import Fusion
from rag.retrieval.index import indexed_text
from rag.retrieval.lexical_index import LexicalIndex

WEIGHTS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
_FOLDS = 5
_RESAMPLES = 2000
_SEED = 0

Terms = Callable[[str, Language], list[str]]


@dataclass(frozen=True, slots=True)
class ArticleQuestion:
    """A question, the document that answers it, and its article, which folds never split."""

    text: str
    document: str
    article: str


def read_corpus(folder: Path) -> tuple[list[Document], dict[str, list[ArticleQuestion]]]:
    """The folder's documents, and the project's answerable questions over them, by language."""
    groups: dict[str, list[ArticleQuestion]] = {}
    for name in ("benchmarks/questions.jsonl", "training/exercises/corpus_questions.jsonl"):
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            question = json.loads(line)
            if source := question["source"]:
                row = ArticleQuestion(question["question"], source.rpartition("#")[2], source)
                groups.setdefault(question["language"], []).append(row)
    return read_folder(folder).documents, groups


class Collection:
    """Chunks with their vectors, and the scores of each search over all of them."""

    def __init__(self, documents: Sequence[Document], embedder: LocalEmbedder, store: Path) -> None:
        tokens = min(DEFAULT_CHUNK_TOKENS, embedder.max_tokens)
        self.chunks = list(Chunker(embedder.token_spans, tokens, DEFAULT_OVERLAP_TOKENS)(documents))
        self._texts = [indexed_text(chunk) for chunk in self.chunks]
        self._languages: list[Language] = [
            "en" if chunk.metadata["language"] == "en" else "pt" for chunk in self.chunks
        ]
        self._is_english = np.array([language == "en" for language in self._languages])
        self._embedder = embedder
        self._fusion = Fusion(embedder)
        self._store = store
        self.vectors = self.embedded(self._texts)
        self._numbers = {name: i for i, name in enumerate(dict.fromkeys(chunk.document for chunk in self.chunks))}
        self._starts = np.flatnonzero(
            [i == 0 or chunk.document != self.chunks[i - 1].document for i, chunk in enumerate(self.chunks)]
        )

    def embedded(self, texts: Sequence[str]) -> Scores:
        """(texts, dimension), cached in the embedding store."""
        with EmbeddingStore(self._store, self._embedder) as store, tqdm(total=len(texts), desc="embedding") as bar:
            return store.vectors(embed_texts(texts, self._embedder.embed_passages, store, bar.update))[:]

    def lexical(
        self, questions: Sequence[ArticleQuestion], tokenize: Terms, k1: float, b: float, feedback: float = 0.0
    ) -> Scores:
        """(questions, chunks): BM25 over the terms of `tokenize`; `feedback` is the weight of the first hits' terms."""
        numbers: dict[str, int] = {"": 0}
        terms = [[numbers.setdefault(term, len(numbers)) for term in tokenize(text, language)] or [0]
                 for text, language in zip(self._texts, self._languages, strict=True)]  # fmt: skip
        import bm25s  # noqa: PLC0415 - heavy

        bm25 = bm25s.BM25(k1=k1, b=b, method="lucene")
        bm25.index((terms, numbers), create_empty_token=False, show_progress=False)
        holders = Counter(term for found in terms for term in set(found))
        idf = np.array([np.log1p((len(terms) - holders[i] + 0.5) / (holders[i] + 0.5)) for i in range(len(numbers))])
        rows = np.empty((len(questions), len(terms)), dtype=np.float32)
        for i, question in enumerate(questions):
            by_language = []
            for language in ("pt", "en"):
                query = set(tokenize(question.text, language))
                ids = sorted(numbers[term] for term in query if term in numbers)
                most = float(idf[ids].sum()) + float(idf.max()) * (len(query) - len(ids))
                by_language.append(bm25.get_scores_from_ids(ids) / np.float32(most or 1))
            rows[i] = np.where(self._is_english, by_language[1], by_language[0])
            if feedback:
                hits = np.argsort(-rows[i], kind="stable")[:3]
                weights: dict[int, float] = {}
                for hit in hits.tolist():
                    for term in terms[hit]:
                        share = float(rows[i, hit]) * float(idf[term]) / len(terms[hit])
                        weights[term] = weights.get(term, 0.0) + share
                added = sorted(sorted(weights, key=weights.__getitem__, reverse=True)[:10])
                rows[i] = (1 - feedback) * rows[i] + feedback * bm25.get_scores_from_ids(added) / idf[added].sum()
        return rows

    def served(self, questions: Sequence[ArticleQuestion]) -> Scores:
        """(questions, chunks): the lexical scores as in serving."""
        index = LexicalIndex.build(self._texts, self._languages)
        return np.stack([index.scores(question.text) for question in questions])

    def dense(self, queries: Scores) -> Scores:
        """(questions, chunks): the dense scores as in the fusion."""
        return np.stack([self._fusion.dense_scores(q, self.vectors @ q, self._is_english) for q in queries])

    def documents(self, scores: Scores) -> Scores:
        """(questions, documents): each document's best chunk."""
        return np.maximum.reduceat(scores, self._starts, axis=1)

    def ranks(self, questions: Sequence[ArticleQuestion], scores: Scores) -> NDArray[np.int64]:
        """(questions,): the rank of the right document by `scores` over chunks."""
        return self.ranks_of_documents(questions, self.documents(scores))

    def ranks_of_documents(self, questions: Sequence[ArticleQuestion], best: Scores) -> NDArray[np.int64]:
        """(questions,): the rank of the right document by scores over documents."""
        order = np.argsort(-best, axis=1, kind="stable")
        right = np.array([self._numbers[question.document] for question in questions])
        return np.asarray((order == right[:, None]).argmax(axis=1) + 1)


def cross_validate(ranks: NDArray[np.int64], articles: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[int]]:
    """`ranks` (weights, questions) → each question's rank with the weight chosen on the other folds; the weights."""
    fold = (np.random.default_rng(_SEED).permutation(int(articles.max()) + 1) % _FOLDS)[articles]
    tested = np.empty(ranks.shape[1], dtype=np.int64)
    chosen = []
    for held_out in range(_FOLDS):
        inside = fold == held_out
        chosen.append(int(np.argmax((1 / ranks[:, ~inside]).mean(axis=1))))
        tested[inside] = ranks[chosen[-1], inside]
    return tested, chosen


def interval(gain: NDArray[np.float64], articles: NDArray[np.int64]) -> tuple[float, float]:
    """The 95 % interval of the mean `gain` per question, by resampling articles."""
    count = int(articles.max()) + 1
    sums, sizes = np.bincount(articles, gain, count), np.bincount(articles, minlength=count)
    drawn = np.random.default_rng(_SEED).integers(0, count, (_RESAMPLES, count))
    low, high = np.quantile(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1), (0.025, 0.975))
    return float(low), float(high)


def compare(
    collection: Collection, name: str, questions: Sequence[ArticleQuestion], console: Console
) -> dict[str, object]:
    """Print the tables of a group of questions, and return their figures."""
    names = {article: i for i, article in enumerate(dict.fromkeys(question.article for question in questions))}
    articles = np.array([names[question.article] for question in questions])
    ranks: dict[str, NDArray[np.int64]] = {}
    variants: dict[str, tuple[Terms, float, float]] = {
        "words": (lambda text, _: lexical_index.words(text), 1.2, 0.75),
        "stems": (lexical_index.terms, 1.2, 0.75),
        "4-grams": (lambda text, _: lexical_index.grams(text), 0.9, 0.6),
        "stems and 4-grams": (
            lambda text, language: lexical_index.terms(text, language) + lexical_index.grams(text),
            0.9,
            0.6,
        ),
    }
    for variant, (tokenize, k1, b) in tqdm(variants.items(), desc=f"{name}: BM25"):
        for feedback in (0.0, 0.1):
            suffix = ", with feedback" if feedback else ""
            scores = collection.lexical(questions, tokenize, k1, b, feedback)
            ranks[f"BM25, {variant}{suffix}"] = collection.ranks(questions, scores)
    served = collection.served(questions)
    dense = collection.dense(collection.embedded([question.text for question in questions]))
    served_documents, dense_documents = collection.documents(served), collection.documents(dense)
    ranks["vectors"] = collection.ranks_of_documents(questions, dense_documents)
    fused = np.stack(
        [reciprocal_ranks(a) + reciprocal_ranks(b) for a, b in zip(served_documents, dense_documents, strict=True)]
    )
    ranks["RRF"] = collection.ranks_of_documents(questions, fused)
    swept = np.stack([collection.ranks(questions, w * dense + np.float32(1 - w) * served) for w in WEIGHTS])
    ranks["weighted, cross-validated"], chosen = cross_validate(swept, articles)
    bm25 = swept[0]

    ranks |= {f"weighted, w = {w}": found for w, found in zip(WEIGHTS, swept, strict=True)}
    qualities = {ranking: RankingQuality.of(found.tolist()) for ranking, found in ranks.items()}
    title = f"{name}: {len(questions)} questions on {len(names)} articles, {len(collection.chunks)} passages"
    console.print(quality_table(title, qualities))
    console.print(f"weights chosen: {', '.join(str(WEIGHTS[i]) for i in chosen)}")
    gains: dict[str, object] = {}
    for other, theirs in (("BM25", bm25), ("vectors", ranks["vectors"]), ("BM25, stems", ranks["BM25, stems"])):
        mine = ranks["weighted, cross-validated"]
        gain = (mine == 1).astype(float) - (theirs == 1)
        low, high = interval(gain, articles)
        console.print(f"recall@1 relative to {other}: {gain.mean():+.3f} (95 % interval {low:+.3f} to {high:+.3f})")
        gains[other] = {"recall@1": float(gain.mean()), "low": low, "high": high}
    console.print()
    figures = {ranking: quality.figures() for ranking, quality in qualities.items()}
    return {"rankings": figures, "weights": [WEIGHTS[i] for i in chosen], "gains": gains}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("squad", nargs="?", type=Path, help="a file in SQuAD's format")
    source.add_argument("--documents", type=Path, help="a folder, with the project's questions about the corpus")
    parser.add_argument("--embedding-model", default=DEFAULT_MODEL)
    parser.add_argument("--adapter", type=Path, help="a directory that training.train_adapter wrote")
    parser.add_argument("--embeddings", type=Path, help="a directory that caches the vectors")
    options = parser.parse_args(arguments)
    if options.documents:
        documents, groups = read_corpus(options.documents)
    else:
        documents, rows = read_squad(options.squad)
        groups = {options.squad.name: [ArticleQuestion(row.text, row.document, row.article) for row in rows]}
    embedder: LocalEmbedder = SentenceTransformerEmbedder.load(options.embedding_model)
    if options.adapter is not None:
        embedder = load_adapter(options.adapter, embedder)
    with tempfile.TemporaryDirectory() as temporary:
        collection = Collection(documents, embedder, options.embeddings or Path(temporary) / "store")
        figures = {name: compare(collection, name, rows, Console(width=100)) for name, rows in groups.items()}
    embedder.close()
    print(json.dumps({"embedder": embedder.name, "groups": figures}, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
