"""Checkpoint bytes read from safetensors headers, never from the tensors themselves."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capacity.catalog import read_json
from capacity.errors import BrokenFile

INDEX = "model.safetensors.index.json"
# A header above this is refused: the library that writes these files stops there too.
_LARGEST_HEADER_BYTES = 100_000_000


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Bytes of a checkpoint's tensors; `exact` is false where they are not from a file.

    `dtypes` counts bytes by the tensors' dtype where headers were read. `source` says where the figure is from.
    `unloaded_bytes`, known from headers, is what engines do not load: multi-token-prediction layers, and a head that
    only repeats the tied embeddings. `speculates` and `repeats_head` say which of them the file has, by the tensors'
    names; `speculates` is None where names are not known.
    """

    tensor_bytes: int
    exact: bool
    source: str
    dtypes: tuple[tuple[str, int], ...] = ()
    unloaded_bytes: int = 0
    speculates: bool | None = None
    repeats_head: bool = False


def read_checkpoint(folder: Path, layers: int, tied: bool = False) -> Checkpoint | None:
    """The checkpoint in `folder`: headers of its *.safetensors, else the index's total_size, else None.

    `layers` is the number of decoder layers: tensors of layers beyond it are speculative ones. `tied` is whether the
    head is the embedding table, so that a head in the file is a copy of it.
    Raises BrokenFile for a file that is not safetensors.
    """
    index_file = folder / INDEX
    index: dict[str, Any] | None = read_json(index_file) if index_file.is_file() else None
    if index is not None:
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, dict):
            raise BrokenFile(f"{index_file}: no weight_map object")
        files = [folder / str(name) for name in sorted(set(weight_map.values()))]
    else:
        files = sorted(file for file in folder.glob("*.safetensors") if not file.name.startswith("consolidated"))
    if files and all(file.is_file() for file in files):
        return _from_headers(files, layers, tied)
    if index is not None:
        total = (index.get("metadata") or {}).get("total_size")
        if not isinstance(total, int | float) or total <= 0:
            raise BrokenFile(f"{index_file}: no metadata.total_size, and its files are not all here")
        names = [str(name) for name in index["weight_map"]]
        return Checkpoint(
            int(total),
            True,
            f"{INDEX} total_size",
            speculates=any(_is_speculative(name, layers) for name in names),
            repeats_head=tied and any(_is_head(name) for name in names),
        )
    return None


def _from_headers(files: list[Path], layers: int, tied: bool) -> Checkpoint:
    total = unloaded = 0
    speculates = repeats = False
    dtypes: dict[str, int] = {}
    for file in files:
        for name, entry in read_header(file).items():
            begin, end = entry["data_offsets"]
            total += end - begin
            dtypes[entry["dtype"]] = dtypes.get(entry["dtype"], 0) + end - begin
            extra, copy = _is_speculative(name, layers), tied and _is_head(name)
            unloaded += end - begin if extra or copy else 0
            speculates, repeats = speculates or extra, repeats or copy
    source = f"safetensors headers of {len(files)} file{'s' if len(files) > 1 else ''}"
    return Checkpoint(total, True, source, tuple(sorted(dtypes.items())), unloaded, speculates, repeats)


def _is_head(name: str) -> bool:
    return name == "lm_head.weight" or name.endswith(".lm_head.weight")


def _is_speculative(name: str, layers: int) -> bool:
    if name.startswith("mtp.") or ".mtp." in name:
        return True
    found = re.search(r"model\.layers\.(\d+)\.", name)
    return found is not None and int(found.group(1)) >= layers


def read_header(file: Path) -> dict[str, dict[str, Any]]:
    """The header of one safetensors file: name → {dtype, shape, data_offsets}; raises BrokenFile if it is not one."""
    try:
        with file.open("rb") as stream:
            prefix = stream.read(8)
            if len(prefix) < 8:
                raise BrokenFile(f"{file}: {len(prefix)} bytes are too short for a safetensors file")
            (length,) = struct.unpack("<Q", prefix)
            if length > _LARGEST_HEADER_BYTES:
                raise BrokenFile(f"{file}: a header of {length} bytes is not a safetensors header")
            header = json.loads(stream.read(length))
    except OSError as error:
        raise BrokenFile(f"{file}: can't be read: {error.strerror or error}") from error
    except ValueError as error:
        if isinstance(error, BrokenFile):
            raise
        raise BrokenFile(f"{file}: its header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise BrokenFile(f"{file}: its header is not a JSON object")
    header.pop("__metadata__", None)
    for name, entry in header.items():
        offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(isinstance(x, int) for x in offsets):
            raise BrokenFile(f"{file}: tensor {name!r} has no data_offsets")
    return header
