"""An EngineConfig to a TextGenerator: the model is loaded, its backend chosen and built, its KV memory allocated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)

from rag.backends.base import Backend
from rag.backends.choice import BackendName
from rag.backends.torch_slots import TorchSlots
from rag.backends.torch_t5 import TorchT5
from rag.checkpoint import refuse_pickle, refuse_quantised, refuse_remote_code, resolve_model
from rag.engine.engine import Engine
from rag.engine.generator import TextGenerator
from rag.errors import ModelRefused

OnPhase: TypeAlias = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The model, the backend that runs it, and the size of the engine.

    `model` is a directory or a hub id from the local cache. `context_tokens` None takes the model's own maximum.
    `weights`, `kv_dtype` (None: `dtype`) and `threads` are for the OpenVINO backend.
    """

    model: str
    num_blocks: int
    max_waiting: int
    context_tokens: int | None = None
    max_batch_tokens: int = 512
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    backend: BackendName = "torch"
    weights: Literal["int8"] | None = None
    kv_dtype: Literal["float32", "bfloat16", "u8"] | None = None
    threads: int = 1
    trust_remote_code: bool = False


def load_generator(config: EngineConfig, on_phase: OnPhase = lambda _phase: None) -> TextGenerator:
    """Load the model, from safetensors only, and start an engine for it.

    Raises ModelRefused, by name, for a model that is not there, has no safetensors or no fast tokenizer, or can't run
    here, and BackendRefused where torch may still run it.
    """
    model, tokenizer = _load_model(config)
    max_model_len = _max_model_len(config, model.config)
    eos_ids = _eos_ids(model, tokenizer)
    backend = _make_backend(config, model, max_model_len, on_phase)
    del model  # OpenVINO's graph has its own copy of the weights: free these before the KV memory is allocated
    engine = Engine(
        backend,
        num_blocks=config.num_blocks,
        max_model_len=max_model_len,
        max_batch_tokens=config.max_batch_tokens,
        max_waiting=config.max_waiting,
        eos_ids=eos_ids,
    )
    return TextGenerator(Path(config.model).name, tokenizer, engine)


def _load_model(config: EngineConfig) -> tuple[PreTrainedModel, Any]:
    """The model on its device, and its tokenizer."""
    directory = resolve_model(config.model)
    refuse_pickle(directory)
    refuse_quantised(directory, config.device)
    if not config.trust_remote_code:
        refuse_remote_code(directory)
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": config.trust_remote_code}
    try:
        model_config = AutoConfig.from_pretrained(directory, **options)
        tokenizer = AutoTokenizer.from_pretrained(directory, **options)
        model_class: Any = AutoModelForSeq2SeqLM if model_config.is_encoder_decoder else AutoModelForCausalLM
        model = model_class.from_pretrained(
            directory,
            config=model_config,
            dtype="auto" if config.backend == "openvino" else config.dtype,  # OpenVINO's graph is in float32
            use_safetensors=True,
            **options,
        )
        model.to(config.device)
    except Exception as error:  # whichever error the library raises, it is the model that can't be loaded
        raise ModelRefused(
            f"the LLM {config.model!r} can't be loaded: {_first_line(error)}",
            field="LLM",
            value=config.model,
            remedy="give a directory with config.json, tokenizer.json and *.safetensors, or a cached hub id",
        ) from error
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ModelRefused(
            f"the LLM {config.model!r} has no fast tokenizer",
            field="LLM",
            value=config.model,
            remedy="add tokenizer.json",
        )
    return model, tokenizer


def _max_model_len(config: EngineConfig, model_config: PreTrainedConfig) -> int:
    longest = int(getattr(model_config.get_text_config(), "max_position_embeddings", 0) or 0)
    max_model_len = config.context_tokens or longest or 2048
    if longest and max_model_len > longest:
        raise ModelRefused(
            f"CONTEXT {max_model_len} exceeds the maximum of {config.model!r}",
            field="CONTEXT",
            value=max_model_len,
            limit=longest,
            remedy=f"set CONTEXT to {longest} or less",
        )
    return max_model_len


def _make_backend(config: EngineConfig, model: PreTrainedModel, max_model_len: int, on_phase: OnPhase) -> Backend:
    if config.backend != "openvino":
        if model.config.is_encoder_decoder:
            return TorchT5(model, max_model_len=max_model_len)
        return TorchSlots(model, max_model_len=max_model_len, max_chunk_tokens=config.max_batch_tokens)
    # Imported only where it is chosen: OpenVINO takes memory.
    from rag.backends.int8_linear import quantize  # noqa: PLC0415
    from rag.backends.openvino_paged import KV_TYPES, OpenVinoPaged  # noqa: PLC0415

    if config.weights == "int8":
        quantize(model)
    return OpenVinoPaged(
        model,
        max_model_len=max_model_len,
        threads=config.threads,
        precision="bf16" if config.dtype == "bfloat16" else "f32",
        kv_type=KV_TYPES[config.kv_dtype or config.dtype],
        on_phase=on_phase,
    )


def _eos_ids(model: PreTrainedModel, tokenizer: Any) -> list[int]:
    """All ids that end an answer: a generation config may have several."""
    given = getattr(model.generation_config, "eos_token_id", None)
    ids = given if isinstance(given, list) else [given]
    return sorted({int(token) for token in (*ids, tokenizer.eos_token_id) if token is not None})


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
