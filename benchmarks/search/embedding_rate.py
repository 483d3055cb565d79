"""The embedding rate of an index build compared with the model alone: passages per second, in turns.

    python -m benchmarks.search.embedding_rate --documents corpus

The model's rate is `SentenceTransformer.encode` over the same texts with the same batch size; the build's includes all
that `rag.build_index` does with them: look them up, embed the missing ones, write the vectors to disk. The last line of
the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sentence_transformers import SentenceTransformer

from rag.documents.chunking import Chunker
from rag.documents.embedding_store import EmbeddingStore, embed_texts
from rag.documents.folder import read_folder
from rag.embedding.sentence_transformer import DEFAULT_MODEL, SentenceTransformerEmbedder, embedder_directory
from rag.retrieval.index import indexed_text

_BATCH_TEXTS = 32


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, required=True)
    parser.add_argument("--chunk-tokens", type=int, default=96, help="tokens per chunk (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    bare = SentenceTransformer(str(embedder_directory(DEFAULT_MODEL)), device="cpu")
    embedder = SentenceTransformerEmbedder.load(max_batch_texts=_BATCH_TEXTS)
    chunks = Chunker(embedder.token_spans, options.chunk_tokens, 0)(read_folder(options.documents).documents)
    texts = [indexed_text(chunk) for chunk in chunks]

    def build() -> None:
        with tempfile.TemporaryDirectory() as directory, EmbeddingStore(Path(directory), embedder) as store:
            embed_texts(texts, embedder.embed_passages, store)

    def encode() -> None:
        bare.encode(texts, batch_size=_BATCH_TEXTS, normalize_embeddings=True, show_progress_bar=False)

    def per_s(run: Callable[[], None]) -> float:
        start_s = time.perf_counter()
        run()
        return len(texts) / (time.perf_counter() - start_s)

    rates = []
    for turn in range(options.rounds):
        rates.append((per_s(encode), per_s(build)))
        print(f"round {turn + 1}: model {rates[-1][0]:.1f} passages/s, build {rates[-1][1]:.1f}", file=sys.stderr)
    embedder.close()
    bare_per_s, build_per_s = (statistics.median(column) for column in zip(*rates, strict=True))
    share = statistics.median(build / bare for bare, build in rates)
    figures = {"passages": len(texts), "bare_per_s": bare_per_s, "build_per_s": build_per_s, "build_over_bare": share}
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
