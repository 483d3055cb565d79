"""Initialises attention layers as induction heads, so that the model can copy before any training.

An induction head (Olsson et al., 2022, "In-context learning and induction heads") finds an earlier occurrence of the
current token and predicts the token that followed it. Training finds such heads late, since two layers must cooperate
before either one helps: from random weights, a model of this size had barely begun after a million tokens. Here the
first layer starts with a previous-token head, which writes the previous token's content to a subspace ("note"). The
second layer's heads match the current token itself (`training.attention.matching` trains one of them to look in the
question). The next layers' heads match the current token with the notes and copy the token found, and the last layers'
heads can copy whatever they learn to attend to.
Before training, the model predicts about 70 % of a repeated random sequence correctly. All weights remain trainable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import LlamaForCausalLM

ROPE_THETA = 100000.0
# All embeddings share their first component, so that a head can attend by position, independently of the token.
_CONSTANT = 2.0
_PREVIOUS_SCALE = 3.5
_MATCH_SCALE = 5.0
_CONTENT_MATCH_SCALE = 1.5
# Relative to embeddings of standard deviation 1: large enough to be read, and small enough that later layers can still
# read the token embeddings.
_NOTE_SCALE = 1.5
_COPY_SCALE = 3.0
_LATE_COPY_SCALE = 0.5
# The last layer's prediction must outweigh those of the layers before it.
_LAST_COPY_SCALE = 4.0
_LOGIT_SCALE = 0.08


@dataclass(frozen=True, slots=True)
class _Shape:
    """The number of heads, of groups that share keys and values, the head size, and the model's width."""

    heads: int
    groups: int
    size: int
    width: int

    @property
    def repeats(self) -> int:
        """Heads per group."""
        return self.heads // self.groups


@torch.no_grad()
def start_with_induction_heads(model: LlamaForCausalLM, copying_layers: int = 2) -> None:
    """Overwrite the embedding, the last norm and the attention of a new model.

    Raises ValueError for fewer than three heads: notes and contents need separate subspaces.
    """
    config: Any = model.config
    heads, width = config.num_attention_heads, config.hidden_size
    if heads < 3:
        raise ValueError(f"heads is {heads}, but induction heads need at least 3")
    shape = _Shape(heads, config.num_key_value_heads, width // heads, width)
    embedding = model.model.embed_tokens.weight
    embedding.normal_()
    embedding[:, 0] = _CONSTANT
    model.model.norm.weight.fill_(_LOGIT_SCALE)
    basis = nn.init.orthogonal_(torch.empty(width - 1, width - 1))
    basis = torch.cat([torch.zeros(width - 1, 1), basis], dim=1)  # (width - 1, width), orthogonal to the constant
    note, content = basis[: shape.size], basis[shape.size :]
    layers = [layer.self_attn for layer in model.model.layers]
    _note_previous_token(layers[0], shape, content[: shape.size], note)
    for attention in layers[1:2]:  # empty for a single layer
        _match_contents(attention, shape, content)
    for number, attention in enumerate(layers[2 : 2 + copying_layers]):
        _match_notes(attention, shape, content[: shape.size], note)
        _copy_attended(attention, shape, content, _COPY_SCALE, first_piece=number * shape.groups)
    for attention in layers[2 + copying_layers :]:
        last = attention is layers[-1]
        _copy_attended(attention, shape, content, _LAST_COPY_SCALE if last else _LATE_COPY_SCALE, first_piece=0)


def _note_previous_token(attention: Any, shape: _Shape, read: torch.Tensor, note: torch.Tensor) -> None:
    """The first group attends to the previous token (its second head: to the one before) and writes its content."""
    size = shape.size
    attention.k_proj.weight[:size] = 0
    attention.q_proj.weight[: shape.repeats * size] = 0
    for pair, frequency in enumerate(ROPE_THETA ** (-2 * torch.arange(3) / size)):
        attention.k_proj.weight[pair, 0] = _PREVIOUS_SCALE
        for head in range(shape.repeats):
            # A query rotated back by one position matches the previous token's key.
            angle = frequency * (head + 1)
            attention.q_proj.weight[head * size + pair, 0] = _PREVIOUS_SCALE * torch.cos(angle)
            attention.q_proj.weight[head * size + pair + size // 2, 0] = -_PREVIOUS_SCALE * torch.sin(angle)
    attention.v_proj.weight[:size] = read
    attention.o_proj.weight[:, :size] = _NOTE_SCALE * note.T


def _match_contents(attention: Any, shape: _Shape, content: torch.Tensor) -> None:
    """Queries and keys from the current token's content: every token attends to its earlier occurrences.

    The output projection starts near zero, and training determines what is written.
    """
    slow = _slow_components(shape)
    for group in range(shape.groups):
        compared = content[(torch.arange(len(slow)) + group * len(slow)) % len(content)]
        _compare(attention, shape, group, compared, compared, _CONTENT_MATCH_SCALE)
    attention.o_proj.weight.mul_(0.1)


def _match_notes(attention: Any, shape: _Shape, read: torch.Tensor, note: torch.Tensor) -> None:
    """Queries from the current token's content, keys from the notes on the previous token."""
    slow = _slow_components(shape)
    for group in range(shape.groups):
        # Each group compares other components of the notes, so that their errors are independent.
        compared = (torch.arange(len(slow)) + group * shape.size // shape.groups) % shape.size
        _compare(attention, shape, group, read[compared], note[compared], _MATCH_SCALE)


def _slow_components(shape: _Shape) -> torch.Tensor:
    """The components with low rotary frequencies: only those are comparable across a whole prompt."""
    half = torch.arange(shape.size // 5, shape.size // 2)
    return torch.cat([half, half + shape.size // 2])


def _compare(attention: Any, shape: _Shape, group: int, asked: torch.Tensor, kept: torch.Tensor, scale: float) -> None:
    """A group's queries project the residual on `asked` and its keys on `kept`, each (slow components, width)."""
    slow = _slow_components(shape)
    key = torch.randn(shape.size, shape.width) * 0.02
    key[slow] += scale * kept
    attention.k_proj.weight[group * shape.size : (group + 1) * shape.size] = key
    for head in range(group * shape.repeats, (group + 1) * shape.repeats):
        query = torch.randn(shape.size, shape.width) * 0.02
        query[slow] += scale * asked
        attention.q_proj.weight[head * shape.size : (head + 1) * shape.size] = query


def _copy_attended(attention: Any, shape: _Shape, content: torch.Tensor, scale: float, *, first_piece: int) -> None:
    """Values and outputs that copy the attended token's content, `scale` times, one part per group."""
    size = shape.size
    for group in range(shape.groups):
        start = (first_piece + group) * size
        piece = content[torch.arange(start, start + size) % len(content)]
        attention.v_proj.weight[group * size : (group + 1) * size] = piece
        for head in range(group * shape.repeats, (group + 1) * shape.repeats):
            attention.o_proj.weight[:, head * size : (head + 1) * size] = scale / shape.repeats * piece.T
