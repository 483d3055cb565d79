"""Training of the adapter: what it learns, when it stops, and which files it accepts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rag.embedding.adapter import load_adapter
from rag.embedding.sentence_transformer import SentenceTransformerEmbedder
from rag.errors import InvalidRequest
from rag.interfaces import Vectors
from tests.unit.words_embedder import WordsEmbedder
from training import train_adapter
from training.train_adapter import Pairs, Recipe, cross_validate, ranks, read_pairs, train

PT, EN = "Qual é a capital do Brasil e da Bahia?", "What is the capital of the country?"


def skewed() -> tuple[Vectors, Vectors, Pairs]:
    """Questions that are their passages rotated, with noise: a linear map can learn the rotation."""
    rng = np.random.default_rng(0)
    passages = rng.standard_normal((120, 24))
    rotation = np.linalg.qr(np.eye(24) + 0.35 * rng.standard_normal((24, 24)))[0]
    queries = passages @ rotation + 0.3 * rng.standard_normal((120, 24))
    p, q = (np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), dtype=np.float32) for x in (passages, queries))
    pairs = Pairs([f"q{n}" for n in range(120)], [f"p{n}" for n in range(120)], np.arange(120), np.arange(120) // 4)
    return q, p, pairs


@pytest.mark.parametrize("loss", ["cross-entropy", "mse"])
def test_training_starts_at_the_identity_and_keeps_the_best_validation_loss(loss: str) -> None:
    queries, passages, pairs = skewed()
    stop = pairs.groups % 5 == 0
    recipe = Recipe(loss=loss, learning_rate=0.01, pull=0.0001, epochs=30)
    weights, curve = train(queries, passages, pairs.answers, learn=~stop, stop=stop, recipe=recipe)
    assert min(validation for _, validation in curve) < curve[0][1]
    assert not np.array_equal(weights, np.eye(24))
    again, _ = train(queries, passages, pairs.answers, learn=~stop, stop=stop, recipe=recipe)
    np.testing.assert_array_equal(weights, again)


def test_an_adapter_that_does_not_improve_stays_the_identity() -> None:
    _, passages, pairs = skewed()
    stop = pairs.groups % 5 == 0
    recipe = Recipe(learning_rate=1.0)  # every step overshoots
    weights, _ = train(passages, passages, pairs.answers, learn=~stop, stop=stop, recipe=recipe)
    np.testing.assert_array_equal(weights, np.eye(24))


def test_cross_validation_reports_both_embedders_on_held_out_questions() -> None:
    queries, passages, pairs = skewed()
    found = cross_validate(queries, passages, pairs, 3, Recipe(learning_rate=0.01, pull=0.0001, epochs=30))
    assert found["plain recall@1"] == np.mean(ranks(queries, passages, pairs.answers) == 1)
    assert found["adapted MRR"] > found["plain MRR"]


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_pairs_are_read_from_feedback_in_one_language(tmp_path: Path) -> None:
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
    plotted: list[Path] = []
    monkeypatch.setattr(train_adapter, "plot", lambda _, image: plotted.append(image))
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
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["questions"] == 10
    assert "adapted recall@1" in figures
    assert plotted == [output / "loss.png"]
    assert load_adapter(output, WordsEmbedder()).name.startswith("words+adapter-")
    assert train_adapter.main([str(tmp_path / "none.json"), "--output", str(output)]) == 2
