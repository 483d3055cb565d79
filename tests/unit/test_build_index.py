"""The command build_index: a folder to an index, or one clear error line."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag import build_index
from rag.embedding.sentence_transformer import SentenceTransformerEmbedder
from rag.errors import ModelRefused
from rag.retrieval.index import Index
from tests.unit.words_embedder import WordsEmbedder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small corpus; the embedder is a fake."""
    monkeypatch.setattr(SentenceTransformerEmbedder, "load", lambda *_, **__: WordsEmbedder())
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.md").write_text("# Brasília\n\nBrasília é a capital do Brasil.")
    (folder / "b.txt").write_text(" ".join(f"Sentence number {n} has six words." for n in range(40)))
    (folder / "c.doc").write_bytes(b"binary")
    return folder


def run(folder: Path, *options: str) -> int:
    return build_index.main(["--documents", str(folder), "--output", str(folder.parent / "index"), *options])


def test_a_folder_becomes_an_index(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--chunk-tokens", "32", "--overlap-tokens", "0") == 0
    index = Index.load(folder.parent / "index", WordsEmbedder())
    assert index.manifest.documents == 2
    assert len(index) == 1 + 8, "five sentences of six words and a title fit 32 tokens"
    out, err = capsys.readouterr()
    assert "9 passages of 2 documents" in out
    assert "1 files or parts skipped" in out
    assert "skipped (1):\n  c.doc  files of the type .doc aren't read (.txt, .md, .html, " in err


def test_chunks_never_exceed_what_the_embedder_reads(folder: Path) -> None:
    assert run(folder, "--chunk-tokens", "4000") == 0
    index = Index.load(folder.parent / "index", WordsEmbedder())
    assert max(len(index.chunk(row).text.split()) for row in range(len(index))) < WordsEmbedder.max_tokens


def test_a_second_build_embeds_only_what_is_new(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--chunk-tokens", "32", "--overlap-tokens", "0") == 0
    assert "0 vectors from before" in capsys.readouterr().out
    (folder / "d.txt").write_text("Something else.")
    assert run(folder, "--chunk-tokens", "32", "--overlap-tokens", "0") == 0
    assert "10 passages" in (out := capsys.readouterr().out)
    assert "9 vectors from before" in out
    assert run(folder, "--embeddings", str(folder.parent / "elsewhere")) == 0
    assert "0 vectors from before" in capsys.readouterr().out


@pytest.mark.parametrize("factory", ["HNSW32", "IVF2,Flat"])
def test_the_factory_is_an_option(folder: Path, factory: str) -> None:
    assert run(folder, "--factory", factory, "--chunk-tokens", "32") == 0
    assert Index.load(folder.parent / "index", WordsEmbedder()).manifest.factory == factory


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--documents", "nowhere"), "error: nowhere is not a folder of documents"),
        (("--factory", "Nonsense"), "error: FAISS knows no index 'Nonsense'"),
        (("--output", "/proc/none/index"), "error: /proc/none/index can't be written"),
    ],
)
def test_bad_input_ends_in_exit_code_2_and_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    assert run(folder, *options) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = [line for line in err.replace("\r", "\n").splitlines() if line.startswith("error")]
    assert line.startswith(message)


def test_a_folder_without_documents_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "a.md").unlink()
    (folder / "b.txt").unlink()
    assert run(folder) == 2
    assert "has no document to index" in capsys.readouterr().err


def test_a_refused_model_is_one_line_with_its_remedy(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ModelRefused("no such model", remedy="name another")

    monkeypatch.setattr(SentenceTransformerEmbedder, "load", refuse)
    assert run(folder) == 2
    assert "error: no such model (name another)" in capsys.readouterr().err


@pytest.mark.parametrize("options", [("--chunk-tokens", "3"), ("--overlap-tokens", "-1"), ("--chunk-tokens", "many")])
def test_a_bad_number_is_refused_by_its_option(
    folder: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(folder, *options)
    assert ended.value.code == 2
    assert options[0] in capsys.readouterr().err


def test_strict_fails_when_anything_is_skipped(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--strict") == 2
    assert "error: 1 files or parts of files in" in capsys.readouterr().err
    (folder / "c.doc").unlink()
    assert run(folder, "--strict") == 0
