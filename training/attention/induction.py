"""Initial weights that can already copy: attention layers that form induction heads by construction.

An induction head (Olsson et al., 2022, "In-context learning and induction heads") looks for the place where the present
token stood before and predicts what followed there. Training finds such heads late, since two layers must fit before
either helps: from random weights a model of this size had barely begun after a million tokens. Here the first layer
starts with a head that notes which token came before, the second with heads that look for the present token itself
(`training.attention.matching` teaches one of them to look in the question), the next ones with heads that look for
the present token among those notes and name the token they find, and the last ones with heads that can name what
they will learn to look for.
Untrained, the model repeats about 70 % of a random sequence rightly when it comes again. Everything stays trainable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import LlamaForCausalLM

ROPE_THETA = 100000.0
# Every embedding shares its first component, so that a head can find a position whatever stands there.
_CONSTANT = 2.0
_PREVIOUS_SCALE = 3.5
_MATCH_SCALE = 5.0
_CONTENT_MATCH_SCALE = 1.5
# What the heads write is measured against embeddings of standard deviation 1: enough to be seen, not to drown them, or
# later layers could no longer tell which token stands where.
_NOTE_SCALE = 1.5
_COPY_SCALE = 3.0
_LATE_COPY_SCALE = 0.5
# The last layer has the last word: it must outweigh what the others name at a venture.
_LAST_COPY_SCALE = 4.0
_LOGIT_SCALE = 0.08


@dataclass(frozen=True, slots=True)
class _Shape:
    """Heads, groups of heads that share a key and value, components of a head, and the width of the model."""

    heads: int
    groups: int
    size: int
    width: int

    @property
    def repeats(self) -> int:
        """Heads in a group."""
        return self.heads // self.groups


@torch.no_grad()
def start_with_induction_heads(model: LlamaForCausalLM, copying_layers: int = 2) -> None:
    """Overwrite the embedding, the last norm and the attention of a fresh model.

    Raises ValueError when the model has fewer than three heads: notes and content need a part of the width each.
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
    basis = torch.cat([torch.zeros(width - 1, 1), basis], dim=1)  # rows (width - 1, width), none sees the constant
    note, content = basis[: shape.size], basis[shape.size :]
    layers = [layer.self_attn for layer in model.model.layers]
    _note_previous_token(layers[0], shape, content[: shape.size], note)
    for attention in layers[1:2]:  # none in a model of a single layer
        _match_contents(attention, shape, content)
    for number, attention in enumerate(layers[2 : 2 + copying_layers]):
        _match_notes(attention, shape, content[: shape.size], note)
        _name_what_is_found(attention, shape, content, _COPY_SCALE, first_piece=number * shape.groups)
    for attention in layers[2 + copying_layers :]:
        last = attention is layers[-1]
        _name_what_is_found(attention, shape, content, _LAST_COPY_SCALE if last else _LATE_COPY_SCALE, first_piece=0)


def _note_previous_token(attention: Any, shape: _Shape, read: torch.Tensor, note: torch.Tensor) -> None:
    """The first group attends to the token before (its second head: to the one before that) and notes its content."""
    size = shape.size
    attention.k_proj.weight[:size] = 0
    attention.q_proj.weight[: shape.repeats * size] = 0
    for pair, frequency in enumerate(ROPE_THETA ** (-2 * torch.arange(3) / size)):
        attention.k_proj.weight[pair, 0] = _PREVIOUS_SCALE
        for head in range(shape.repeats):
            # A query turned back by one step meets the key of the token before.
            angle = frequency * (head + 1)
            attention.q_proj.weight[head * size + pair, 0] = _PREVIOUS_SCALE * torch.cos(angle)
            attention.q_proj.weight[head * size + pair + size // 2, 0] = -_PREVIOUS_SCALE * torch.sin(angle)
    attention.v_proj.weight[:size] = read
    attention.o_proj.weight[:, :size] = _NOTE_SCALE * note.T


def _match_contents(attention: Any, shape: _Shape, content: torch.Tensor) -> None:
    """Queries and keys made of the present token's content: every token finds where it stood before.

    What is found there is left to the training, which begins with next to nothing being written.
    """
    slow = _slow_components(shape)
    for group in range(shape.groups):
        compared = content[(torch.arange(len(slow)) + group * len(slow)) % len(content)]
        _compare(attention, shape, group, compared, compared, _CONTENT_MATCH_SCALE)
    attention.o_proj.weight.mul_(0.1)


def _match_notes(attention: Any, shape: _Shape, read: torch.Tensor, note: torch.Tensor) -> None:
    """Queries made of the present token's content, keys made of the notes about the token before."""
    slow = _slow_components(shape)
    for group in range(shape.groups):
        # Each group compares other parts of the notes, so that their mistakes differ.
        compared = (torch.arange(len(slow)) + group * shape.size // shape.groups) % shape.size
        _compare(attention, shape, group, read[compared], note[compared], _MATCH_SCALE)


def _slow_components(shape: _Shape) -> torch.Tensor:
    """Only components that the rotary embedding turns slowly compare across a prompt."""
    half = torch.arange(shape.size // 5, shape.size // 2)
    return torch.cat([half, half + shape.size // 2])


def _compare(attention: Any, shape: _Shape, group: int, asked: torch.Tensor, kept: torch.Tensor, scale: float) -> None:
    """A group's queries read `asked` of the residual and its keys `kept`, each (slow components, width)."""
    slow = _slow_components(shape)
    key = torch.randn(shape.size, shape.width) * 0.02
    key[slow] += scale * kept
    attention.k_proj.weight[group * shape.size : (group + 1) * shape.size] = key
    for head in range(group * shape.repeats, (group + 1) * shape.repeats):
        query = torch.randn(shape.size, shape.width) * 0.02
        query[slow] += scale * asked
        attention.q_proj.weight[head * shape.size : (head + 1) * shape.size] = query


def _name_what_is_found(
    attention: Any, shape: _Shape, content: torch.Tensor, scale: float, *, first_piece: int
) -> None:
    """Values and outputs that pass the attended token's content on, each group a piece of it, `scale` times."""
    size = shape.size
    for group in range(shape.groups):
        start = (first_piece + group) * size
        piece = content[torch.arange(start, start + size) % len(content)]
        attention.v_proj.weight[group * size : (group + 1) * size] = piece
        for head in range(group * shape.repeats, (group + 1) * shape.repeats):
            attention.o_proj.weight[:, head * size : (head + 1) * size] = scale / shape.repeats * piece.T
