"""Which tokens' KV the blocks of ended sequences hold: a radix tree, one block a node. Pure Python: knows no model.

A node's children are keyed by the tokens of the block that follows, so a prefix is found by one hash lookup a block.
The dictionary compares the tokens after their hash: a collision can't return the KV of other tokens. The keys are kept
sorted as well: the child that shares the most tokens with a prompt is a neighbour of the prompt's place among them, so
the block in which the common prefix ends is found by bisection.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import merge
from operator import itemgetter
from typing import NamedTuple

# Tokens are packed into bytes, which are compared and hashed much faster than tuples of integers.
TOKEN_BYTES = 4
# A shorter prefix is computed faster than it is found and copied.
SHORTEST_PREFIX_TOKENS = 16


def pack(tokens: Sequence[int]) -> bytes:
    """Token ids as bytes, `TOKEN_BYTES` each."""
    return struct.pack(f"{len(tokens)}i", *tokens)


def common_tokens(one: bytes, other: bytes) -> int:
    """Tokens in the longest common prefix of two packed sequences. By bisection: slices are compared faster than a loop
    over the tokens."""
    low, high = 0, min(len(one), len(other)) // TOKEN_BYTES
    while low < high:
        middle = (low + high + 1) // 2
        if one[low * TOKEN_BYTES : middle * TOKEN_BYTES] == other[low * TOKEN_BYTES : middle * TOKEN_BYTES]:
            low = middle
        else:
            high = middle - 1
    return low


class Prefix(NamedTuple):
    """The first `num_tokens` of a prompt, whose KV is in `block_ids`; the last block may hold them in part only.

    Writing over the rest of the last block would lose `lost_tokens`; None where other blocks continue it.
    """

    block_ids: Sequence[int]
    num_tokens: int
    lost_tokens: int | None = None


@dataclass(eq=False, slots=True)
class _Node:
    """The tokens in a block, and which blocks hold them after the tokens of `parent`.

    A root has no parent and no block: its key is what every sequence under it begins with.
    """

    key: bytes
    parent: _Node | None = None
    blocks: dict[int, None] = field(default_factory=dict)
    children: dict[bytes, _Node] = field(default_factory=dict)
    sorted_keys: list[bytes] = field(default_factory=list)

    @property
    def block(self) -> int:
        """The block that has held these tokens the longest."""
        return next(iter(self.blocks))

    def child(self, key: bytes) -> _Node:
        """The child with this key, added where there is none."""
        if key not in self.children:
            self.children[key] = _Node(key, self)
            insort(self.sorted_keys, key)
        return self.children[key]

    def remove(self, child: _Node) -> None:
        del self.children[child.key]
        del self.sorted_keys[bisect_left(self.sorted_keys, child.key)]

    def closest(self, tokens: bytes) -> Iterator[tuple[int, _Node]]:
        """The children, each with the length of its common prefix with `tokens`, the longest first."""
        keys, place = self.sorted_keys, bisect_left(self.sorted_keys, tokens)
        before = ((common_tokens(tokens, keys[index]), keys[index]) for index in range(place - 1, -1, -1))
        after = ((common_tokens(tokens, keys[index]), keys[index]) for index in range(place, len(keys)))
        for common, key in merge(before, after, key=itemgetter(0), reverse=True):
            yield common, self.children[key]


class PrefixTree:
    """What blocks hold, by their tokens: at most one entry a block. Not thread-safe.

    `reusable(written, shared)` returns from how many of `shared` leading tokens a sequence can go on, where `written`
    tokens have gone into the same blocks.
    """

    def __init__(self, block_size: int, reusable: Callable[[int, int], int]) -> None:
        self._block_bytes = block_size * TOKEN_BYTES
        self._reusable = reusable
        self._roots: dict[bytes, _Node] = {}  # by the first SHORTEST_PREFIX_TOKENS
        self._nodes: dict[int, _Node] = {}  # by block

    def find(self, tokens: bytes) -> Prefix | None:
        """The longest prefix of `tokens` in the tree; None where it is shorter than SHORTEST_PREFIX_TOKENS."""
        node = self._roots.get(_root_key(tokens))
        if node is None:
            return None
        blocks: list[int] = []
        start = 0
        while start + self._block_bytes <= len(tokens):
            child = node.children.get(tokens[start : start + self._block_bytes])
            if child is None:
                break
            node = child
            blocks.append(node.block)
            start += self._block_bytes
        whole = longest = start // TOKEN_BYTES
        last: list[int] = []
        lost_tokens = None
        for common, child in node.closest(tokens[start : start + self._block_bytes]):
            if whole + common <= longest:
                break
            written = whole + len(child.key) // TOKEN_BYTES
            shared = self._reusable(written, whole + common)
            if shared > longest:
                longest, last = shared, [child.block]
                lost_tokens = None if child.children else written - shared
        return Prefix(blocks + last, longest, lost_tokens) if longest >= SHORTEST_PREFIX_TOKENS else None

    def remember(self, tokens: bytes, block_ids: Sequence[int]) -> None:
        """`block_ids` hold the KV of `tokens`."""
        if len(tokens) < SHORTEST_PREFIX_TOKENS * TOKEN_BYTES:
            return
        key = _root_key(tokens)
        node = self._roots.setdefault(key, _Node(key))
        for block, start in zip(block_ids, range(0, len(tokens), self._block_bytes), strict=False):
            node = self._nodes[block] = node.child(tokens[start : start + self._block_bytes])
            node.blocks[block] = None

    def forget(self, block: int) -> None:
        """`block` gets other contents. Where no other block holds the same, those that continue it are lost too."""
        node = self._nodes.pop(block, None)
        if node is None or node.parent is None:
            return
        del node.blocks[block]
        if node.blocks:
            return
        parent = node.parent
        parent.remove(node)
        if parent.parent is None and not parent.children:
            del self._roots[parent.key]


def _root_key(tokens: bytes) -> bytes:
    return tokens[: SHORTEST_PREFIX_TOKENS * TOKEN_BYTES]
