"""A linear adapter on a frozen embedder: x → f(W·x), where f normalises to length 1.

Trained by `training/train_adapter.py`, stored in a directory as adapter.safetensors (W) and adapter.json (for which
embedder and languages). It is applied to texts in those languages, questions and passages alike, and leaves the others
unchanged; an index is therefore built with it, and the embedder's name includes its digest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rag.embedding.fingerprint import fingerprint, same_model
from rag.errors import ModelRefused
from rag.interfaces import Embedder, Language, Vectors
from rag.language import detect_language

FORMAT, FORMAT_VERSION = "rag-adapter", 1
WEIGHTS, DESCRIPTION = "adapter.safetensors", "adapter.json"


class LocalEmbedder(Embedder, Protocol):
    """An embedder in this process, with the tokenizer that chunking needs."""

    @property
    def max_tokens(self) -> int:
        """The longest passage that the model reads, in tokens."""

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        """(start, end) of each token of `text` in characters."""

    def reads_portuguese(self) -> bool:
        """Whether the model supports Portuguese."""

    def embed_passages(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> Vectors:
        """(len(texts), dimension), each row of length 1."""


class AdaptedEmbedder:
    """An Embedder that applies an adapter to another one's vectors. Closing it closes the other one."""

    def __init__(self, embedder: LocalEmbedder, weights: NDArray[np.float32], languages: Sequence[Language]) -> None:
        """`weights` (dimension, dimension)."""
        self._embedder = embedder
        self._weights = np.ascontiguousarray(weights.T)
        self._languages = frozenset(languages)
        self._digest = sha256(np.ascontiguousarray(weights, dtype="<f4").tobytes()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """The embedder's name with the adapter's digest: an index built with one adapter is refused with another."""
        return f"{self._embedder.name}+adapter-{self._digest}"

    @property
    def dimension(self) -> int:
        """Components of one vector."""
        return self._embedder.dimension

    @property
    def max_tokens(self) -> int:
        """The embedder's limit."""
        return self._embedder.max_tokens

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        """The embedder's tokens."""
        return self._embedder.token_spans(text)

    def reads_portuguese(self) -> bool:
        """The embedder's answer: a linear adapter adds no language."""
        return self._embedder.reads_portuguese()

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """(len(texts), dimension), each row of length 1."""
        return self._adapted(texts, self._embedder.embed_queries(texts))

    def embed_passages(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> Vectors:
        """(len(texts), dimension), each row of length 1."""
        return self._adapted(texts, self._embedder.embed_passages(texts, progress))

    def close(self) -> None:
        """Close the underlying embedder."""
        self._embedder.close()

    def _adapted(self, texts: Sequence[str], vectors: Vectors) -> Vectors:
        mine = np.array([detect_language(text) in self._languages for text in texts], dtype=np.bool_)
        adapted = vectors.copy()
        adapted[mine] = unit(vectors[mine] @ self._weights)
        return adapted


def unit(vectors: NDArray[np.float32]) -> Vectors:
    """Each row normalised to length 1."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-9), dtype=np.float32)


def save_adapter(
    directory: Path, weights: NDArray[np.float32], embedder: Embedder, languages: Sequence[Language], **about: object
) -> None:
    """Write `weights` (dimension, dimension) and their description; `about` adds entries that loading ignores."""
    from safetensors.numpy import save_file  # noqa: PLC0415 - only where there is an adapter

    directory.mkdir(parents=True, exist_ok=True)
    save_file({"weights": np.ascontiguousarray(weights, dtype=np.float32)}, directory / WEIGHTS)
    description = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "embedder": embedder.name,
        "dimension": embedder.dimension,
        "fingerprint": fingerprint(embedder),
        "languages": list(languages),
        "sha256": sha256((directory / WEIGHTS).read_bytes()).hexdigest(),
        **about,
    }
    (directory / DESCRIPTION).write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_adapter(directory: Path, embedder: LocalEmbedder) -> AdaptedEmbedder:
    """`embedder` with the adapter in `directory` applied.

    Raises ModelRefused, naming the file or the two values, for an adapter that is missing or corrupt, or that was
    trained for another embedder: by name, dimension or fingerprint.
    """
    from safetensors import SafetensorError  # noqa: PLC0415 - only where there is an adapter
    from safetensors.numpy import load  # noqa: PLC0415

    try:
        about = json.loads((directory / DESCRIPTION).read_bytes())
        content = (directory / WEIGHTS).read_bytes()
        if (about["format"], about["version"]) != (FORMAT, FORMAT_VERSION):
            raise _refused(directory, f"{DESCRIPTION} is not of the format {FORMAT} {FORMAT_VERSION}")
        for name, mine in (("embedder", embedder.name), ("dimension", embedder.dimension)):
            if about[name] != mine:
                raise _refused(directory, f"it was trained for {name} {about[name]!r}, but this embedder has {mine!r}")
        if not same_model(str(about["fingerprint"]), fingerprint(embedder)):
            raise _refused(directory, f"it was trained for another model named {embedder.name!r}")
        if sha256(content).hexdigest() != about["sha256"]:
            raise _refused(directory, f"{WEIGHTS} is corrupt: its SHA-256 differs from the one in {DESCRIPTION}")
        weights = load(content)["weights"]
        languages = [language for language in ("pt", "en") if language in about["languages"]]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise _refused(directory, f"it can't be read: {error!r}") from error
    if weights.shape != (embedder.dimension,) * 2 or weights.dtype != np.float32 or not np.isfinite(weights).all():
        raise _refused(directory, f"its weights are not finite float32 of {embedder.dimension} × {embedder.dimension}")
    return AdaptedEmbedder(embedder, weights, languages)  # type: ignore[arg-type]


def _refused(directory: Path, reason: str) -> ModelRefused:
    return ModelRefused(
        f"the adapter in {directory} can't be used: {reason}",
        field="ADAPTER",
        value=str(directory),
        remedy="train it again for this embedder (make train), or unset ADAPTER and build the index again",
    )
