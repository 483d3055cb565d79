"""Where a model's files are on this machine, and whether they may be loaded: safetensors yes, pickle no.

Nothing is downloaded: a hub id is looked up in the local hub cache only. The rules are the same for LLMs, embedders and
rerankers; the model is loaded by the module that knows its class.
"""

from __future__ import annotations

import json
from pathlib import Path

from rag.errors import ModelRefused

# Formats that can run code when they are read. Weights only: a trainer's training_args.bin is never opened.
_PICKLE_PATTERNS = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")


def resolve_model(model: str) -> Path:
    """The directory of `model`: the directory itself, or the newest snapshot of a hub id in the local cache.

    Raises ModelRefused for an id that is not in the cache, or a path without a config.
    """
    if not model:
        raise ModelRefused("the model's name is empty", value=model, remedy="name a directory or a hub id")
    directory = Path(model).expanduser()
    if not directory.is_dir():
        directory = _cached_snapshot(model)
    if not (directory / "config.json").is_file() and not (directory / "modules.json").is_file():
        raise ModelRefused(
            f"{directory} holds no model: it has neither config.json nor modules.json",
            value=model,
            remedy="point to a directory that save_pretrained() wrote",
        )
    return directory


def public_name(model: str) -> str:
    """The model's name in manifests and answers: the last part of a directory's path, or the hub id."""
    directory = Path(model).expanduser()
    return directory.resolve().name if directory.is_dir() else model


def refuse_pickle(directory: Path) -> None:
    """Raise ModelRefused when `directory`, or a module's folder in it, has weights only in pickle files."""
    for folder in _module_folders(directory):
        if any(folder.glob("*.safetensors")):
            continue
        pickles = sorted(path for pattern in _PICKLE_PATTERNS for path in folder.glob(pattern))
        if pickles:
            raise ModelRefused(
                f"{pickles[0]} is a pickle, which can run code when it is read, and the folder has no safetensors",
                value=str(pickles[0]),
                remedy="convert the model with save_pretrained(safe_serialization=True)",
            )


def refuse_quantised(directory: Path, device: str) -> None:
    """Raise ModelRefused on a CPU for weights published in a quantised format: the libraries that load them need a GPU.

    MXFP4 would load, but unpacked, in nearly four times the bytes that the plan counts.
    """
    config = _read_json(directory / "config.json")
    quantised = config.get("quantization_config") if isinstance(config, dict) else None
    if device != "cpu" or not isinstance(quantised, dict):
        return
    method = str(quantised.get("quant_method", "unnamed"))
    raise ModelRefused(
        f"the LLM's weights are quantised as published ({method}), which runs on a GPU only",
        field="LLM",
        value=method,
        limit="DEVICE=cpu",
        remedy="deploy on a GPU (DEVICE=cuda), or give the model's float32 or bfloat16 release",
    )


def refuse_remote_code(directory: Path) -> None:
    """Raise ModelRefused when the model needs Python code from its own repository.

    transformers marks this by `auto_map`, sentence-transformers by a module type from outside its package.
    """
    config = _read_json(directory / "config.json")
    if isinstance(config, dict) and "auto_map" in config and not _is_native(str(config.get("model_type", ""))):
        raise _needs_code(directory, "config.json has an auto_map")
    for module in _modules(directory):
        kind = str(module.get("type", ""))
        if not kind.startswith("sentence_transformers."):
            raise _needs_code(directory, f"modules.json names the type {kind!r}")


def _needs_code(directory: Path, reason: str) -> ModelRefused:
    return ModelRefused(
        f"{directory} needs Python code from its own repository: {reason}",
        value=str(directory),
        remedy="allow remote code for this model by its setting, if you trust its authors",
    )


def _is_native(model_type: str) -> bool:
    from transformers import CONFIG_MAPPING  # noqa: PLC0415 - heavy

    return model_type in CONFIG_MAPPING


def _cached_snapshot(model: str) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - heavy
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError) as error:
        raise ModelRefused(
            f"the model {model!r} is neither a directory nor in this machine's hub cache",
            value=model,
            remedy=f"run `hf download {model}` on a machine with access, or point to a directory",
        ) from error


def _module_folders(directory: Path) -> list[Path]:
    """The model's folder and those of its sentence-transformers modules (pooling, dense layers)."""
    folders = {directory}
    for module in _modules(directory):
        folder = (directory / str(module.get("path", ""))).resolve()
        if folder != directory.resolve() and folder.is_relative_to(directory.resolve()):
            folders.add(folder)
    return sorted(folders)


def _modules(directory: Path) -> list[dict[str, object]]:
    modules = _read_json(directory / "modules.json")
    return [module for module in modules if isinstance(module, dict)] if isinstance(modules, list) else []


def _read_json(path: Path) -> object:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelRefused(f"{path} can't be read as JSON: {error}", value=str(path)) from error
