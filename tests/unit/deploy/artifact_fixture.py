"""A small artifact as `make artifact` writes it: the shipped LLM, and an index of one line of text."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from rag.planning import make_plan
from rag.settings import Settings

LLM = Path(__file__).parents[3] / "models" / "rag-tiny"


def write_artifact(
    directory: Path, text: str = "Brasília", settings: dict[str, str] | None = None, hardware: str = "cpu"
) -> Path:
    """The artifact's directory."""
    for folder in ("llm/rag-tiny", "embedder/mini", "index"):
        (directory / folder).mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        shutil.copyfile(LLM / name, directory / "llm" / "rag-tiny" / name)
    (directory / "embedder" / "mini" / "model.safetensors").write_bytes(bytes(1000))
    (directory / "embedder" / "mini" / "config.json").write_text("{}", encoding="utf-8")
    (directory / "index" / "passages.jsonl").write_text(json.dumps({"text": text}) + "\n", encoding="utf-8")
    index = {"format": "rag-index", "version": 1, "embedder": "mini", "passages": 112, "documents": 106, "files": {}}
    _write(directory / "index" / "manifest.json", index | {"dimension": 384, "factory": "Flat"})
    places = {"LLM": "llm/rag-tiny", "EMBEDDING_MODEL": "embedder/mini", "INDEX": "index"}
    _write(directory / "settings.json", places | (settings or {}))
    absolute = {name: str(directory / place) for name, place in places.items()}
    environment = {**(settings or {}), **absolute, "HARDWARE": hardware}
    _write(directory / "plan.json", make_plan(Settings.from_environment(environment)).to_json())
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / "manifest.json")
    files = {path.relative_to(directory).as_posix(): _record(path) for path in paths}
    _write(directory / "manifest.json", {"format": "rag-artifact", "version": 1, "files": files})
    return directory


def _record(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
