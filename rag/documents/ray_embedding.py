"""Embedding over many machines, by Ray Data: the same store, the same embedder, as many copies of it as asked for.

This process reads texts and writes the store; only texts and vectors travel, so the machines share no file system. What
was in the store is not sent, and what comes back is appended at once: a build on a cluster resumes as one on a notebook
does. The machines need this code and the embedding model at the same place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from rag.documents.embedding_store import APPEND_TEXTS, EmbeddingStore, Keys, keys_of, windows
from rag.embedding.adapter import LocalEmbedder
from rag.errors import InvalidRequest

# Texts that are handed to Ray together: some hundred megabytes at the most, and enough for hundreds of workers.
_WINDOW_TEXTS = 100_000


class _Worker:
    """One copy of the embedder, in a process that Ray keeps."""

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
    """What embed_texts does, by `workers` processes wherever Ray finds room for them; `load` makes each its embedder.

    Joins the cluster that RAY_ADDRESS names, or starts one on this machine. Raises InvalidRequest where Ray is absent.
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
    tell = progress or (lambda _: None)
    all_keys = [keys_of(())]
    for window in windows(texts, _WINDOW_TEXTS):
        keys = keys_of(window)
        all_keys.append(keys)
        missing = np.flatnonzero(store.rows(keys) < 0).tolist()
        tell(len(window) - len(missing))
        if not missing:
            continue
        missing.sort(key=lambda i: len(window[i]), reverse=True)
        rows = [{"key": keys[i : i + 1].tobytes(), "text": window[i]} for i in missing]
        embedded = ray.data.from_items(rows).map_batches(
            _Worker, fn_constructor_args=(load,), concurrency=workers, batch_size=APPEND_TEXTS
        )
        for batch in embedded.iter_batches(batch_size=APPEND_TEXTS):
            store.append(np.array(list(batch["key"]), dtype=keys.dtype), np.stack(list(batch["vector"])))
            tell(len(batch["key"]))
    return np.concatenate(all_keys)
