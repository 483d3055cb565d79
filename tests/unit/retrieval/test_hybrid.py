"""Hybrid retrieval: filters before ranking, no duplicates, the requested number of passages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rag.errors import InvalidRequest
from rag.interfaces import Language, Retriever
from rag.retrieval.hybrid import HybridRetriever
from rag.retrieval.index import Index, build_index, indexed_text
from rag.retrieval.passage_store import Chunk
from tests.unit.words_embedder import WordsEmbedder

EMBEDDER = WordsEmbedder()


def chunk(name: str, title: str, text: str, language: Language, number: int = 1) -> Chunk:
    return Chunk(f"{name}#{number}", name, title, text, {"language": language, "source": name})


CHUNKS = [
    chunk("brasilia", "Brasília", "Brasília é a capital do Brasil desde 1960.", "pt"),
    chunk("brazil", "Brazil", "The capital of Brazil is Brasília.", "en"),
    chunk("canberra", "Canberra", "Canberra is the capital city of Australia.", "en"),
    chunk("pao", "Pão de queijo", "O pão de queijo leva polvilho e queijo.", "pt"),
    *(chunk("long", "Water", f"Water boils, part {n}: one hundred degrees.", "en", n) for n in range(1, 5)),
    *(chunk(f"filler{n}", f"Filler {n}", f"Nothing of interest, number {n}.", "en") for n in range(30)),
]


def index_of(chunks: Sequence[Chunk], directory: Path, factory: str = "Flat") -> Index:
    vectors = EMBEDDER.embed_passages([indexed_text(chunk) for chunk in chunks])
    build_index(chunks, vectors, directory, embedder=EMBEDDER, factory=factory)
    return Index.load(directory, EMBEDDER)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return index_of(CHUNKS, tmp_path_factory.mktemp("built") / "index")


@pytest.fixture
def retriever(index: Index) -> Retriever:
    return HybridRetriever(index, EMBEDDER)


@pytest.mark.parametrize(
    ("question", "best"),
    [
        ("Qual a capital do Brasil?", "brasilia#1"),
        ("What is the capital of Brazil?", "brazil#1"),
        ("Qual a capital da Austrália? Canberra?", "canberra#1"),
        ("receita de pao de queijo", "pao#1"),
    ],
)
def test_the_passage_that_answers_comes_first(retriever: Retriever, question: str, best: str) -> None:
    passages = retriever.retrieve(question, top_k=3)
    assert passages[0].id == best
    assert len(passages) == 3
    scores = [passage.score for passage in passages]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)


def test_a_passage_has_its_title_text_and_metadata(retriever: Retriever) -> None:
    (passage,) = retriever.retrieve("pão de queijo", top_k=1)
    assert (passage.title, passage.text) == ("Pão de queijo", "O pão de queijo leva polvilho e queijo.")
    assert passage.metadata == {"language": "pt", "source": "pao"}


def test_filters_apply_before_ranking(retriever: Retriever) -> None:
    passages = retriever.retrieve("Qual a capital do Brasil?", top_k=30, filters={"language": "en"})
    assert len(passages) == 30, "top_k of them, although few would be in the unfiltered top 30"
    assert {passage.metadata["language"] for passage in passages} == {"en"}
    either = retriever.retrieve("capital", top_k=9, filters={"source": ["pao", "canberra"]})
    assert [passage.id for passage in either] == ["canberra#1", "pao#1"]


def test_a_filter_that_matches_nothing_returns_nothing(retriever: Retriever) -> None:
    assert retriever.retrieve("capital", top_k=3, filters={"source": "nowhere"}) == []


def test_a_filter_on_an_unknown_field_is_refused_with_the_known_fields(retriever: Retriever) -> None:
    with pytest.raises(InvalidRequest) as refused:
        retriever.retrieve("capital", top_k=3, filters={"author": "x"})
    assert refused.value.remedy == "filter by one of: language, source"


def test_passages_below_the_minimum_score_are_dropped(retriever: Retriever) -> None:
    every = retriever.retrieve("What is the capital of Brazil?", top_k=20)
    limit = every[1].score
    assert retriever.retrieve("What is the capital of Brazil?", top_k=20, min_score=limit) == every[:2]
    assert retriever.retrieve("What is the capital of Brazil?", top_k=20, min_score=1.1) == []


def test_top_k_passages_are_returned_or_all_if_there_are_fewer(retriever: Retriever) -> None:
    assert len(retriever.retrieve("capital", top_k=1)) == 1
    assert len(retriever.retrieve("capital", top_k=1000)) == len(CHUNKS)


@pytest.mark.parametrize("question", ["", "?", "xilofone", "água " * 5000])
def test_any_text_is_accepted_as_a_question(retriever: Retriever, question: str) -> None:
    assert len(retriever.retrieve(question, top_k=2)) == 2


def test_top_k_below_one_is_refused(retriever: Retriever) -> None:
    with pytest.raises(InvalidRequest, match="top_k"):
        retriever.retrieve("capital", top_k=0)


def test_a_duplicate_is_returned_once_and_the_next_passage_fills_its_rank(tmp_path: Path) -> None:
    text = "The capital of Brazil is called Brasília, and it was built in the sixties."
    chunks = [
        *(chunk(f"copy{n}", "Copy", text.upper() if n % 2 else text, "en") for n in range(20)),
        chunk("other", "Other", "The capital of Brazil moved once.", "en"),
    ]
    retriever = HybridRetriever(index_of(chunks, tmp_path / "index"), EMBEDDER, candidates=4)
    passages = retriever.retrieve("capital of Brazil", top_k=2)
    assert {passage.metadata["source"] for passage in passages} == {"copy0", "other"}


def test_the_passages_of_one_document_can_be_limited(index: Index) -> None:
    crowded = HybridRetriever(index, EMBEDDER).retrieve("water boils", top_k=4)
    assert [passage.metadata["source"] for passage in crowded] == ["long"] * 4
    retriever = HybridRetriever(index, EMBEDDER, max_passages_per_document=1, candidates=4)
    spread = retriever.retrieve("water boils", top_k=4)
    assert [passage.metadata["source"] for passage in spread].count("long") == 1
    assert len(spread) == 4


class ReversingReranker:
    """A reranker that reverses the order it is given."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def scores(self, question: str, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked = list(texts)
        return np.linspace(0.1, 0.9, len(texts), dtype=np.float32)


def test_a_reranker_decides_the_order_of_the_best_passages(index: Index) -> None:
    reranker = ReversingReranker()
    before = HybridRetriever(index, EMBEDDER).retrieve("capital of Brazil", top_k=5)
    after = HybridRetriever(index, EMBEDDER, reranker=reranker, rerank_passages=5).retrieve(
        "capital of Brazil", top_k=5
    )
    assert [passage.id for passage in after] == [passage.id for passage in reversed(before)]
    assert reranker.asked[0] == f"{before[0].title}\n{before[0].text}"
    assert after[0].score == pytest.approx(0.9)


@pytest.mark.parametrize("factory", ["HNSW32", "IVF2,Flat"])
def test_an_approximate_index_finds_the_same_best_passage(tmp_path: Path, factory: str) -> None:
    retriever = HybridRetriever(index_of(CHUNKS, tmp_path / "index", factory), EMBEDDER)
    assert retriever.retrieve("Qual a capital do Brasil?", top_k=1)[0].id == "brasilia#1"
