"""Parameters of the layers that mix tokens without attention: gated DeltaNet, Mamba and Mamba-2."""

from __future__ import annotations

from capacity.model.config import Config
from capacity.model.parameter_parts import Part, linear


def gated_delta_net(config: Config) -> list[Part]:
    """Gated DeltaNet (Qwen3-Next, Qwen3.5): fused input projections, a short convolution, a gated norm."""
    hidden = config.integer("hidden_size")
    keys = config.integer("linear_num_key_heads") * config.integer("linear_key_head_dim")
    heads, width = config.integer("linear_num_value_heads"), config.integer("linear_value_head_dim")
    values, kernel = heads * width, config.integer("linear_conv_kernel_dim")
    return [
        linear("linear_attn.in_proj_qkvz", hidden, 2 * keys + 2 * values),
        linear("linear_attn.in_proj_ba", hidden, 2 * heads),
        Part("linear_attn.conv1d", (2 * keys + values) * kernel, "split"),
        Part("linear_attn.gates", 2 * heads, "split"),
        Part("linear_attn.norm", width),
        linear("linear_attn.out_proj", values, hidden),
    ]


def mamba2(config: Config) -> list[Part]:
    """Mamba-2: one input projection for gate, x, B, C and the time step."""
    hidden = config.integer("hidden_size")
    heads, width = config.integer("ssm_heads"), config.integer("ssm_head_dim")
    inner = heads * width
    channels = inner + 2 * config.integer("ssm_groups") * config.integer("ssm_state_size")
    kernel = config.integer("conv_kernel")
    bias = (
        config.flag("use_conv_bias", True)
        if config.model_type == "nemotron_h"
        else config.flag("mamba_conv_bias", True)
    )
    projection_bias = config.flag("mamba_proj_bias")
    gated_norm = config.model_type != "falcon_h1" or config.flag("mamba_rms_norm")
    return [
        linear("mamba.in_proj", hidden, inner + channels + heads, bias=projection_bias),
        Part("mamba.conv1d", channels * (kernel + int(bias)), "split"),
        Part("mamba.gates", 3 * heads, "split"),
        Part("mamba.norm", inner if gated_norm else 0, "split"),
        linear("mamba.out_proj", inner, hidden, bias=projection_bias, bias_whole=True),
    ]


def mamba1(config: Config) -> list[Part]:
    """Mamba as Jamba has it: low-rank time step, norms on dt, B and C."""
    hidden, size = config.integer("hidden_size"), config.integer("ssm_state_size")
    inner = config.integer("mamba_expand") * hidden
    given = config.get("mamba_dt_rank") if config.explicit("mamba_dt_rank") else "auto"
    rank = -(-hidden // 16) if given in (None, "auto") else config.integer("mamba_dt_rank")
    kernel = config.integer("conv_kernel") + int(config.flag("mamba_conv_bias", True))
    return [
        linear("mamba.in_proj", hidden, 2 * inner),
        Part("mamba.conv1d", inner * kernel, "split"),
        linear("mamba.x_proj", inner, rank + 2 * size),
        linear("mamba.dt_proj", rank, inner, bias=True),
        Part("mamba.A", inner * size + inner, "split"),
        Part("mamba.norms", rank + 2 * size),
        linear("mamba.out_proj", inner, hidden),
    ]
