"""Differences between model families: biases, norms, gates, experts and the pattern of attention layers.

One row a `model_type`, with what a config.json leaves to the classes that read it. Tests compare every row with the
parameter counts of the reference implementation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Family:
    """A row. A flag given as a string is the name of the config field with its value."""

    defaults_of: str
    attention: str = "gqa"  # gqa | mla | t5
    qkv_bias: bool | str = False
    out_bias: bool | str = False
    qk_norm: str = ""  # "" | head (one vector of head_dim) | full (all heads) | per_head (a vector a head)
    qk_norm_if: bool | str = True
    query_gate: bool = False  # the query projection also makes an output gate
    sinks: bool = False
    mlp_bias: bool | str = False
    gated: bool = True
    norms: int = 2  # vectors of hidden_size a layer
    norm_bias: bool = False
    final_norms: int = 1
    positions: int = -1  # learned positions: rows beyond max_position_embeddings, -1 for none
    head_bias: bool | str = False
    experts: str = ""  # which layers have experts: "" none | all | step | first_dense | llama4 | period | interval
    expert_bias: bool = False
    router_bias: bool = False
    shared_gate: bool = False
    shared_dense: bool = False  # shared experts' width given directly in shared_expert_intermediate_size
    windows: str = "none"  # none | uniform | qwen | alternate | every | chunked
    window_period: int = 0
    state: str = ""  # "" | gdn | mamba1 | mamba2 : the kind of the layers without attention
    kv_is_heads: bool = False  # KV heads equal the heads where the file has heads but no KV heads
    multi_query: bool = False
    fixed_head_dim: bool = False  # the class default of head_dim applies for any hidden_size
    rotary: bool = True
    rotary_tables: int = 1
    extra: str = ""  # families with parts that no other has: see parameters.py


_BIASED = Family("", qkv_bias="attention_bias", out_bias="attention_bias")
_LLAMA = Family("llama", qkv_bias="attention_bias", out_bias="attention_bias", mlp_bias="mlp_bias", kv_is_heads=True)
_MISTRAL = Family("mistral", windows="uniform")
_QWEN2 = Family("qwen2", qkv_bias=True, windows="qwen", kv_is_heads=True)
_QWEN3 = Family(
    "qwen3", qkv_bias="attention_bias", out_bias="attention_bias", qk_norm="head", windows="qwen", fixed_head_dim=True
)
_GEMMA = Family("gemma", qkv_bias="attention_bias", out_bias="attention_bias", fixed_head_dim=True)
_GPT2 = Family(
    "gpt2",
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
    gated=False,
    norm_bias=True,
    positions=0,
    rotary=False,
    kv_is_heads=True,
)
_DEEPSEEK = Family("deepseek_v3", attention="mla", experts="first_dense")
_OLMO2 = Family("olmo2", qkv_bias="attention_bias", out_bias="attention_bias", qk_norm="full", kv_is_heads=True)
_GRANITE = replace(_LLAMA, defaults_of="granite")
_T5 = Family("t5", attention="t5", gated=False, rotary=False)

FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "smollm3": replace(_LLAMA, defaults_of="smollm3", windows="qwen", kv_is_heads=False),
    "arcee": replace(_LLAMA, defaults_of="arcee", gated=False),
    "helium": replace(_LLAMA, defaults_of="helium", out_bias=False, fixed_head_dim=True),
    "internlm3": replace(_LLAMA, defaults_of="internlm3", out_bias="mlp_bias", kv_is_heads=False),
    "seed_oss": replace(_LLAMA, defaults_of="seed_oss", out_bias="attention_out_bias", fixed_head_dim=True),
    "apertus": replace(_LLAMA, defaults_of="apertus", mlp_bias=False, gated=False, qk_norm="head", extra="apertus"),
    "hunyuan_v1_dense": replace(_LLAMA, defaults_of="hunyuan_v1_dense", mlp_bias=False, qk_norm="head"),
    "mistral": _MISTRAL,
    "ministral": replace(_MISTRAL, defaults_of="ministral"),
    "ministral3": replace(_MISTRAL, defaults_of="ministral3"),
    "mixtral": replace(_MISTRAL, defaults_of="mixtral", experts="all"),
    "qwen2": _QWEN2,
    "qwen2_vl_text": replace(_QWEN2, defaults_of="qwen2_vl_text"),
    "qwen2_5_vl_text": replace(_QWEN2, defaults_of="qwen2_5_vl_text"),
    "qwen2_moe": replace(
        _QWEN2, defaults_of="qwen2_moe", qkv_bias="qkv_bias", experts="step", shared_gate=True, shared_dense=True
    ),
    "qwen3": _QWEN3,
    "qwen3_vl_text": replace(_QWEN3, defaults_of="qwen3_vl_text", windows="none"),
    "qwen3_moe": replace(_QWEN3, defaults_of="qwen3_moe", experts="step", fixed_head_dim=False),
    "qwen3_vl_moe_text": replace(_QWEN3, defaults_of="qwen3_vl_moe_text", experts="step", windows="none"),
    "qwen3_next": replace(
        _QWEN3,
        defaults_of="qwen3_next",
        windows="none",
        query_gate=True,
        state="gdn",
        experts="step",
        shared_gate=True,
        shared_dense=True,
    ),
    "qwen3_5_text": replace(_QWEN3, defaults_of="qwen3_5_text", windows="none", query_gate=True, state="gdn"),
    "qwen3_5_moe_text": replace(
        _QWEN3,
        defaults_of="qwen3_5_moe_text",
        windows="none",
        query_gate=True,
        state="gdn",
        experts="all",
        shared_gate=True,
        shared_dense=True,
    ),
    "gemma": _GEMMA,
    "gemma2": replace(_GEMMA, defaults_of="gemma2", norms=4, windows="alternate"),
    "gemma3_text": replace(
        _GEMMA, defaults_of="gemma3_text", norms=4, qk_norm="head", windows="every", window_period=6, rotary_tables=2
    ),
    "gemma3n_text": replace(
        _GEMMA,
        defaults_of="gemma3n_text",
        norms=4,
        qk_norm="head",
        windows="every",
        window_period=5,
        rotary_tables=2,
        extra="gemma3n",
    ),
    "gemma4_text": replace(
        _GEMMA,
        defaults_of="gemma4_text",
        norms=4,
        qk_norm="head",
        windows="every",
        window_period=6,
        rotary_tables=2,
        extra="gemma4",
    ),
    "phi": replace(_GPT2, defaults_of="phi", norms=1, positions=-1, rotary=True, head_bias=True, kv_is_heads=True),
    "phi3": Family("phi3", windows="uniform", kv_is_heads=True),
    "phimoe": replace(
        _BIASED, defaults_of="phimoe", norm_bias=True, head_bias="lm_head_bias", experts="all", windows="uniform"
    ),
    "deepseek_v2": replace(_DEEPSEEK, defaults_of="deepseek_v2"),
    "deepseek_v3": replace(_DEEPSEEK, router_bias=True),
    "deepseek_v32": replace(_DEEPSEEK, defaults_of="deepseek_v32", router_bias=True),
    "kimi_k2": replace(_DEEPSEEK, router_bias=True),
    "glm4_moe_lite": replace(_DEEPSEEK, defaults_of="glm4_moe_lite", router_bias=True),
    "glm_moe_dsa": replace(_DEEPSEEK, defaults_of="glm_moe_dsa", router_bias=True),
    "glm": Family("glm", qkv_bias="attention_bias", fixed_head_dim=True),
    "glm4": Family("glm4", qkv_bias="attention_bias", norms=4, fixed_head_dim=True),
    "glm4_moe": Family(
        "glm4_moe",
        qkv_bias="attention_bias",
        qk_norm="head",
        qk_norm_if="use_qk_norm",
        experts="first_dense",
        router_bias=True,
    ),
    "solar_open": Family(
        "solar_open", qkv_bias="attention_bias", experts="first_dense", router_bias=True, fixed_head_dim=True
    ),
    "dots1": Family("dots1", qkv_bias="attention_bias", qk_norm="head", experts="first_dense", router_bias=True),
    "minimax_m2": Family("minimax_m2", qk_norm="full", experts="all", router_bias=True, fixed_head_dim=True),
    "olmo": replace(_BIASED, defaults_of="olmo", norms=0, final_norms=0, kv_is_heads=True),
    "olmo2": _OLMO2,
    "olmo3": replace(_OLMO2, defaults_of="olmo3", windows="every", window_period=4),
    "olmoe": replace(_OLMO2, defaults_of="olmoe", experts="all"),
    "flex_olmo": replace(_OLMO2, defaults_of="flex_olmo", experts="all"),
    "cohere": replace(
        _BIASED, defaults_of="cohere", norms=1, qk_norm="per_head", qk_norm_if="use_qk_norm", kv_is_heads=True
    ),
    "cohere2": replace(_BIASED, defaults_of="cohere2", norms=1, windows="every", window_period=4, kv_is_heads=True),
    "exaone4": Family("exaone4", qk_norm="head", windows="every", window_period=4, kv_is_heads=True),
    "starcoder2": Family(
        "starcoder2",
        qkv_bias="use_bias",
        out_bias="use_bias",
        mlp_bias="use_bias",
        gated=False,
        norm_bias=True,
        windows="uniform",
    ),
    "gpt2": _GPT2,
    "gpt_bigcode": replace(_GPT2, defaults_of="gpt_bigcode", multi_query=True),
    "gptj": replace(
        _GPT2, defaults_of="gptj", qkv_bias=False, out_bias=False, norms=1, positions=-1, rotary=True, head_bias=True
    ),
    "gpt_neox": replace(
        _GPT2, defaults_of="gpt_neox", qkv_bias="attention_bias", out_bias="attention_bias", positions=-1, rotary=True
    ),
    "opt": replace(_GPT2, defaults_of="opt", positions=2),
    "bloom": replace(_GPT2, defaults_of="bloom", positions=-1, final_norms=2),
    "falcon": replace(
        _GPT2,
        defaults_of="falcon",
        qkv_bias="bias",
        out_bias="bias",
        mlp_bias="bias",
        positions=-1,
        rotary=True,
        multi_query=True,
        extra="falcon",
    ),
    "stablelm": Family("stablelm", qkv_bias="use_qkv_bias", norm_bias=True, qk_norm="", kv_is_heads=True),
    "nemotron": replace(
        _BIASED, defaults_of="nemotron", mlp_bias="mlp_bias", gated=False, norm_bias=True, kv_is_heads=True
    ),
    "granite": _GRANITE,
    "granitemoe": replace(_GRANITE, defaults_of="granitemoe", mlp_bias=False, experts="all"),
    "granitemoeshared": replace(
        _GRANITE, defaults_of="granitemoeshared", mlp_bias=False, experts="all", shared_dense=True
    ),
    "granitemoehybrid": replace(
        _GRANITE,
        defaults_of="granitemoehybrid",
        mlp_bias=False,
        experts="all",
        shared_dense=True,
        state="mamba2",
        rotary=False,
    ),
    "bamba": replace(_LLAMA, defaults_of="bamba", state="mamba2", kv_is_heads=False),
    "falcon_h1": replace(_LLAMA, defaults_of="falcon_h1", state="mamba2", kv_is_heads=False, extra="parallel_state"),
    "nemotron_h": replace(
        _BIASED,
        defaults_of="nemotron_h",
        mlp_bias="mlp_bias",
        gated=False,
        norms=1,
        experts="pattern",
        router_bias=True,
        shared_dense=True,
        state="mamba2",
        rotary=False,
        fixed_head_dim=True,
    ),
    "jamba": Family("jamba", experts="period", state="mamba1", rotary=False),
    "gpt_oss": replace(
        _BIASED,
        defaults_of="gpt_oss",
        sinks=True,
        experts="all",
        expert_bias=True,
        router_bias=True,
        windows="alternate",
        fixed_head_dim=True,
    ),
    "llama4_text": replace(
        _BIASED, defaults_of="llama4_text", experts="llama4", windows="chunked", window_period=4, fixed_head_dim=True
    ),
    "ernie4_5": Family("ernie4_5", qkv_bias="use_bias", out_bias="use_bias", mlp_bias="use_bias", fixed_head_dim=True),
    "ernie4_5_moe": Family(
        "ernie4_5_moe",
        qkv_bias="use_bias",
        out_bias="use_bias",
        mlp_bias="use_bias",
        experts="interval",
        router_bias=True,
    ),
    "t5": _T5,
    "mt5": replace(_T5, defaults_of="mt5"),
    "umt5": replace(_T5, defaults_of="umt5"),
}
