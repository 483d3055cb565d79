"""One step over slots: where each token's key and value go, and what each query sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from rag.backends.attention import additive, on_device, rounded_length, visible_cells
from rag.backends.base import Segment


class Prefill(NamedTuple):
    """A chunk of a prompt: rows `first` to `end` of the step, and the tokens in its slot afterwards."""

    first: int
    end: int
    slot: int
    length: int


class SlotBatch:
    """The slot and position of each token of a step, and the index tensors and masks that its layers share.

    Decodes come first, in the order of their slots: rows 0 to B. Their attention runs over `decode_width` slots from
    `first_slot` on, `decode_length` cells of each.
    """

    def __init__(
        self, segments: Sequence[Segment], max_model_len: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        slots: list[int] = []
        positions: list[int] = []
        self.prefills: list[Prefill] = []
        decodes = []  # (slot, position)
        for segment in segments:
            row, slot, count = len(slots), segment.block_ids[0], len(segment.new_ids)
            if count == 1:
                decodes.append((slot, segment.start))
            else:
                self.prefills.append(Prefill(row, row + count, slot, segment.start + count))
            slots += [slot] * count
            positions += range(segment.start, segment.start + count)
        decode_slots, decode_positions = zip(*decodes, strict=True) if decodes else ((), ())
        self.positions = on_device(positions, device)  # (T,)
        self.first_slot = min(decode_slots, default=0)
        self.decode_slots = on_device([slot - self.first_slot for slot in decode_slots], device)  # (B,)
        self.decode_width = max(decode_slots) + 1 - self.first_slot if decode_slots else 0
        self.decode_length = rounded_length(max(decode_positions, default=-1) + 1, max_model_len)
        self._slots = on_device(slots, device)  # (T,)
        self._decode_positions = on_device(decode_positions, device)  # (B,)
        self._device, self._dtype = device, dtype
        self._store_rows: dict[tuple[int, int], torch.Tensor] = {}
        self._masks: dict[tuple[int, ...], torch.Tensor] = {}

    def store_rows(self, kv_heads: int, cells: int) -> torch.Tensor:
        """(T · H_kv,): the rows of a store, seen as (slots · H_kv · cells, head_dim), that the tokens' heads go to."""
        key = (kv_heads, cells)
        if key not in self._store_rows:
            heads = torch.arange(kv_heads, device=self._device)
            rows = (self._slots[:, None] * kv_heads + heads) * cells + (self.positions % cells)[:, None]
            self._store_rows[key] = rows.flatten()
        return self._store_rows[key]

    def prefill_mask(self, start: int, length: int, group: int, window: int | None, cells: int) -> torch.Tensor:
        """(group · T, held cells): token i of the chunk, at position start + i, sees itself and what precedes it."""
        key = (start, length, group, window or 0, cells)
        if key not in self._masks:
            queries = torch.arange(start, length, device=self._device)[:, None]
            last = torch.tensor([[length - 1]], device=self._device)
            visible = visible_cells(min(length, cells), cells, last, queries, window)
            self._masks[key] = additive(visible.repeat(group, 1), self._dtype)
        return self._masks[key]

    def decode_mask(self, window: int | None, cells: int) -> torch.Tensor:
        """(slots, 1, 1, held cells). A slot without a decode sees its first cell: a row that sees none would be NaN."""
        key = (window or 0, cells)
        if key not in self._masks:
            positions = torch.zeros(self.decode_width, dtype=torch.long, device=self._device)
            positions[self.decode_slots] = self._decode_positions
            queries = positions[:, None]
            visible = visible_cells(min(self.decode_length, cells), cells, queries, queries, window)
            self._masks[key] = additive(visible[:, None, None], self._dtype)
        return self._masks[key]
