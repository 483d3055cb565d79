"""An artifact is checked against its manifest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rag import artifact
from rag.answering.pipeline import Pipeline
from rag.composition import load_pipeline
from rag.errors import ArtifactRefused, InvalidRequest
from rag.serving.lifecycle import Boot
from rag.settings import Settings


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A small artifact."""
    files = {
        "llm/tiny/model.safetensors": "weights",
        "llm/tiny/config.json": "{}",
        "index/passages.jsonl": "passage\n" * 1000,
        "settings.json": json.dumps({"LLM": "llm/tiny", "CONTEXT": "512", "RERANKER": "hub/name"}),
    }
    for name, content in files.items():
        path = tmp_path / "artifact" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    artifact.write_manifest(tmp_path / "artifact")
    return tmp_path / "artifact"


def test_an_artifact_as_it_was_made_is_accepted_and_its_bytes_are_counted(directory: Path) -> None:
    seen: list[int] = []
    size_bytes = artifact.verify(directory, seen.append)
    files = [path for path in directory.rglob("*") if path.is_file() and path.name != "manifest.json"]
    assert size_bytes == sum(seen) == sum(path.stat().st_size for path in files)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "reason"), [(Path.unlink, "missing"), (_cut, "bytes, and the manifest says"), (_flip, "SHA-256")]
)
@pytest.mark.parametrize("name", ["llm/tiny/model.safetensors", "index/passages.jsonl", "settings.json"])
def test_a_missing_cut_or_changed_file_is_named(
    directory: Path, name: str, damage: Callable[[Path], object], reason: str
) -> None:
    damage(directory / name)
    with pytest.raises(ArtifactRefused, match=reason) as raised:
        artifact.verify(directory)
    assert raised.value.message.startswith(name)
    assert raised.value.value == str(directory / name)


def test_weights_that_an_earlier_upload_left_behind_are_named(directory: Path) -> None:
    (directory / "lost+found").mkdir()
    (directory / "lost+found" / "x").write_text("no harm")
    artifact.verify(directory)
    (directory / "llm" / "tiny" / "model-00001-of-00002.safetensors").write_text("old")
    with pytest.raises(ArtifactRefused, match="00001-of-00002"):
        artifact.verify(directory)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged: JSONDecodeError"),
        ("[]", "is damaged: TypeError"),
        ('{"format": "other", "version": 1, "files": {}}', "not the manifest of a rag-artifact"),
        (
            '{"format": "rag-artifact", "version": 1, "files": {"../x": {"bytes": 1, "sha256": ""}}}',
            "leaves the artifact",
        ),
        ('{"format": "rag-artifact", "version": 1, "files": {"x": 1}}', "is damaged: TypeError"),
    ],
)
def test_an_invalid_manifest_is_refused(directory: Path, content: str, message: str) -> None:
    (directory / "manifest.json").write_text(content)
    with pytest.raises(ArtifactRefused, match=message):
        artifact.verify(directory)


def test_a_directory_without_a_manifest_is_not_an_artifact(tmp_path: Path) -> None:
    assert not artifact.is_artifact(tmp_path)
    with pytest.raises(ArtifactRefused, match=r"it has no manifest\.json"):
        artifact.verify(tmp_path)


def test_the_environment_overrides_the_artifact_and_the_artifact_the_defaults(directory: Path) -> None:
    settings = Settings.from_environment({"ARTIFACT": str(directory)})
    assert (settings.artifact, settings.context, settings.top_k) == (str(directory), 512, 3)
    assert settings.llm == str(directory / "llm" / "tiny")
    assert settings.reranker == "hub/name", "what is not a directory of the artifact is unchanged"
    assert Settings.from_environment({"ARTIFACT": str(directory), "CONTEXT": "256"}).context == 256


def test_settings_that_are_not_the_manifest_s_are_ignored_and_the_boot_names_them(directory: Path) -> None:
    (directory / "settings.json").write_text('{"CONTEXT": "no number"}')
    settings = Settings.from_environment({"ARTIFACT": str(directory)})
    assert settings.context == 1024
    with pytest.raises(ArtifactRefused, match=r"settings\.json is damaged"):
        artifact.verify(directory)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ('{"NO_SUCH": "1"}', InvalidRequest, "NO_SUCH, which is not a setting"),
        ('{"CONTEXT": "many"}', InvalidRequest, "CONTEXT"),
        ('{"CONTEXT": 5}', ArtifactRefused, "not an object of strings"),
        ("{", ArtifactRefused, "is not JSON"),
    ],
)
def test_invalid_settings_are_refused(directory: Path, content: str, error: type[Exception], message: str) -> None:
    (directory / "settings.json").write_text(content)
    artifact.write_manifest(directory)
    with pytest.raises(error, match=message):
        Settings.from_environment({"ARTIFACT": str(directory)})


def test_the_boot_names_the_damaged_file_before_anything_is_loaded(directory: Path) -> None:
    _flip(directory / "llm" / "tiny" / "model.safetensors")
    settings = Settings.from_environment({"ARTIFACT": str(directory)})
    phases: list[str] = []

    def load(on_phase: Callable[[str], None]) -> Pipeline:
        def entered(phase: str) -> None:
            phases.append(phase)
            on_phase(phase)

        return load_pipeline(settings, entered)

    boot = Boot(load)
    boot.start()
    boot.join()
    assert phases == ["verifying the artifact"]
    unready = boot.unready()
    assert unready is not None
    assert "llm/tiny/model.safetensors is damaged" in unready.message
    assert "make artifact" in (unready.remedy or "")
