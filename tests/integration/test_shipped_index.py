"""The shipped corpus, indexed and searched with the real default embedder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rag.build_index import build, read
from rag.embedding.sentence_transformer import SentenceTransformerEmbedder
from rag.retrieval.hybrid import HybridRetriever
from rag.retrieval.index import Index

ROOT = Path(__file__).parents[2]
QUESTIONS = [json.loads(line) for line in (ROOT / "benchmarks" / "questions.jsonl").read_text().splitlines()]
ANSWERABLE = [asked for asked in QUESTIONS if asked["source"]]


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HybridRetriever]:
    embedder = SentenceTransformerEmbedder.load()
    directory = tmp_path_factory.mktemp("built") / "index"
    build(read(ROOT / "corpus"), directory, embedder)
    yield HybridRetriever(Index.load(directory, embedder), embedder)
    embedder.close()


def document(identity: str) -> str:
    """The document of a passage, or of a question's source ("file.jsonl#id" is the document "id")."""
    return identity.rsplit(".jsonl#", maxsplit=1)[-1].split("#", maxsplit=1)[0]


@pytest.mark.parametrize("language", ["pt", "en"])
def test_the_right_document_mostly_ranks_first_and_always_in_the_top_three(
    retriever: HybridRetriever, language: str
) -> None:
    asked = [question for question in ANSWERABLE if question["language"] == language]
    found = [[document(passage.id) for passage in retriever.retrieve(q["question"], top_k=3)] for q in asked]
    right = [document(question["source"]) for question in asked]
    assert all(name in names for name, names in zip(right, found, strict=True))
    first = sum(names[0] == name for name, names in zip(right, found, strict=True))
    assert first >= 0.85 * len(asked)


@pytest.mark.parametrize(
    ("question", "source"),
    [
        ("Qual a capital do Brasil?", "pt/brasilia.md"),
        ("What is the capital of Brazil?", "en/brazil.md"),
        ("Qual a capital da Austrália?", "en/australia.md"),
        ("Quem foi Ada Lovelace?", "en/ada-lovelace.md"),
        ("Who wrote Dom Casmurro?", "pt/dom-casmurro.md"),
    ],
)
def test_documents_in_the_question_s_language_rank_first_and_the_other_language_is_found(
    retriever: HybridRetriever, question: str, source: str
) -> None:
    assert retriever.retrieve(question, top_k=1)[0].metadata["source"] == source


def test_scores_separate_answerable_questions_from_unrelated_ones(retriever: HybridRetriever) -> None:
    unrelated = ("asdf qwer zxcv", "Qual é a receita de lasanha?", "How do I fix a bicycle tyre?")
    highest = max(retriever.retrieve(question, top_k=1)[0].score for question in unrelated)
    scores = sorted(retriever.retrieve(q["question"], top_k=1)[0].score for q in ANSWERABLE)
    assert highest < 0.2 < scores[len(scores) // 20], "all but one in twenty"


def test_32_concurrent_threads_get_the_same_passages_as_sequential_calls(retriever: HybridRetriever) -> None:
    questions = [question["question"] for question in ANSWERABLE[:32]]

    def ids(question: str) -> list[str]:
        return [passage.id for passage in retriever.retrieve(question, top_k=3)]

    alone = [ids(question) for question in questions]
    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(ids, questions)) == alone


def test_a_filter_by_language_excludes_the_other_language(retriever: HybridRetriever) -> None:
    passages = retriever.retrieve("Qual a capital do Brasil?", top_k=5, filters={"language": "en"})
    assert len(passages) == 5
    assert passages[0].metadata["source"] == "en/brazil.md"
    assert {passage.metadata["language"] for passage in passages} == {"en"}
