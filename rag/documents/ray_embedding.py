"""Embedding on a Ray cluster: the same store and embedder, in as many worker processes as requested.

This process reads the texts and writes the store; only texts and vectors are sent, so the machines need no shared file
system. Cached texts are not sent, and vectors are appended as they arrive, so a build on a cluster resumes like a local
one. The machines need this code and the embedding model at the same paths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from rag.documents.embedding_store import APPEND_TEXTS, EmbeddingStore, Keys, add_missing
from rag.embedding.adapter import LocalEmbedder
from rag.errors import InvalidRequest
from rag.interfaces import Vectors

# Texts submitted to Ray together: some hundred megabytes at most, and enough for hundreds of workers.
_WINDOW_TEXTS = 100_000


class _Worker:
    """One copy of the embedder, in a process of Ray's actor pool."""

    def __init__(self, load: Callable[[], LocalEmbedder]) -> None:
        self._embedder = load()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"key": batch["key"], "vector": self._embedder.embed_passages([str(text) for text in batch["text"]])}


def embed_on_ray(
    texts: Iterable[str],
    load: Callable[[], LocalEmbedder],
    store: EmbeddingStore,
    progress: Callable[[int], object] | None = None,
    *,
    workers: int,
) -> Keys:
    """Like embed_texts, in `workers` processes that Ray places; each creates its embedder by `load`.

    Joins the cluster that RAY_ADDRESS names, or starts one on this machine. Raises InvalidRequest without Ray.
    """
    try:
        import ray  # noqa: PLC0415 - optional, and heavy
        import ray.data  # noqa: PLC0415
    except ImportError as error:
        raise InvalidRequest(
            "embedding on Ray needs the package ray",
            field="ray-workers",
            value=workers,
            remedy="pip install -e '.[ray]', or leave the option out",
        ) from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False

    def by_workers(keys: Keys, missing: list[str]) -> Iterator[tuple[Keys, Vectors]]:
        rows = [{"key": keys[i : i + 1].tobytes(), "text": text} for i, text in enumerate(missing)]
        embedded = ray.data.from_items(rows).map_batches(
            _Worker, fn_constructor_args=(load,), concurrency=workers, batch_size=APPEND_TEXTS
        )
        for batch in embedded.iter_batches(batch_size=APPEND_TEXTS):
            yield np.array(list(batch["key"]), dtype=keys.dtype), np.stack(list(batch["vector"]))

    return add_missing(texts, by_workers, store, progress, _WINDOW_TEXTS)
