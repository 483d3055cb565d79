"""Reranks the best passages by a cross-encoder: slower than both searches, and better at rejecting near misses."""

# ruff: noqa: PLC0415 - torch and the libraries built on it take seconds to import

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from rag.checkpoint import resolve_model
from rag.embedding.microbatch import MicroBatcher
from rag.embedding.sentence_transformer import load_local
from rag.errors import ModelRefused

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder


class Reranker(Protocol):
    """Scores texts by their relevance to a question."""

    def scores(self, question: str, texts: Sequence[str]) -> NDArray[np.float32]:
        """(len(texts),), each in [0, 1]."""


class CrossEncoderReranker:
    """The Reranker in this process. One thread runs the model; concurrent questions share forward passes."""

    def __init__(self, model: CrossEncoder, *, max_batch_pairs: int = 32) -> None:
        self._model = model
        self._max_batch_pairs = max_batch_pairs
        self._batcher: MicroBatcher[tuple[str, str], float] = MicroBatcher(
            self._forward, max_items=max_batch_pairs, name="reranker"
        )

    @classmethod
    def load(
        cls, model: str, *, device: str = "cpu", trust_remote_code: bool = False, max_batch_pairs: int = 32
    ) -> CrossEncoderReranker:
        """From a directory or a hub id in the local hub cache.

        Raises ModelRefused for a model that is missing, in pickle files, needs remote code, or has several labels.
        """
        directory = resolve_model(model)
        loaded = load_local("CrossEncoder", directory, device, trust_remote_code, what="reranker", model=model)
        if loaded.num_labels != 1:
            raise ModelRefused(
                f"the reranker {model} returns {loaded.num_labels} labels; a relevance score needs exactly one",
                value=loaded.num_labels,
                limit=1,
            )
        return cls(loaded, max_batch_pairs=max_batch_pairs)

    def scores(self, question: str, texts: Sequence[str]) -> NDArray[np.float32]:
        """(len(texts),), each in [0, 1]: the logistic function of the model's logit."""
        return np.array(self._batcher([(question, text) for text in texts]), dtype=np.float32)

    def close(self) -> None:
        """Finish the queued calls and end the model's thread."""
        self._batcher.close()

    def _forward(self, pairs: list[tuple[str, str]]) -> list[float]:
        """One score per pair. Runs on the batcher's thread only."""
        from torch.nn import Sigmoid

        scores = self._model.predict(
            pairs, batch_size=self._max_batch_pairs, activation_fn=Sigmoid(), show_progress_bar=False
        )
        return [float(score) for score in scores]
