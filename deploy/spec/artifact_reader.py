"""Read an artifact for its deployment: files with their hashes, settings, and the inputs of a plan."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capacity import Plan
from capacity.errors import CapacityError
from deploy.errors import WrongOption

MANIFEST = "manifest.json"
_AGAIN = "Rebuild it: make artifact."


@dataclass(frozen=True, slots=True)
class ArtifactFile:
    """One file: path inside the artifact, size, and SHA-256 from the manifest."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Artifact:
    """A directory written by `make artifact`. `digest`: of its manifest. `plan`: the one the container's code made."""

    directory: Path
    digest: str
    files: tuple[ArtifactFile, ...]
    settings: Mapping[str, str]
    plan: Plan

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def llm(self) -> Path:
        """Directory of the LLM."""
        return self.directory / self.settings["LLM"]

    @property
    def embedder_bytes(self) -> int:
        """Bytes of the embedder's weights."""
        place = f"{self.settings['EMBEDDING_MODEL']}/"
        return sum(
            file.size_bytes for file in self.files if file.path.startswith(place) and file.path.endswith(".safetensors")
        )

    def index(self) -> tuple[int, int, str]:
        """(vectors, dimensions, FAISS factory string) of the index. Raises WrongOption."""
        raw = _read_json(self.directory / self.settings["INDEX"] / MANIFEST)
        try:
            return int(raw["passages"]), int(raw["dimension"]), str(raw["factory"])
        except (KeyError, ValueError) as error:
            raise WrongOption(f"{self.directory}: the index's manifest lacks {error}", _AGAIN) from error


def read_artifact(directory: Path) -> Artifact:
    """The artifact in `directory`. Raises WrongOption where it is not one, or a file is missing or of another size.

    Contents are not verified here: the container checks every file's hash when it boots.
    """
    if not (directory / MANIFEST).is_file():
        raise WrongOption(f"{directory} is no artifact: it has no {MANIFEST}", "Build one: make artifact.")
    raw = _read_json(directory / MANIFEST)
    try:
        files = tuple(
            ArtifactFile(str(path), int(file["bytes"]), str(file["sha256"])) for path, file in raw["files"].items()
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WrongOption(f"{directory / MANIFEST} is no manifest of an artifact ({error!r})", _AGAIN) from error
    for file in files:
        found = directory / file.path
        if not found.is_file() or found.stat().st_size != file.size_bytes:
            raise WrongOption(f"{found} is missing or not as the manifest says", _AGAIN)
    settings = _read_json(directory / "settings.json")
    missing = [name for name in ("LLM", "EMBEDDING_MODEL", "INDEX") if name not in settings]
    if missing:
        raise WrongOption(f"{directory / 'settings.json'} lacks {', '.join(missing)}", _AGAIN)
    try:
        plan = Plan.from_json(_read_json(directory / "plan.json"))
    except CapacityError as error:
        raise WrongOption(f"{directory / 'plan.json'}: {error}", _AGAIN) from error
    digest = hashlib.sha256((directory / MANIFEST).read_bytes()).hexdigest()
    return Artifact(directory, digest, files, settings, plan)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise WrongOption(f"{path} can't be read: {error}", _AGAIN) from error
    if not isinstance(raw, dict):
        raise WrongOption(f"{path} holds no JSON object", _AGAIN)
    return raw
