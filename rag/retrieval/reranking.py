"""A second look at the best passages, by a cross-encoder: slower than both searches, and better at telling near misses.

Knows nothing about indexes; gets a question and texts, gives a score for each.
"""

# ruff: noqa: PLC0415 - torch and its friends take seconds to import

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rag.checkpoint import public_name, refuse_pickle, refuse_remote_code, resolve_model
from rag.embedding.microbatch import MicroBatcher
from rag.errors import ModelRefused

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder


class Reranker(Protocol):
    """A question and texts to relevance."""

    def scores(self, question: str, texts: Sequence[str]) -> NDArray[np.float32]:
        """(len(texts),), each in [0, 1]."""


class CrossEncoderReranker:
    """The Reranker in this process. One thread runs the model; concurrent questions share forwards."""

    def __init__(self, model: CrossEncoder, *, name: str, max_batch_pairs: int = 32) -> None:
        self.name = name
        self._model = model
        self._max_batch_pairs = max_batch_pairs
        self._batcher: MicroBatcher[tuple[str, str], float] = MicroBatcher(
            self._forward, max_items=max_batch_pairs, name="reranker"
        )

    @classmethod
    def load(
        cls, model: str, *, device: str = "cpu", trust_remote_code: bool = False, max_batch_pairs: int = 32
    ) -> CrossEncoderReranker:
        """From a directory or a hub id that is in the local hub cache.

        Raises ModelRefused for a model that is absent, in pickle files, in need of remote code, or with several labels.
        """
        directory = resolve_model(model)
        refuse_pickle(directory)
        if not trust_remote_code:
            refuse_remote_code(directory)

        import torch
        from sentence_transformers import CrossEncoder

        weights: dict[str, Any] = {"use_safetensors": True}
        if device == "cpu":
            weights["dtype"] = torch.float32
        try:
            loaded = CrossEncoder(
                str(directory),
                device=device,
                trust_remote_code=trust_remote_code,
                local_files_only=True,
                model_kwargs=weights,
            )
        except Exception as error:  # whatever the library chokes on, the model is what can't be served
            raise ModelRefused(f"the reranker {model} can't be loaded: {error}", value=model) from error
        if loaded.num_labels != 1:
            raise ModelRefused(
                f"the reranker {model} gives {loaded.num_labels} labels; relevance is one",
                value=loaded.num_labels,
                limit=1,
            )
        return cls(loaded, name=public_name(model), max_batch_pairs=max_batch_pairs)

    def scores(self, question: str, texts: Sequence[str]) -> NDArray[np.float32]:
        """(len(texts),), each in [0, 1]: the logistic function of the model's logit."""
        return np.array(self._batcher([(question, text) for text in texts]), dtype=np.float32)

    def close(self) -> None:
        """End the model's thread. Calls that are already waiting are answered."""
        self._batcher.close()

    def _forward(self, pairs: list[tuple[str, str]]) -> list[float]:
        """One score a pair. Runs on the batcher's thread only."""
        from torch.nn import Sigmoid

        scores = self._model.predict(
            pairs, batch_size=self._max_batch_pairs, activation_fn=Sigmoid(), show_progress_bar=False
        )
        return [float(score) for score in scores]
