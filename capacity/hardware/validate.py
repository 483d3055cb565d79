"""Validation of the catalogue, and of a user's own files by the same rules. Every problem is named, none repaired."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from capacity.catalog import document, folder, read_json
from capacity.errors import CapacityError, UnknownName

_CONFIDENCE = ("read", "read (second hand)", "derived", "recalled", "unknown", "given")
# Throughput printed beside IOPS and block size is rounded; more than this apart is a mistake.
_THROUGHPUT_TOLERANCE = 0.05
# A printed heat figure may include losses of the power supplies.
_HEAT_TOLERANCE = 0.15
_BTU_PER_KWH = 3412.142


def validate_catalogue() -> list[str]:
    """Every problem of the catalogue's files, none when it is sound."""
    problems: list[str] = []
    for name in ("gpus", "servers", "instances", "models", "storage", "embedders"):
        problems += [f"{name}.json: {problem}" for problem in problems_of(document(name))]
    return problems


def validate_file(path: Path) -> list[str]:
    """Every problem of one JSON file: a catalogue file, a server, a GPU, a storage profile or a config.json."""
    return [f"{path}: {problem}" for problem in problems_of(read_json(path))]


def catalogue_files() -> list[Path]:
    """The catalogue's files."""
    return sorted(folder().glob("*.json"))


def problems_of(raw: Any) -> list[str]:
    """Problems of a parsed document of any kind; the kind is recognised by its fields."""
    if not isinstance(raw, Mapping):
        return ["not a JSON object"]
    for field, check in _COLLECTIONS.items():
        if isinstance(raw.get(field), list):
            return _each(raw[field], check, field)
    for fields, check in _SINGLE:
        if any(field in raw for field in fields):
            return check(raw)
    return ["not recognised: it has no model_type, gpu, dense_tflops or read_iops field"]


def _each(items: Iterable[Any], check: Callable[[Any], list[str]], field: str) -> list[str]:
    found, seen = [], set()
    for index, item in enumerate(items):
        name = item.get("name") if isinstance(item, Mapping) else None
        label = f"{field}[{index}]{f' {name}' if name else ''}"
        problems = check(item) if isinstance(item, Mapping) else ["not a JSON object"]
        found += [f"{label}: {problem}" for problem in problems]
        if name in seen:
            found.append(f"{label}: the name is given twice")
        seen.add(name)
    return found


def problems_of_gpu(raw: Mapping[str, Any]) -> list[str]:
    """Problems of one GPU."""
    found = _text(raw, "name") + _number(raw, "nvidia_smi_total_mib", 256, 4_000_000)
    found += _number(raw, "marketing_memory_gb", 0.25, 4000, needed=False)
    found += _number(raw, "bandwidth_gb_s", 1, 100_000, needed=False) + _number(raw, "tdp_w", 1, 10_000, needed=False)
    peaks = raw.get("dense_tflops", {})
    if not isinstance(peaks, Mapping):
        found.append(f"dense_tflops: {peaks!r} is not an object of TFLOPS by dtype")
    else:
        for dtype in peaks:
            found += [f"dense_tflops.{problem}" for problem in _number(peaks, dtype, 0.01, 100_000, needed=False)]
    if not found and raw.get("marketing_memory_gb"):
        shown, sold = raw["nvidia_smi_total_mib"] * 2**20, raw["marketing_memory_gb"] * 2**30
        if shown > sold * 1.05:
            found.append(f"nvidia_smi_total_mib: {raw['nvidia_smi_total_mib']} is more than the card is sold with")
    return found + _provenance(raw)


def problems_of_server(raw: Any) -> list[str]:
    """Problems of one server, the user's own included."""
    if not isinstance(raw, Mapping):
        return ["not a JSON object"]
    found = _text(raw, "name") + _whole(raw, "gpus", 1, 1024)
    gpu = raw.get("gpu")
    if isinstance(gpu, Mapping):
        found += [f"gpu.{problem}" for problem in problems_of_gpu(gpu)]
    elif isinstance(gpu, str):
        known = [entry["name"] for entry in document("gpus")["gpus"]]
        if gpu not in known and gpu.lower() not in document("gpus")["aliases"]:
            found.append(f"gpu: {UnknownName('GPU', gpu, known)}")
    else:
        found.append("gpu: missing; a catalogue name or an object with name and nvidia_smi_total_mib")
    found += _number(raw, "rack_units", 0.5, 60, needed=False) + _number(raw, "power_kw_max", 0.01, 1000, needed=False)
    found += _number(raw, "heat_btu_hr", 1, 4_000_000, needed=False)
    found += _number(raw, "system_ram_gb", 1, 100_000, needed=False) + _number(
        raw, "usd_per_hour", 0.001, 10_000, needed=False
    )
    if not found and raw.get("heat_btu_hr") and raw.get("power_kw_max"):
        expected = raw["power_kw_max"] * _BTU_PER_KWH
        if abs(raw["heat_btu_hr"] / expected - 1) > _HEAT_TOLERANCE:
            found.append(
                f"heat_btu_hr: {raw['heat_btu_hr']} is not {raw['power_kw_max']} kW × {_BTU_PER_KWH} = {expected:.0f}"
            )
    return found + _provenance(raw)


def problems_of_instance(raw: Mapping[str, Any]) -> list[str]:
    """Problems of one SageMaker instance type."""
    found = _text(raw, "name") + _text(raw, "ec2_type") + _whole(raw, "vcpu", 1, 1024)
    found += _number(raw, "ram_gib", 0.5, 100_000) + _whole(raw, "gpu_count", 0, 64)
    if not found and not str(raw["name"]).startswith("ml."):
        found.append(f"name: {raw['name']!r} is not a SageMaker type; they begin with ml.")
    if not isinstance(raw.get("local_disk"), bool):
        found.append(f"local_disk: {raw.get('local_disk')!r} is neither true nor false")
    gpu = raw.get("gpu")
    if bool(raw.get("gpu_count")) != bool(gpu):
        found.append(f"gpu: {gpu!r} with gpu_count {raw.get('gpu_count')}")
    elif gpu and gpu not in [entry["name"] for entry in document("gpus")["gpus"]]:
        found.append(f"gpu: {gpu!r} is not in gpus.json")
    for field in ("sagemaker_usd_hour", "ec2_usd_hour"):
        price = raw.get(field)
        if price is None:
            continue
        if not isinstance(price, Mapping):
            found.append(f"{field}: {price!r} is neither null nor an object with value, region, as_of and source")
            continue
        found += [f"{field}.{problem}" for problem in _number(price, "value", 0.001, 10_000)]
        found += [f"{field}.{problem}" for key in ("region", "as_of", "source") for problem in _text(price, key)]
    return found + _provenance(raw)


def problems_of_storage(raw: Mapping[str, Any]) -> list[str]:
    """Problems of one storage profile; IOPS × block must be the throughput."""
    found = _text(raw, "name") + _number(raw, "read_gb_s", 0.001, 10_000) + _number(raw, "block_kib", 0.5, 1_048_576)
    found += _number(raw, "read_iops", 1, 1e9) + _number(raw, "read_p99_ms", 0, 60_000, needed=False)
    if not found:
        product = raw["read_iops"] * raw["block_kib"] * 1024 / 1e9
        if abs(product / raw["read_gb_s"] - 1) > _THROUGHPUT_TOLERANCE:
            found.append(
                f"read_gb_s: {raw['read_gb_s']} is not read_iops × block_kib: "
                f"{raw['read_iops']} × {raw['block_kib']} KiB = {product:.3f} GB/s"
            )
    return found + _provenance(raw)


def problems_of_embedder(raw: Mapping[str, Any]) -> list[str]:
    """Problems of one embedding model."""
    found = _text(raw, "name") + _whole(raw, "parameters", 1, 10**12) + _whole(raw, "dimensions", 1, 100_000)
    return found + _provenance(raw)


def problems_of_model(raw: Mapping[str, Any]) -> list[str]:
    """Problems of one catalogue model: a configuration that can be read, and bytes with their source."""
    found = _text(raw, "name") + _text(raw, "hf_id")
    config = raw.get("config")
    found += _problems_of_config(config) if isinstance(config, Mapping) else ["config: missing"]
    stored = raw.get("checkpoint")
    if isinstance(stored, Mapping):
        found += [f"checkpoint.{problem}" for problem in _number(stored, "bytes", 1, 1e14, needed=False)]
        found += [f"checkpoint.{problem}" for problem in _provenance(stored)]
    return found + _provenance(raw)


def _problems_of_config(raw: Mapping[str, Any]) -> list[str]:
    from capacity.model.model import model_from_config  # noqa: PLC0415 - model's own modules don't need these rules

    try:
        model_from_config(raw, "validated")
    except CapacityError as error:
        return [f"config: {error}"]
    return []


_COLLECTIONS: dict[str, Callable[[Any], list[str]]] = {
    "servers": problems_of_server,
    "instances": problems_of_instance,
    "models": problems_of_model,
    "profiles": problems_of_storage,
    "embedders": problems_of_embedder,
    "gpus": problems_of_gpu,
}


_SINGLE: tuple[tuple[tuple[str, ...], Callable[[Any], list[str]]], ...] = (
    (("model_type",), _problems_of_config),
    (("nvidia_smi_total_mib", "dense_tflops"), problems_of_gpu),
    (("read_iops", "read_gb_s"), problems_of_storage),
    (("gpu", "gpus"), problems_of_server),
)


def _provenance(raw: Mapping[str, Any]) -> list[str]:
    """A catalogue entry names its source; a user's own file may leave it out."""
    if "confidence" not in raw and "source" not in raw:
        return []
    found = _text(raw, "source")
    if raw.get("confidence") not in _CONFIDENCE:
        found.append(f"confidence: {raw.get('confidence')!r} is none of {', '.join(_CONFIDENCE)}")
    return found


def _text(raw: Mapping[str, Any], field: str) -> list[str]:
    value = raw.get(field)
    return [] if isinstance(value, str) and value.strip() else [f"{field}: {value!r} is not text"]


def _number(raw: Mapping[str, Any], field: str, low: float, high: float, *, needed: bool = True) -> list[str]:
    value = raw.get(field)
    if value is None:
        return [f"{field}: missing"] if needed else []
    if isinstance(value, bool) or not isinstance(value, int | float):
        return [f"{field}: {value!r} is not a number"]
    return [] if low <= value <= high else [f"{field}: {value} is outside {low:g} to {high:g}"]


def _whole(raw: Mapping[str, Any], field: str, low: int, high: int) -> list[str]:
    found = _number(raw, field, low, high)
    if not found and not isinstance(raw[field], int):
        return [f"{field}: {raw[field]!r} is not a whole number"]
    return found
