"""The command build_artifact: documents and models to a directory for S3."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from rag import artifact, build_artifact
from rag.embedding.sentence_transformer import SentenceTransformerEmbedder
from rag.retrieval.index import Index
from rag.settings import Settings
from tests.unit.words_embedder import WordsEmbedder

ROOT = Path(__file__).parents[2]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Documents, the shipped LLM, and an embedder's directory; the embedder itself is a fake."""
    monkeypatch.setattr(SentenceTransformerEmbedder, "load", lambda *_, **__: WordsEmbedder())
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "a.md").write_text("# Brasília\n\nBrasília é a capital do Brasil.")
    (documents / "b.xls").write_bytes(b"no document")
    model = tmp_path / "words"
    (model / "onnx").mkdir(parents=True)
    (model / "onnx" / "model.onnx").write_bytes(b"not copied")
    (model / ".gitattributes").write_text("not copied")
    (model / "config.json").write_text("{}")
    (tmp_path / "blob").write_bytes(b"weights")
    (model / "model.safetensors").symlink_to(tmp_path / "blob")
    return tmp_path


def run(workplace: Path, *options: str, **environment: str) -> int:
    return build_artifact.main(
        ["--documents", str(workplace / "documents"), "--output", str(workplace / "artifact"), *options],
        {"EMBEDDING_MODEL": str(workplace / "words"), "DEVICE": "cpu", **environment},
    )


def test_an_artifact_has_models_index_settings_and_plan_all_in_its_manifest(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(workplace, CONTEXT="256", CONCURRENCY="2", PORT="9999", QUEUE="") == 0
    directory = workplace / "artifact"
    assert artifact.verify(directory) > 9_000_000
    assert not any(path.is_symlink() for path in directory.rglob("*"))
    assert sorted(path.name for path in (directory / "embedder" / "words").rglob("*")) == [
        "config.json", "model.safetensors",
    ]  # fmt: skip
    assert json.loads((directory / "settings.json").read_text()) == {
        "CONTEXT": "256", "CONCURRENCY": "2",
        "LLM": "llm/rag-tiny", "EMBEDDING_MODEL": "embedder/words", "INDEX": "index",
    }  # fmt: skip
    plan = json.loads((directory / "plan.json").read_text())
    assert (plan["concurrency"], plan["context_tokens"], plan["hardware"]) == (2, 256, "cpu")
    out, err = capsys.readouterr()
    assert "2 sessions of 256 tokens" in out
    assert "b.xls  files of the type .xls" in err

    settings = Settings.from_environment({"ARTIFACT": str(directory)})
    assert (settings.context, settings.index) == (256, str(directory / "index"))
    assert len(Index.load(Path(settings.index), WordsEmbedder())) == 1


def test_weights_are_hard_linked_and_copied_where_that_is_refused(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(workplace)
    placed = workplace / "artifact" / "embedder" / "words" / "model.safetensors"
    assert placed.samefile(workplace / "blob")

    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    run(workplace)
    assert not placed.samefile(workplace / "blob")
    assert placed.read_bytes() == b"weights"
    assert artifact.verify(workplace / "artifact")


def test_a_second_run_embeds_only_what_changed(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(workplace)
    (workplace / "documents" / "new.txt").write_text("A new document.")
    assert run(workplace) == 0
    assert "1 vectors from before" in capsys.readouterr().out
    updated = (workplace / "artifact" / "manifest.json").read_bytes()
    for built in ("artifact", "artifact.embeddings"):
        shutil.rmtree(workplace / built)
    run(workplace)
    assert (workplace / "artifact" / "manifest.json").read_bytes() == updated, "as a fresh one"


def test_an_archive_is_the_same_files_without_links(workplace: Path) -> None:
    assert run(workplace, "--format", "tar.gz") == 0
    with tarfile.open(workplace / "model.tar.gz") as tar:
        assert all(member.isfile() for member in tar)
        tar.extractall(workplace / "extracted", filter="data")
    artifact.verify(workplace / "extracted")


def test_what_does_not_fit_ends_in_3_with_the_refusal_and_leaves_nothing(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    huge = workplace / "huge"
    shutil.copytree(ROOT / "models" / "rag-tiny", huge)
    config = json.loads((huge / "config.json").read_text())
    (huge / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 10_000_000}))
    assert run(workplace, LLM=str(huge), CONTEXT="10000000", CONCURRENCY="1024", HARDWARE="ml.g5.xlarge") == 3
    out, err = capsys.readouterr()
    assert '"fixes"' in out
    assert "HARDWARE names the machine" in err
    assert not (workplace / "artifact").exists()
    assert not list(workplace.glob(".artifact*"))


@pytest.mark.parametrize(
    ("options", "environment", "message"),
    [
        ((), {"LLM": "no/such"}, "error: the model 'no/such' is neither a directory nor"),
        ((), {"CONTEXT": "many"}, "error: CONTEXT"),
        (("--strict",), {}, "error: 1 files or parts of files in"),
        (("--output", "/proc/none/artifact"), {}, "error: /proc/none/artifact can't be written"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
    options: Sequence[str],
    environment: dict[str, str],
    message: str,
) -> None:
    assert run(workplace, *options, **environment) == 2
    (line,) = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("error")]
    assert line.startswith(message)


def test_a_directory_that_is_no_artifact_is_never_replaced(workplace: Path) -> None:
    (workplace / "artifact").mkdir()
    (workplace / "artifact" / "thesis.txt").write_text("years of work")
    assert run(workplace) == 2
    assert (workplace / "artifact" / "thesis.txt").exists()
