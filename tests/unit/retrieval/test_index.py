"""An index is built into a directory, and loaded only by the embedder that built it."""

from __future__ import annotations

import json
import pickle
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from rag.errors import IndexRefused
from rag.retrieval.index import Index, build_index, indexed_text
from rag.retrieval.manifest import MANIFEST
from rag.retrieval.passage_store import Chunk
from tests.unit.words_embedder import WordsEmbedder

CHUNKS = [
    Chunk("a#1", "a", "Capital", "Brasília é a capital do Brasil.", {"language": "pt", "source": "a"}),
    Chunk("b#1", "b", "Ports", "The service listens on port 8080.", {"language": "en", "source": "b"}),
    Chunk("b#2", "b", "Ports", "The other one listens on 5001.", {"language": "en", "source": "b"}),
]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    build(tmp_path / "index")
    return tmp_path / "index"


def build(directory: Path, factory: str = "Flat") -> None:
    vectors = WordsEmbedder().embed_passages([indexed_text(chunk) for chunk in CHUNKS])
    build_index(CHUNKS, vectors, directory, embedder=WordsEmbedder(), factory=factory)


def update_manifest(directory: Path, name: str) -> None:
    """Make the manifest agree with a changed file, as an attacker with write access would."""
    manifest = json.loads((directory / MANIFEST).read_text())
    content = (directory / name).read_bytes()
    manifest["files"][name] = {"bytes": len(content), "sha256": sha256(content).hexdigest()}
    (directory / MANIFEST).write_text(json.dumps(manifest))


def test_a_built_index_is_loaded(directory: Path) -> None:
    index = Index.load(directory, WordsEmbedder())
    assert len(index) == 3
    assert [index.chunk(row) for row in range(3)] == CHUNKS
    assert index.is_english.tolist() == [False, True, True]
    assert index.manifest.documents == 2
    query = WordsEmbedder().embed_queries(["which port listens"])[0]
    assert index.nearest(query, 2).tolist() == [1, 2]
    assert index.cosines(query, np.array([0]))[0] == 0
    assert index.lexical_scores("Qual a capital do Brasil?").argmax() == 0
    assert index.matching({"language": "en"}) is not None
    assert index.matching(None) is None


def test_titles_are_searched_with_the_texts(directory: Path) -> None:
    assert Index.load(directory, WordsEmbedder()).lexical_scores("ports")[2] > 0, "only the title has the word"


def test_the_manifest_records_how_the_index_was_built(directory: Path) -> None:
    manifest = json.loads((directory / MANIFEST).read_text())
    assert {name: manifest[name] for name in ("format", "version", "embedder", "dimension", "factory")} == {
        "format": "rag-index", "version": 1, "embedder": "words", "dimension": 256, "factory": "Flat",
    }  # fmt: skip
    assert (manifest["passages"], manifest["documents"]) == (3, 2)
    stored = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    assert stored == {*manifest["files"], MANIFEST}


def test_equal_input_gives_an_equal_index(directory: Path, tmp_path: Path) -> None:
    build(tmp_path / "again")
    assert (tmp_path / "again" / MANIFEST).read_bytes() == (directory / MANIFEST).read_bytes()


def test_an_index_of_another_embedder_is_refused_with_both_names(directory: Path) -> None:
    embedder = WordsEmbedder()
    embedder.name = "sentences"
    with pytest.raises(IndexRefused, match="built with embedder 'words', but this server's is 'sentences'") as refused:
        Index.load(directory, embedder)
    assert "make index" in str(refused.value.remedy)


def test_an_index_of_another_dimension_is_refused_with_both_figures(directory: Path) -> None:
    embedder = WordsEmbedder()
    embedder.dimension = 384
    with pytest.raises(IndexRefused, match="built with dimension 256, but this server's is 384"):
        Index.load(directory, embedder)


def test_a_changed_file_is_refused_by_name(directory: Path) -> None:
    with (directory / "passages.jsonl").open("a") as file:
        file.write(" ")
    with pytest.raises(IndexRefused, match=r"passages\.jsonl has \d+ bytes"):
        Index.load(directory, WordsEmbedder())


def test_files_mixed_from_two_indexes_are_refused(directory: Path, tmp_path: Path) -> None:
    vectors = WordsEmbedder().embed_passages(["one"])
    build_index(CHUNKS[:1], vectors, tmp_path / "small", embedder=WordsEmbedder())
    (directory / "vectors.faiss").write_bytes((tmp_path / "small" / "vectors.faiss").read_bytes())
    update_manifest(directory, "vectors.faiss")
    with pytest.raises(IndexRefused, match="3 passages and 1 vectors of 256; its manifest says 3 of 256"):
        Index.load(directory, WordsEmbedder())


def test_no_file_of_an_index_is_a_pickle(directory: Path) -> None:
    for path in directory.rglob("*"):
        if path.is_file():
            with pytest.raises(Exception), path.open("rb") as file:  # noqa: B017 - each file fails with another exception
                pickle.load(file)
            if path.suffix == ".npy":
                assert np.load(path, allow_pickle=False).dtype.kind in "fi"


def test_a_pickle_is_refused_without_being_loaded_even_with_a_matching_manifest(directory: Path) -> None:
    trap = directory / "trap"
    payload = b"cpathlib\nPosixPath\n(V" + str(trap).encode() + b"\ntR."  # loading it would construct this Path
    for name in ("passages.jsonl", "vectors.faiss", "lexical/data.csc.index.npy", "lexical/vocab.index.json"):
        original = (directory / name).read_bytes()
        (directory / name).write_bytes(payload)
        update_manifest(directory, name)
        with pytest.raises(IndexRefused):
            Index.load(directory, WordsEmbedder())
        (directory / name).write_bytes(original)
        update_manifest(directory, name)
    Index.load(directory, WordsEmbedder())


def test_a_failed_build_keeps_the_old_index(directory: Path) -> None:
    with pytest.raises(IndexRefused, match="nothing to index"):
        build_index([], np.empty((0, 256), dtype=np.float32), directory, embedder=WordsEmbedder())
    with pytest.raises(IndexRefused, match="IVF512"):
        build(directory, "IVF512,Flat")
    assert len(Index.load(directory, WordsEmbedder())) == 3


@pytest.mark.parametrize("factory", ["Flat", "HNSW32", "IVF2,Flat"])
def test_a_loaded_index_keeps_working_after_its_files_are_replaced(tmp_path: Path, factory: str) -> None:
    build(tmp_path / "index", factory)
    index = Index.load(tmp_path / "index", WordsEmbedder())
    build(tmp_path / "index", factory)
    query = WordsEmbedder().embed_queries(["which port listens"])[0]
    assert 1 in index.nearest(query, 2)
    assert index.chunk(2) == CHUNKS[2]
