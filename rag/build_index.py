"""The command that builds an index from a folder: `python -m rag.build_index --documents corpus --output build/index`.

Progress and skipped files go to stderr, the summary to stdout. Exit code 2 for input that can't be indexed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from rag.documents.chunking import Chunker
from rag.documents.embedding_store import EmbeddingStore, Keys, StoredVectors, embed_texts
from rag.documents.folder import Folder, read_folder
from rag.documents.ray_embedding import embed_on_ray
from rag.documents.readers import READERS
from rag.embedding.adapter import LocalEmbedder, load_adapter
from rag.embedding.sentence_transformer import DEFAULT_MODEL, SentenceTransformerEmbedder
from rag.errors import InvalidRequest, RagError
from rag.retrieval.index import DEFAULT_FACTORY, build_index
from rag.retrieval.passage_store import Chunk
from rag.retrieval.vector_index import refuse_factory

# In longer chunks a vector mixes several topics, and fewer fit in a prompt; shorter ones lose the context of a fact.
# Of 128, 192, 224 and 256 tokens, 192 ranks best on FaQuAD (benchmarks/retrieval.py).
DEFAULT_CHUNK_TOKENS = 192
DEFAULT_OVERLAP_TOKENS = 48


def read(documents: Path, *, strict: bool = False) -> Folder:
    """The documents, after a table on stderr of the skipped files and parts.

    Raises InvalidRequest when there are none or, with `strict`, when anything was skipped.
    """
    folder = read_folder(documents, lambda paths: tqdm(paths, desc="reading", unit="file"))
    if folder.notes:
        width = max(len(note.place) for note in folder.notes)
        print(f"skipped ({len(folder.notes)}):", file=sys.stderr)
        for note in folder.notes:
            print(f"  {note.place:<{width}}  {note.reason}", file=sys.stderr)
    if folder.notes and strict:
        raise InvalidRequest(
            f"{len(folder.notes)} files or parts of files in {documents} can't be read",
            field="documents",
            value=str(documents),
            remedy="repair or remove those listed above, or run without --strict",
        )
    if not folder.documents:
        raise InvalidRequest(f"{documents} has no document to index", field="documents", value=str(documents))
    return folder


def build(
    folder: Folder,
    output: Path,
    embedder: LocalEmbedder,
    *,
    factory: str = DEFAULT_FACTORY,
    chunk_tokens: int = DEFAULT_CHUNK_TOKENS,
    overlap_tokens: int = DEFAULT_OVERLAP_TOKENS,
    embeddings: Path | None = None,
    bulk: Callable[[Iterator[str], EmbeddingStore, Callable[[int], object]], Keys] | None = None,
) -> str:
    """Chunk, embed and write the index; returns a one-line summary. Raises IndexRefused for an invalid factory.

    Vectors of earlier builds, finished or killed, are reused from the store in `embeddings` (default: beside
    `output`). `bulk` embeds in place of `embedder` (see rag.documents.ray_embedding).
    """
    start_s = time.monotonic()
    if factory != DEFAULT_FACTORY:
        refuse_factory(factory, embedder.dimension)
    chunker = Chunker(embedder.token_spans, min(chunk_tokens, embedder.max_tokens), overlap_tokens)
    reused = 0

    def chunks() -> Iterator[Chunk]:
        yield from chunker(tqdm(folder.documents, desc="chunking", unit="document"))

    def vectors(texts: Iterator[str]) -> StoredVectors:
        nonlocal reused
        with (
            EmbeddingStore(embeddings or default_store(output), embedder) as store,
            tqdm(desc="embedding", unit="passage") as bar,
        ):
            if bulk is None:
                keys = embed_texts(texts, embedder.embed_passages, store, bar.update)
            else:
                keys = bulk(texts, store, bar.update)
            reused = int((store.rows(keys) >= 0).sum())
            store.prune(keys)
            return store.vectors(keys)

    with tqdm(desc="indexing", unit="passage", delay=1) as bar:
        manifest = build_index(chunks(), vectors, output, embedder=embedder, factory=factory, progress=bar.update)
    size_mib = sum(path.stat().st_size for path in output.rglob("*")) / 2**20
    return (
        f"{output}: {manifest.passages} passages of {manifest.documents} documents ({chunker.duplicates} repeated ones "
        f"dropped{_skipped(folder)}), {manifest.factory} over {manifest.dimension} dimensions by {manifest.embedder}, "
        f"{reused} vectors from before, {size_mib:.1f} MiB, {time.monotonic() - start_s:.1f} s"
    )


def load_embedder(options: argparse.Namespace) -> LocalEmbedder:
    """The embedder of the command's options. Raises ModelRefused."""
    embedder = SentenceTransformerEmbedder.load(
        options.embedding_model,
        device=options.device,
        query_prefix=options.query_prefix,
        passage_prefix=options.passage_prefix,
        trust_remote_code=options.trust_remote_code,
    )
    return embedder if options.adapter is None else load_adapter(options.adapter, embedder)


def _on_ray(
    texts: Iterator[str],
    store: EmbeddingStore,
    progress: Callable[[int], object],
    *,
    load: Callable[[], LocalEmbedder],
    workers: int,
) -> Keys:
    return embed_on_ray(texts, load, store, progress, workers=workers)


def default_store(output: Path) -> Path:
    """The embedding store of a build into `output`: beside it, so that the index can be shipped as it is."""
    return output.with_name(output.name + ".embeddings")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    embedder: LocalEmbedder | None = None
    try:
        folder = read(options.documents, strict=options.strict)
        embedder = load_embedder(options)
        bulk = None
        if options.ray_workers:
            bulk = partial(_on_ray, load=partial(load_embedder, options), workers=options.ray_workers)
        summary = build(
            folder,
            options.output,
            embedder,
            factory=options.factory,
            chunk_tokens=options.chunk_tokens,
            overlap_tokens=options.overlap_tokens,
            embeddings=options.embeddings,
            bulk=bulk,
        )
    except RagError as error:
        print(f"error: {error.message}" + (f" ({error.remedy})" if error.remedy else ""), file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {options.output} can't be written: {error}", file=sys.stderr)
        return 2
    finally:
        if embedder is not None:
            embedder.close()
    print(summary)
    return 0


def _skipped(folder: Folder) -> str:
    return f", {len(folder.notes)} files or parts skipped, listed above" if folder.notes else ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rag.build_index", description=__doc__.split("\n")[0])
    types = " ".join(READERS)
    parser.add_argument("--documents", type=Path, required=True, help=f"folder of files: {types}")
    parser.add_argument("--strict", action="store_true", help="fail when anything has to be skipped")
    parser.add_argument("--output", type=Path, required=True, help="directory of the index; an old one is replaced")
    parser.add_argument("--embeddings", type=Path, help="directory of vectors to reuse (default: OUTPUT.embeddings)")
    parser.add_argument("--factory", default=DEFAULT_FACTORY, help="FAISS factory string, or auto: by size (default)")
    parser.add_argument("--embedding-model", default=DEFAULT_MODEL, help="directory or hub id (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="where the embedding model runs (default: %(default)s)")
    parser.add_argument("--query-prefix", help="overrides the embedding model's own")
    parser.add_argument("--passage-prefix", help="overrides the embedding model's own")
    parser.add_argument("--adapter", type=Path, help="directory written by training.train_adapter")
    parser.add_argument("--ray-workers", type=_natural, default=0, help="embed by this many processes on a Ray cluster")
    parser.add_argument("--trust-remote-code", action="store_true", help="run Python code from the model's directory")
    parser.add_argument("--chunk-tokens", type=_positive, default=DEFAULT_CHUNK_TOKENS, help="default: %(default)s")
    parser.add_argument("--overlap-tokens", type=_natural, default=DEFAULT_OVERLAP_TOKENS, help="default: %(default)s")
    return parser


def _positive(text: str) -> int:
    if (number := _natural(text)) < 16:
        raise argparse.ArgumentTypeError(f"{number} tokens are too few for a passage: at least 16")
    return number


def _natural(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
