"""One score out of two: how near a passage's vector is to the question's, and how many of its terms it holds.

Both are first brought to the same scale, [0, 1], where 0 is "nothing in common" whatever the question and the embedder:

    dense   = max(0, (cos(q, p) - background) / (1 - background))
    lexical = BM25(q, p) / the most that BM25 could give q
    score   = w · dense + (1 - w) · lexical

`background` is the mean cosine of this question with everyday sentences in the passage's language. It takes out what a
cosine owes to the embedder (e5's lie between 0.7 and 1) and to the language (all-MiniLM-L6-v2 puts any two Portuguese
texts at about 0.4). `w` depends on the question's language, because an embedder that was not made for a language ranks
badly in it, and ranks that are fused regardless (RRF) then pull a good lexical order down.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from rag.interfaces import Embedder, Language
from rag.language import detect_language

# Measured with all-MiniLM-L6-v2 by cross-validation (benchmarks/search/fusion_weights.py). It reads Portuguese so badly
# that beside BM25 over stems and grams it can break ties and no more; on English questions any weight from 0.2 to 0.6
# ranks better than both searches.
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
    """The formula above, with the embedder's vectors of the everyday sentences."""

    def __init__(self, embedder: Embedder, dense_weights: Mapping[Language, float] = ENGLISH_EMBEDDER) -> None:
        """`dense_weights`: w, in [0, 1], of questions in each language. Embeds two dozen sentences."""
        for language, weight in dense_weights.items():
            if not 0 <= weight <= 1:
                raise ValueError(f"dense_weights[{language!r}] is {weight}; it must lie between 0 and 1")
        self._weights = dict(dense_weights)
        # The mean of cosines is the cosine with the mean: one vector a language is all that is kept.
        self._everyday = {
            language: np.mean(embedder.embed_passages(texts), axis=0) for language, texts in _EVERYDAY.items()
        }

    def dense_scores(
        self, query: NDArray[np.float32], cosines: NDArray[np.float32], is_english: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """(passages,), in [0, 1]: the cosines of the unit vector `query` above their background."""
        backgrounds = {language: float(vector @ query) for language, vector in self._everyday.items()}
        background = np.where(is_english, np.float32(backgrounds["en"]), np.float32(backgrounds["pt"]))
        # An everyday question can be as near to these sentences as to itself: keep the division finite.
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
