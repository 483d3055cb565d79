"""Weighted fusion of the dense and the lexical score of a passage.

Both are first normalised to [0, 1], where 0 means "nothing in common" for every question and embedder:

    dense   = max(0, (cos(q, p) - background) / (1 - background))
    lexical = BM25(q, p) / the upper bound of BM25 for q
    score   = w · dense + (1 - w) · lexical

`background` is the mean cosine of this question with everyday sentences in the passage's language. It removes the
offset due to the embedder (e5's cosines lie between 0.7 and 1) and to the language (all-MiniLM-L6-v2 gives any two
Portuguese texts about 0.4). `w` depends on the question's language, because an embedder ranks badly in a language that
it was not trained for, and reciprocal rank fusion (RRF), which has no weights, then degrades a good lexical ranking.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from rag.interfaces import Embedder, Language
from rag.language import detect_language

# Measured with all-MiniLM-L6-v2 by cross-validation (benchmarks/search/fusion_weights.py). Its Portuguese is so weak
# that beside BM25 over stems and 4-grams it only breaks ties; on English questions any weight from 0.2 to 0.6 ranks
# better than either search alone.
ENGLISH_EMBEDDER: Mapping[Language, float] = {"pt": 0.02, "en": 0.5}
MULTILINGUAL_EMBEDDER: Mapping[Language, float] = {"pt": 0.5, "en": 0.5}

_EVERYDAY: Mapping[Language, tuple[str, ...]] = {
    "pt": (
        "O ônibus atrasou e ela chegou ao trabalho depois das nove.",
        "A receita leva duas xícaras de farinha e uma colher de sal.",
        "Choveu a noite toda e o rio subiu quase um metro.",
        "O time treinou pela manhã e viajou à tarde.",
        "Os juros do empréstimo são cobrados no fim de cada mês.",
        "A orquestra ensaiou a sinfonia durante três semanas.",
        "Meu avô consertava relógios numa loja pequena do centro.",
        "A vacina deve ser guardada entre dois e oito graus.",
        "O contrato de aluguel vence em dezembro.",
        "As abelhas voltaram para a colmeia antes da tempestade.",
        "O aeroporto fechou por causa da neblina.",
        "A professora pediu que todos lessem o capítulo em casa.",
    ),
    "en": (
        "The bus was late and she got to work after nine.",
        "The recipe takes two cups of flour and a spoonful of salt.",
        "It rained all night and the river rose by almost a metre.",
        "The team trained in the morning and travelled in the afternoon.",
        "Interest on the loan is charged at the end of each month.",
        "The orchestra rehearsed the symphony for three weeks.",
        "My grandfather repaired watches in a small shop downtown.",
        "The vaccine must be kept between two and eight degrees.",
        "The lease ends in December.",
        "The bees went back to the hive before the storm.",
        "The airport closed because of the fog.",
        "The teacher asked everybody to read the chapter at home.",
    ),
}


class Fusion:
    """The formula in the module's docstring, with the embedder's vectors of the everyday sentences."""

    def __init__(self, embedder: Embedder, dense_weights: Mapping[Language, float] = ENGLISH_EMBEDDER) -> None:
        """`dense_weights`: w, in [0, 1], by the question's language. Embeds two dozen sentences."""
        for language, weight in dense_weights.items():
            if not 0 <= weight <= 1:
                raise ValueError(f"dense_weights[{language!r}] is {weight}; it must lie between 0 and 1")
        self._weights = dict(dense_weights)
        # The mean of dot products is the dot product with the mean: one vector per language is enough.
        self._everyday = {
            language: np.mean(embedder.embed_passages(texts), axis=0) for language, texts in _EVERYDAY.items()
        }

    def dense_scores(
        self, query: NDArray[np.float32], cosines: NDArray[np.float32], is_english: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """(passages,), in [0, 1]: the cosines of the unit vector `query` above their background."""
        backgrounds = {language: float(vector @ query) for language, vector in self._everyday.items()}
        background = np.where(is_english, np.float32(backgrounds["en"]), np.float32(backgrounds["pt"]))
        # A question may be equal to an everyday sentence: keep the division finite.
        headroom = np.maximum(1 - background, np.float32(1e-3))
        above: NDArray[np.float32] = (cosines - background) / headroom
        return above.clip(0, 1)

    def scores(
        self,
        question: str,
        query: NDArray[np.float32],
        *,
        cosines: NDArray[np.float32],
        lexical: NDArray[np.float32],
        is_english: NDArray[np.bool_],
    ) -> NDArray[np.float32]:
        """(passages,), in [0, 1]: the weighted sum, for passages given by their cosine, lexical score and language."""
        weight = np.float32(self._weights[detect_language(question)])
        return weight * self.dense_scores(query, cosines, is_english) + (1 - weight) * lexical
