"""Bytes of an embedding model's weights, by catalogue name or from the headers of its folder."""

from __future__ import annotations

from pathlib import Path

from capacity.catalog import document
from capacity.errors import BrokenFile, UnknownName
from capacity.model.safetensors import read_checkpoint
from capacity.precision import element_bytes


def embedder_bytes(reference: str) -> int:
    """Weight bytes of an embedder, by catalogue name or folder with safetensors; raises UnknownName or BrokenFile."""
    entries = document("embedders")["embedders"]
    wanted = reference.strip().lower().rsplit("/", 1)[-1]
    for entry in entries:
        if entry["name"].lower() == wanted:
            return int(entry["parameters"] * element_bytes(entry["dtype"]))
    folder = Path(reference).expanduser()
    if folder.is_dir():
        found = read_checkpoint(folder, layers=10_000)
        if found is None:
            raise BrokenFile(f"{folder}: no *.safetensors in this folder")
        return found.tensor_bytes
    raise UnknownName("embedder", reference[:120], [entry["name"] for entry in entries], "or a folder with safetensors")
