"""A checkpoint in SmolLM2-135M's shape with random weights, for transformers and for llama.cpp.

python -m benchmarks.harness.smol_checkpoint DIRECTORY OUTPUT.gguf  converts DIRECTORY (needs the package gguf)

Its tokenizer has one token per word, so prompts have exact lengths. The end token's embedding is zero and tied to the
output head, so its logit is 0 among 49,151 random ones: no greedy answer ends early.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

VOCABULARY = 49_152
CONTEXT_TOKENS = 2048
LAYERS = 30
_HIDDEN, _HEADS, _KV_HEADS, _HEAD_DIM, _FEED_FORWARD = 576, 9, 3, 64, 1536
# Parameters of the layers' matrices: queries and outputs, keys and values, the feed-forward's three.
LINEAR_PARAMETERS = LAYERS * _HIDDEN * (2 * _HEADS * _HEAD_DIM + 2 * _KV_HEADS * _HEAD_DIM + 3 * _FEED_FORWARD)
_THETA, _EPSILON = 10_000.0, 1e-5
_GGUF_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def word(token: int) -> str:
    """The text of a token."""
    return f"t{token}"


def make(directory: Path, layers: int = LAYERS) -> None:
    """Write config, bfloat16 weights and tokenizer, unless they exist."""
    from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: PLC0415 - not needed to convert to GGUF
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast  # noqa: PLC0415

    if (directory / "tokenizer.json").exists():
        return
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=_HIDDEN,
        intermediate_size=_FEED_FORWARD,
        num_hidden_layers=layers,
        num_attention_heads=_HEADS,
        num_key_value_heads=_KV_HEADS,
        head_dim=_HEAD_DIM,
        max_position_embeddings=CONTEXT_TOKENS,
        rms_norm_eps=_EPSILON,
        rope_parameters={"rope_type": "default", "rope_theta": _THETA},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    untyped: Any = AutoModelForCausalLM
    model = untyped.from_config(config)
    with torch.no_grad():
        model.get_input_embeddings().weight[0] = 0
    model.to(torch.bfloat16).save_pretrained(directory)
    tokenizer = Tokenizer(models.WordLevel({word(token): token for token in range(VOCABULARY)}, unk_token=word(0)))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast: Any = PreTrainedTokenizerFast
    fast(tokenizer_object=tokenizer, eos_token=word(0), pad_token=word(0)).save_pretrained(directory)


def weights_bytes(directory: Path, dtype: str) -> int:
    """Bytes read by one decode step: every weight once, including the tied head, in `dtype`."""
    stored_bytes = sum(
        path.stat().st_size for path in directory.glob("*.safetensors")
    )  # the headers are a few kB of 270 MB
    return stored_bytes * (2 if dtype == "float32" else 1)


def flops_a_token(layers: int = LAYERS) -> int:
    """FLOP per token of the layers' matrices, without attention and the output head."""
    attention = _HIDDEN * _HEAD_DIM * (2 * _HEADS + 2 * _KV_HEADS)
    return 2 * layers * (attention + 3 * _HIDDEN * _FEED_FORWARD)


def write_gguf(directory: Path, output: Path) -> None:
    """The same weights and vocabulary in float16, with llama.cpp's names and order of rotary pairs."""
    import gguf  # type: ignore[import-not-found, unused-ignore] # noqa: PLC0415 - a peer's package
    from safetensors.torch import load_file  # noqa: PLC0415

    weights = load_file(directory / "model.safetensors")
    layers = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("model.layers."))
    writer = gguf.GGUFWriter(str(output), "llama")
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(_HIDDEN)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_rope_dimension_count(_HEAD_DIM)
    writer.add_rope_freq_base(_THETA)
    writer.add_layer_norm_rms_eps(_EPSILON)
    writer.add_vocab_size(VOCABULARY)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"▁{word(token)}".encode() for token in range(VOCABULARY)])
    writer.add_token_scores([0.0] * VOCABULARY)
    writer.add_token_types([gguf.TokenType.CONTROL, *[gguf.TokenType.NORMAL] * (VOCABULARY - 1)])
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"].half().numpy())
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"].float().numpy())
    for layer in range(layers):
        for theirs, ours in _GGUF_NAMES.items():
            weight = weights[f"model.layers.{layer}.{theirs}.weight"]
            if theirs.endswith(("q_proj", "k_proj")):
                # transformers pairs component i with i + half for the rotary embedding, llama.cpp pairs neighbours
                heads = weight.shape[0] // _HEAD_DIM
                weight = weight.view(heads, 2, _HEAD_DIM // 2, -1).transpose(1, 2).reshape(weight.shape)
            tensor = weight.float() if weight.dim() == 1 else weight.half()
            writer.add_tensor(f"blk.{layer}.{ours}.weight", tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    write_gguf(Path(sys.argv[1]), Path(sys.argv[2]))
