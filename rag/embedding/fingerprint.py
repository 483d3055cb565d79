"""Identifies an embedding model by its vector of a fixed text, because two models may share a name.

The vectors are compared by cosine, not by hash: rounding differs between processors.
"""

from __future__ import annotations

import base64
import binascii

import numpy as np
from numpy.typing import NDArray

from rag.interfaces import Embedder

# Both languages, digits and punctuation, so that models trained on different data differ on it.
_PROBE = "O índice foi criado por este modelo em 1984; the index was made by this model, and by no other!"
# The same weights in half precision or on another device stay above 0.9999; one more epoch of training falls below it.
_LEAST_COSINE = 0.999


def fingerprint(embedder: Embedder) -> str:
    """The vector of a fixed passage: float16 components, little-endian, in base64. Costs one embedding."""
    vector = embedder.embed_passages([_PROBE])[0]
    return base64.b64encode(vector.astype("<f2").tobytes()).decode("ascii")


def same_model(one: str, other: str) -> bool:
    """Whether two fingerprints are by the same model with the same passage prefix. False for invalid fingerprints."""
    try:
        a, b = _vector(one), _vector(other)
    except (binascii.Error, ValueError):
        return False
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return len(a) == len(b) and lengths > 0 and float(a @ b) / lengths >= _LEAST_COSINE


def _vector(text: str) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f2").astype(np.float32)
