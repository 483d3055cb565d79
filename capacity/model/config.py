"""A flat view of a model's config.json, under one name for each field whatever the family calls it.

A saved configuration omits the fields that equal its class's default, so the class's defaults (catalog/defaults.json)
fill what is missing, as the library that wrote the file does. A field in neither is an error that names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from capacity.catalog import document
from capacity.errors import InvalidInput, UnknownName
from capacity.model.families import FAMILIES, Family

# Other spellings of the field on the left, in the order in which they are looked for.
_SPELLINGS: dict[str, tuple[str, ...]] = {
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "hidden_size": ("n_embd", "d_model", "dim"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads"),
    "num_key_value_heads": ("num_kv_heads",),
    "intermediate_size": ("n_inner", "ffn_dim", "ffn_hidden_size", "d_ff", "hidden_dim"),
    "max_position_embeddings": ("n_positions", "n_ctx", "max_seq_len", "seq_length", "model_max_length"),
    "head_dim": ("d_kv", "attention_head_dim"),
    "dtype": ("torch_dtype",),
    "num_experts": ("num_local_experts", "n_routed_experts", "moe_num_experts"),
    "experts_per_token": ("num_experts_per_tok", "moe_k", "num_experts_per_token", "top_k_experts"),
    "shared_experts": ("n_shared_experts", "moe_num_shared_experts", "num_shared_experts"),
    "shared_expert_intermediate_size": ("moe_shared_expert_intermediate_size", "shared_intermediate_size"),
    "mtp_layers": ("num_nextn_predict_layers", "num_mtp_modules", "mtp_num_hidden_layers", "num_mtp_layers"),
    "ssm_heads": ("mamba_num_heads", "mamba_n_heads"),
    "ssm_head_dim": ("mamba_head_dim", "mamba_d_head"),
    "ssm_state_size": ("mamba_d_state",),
    "ssm_groups": ("mamba_n_groups", "n_groups"),
    "conv_kernel": ("mamba_d_conv",),
    "layer_types": ("layers_block_type",),
    "ssm_dtype": ("mamba_ssm_dtype", "mamba_ssm_cache_dtype"),
}
# Wrappers that nest their language model's config, and the model_type to assume where the nested one has none.
_TEXT_OF = {
    "gemma3": "gemma3_text",
    "gemma3n": "gemma3n_text",
    "gemma4": "gemma4_text",
    "gemma4_unified": "gemma4_text",
    "llama4": "llama4_text",
    "mistral3": "mistral",
    "qwen2_vl": "qwen2_vl_text",
    "qwen2_5_vl": "qwen2_5_vl_text",
    "qwen3_vl": "qwen3_vl_text",
    "qwen3_vl_moe": "qwen3_vl_moe_text",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
    "llava": "llama",
    "llava_next": "llama",
    "kimi_k25": "kimi_k2",
}
# Larger values are mistakes, and counting that many layers one by one would take too long.
_MOST_LAYERS, _LARGEST = 2_000, 2**40
_INNER = ("text_config", "llm_config", "language_config")


class Config:
    """The fields of one language model, by their usual names; `.family` is the row of families.py it belongs to.

    >>> config = Config({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2})
    >>> config.integer("num_hidden_layers"), config.head_dim
    (2, 16)
    """

    def __init__(self, raw: Mapping[str, Any], source: str = "config.json") -> None:
        self.raw = raw
        self.source = source
        outer = raw.get("model_type")
        if not isinstance(outer, str) or not outer:
            raise InvalidInput("model_type", f"missing in {source}; a config.json names its model_type")
        inner = next((raw[key] for key in _INNER if isinstance(raw.get(key), Mapping)), None)
        text: Mapping[str, Any] = raw if inner is None else inner
        named = text.get("model_type") if inner is not None else outer
        # Flat wrappers (Qwen2-VL as first published) carry the language model's fields at the top.
        model_type = str(named or _TEXT_OF.get(outer, outer))
        self.model_type = _TEXT_OF.get(model_type, model_type) if inner is None else model_type
        self.outer_type = outer
        family = FAMILIES.get(self.model_type)
        if family is None:
            raise UnknownName(
                "model_type", self.model_type, [*FAMILIES, *_TEXT_OF], "its cache layout is not known, so it is refused"
            )
        self.family: Family = family
        self._text = _counted(text)
        self._defaults: Mapping[str, Any] = document("defaults")["model_types"].get(family.defaults_of, {})

    def get(self, field: str, default: Any = None) -> Any:
        """The value of `field` under any of its spellings: the file's, else the class default, else `default`.

        A null in the file counts as given: the class default is not used.
        """
        for source in (self._text, self._defaults):
            for key in (field, *_SPELLINGS.get(field, ())):
                if source.get(key) is not None:
                    return source[key]
                if key in source:
                    return default
        return default

    def top(self, field: str) -> Any:
        """A field that the whole checkpoint shares (dtype, quantization_config, tie_word_embeddings)."""
        for source in (self.raw, self._text, self._defaults):
            for key in (field, *_SPELLINGS.get(field, ())):
                if source.get(key) is not None:
                    return source[key]
        return None

    def explicit(self, field: str) -> bool:
        """Whether the file itself (not a default) has `field`, null included."""
        return any(key in self._text for key in (field, *_SPELLINGS.get(field, ())))

    def integer(self, field: str, default: int | None = None, minimum: int = 1) -> int:
        """`field` as an integer of at least `minimum`; raises InvalidInput where it is missing or not such a number."""
        value = self.get(field, default)
        if value is None:
            raise InvalidInput(field, f"missing in {self.source} and {self.model_type} has no default for it")
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidInput(field, f"{value!r} in {self.source} is not an integer")
        maximum = _MOST_LAYERS if "layers" in field else _LARGEST
        if not minimum <= value <= maximum:
            raise InvalidInput(field, f"{value} in {self.source} is outside {minimum}–{maximum}")
        return value

    def optional(self, field: str) -> int:
        """`field` as an integer, 0 where it is missing, null or 0; InvalidInput for anything else."""
        return self.integer(field, minimum=0) if self.get(field) is not None else 0

    def share(self, field: str, default: float = 1.0) -> float:
        """`field` as a fraction, read from the rotary settings too; InvalidInput outside 0–1."""
        scaling = self.get("rope_parameters") or self.get("rope_scaling")
        scaled = scaling.get(field) if isinstance(scaling, Mapping) else None
        value = scaled if scaled is not None else self.get(field, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
            raise InvalidInput(field, f"{value!r} in {self.source} is not a fraction of 1")
        return float(value)

    def flag(self, field: str, default: bool = False) -> bool:
        """`field` as a truth value."""
        return bool(self.get(field, default))

    def resolve(self, rule: bool | str) -> bool:
        """The value of a family's flag: itself, or that of the config field that it names."""
        return self.flag(rule) if isinstance(rule, str) else rule

    @property
    def head_dim(self) -> int:
        """Width of one attention head. Many configurations give it; it need not be hidden_size / heads."""
        if self.explicit("head_dim") or self.family.fixed_head_dim or not self.explicit("hidden_size"):
            given = self.get("head_dim")
            if given is not None:
                return self.integer("head_dim")
        return self.integer("hidden_size") // self.integer("num_attention_heads")

    @property
    def kv_heads(self) -> int:
        """KV heads of an ordinary attention layer (1 for multi-query, all heads where the file names none)."""
        heads = self.integer("num_attention_heads")
        if self.family.multi_query:
            new_layout = self.flag("new_decoder_architecture")
            if self.model_type == "falcon" and new_layout:
                return self.integer("num_key_value_heads", heads)
            return 1 if self.flag("multi_query", True) else heads
        given = self.explicit("num_key_value_heads") or not (
            self.family.kv_is_heads and self.explicit("num_attention_heads")
        )
        return self.integer("num_key_value_heads", heads) if given else heads


def _counted(text: Mapping[str, Any]) -> Mapping[str, Any]:
    """`text` with num_hidden_layers counted from the pattern, where the file gives only that."""
    if any(text.get(key) is not None for key in ("num_hidden_layers", *_SPELLINGS["num_hidden_layers"])):
        return text
    pattern = text.get("hybrid_override_pattern") or text.get("layers_block_type") or text.get("layer_types")
    return {**text, "num_hidden_layers": len(pattern)} if isinstance(pattern, str | list) else text
