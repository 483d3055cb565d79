"""An index is written atomically, and read only if every file is unchanged."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from rag.errors import IndexRefused
from rag.retrieval import manifest
from rag.retrieval.manifest import MANIFEST, Manifest, read_manifest, write_manifest, writing

MANIFEST_OF_TWO = Manifest(embedder="model", dimension=3, factory="Flat", passages=2, documents=1)
FILES = ("a.bin", "sub/b.json")


def write(directory: Path, content: bytes = b"one") -> None:
    with writing(directory) as draft:
        (draft / "a.bin").write_bytes(content)
        (draft / "sub").mkdir()
        (draft / "sub" / "b.json").write_bytes(b"{}")
        write_manifest(draft, MANIFEST_OF_TWO, FILES)


def change(directory: Path, **entries: object) -> None:
    """Rewrite members of the manifest."""
    path = directory / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def refusal(directory: Path) -> IndexRefused:
    with pytest.raises(IndexRefused) as refused:
        read_manifest(directory, FILES)
    assert "make index" in str(refused.value.remedy)
    return refused.value


def test_a_written_manifest_is_read(tmp_path: Path) -> None:
    write(tmp_path / "index")
    assert read_manifest(tmp_path / "index", FILES) == MANIFEST_OF_TWO
    assert [path.name for path in tmp_path.iterdir()] == ["index"], "no draft is left"


def test_an_existing_index_is_replaced_completely(tmp_path: Path) -> None:
    write(tmp_path / "index")
    (tmp_path / "index" / "stale").touch()
    write(tmp_path / "index", b"two")
    assert (tmp_path / "index" / "a.bin").read_bytes() == b"two"
    assert not (tmp_path / "index" / "stale").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_without_an_atomic_exchange_the_index_is_replaced_by_two_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "index")
    monkeypatch.setattr(manifest, "_exchange", lambda one, other: False)
    write(tmp_path / "index", b"two")
    assert (tmp_path / "index" / "a.bin").read_bytes() == b"two"
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_a_failed_write_keeps_the_old_index_and_leaves_no_draft(tmp_path: Path) -> None:
    write(tmp_path / "index")
    with pytest.raises(ZeroDivisionError), writing(tmp_path / "index") as draft:
        (draft / "a.bin").write_bytes(b"half")
        raise ZeroDivisionError
    assert read_manifest(tmp_path / "index", FILES) == MANIFEST_OF_TWO
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="renameat2 is Linux'")
def test_a_reader_always_finds_an_index_during_a_replacement(tmp_path: Path) -> None:
    write(tmp_path / "index")
    missing = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            if not (tmp_path / "index" / MANIFEST).exists():
                missing.append(True)

    reader = threading.Thread(target=look)
    reader.start()
    for n in range(30):
        write(tmp_path / "index", b"%d" % n)
    stop.set()
    reader.join()
    assert not missing


def test_the_index_can_be_read_by_another_user(tmp_path: Path) -> None:
    write(tmp_path / "index")
    assert (tmp_path / "index").stat().st_mode & 0o055 == 0o055


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_refused_with_the_file_s_name(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    path = tmp_path / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert f"{path} is corrupt" in refusal(tmp_path).message


def test_a_truncated_file_is_refused_with_both_sizes(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "a.bin").write_bytes(b"on")
    assert "a.bin has 2 bytes; the manifest says 3" in refusal(tmp_path).message


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "a.bin").unlink()
    assert "a.bin can't be read: No such file" in refusal(tmp_path).message


def test_a_file_that_the_manifest_does_not_list_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    change(tmp_path, files={})
    assert "is not listed in its manifest" in refusal(tmp_path).message


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": "other"}', "\x00", "[" * 100_000])
def test_a_manifest_of_another_format_is_refused(tmp_path: Path, content: str) -> None:
    write(tmp_path)
    (tmp_path / MANIFEST).write_text(content)
    assert MANIFEST in refusal(tmp_path).message


def test_a_directory_without_a_manifest_is_refused(tmp_path: Path) -> None:
    assert "is not an index" in refusal(tmp_path).message
    assert "is not an index" in refusal(tmp_path / "nowhere").message


def test_another_version_is_refused_with_both_numbers(tmp_path: Path) -> None:
    write(tmp_path)
    change(tmp_path, version=2)
    assert "has format version 2; this program reads 1" in refusal(tmp_path).message


@pytest.mark.parametrize("entry", ["embedder", "dimension", "factory", "passages", "documents"])
def test_a_manifest_entry_of_a_wrong_type_is_refused_by_name(tmp_path: Path, entry: str) -> None:
    write(tmp_path)
    change(tmp_path, **{entry: None})
    assert f"no valid {entry!r}" in refusal(tmp_path).message
