"""A language model as sizing needs it: layers, parameters and checkpoint, by name, folder or hub id."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from capacity.catalog import document, read_json
from capacity.errors import BrokenFile, CapacityError, InvalidInput, UnknownName
from capacity.model.config import Config
from capacity.model.layers import Layer, layers_of
from capacity.model.parameter_parts import Part
from capacity.model.parameters import ParameterCount, count_parameters, parts_of
from capacity.model.quantization import Quantization, quantization_of
from capacity.model.safetensors import Checkpoint, read_checkpoint
from capacity.precision import dtype_name, kv_format


@dataclass(frozen=True, slots=True)
class PartGroup:
    """One part as it occurs in several layers; `quantized` is how the published checkpoint stores it."""

    part: Part
    quantized: bool
    layers: tuple[int | None, ...]


@dataclass(frozen=True)
class Model:
    """A model's shape and weights. `dtype` is that of activations and of weights that are not quantised.

    `checkpoint` is None where no file gives the bytes; weights are then estimated by formula and labelled so.
    `confidence` is how the configuration is known: the catalogue's read, derived or recalled; "read" for files.
    """

    name: str
    config: Config = field(repr=False)
    layers: tuple[Layer, ...] = field(repr=False)
    dtype: str
    quantization: Quantization | None
    checkpoint: Checkpoint | None
    max_context_tokens: int | None
    source: str
    confidence: str = "read"

    @functools.cached_property
    def parts(self) -> tuple[Part, ...]:
        """Every parameter, by part."""
        return tuple(parts_of(self.config))

    @functools.cached_property
    def groups(self) -> tuple[PartGroup, ...]:
        """The parts, those of equal shape and storage merged: a few dozen instead of a few thousand."""
        layers: dict[tuple[Part, bool], list[int | None]] = {}
        for part in self.parts:
            covered = self.quantization is not None and self.quantization.covers(part.name, part.role, part.layer)
            layers.setdefault((replace(part, layer=None), covered), []).append(part.layer)
        return tuple(PartGroup(part, covered, tuple(found)) for (part, covered), found in layers.items())

    @functools.cached_property
    def parameters(self) -> ParameterCount:
        """Total and active parameters."""
        return count_parameters(self.config)

    @property
    def attention_heads(self) -> int:
        """Query heads."""
        return self.config.integer("num_attention_heads")

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return self.config.integer("hidden_size")

    @property
    def vocabulary(self) -> int:
        """Entries of the vocabulary."""
        return self.config.integer("vocab_size")

    @property
    def attention_width(self) -> int:
        """heads × head width of the queries, which sizes the activations."""
        return self.attention_heads * self.config.head_dim

    @property
    def has_experts(self) -> bool:
        """Whether any layer routes to experts."""
        return any(part.role == "expert" for part in self.parts)

    @property
    def kv_dtype(self) -> str:
        """The KV format where none is requested: the model's own dtype."""
        return kv_format(self.dtype).name


def model_from_config(
    raw: Mapping[str, Any],
    name: str,
    *,
    checkpoint: Checkpoint | None = None,
    source: str = "config.json",
    confidence: str = "read",
) -> Model:
    """The model that a config.json describes; raises UnknownName or InvalidInput where it can't."""
    try:
        model = _parsed(raw, name, checkpoint, source, confidence)
        counted = model.parameters.total
    except CapacityError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise InvalidInput(source, f"a field has a value of the wrong kind ({error})") from error
    if counted <= 0:
        raise InvalidInput(source, "describes no parameters")
    return model


def _parsed(raw: Mapping[str, Any], name: str, checkpoint: Checkpoint | None, source: str, confidence: str) -> Model:
    config = Config(raw, source)
    dtype = config.top("dtype")
    if dtype is None and checkpoint is not None and checkpoint.dtypes:
        dtype = _DTYPE_OF_HEADER.get(max(checkpoint.dtypes, key=lambda item: item[1])[0])
    limit = config.get("max_position_embeddings")
    # T5's relative positions set no limit of their own; n_positions is only what it was trained on.
    bounded = isinstance(limit, int) and limit > 0 and config.family.attention != "t5"
    heads = config.integer("num_attention_heads")
    if config.integer("hidden_size") < heads:
        raise InvalidInput("hidden_size", f"{config.integer('hidden_size')} is below num_attention_heads {heads}")
    return Model(
        name=name,
        config=config,
        layers=layers_of(config),
        dtype=dtype_name(str(dtype or "float32")),
        quantization=quantization_of(config.top("quantization_config")),
        checkpoint=checkpoint,
        max_context_tokens=limit if bounded else None,
        source=source,
        confidence=confidence,
    )


_DTYPE_OF_HEADER = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


def load_model(reference: str) -> Model:
    """The model called `reference`: a catalogue name or alias, a folder with config.json, or a cached hub id.

    Raises UnknownName, with the nearest three names of the catalogue, where it is none of these.
    """
    if not reference.strip():
        raise InvalidInput("model", "is empty; give a catalogue name, a folder or a hub id")
    entry = _catalogue().get(_key(reference))
    if entry is not None:
        return _from_catalogue(entry)
    try:
        folder = Path(reference).expanduser()
        if folder.is_file() and folder.name == "config.json":
            folder = folder.parent
        if (folder / "config.json").is_file():
            return _from_folder(folder, folder.resolve().name)
        if folder.is_dir():
            raise BrokenFile(f"{folder}: no config.json in this folder")
    except (OSError, RuntimeError) as error:  # a name too long for a path, or ~user of an unknown user
        raise UnknownName("model", reference[:120], model_names()) from error
    except ValueError as error:
        if isinstance(error, BrokenFile | InvalidInput | UnknownName):
            raise
        raise UnknownName("model", reference[:120], model_names()) from error
    cached = _cached(reference)
    if cached is not None:
        return _from_folder(cached, reference)
    raise UnknownName("model", reference[:120], model_names(), "or give a folder with config.json")


def model_names() -> list[str]:
    """Every model name and alias of the catalogue."""
    models = document("models")
    return sorted([entry["name"] for entry in models["models"]] + list(models["aliases"]))


@functools.cache
def _catalogue() -> dict[str, dict[str, Any]]:
    models = document("models")
    found: dict[str, dict[str, Any]] = {}
    for entry in models["models"]:
        for name in (entry["name"], entry["hf_id"]):
            found[_key(name)] = entry
    for alias, name in models["aliases"].items():
        found[_key(alias)] = found[_key(name)]
    return found


def _key(name: str) -> str:
    return name.strip().lower()


def _from_catalogue(entry: Mapping[str, Any]) -> Model:
    stored = entry.get("checkpoint") or {}
    checkpoint = None
    if stored.get("bytes"):
        exact = stored["confidence"] == "read"
        checkpoint = Checkpoint(stored["bytes"], exact, f"{stored['source']} ({stored['confidence']})")
    return model_from_config(
        entry["config"],
        entry["name"],
        checkpoint=checkpoint,
        source=f"catalogue: {entry['source']}",
        confidence=entry["confidence"],
    )


def _from_folder(folder: Path, name: str) -> Model:
    raw = read_json(folder / "config.json")
    if not isinstance(raw, dict):
        raise BrokenFile(f"{folder / 'config.json'}: not a JSON object")
    model = model_from_config(raw, name, source=str(folder / "config.json"))
    checkpoint = read_checkpoint(folder, len(model.layers), bool(model.config.top("tie_word_embeddings")))
    if checkpoint is None:
        return model
    return model_from_config(raw, name, checkpoint=checkpoint, source=str(folder / "config.json"))


def _cached(reference: str) -> Path | None:
    """The snapshot folder of a hub id in the local hub cache, None where it is not there."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", reference):
        return None
    home = os.environ.get("HF_HOME") or str(Path("~/.cache/huggingface").expanduser())
    hub = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")
    repository = hub / f"models--{reference.replace('/', '--')}"
    ref = repository / "refs" / "main"
    if ref.is_file():
        snapshot = repository / "snapshots" / ref.read_text(encoding="utf-8").strip()
        if (snapshot / "config.json").is_file():
            return snapshot
    snapshots = sorted(repository.glob("snapshots/*/config.json"))
    return snapshots[-1].parent if snapshots else None
