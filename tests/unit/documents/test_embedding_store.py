"""A text is embedded only once, even if the build that embedded it was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rag.documents import embedding_store
from rag.documents.embedding_store import APPEND_TEXTS, KEY_BYTES, EmbeddingStore, Keys, embed_texts, keys_of
from rag.errors import InvalidRequest, ModelRefused
from rag.interfaces import Vectors
from tests.unit.words_embedder import WordsEmbedder

TEXTS = [f"text number {n} of {n % 7} words" for n in range(700)]


class CountingEmbedder(WordsEmbedder):
    """Records the texts that it embeds, except the fingerprint's."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.texts += texts
        return self.embed_passages(texts)


def embedded(directory: Path, texts: Sequence[str]) -> tuple[list[str], Vectors]:
    """The texts that had to be embedded, and all vectors as read back."""
    embedder = CountingEmbedder()
    with EmbeddingStore(directory, embedder) as store:
        keys = embed_texts(texts, embedder.embed, store)
        return embedder.texts, store.vectors(keys)[:]


def test_vectors_are_read_in_the_order_of_the_texts(tmp_path: Path) -> None:
    asked, vectors = embedded(tmp_path, TEXTS)
    assert sorted(asked) == sorted(TEXTS)
    np.testing.assert_array_equal(vectors, WordsEmbedder().embed_passages(TEXTS))


def test_only_new_texts_are_embedded_and_old_vectors_are_unchanged(tmp_path: Path) -> None:
    embedded(tmp_path, TEXTS[:500])
    asked, vectors = embedded(tmp_path, [*TEXTS[100:], "and one more"])
    assert sorted(asked) == sorted([*TEXTS[500:], "and one more"])
    np.testing.assert_array_equal(vectors[:600], WordsEmbedder().embed_passages(TEXTS[100:]))
    assert embedded(tmp_path, TEXTS)[0] == []


def test_rows_are_read_by_slice_and_by_number_across_shards(tmp_path: Path) -> None:
    embedded(tmp_path, TEXTS[:300])
    embedder = CountingEmbedder()
    with EmbeddingStore(tmp_path, embedder) as store:
        vectors = store.vectors(embed_texts(TEXTS, embedder.embed, store))
    expected = WordsEmbedder().embed_passages(TEXTS)
    assert vectors.shape == (700, 256)
    np.testing.assert_array_equal(vectors[290:310], expected[290:310])
    np.testing.assert_array_equal(vectors[np.array([650, 3, 299, 300])], expected[[650, 3, 299, 300]])


def test_progress_counts_every_text_once(tmp_path: Path) -> None:
    embedded(tmp_path, TEXTS[:500])
    counts: list[int] = []
    with EmbeddingStore(tmp_path, WordsEmbedder()) as store:
        embed_texts(TEXTS, WordsEmbedder().embed_passages, store, counts.append)
    assert sum(counts) == 700


def test_equal_texts_share_one_vector(tmp_path: Path) -> None:
    _, vectors = embedded(tmp_path, ["a b", "c", "a b"])
    np.testing.assert_array_equal(vectors[0], vectors[2])


_KILLED = """
import os, signal, sys
from pathlib import Path
from rag.documents.embedding_store import EmbeddingStore, embed_texts
from tests.unit.documents.test_embedding_store import TEXTS, CountingEmbedder

embedder = CountingEmbedder()

def embed(texts):
    if len(embedder.texts) >= 512:
        os.kill(os.getpid(), signal.SIGKILL)
    return embedder.embed(texts)

with EmbeddingStore(Path(sys.argv[1]), embedder) as store:
    embed_texts(TEXTS, embed, store)
"""


def test_after_a_kill_only_the_missing_texts_are_embedded(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    ended = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], cwd=root, check=False)
    assert ended.returncode == -signal.SIGKILL
    asked, vectors = embedded(tmp_path, TEXTS)
    assert len(asked) == len(TEXTS) - 2 * APPEND_TEXTS
    np.testing.assert_array_equal(vectors, WordsEmbedder().embed_passages(TEXTS))


@pytest.mark.parametrize(("suffix", "cut_bytes"), [(".vectors", 5), (".vectors", 4 * 256), (".keys", 1), (".keys", 40)])
def test_partially_written_rows_are_ignored(tmp_path: Path, suffix: str, cut_bytes: int) -> None:
    embedded(tmp_path, TEXTS)
    (shard,) = tmp_path.glob(f"shard-*{suffix}")
    os.truncate(shard, shard.stat().st_size - cut_bytes)
    row_bytes = KEY_BYTES if suffix == ".keys" else 4 * 256
    asked, vectors = embedded(tmp_path, TEXTS)
    assert len(asked) == -(-cut_bytes // row_bytes)
    np.testing.assert_array_equal(vectors, WordsEmbedder().embed_passages(TEXTS))


def test_two_builds_can_not_open_a_store_at_once(tmp_path: Path) -> None:
    with (
        EmbeddingStore(tmp_path, WordsEmbedder()),
        pytest.raises(InvalidRequest, match="another build has the embedding store"),
    ):
        EmbeddingStore(tmp_path, WordsEmbedder())
    EmbeddingStore(tmp_path, WordsEmbedder()).close()


class OtherWeights(CountingEmbedder):
    """The same name and dimension, other vectors."""

    def embed_passages(self, texts: Sequence[str], progress: object = None) -> Vectors:
        return np.ascontiguousarray(super().embed_passages(texts)[:, ::-1])


def test_vectors_of_another_model_of_the_same_name_are_discarded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    embedded(tmp_path, TEXTS[:5])
    with EmbeddingStore(tmp_path, OtherWeights()) as store:
        assert (store.rows(keys_of(TEXTS[:5])) < 0).all()
        assert not list(tmp_path.glob("shard-*"))
    assert "another embedding model" in caplog.text


@pytest.mark.parametrize("content", ["", "{", "[]", '{"embedder": "words", "dimension": 256, "fingerprint": "?"}'])
def test_a_store_without_a_valid_description_is_emptied(tmp_path: Path, content: str) -> None:
    embedded(tmp_path, TEXTS[:5])
    (tmp_path / "store.json").write_text(content)
    assert len(embedded(tmp_path, TEXTS[:5])[0]) == 5
    assert json.loads((tmp_path / "store.json").read_text())["embedder"] == "words"


def test_a_vector_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path, WordsEmbedder()) as store, pytest.raises(ModelRefused, match="not finite"):
        store.append(keys_of(["a"]), np.full((1, 256), np.nan, dtype=np.float32))


def test_a_text_without_a_vector_is_an_error(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path, WordsEmbedder()) as store, pytest.raises(KeyError, match="1 of 1 texts"):
        store.vectors(keys_of(["never embedded"]))


def test_unused_vectors_are_dropped_once_they_are_most_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_store, "WINDOW_TEXTS", 64)
    embedded(tmp_path, TEXTS[:300])
    embedded(tmp_path, TEXTS)

    def prune(keys: Keys) -> int:
        with EmbeddingStore(tmp_path, WordsEmbedder()) as store:
            return store.prune(keys)

    assert prune(keys_of(TEXTS[:360])) == 0
    assert prune(keys_of(TEXTS[250:400])) == 550
    assert len(list(tmp_path.glob("shard-*.keys"))) == 1
    asked, vectors = embedded(tmp_path, TEXTS[200:400])
    assert sorted(asked) == sorted(TEXTS[200:250])
    np.testing.assert_array_equal(vectors, WordsEmbedder().embed_passages(TEXTS[200:400]))
