"""Fusion of the dense and the lexical score on a common scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from rag.interfaces import Vectors
from rag.retrieval.fusion import ENGLISH_EMBEDDER, MULTILINGUAL_EMBEDDER, Fusion

QUERY = np.array([1, 0], dtype=np.float32)


class Crowded:
    """Every text has the cosine 0.6 with QUERY: an embedder whose vectors lie in a narrow cone, as e5's do."""

    name = "crowded"
    dimension = 2

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return np.tile(np.array([0.6, 0.8], dtype=np.float32), (len(texts), 1))

    embed_passages = embed_queries

    def close(self) -> None:
        """Nothing to close."""


def dense(cosines: list[float], *, english: bool = True) -> list[float]:
    scores = Fusion(Crowded()).dense_scores(
        QUERY, np.array(cosines, dtype=np.float32), np.full(len(cosines), english, dtype=np.bool_)
    )
    return [round(float(score), 4) for score in scores]


def test_a_cosine_is_scaled_from_the_background_to_one() -> None:
    assert dense([0.6, 0.8, 1.0]) == [0, 0.5, 1]


def test_a_cosine_below_the_background_scores_zero() -> None:
    assert dense([0.5, -1.0], english=False) == [0, 0]


def fused(question: str, weights: dict[str, float]) -> list[float]:
    scores = Fusion(Crowded(), weights).scores(  # type: ignore[arg-type]
        question,
        QUERY,
        cosines=np.array([1.0, 0.6], dtype=np.float32),
        lexical=np.array([0.0, 0.8], dtype=np.float32),
        is_english=np.array([True, False]),
    )
    return [round(float(score), 4) for score in scores]


def test_the_weight_depends_on_the_question_s_language() -> None:
    weights = {"pt": 0.1, "en": 0.6}
    assert fused("What is the capital of the country?", weights) == [0.6, 0.32]
    assert fused("Qual é a capital do país?", weights) == [0.1, 0.72]


def test_an_english_embedder_has_less_weight_in_portuguese_only() -> None:
    assert ENGLISH_EMBEDDER["pt"] < MULTILINGUAL_EMBEDDER["pt"]
    assert ENGLISH_EMBEDDER["en"] == MULTILINGUAL_EMBEDDER["en"]


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_outside_0_to_1_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        Fusion(Crowded(), {"pt": weight, "en": 0.5})
