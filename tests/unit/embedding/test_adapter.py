"""An adapter is trained for one embedder, serves behind that one only, and leaves other languages alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rag.build_index import build
from rag.documents.folder import Document, Folder
from rag.embedding.adapter import DESCRIPTION, WEIGHTS, AdaptedEmbedder, load_adapter, save_adapter
from rag.embedding.sentence_transformer import SentenceTransformerEmbedder
from rag.errors import IndexRefused, InvalidRequest, ModelRefused
from rag.interfaces import Vectors
from rag.retrieval.index import Index
from tests.unit.embedding.test_fingerprint import Noisy
from tests.unit.words_embedder import WordsEmbedder
from training import train_adapter
from training.train_adapter import Pairs, Recipe, cross_validate, ranks, read_pairs, train

PT, EN = "Qual é a capital do Brasil e da Bahia?", "What is the capital of the country?"


def turned() -> Vectors:
    """A rotation: anything but the identity."""
    return np.roll(np.eye(256, dtype=np.float32), 3, axis=0)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    save_adapter(tmp_path / "adapter", turned(), WordsEmbedder(), ["pt"], seed=0)
    return tmp_path / "adapter"


def test_texts_in_its_language_go_through_the_map_and_others_do_not(directory: Path) -> None:
    embedder = load_adapter(directory, WordsEmbedder())
    plain = WordsEmbedder().embed_queries([PT, EN])
    for vectors in (embedder.embed_queries([PT, EN]), embedder.embed_passages([PT, EN])):
        np.testing.assert_allclose(vectors[0], turned() @ plain[0], atol=1e-6)
        np.testing.assert_array_equal(vectors[1], plain[1])
    assert embedder.embed_queries([]).shape == (0, 256)


def test_vectors_stay_of_length_one() -> None:
    embedder = AdaptedEmbedder(WordsEmbedder(), 3 * turned(), ["pt"])
    np.testing.assert_allclose(np.linalg.norm(embedder.embed_queries([PT]), axis=1), 1, atol=1e-6)


def change(directory: Path, **entries: object) -> None:
    path = directory / DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"embedder": "sentences"}, "trained for the embedder 'sentences', and this one's is 'words'"),
        ({"dimension": 384}, "trained for the dimension 384, and this one's is 256"),
        ({"sha256": "0"}, "adapter.safetensors is corrupt"),
        ({"format": "other"}, "not of the format rag-adapter 1"),
        ({"languages": None}, "can't be read"),
    ],
)
def test_an_adapter_for_something_else_is_refused_by_name(
    directory: Path, entries: dict[str, object], reason: str
) -> None:
    change(directory, **entries)
    with pytest.raises(ModelRefused, match=reason) as refused:
        load_adapter(directory, WordsEmbedder())
    assert "make train" in str(refused.value.remedy)


def test_an_adapter_for_another_model_of_the_same_name_is_refused(directory: Path) -> None:
    with pytest.raises(ModelRefused, match="another model of the name 'words'"):
        load_adapter(directory, Noisy(1.0))


def test_an_absent_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="can't be read"):
        load_adapter(tmp_path, WordsEmbedder())


@pytest.mark.parametrize("weights", [np.eye(8), np.full((256, 256), np.nan)], ids=["another shape", "not finite"])
def test_weights_that_can_not_be_applied_are_refused(tmp_path: Path, weights: Vectors) -> None:
    save_adapter(tmp_path, weights, WordsEmbedder(), ["pt"])
    with pytest.raises(ModelRefused, match="not finite float32 of 256 × 256"):
        load_adapter(tmp_path, WordsEmbedder())
    assert (tmp_path / WEIGHTS).exists()


def test_an_index_built_without_the_adapter_is_refused_with_it_and_the_other_way_round(
    directory: Path, tmp_path: Path
) -> None:
    folder = Folder(
        [Document("a", "Capital", "Brasília é a capital do Brasil.", {"language": "pt", "source": "a"})], []
    )
    build(folder, tmp_path / "plain", WordsEmbedder())
    build(folder, tmp_path / "adapted", load_adapter(directory, WordsEmbedder()))
    Index.load(tmp_path / "adapted", load_adapter(directory, WordsEmbedder()))
    with pytest.raises(IndexRefused, match=r"made with embedder 'words', and this server's is 'words.adapter-"):
        Index.load(tmp_path / "plain", load_adapter(directory, WordsEmbedder()))
    with pytest.raises(IndexRefused, match=r"made with embedder 'words.adapter-"):
        Index.load(tmp_path / "adapted", WordsEmbedder())


def skewed() -> tuple[Vectors, Vectors, Pairs]:
    """Questions that are their passages but for a rotation of half the components: what a map can learn."""
    rng = np.random.default_rng(0)
    passages = rng.standard_normal((120, 24))
    rotation = np.linalg.qr(np.eye(24) + 0.35 * rng.standard_normal((24, 24)))[0]
    queries = passages @ rotation + 0.3 * rng.standard_normal((120, 24))
    p, q = (np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), dtype=np.float32) for x in (passages, queries))
    pairs = Pairs([f"q{n}" for n in range(120)], [f"p{n}" for n in range(120)], np.arange(120), np.arange(120) // 4)
    return q, p, pairs


@pytest.mark.parametrize("loss", ["cross-entropy", "mse"])
def test_training_starts_at_the_identity_and_keeps_the_best_on_what_was_set_apart(loss: str) -> None:
    queries, passages, pairs = skewed()
    stop = pairs.groups % 5 == 0
    recipe = Recipe(loss=loss, learning_rate=0.01, pull=0.0001, epochs=30)
    weights, curve = train(queries, passages, pairs.answers, learn=~stop, stop=stop, recipe=recipe)
    assert min(apart for _, apart in curve) < curve[0][1]
    assert not np.array_equal(weights, np.eye(24))
    again, _ = train(queries, passages, pairs.answers, learn=~stop, stop=stop, recipe=recipe)
    np.testing.assert_array_equal(weights, again)


def test_a_map_that_does_not_help_stays_the_identity() -> None:
    _, passages, pairs = skewed()
    stop = pairs.groups % 5 == 0
    recipe = Recipe(learning_rate=1.0)  # every step is far too long
    weights, _ = train(passages, passages, pairs.answers, learn=~stop, stop=stop, recipe=recipe)
    np.testing.assert_array_equal(weights, np.eye(24))


def test_cross_validation_reports_both_on_questions_not_seen() -> None:
    queries, passages, pairs = skewed()
    found = cross_validate(queries, passages, pairs, 3, Recipe(learning_rate=0.01, pull=0.0001, epochs=30))
    assert found["plain recall@1"] == np.mean(ranks(queries, passages, pairs.answers) == 1)
    assert found["adapted MRR"] > found["plain MRR"]


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_pairs_come_from_feedback_in_one_language(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"question": f"Qual é a capital número {n}?", "passage": f"p{n // 2}"} for n in range(12)
    ]
    rows += [{"question": EN, "passage": "x"}, {"question": PT, "passage": "y", "helpful": False}]
    pairs = read_pairs(write(tmp_path / "a.jsonl", rows), "pt")
    assert (len(pairs.questions), pairs.passages) == (12, [f"p{n}" for n in range(6)])
    assert pairs.groups.tolist() == pairs.answers.tolist()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"question": "x"}', '{"question": 1, "passage": 2}'])
def test_a_file_without_enough_pairs_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(InvalidRequest, match=r"a\.jsonl"):
        read_pairs(tmp_path / "a.jsonl", "pt")


def test_the_command_writes_an_adapter_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(SentenceTransformerEmbedder, "load", lambda *_, **__: WordsEmbedder())
    drawn: list[Path] = []
    monkeypatch.setattr(train_adapter, "plot", lambda _, image: drawn.append(image))
    articles = [
        {"context": f"A cidade {n} fica no estado {n}.", "qas": [{"question": f"Em que estado fica a cidade {n}?"}]}
        for n in range(10)
    ]
    squad = {"data": [{"paragraphs": [article]} for article in articles]}
    (tmp_path / "squad.json").write_text(json.dumps(squad))
    output = tmp_path / "adapter"
    assert (
        train_adapter.main([str(tmp_path / "squad.json"), "--output", str(output), "--epochs", "2", "--folds", "3"])
        == 0
    )
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["questions"] == 10
    assert "adapted recall@1" in told
    assert drawn == [output / "loss.png"]
    assert load_adapter(output, WordsEmbedder()).name.startswith("words+adapter-")
    assert train_adapter.main([str(tmp_path / "none.json"), "--output", str(output)]) == 2
