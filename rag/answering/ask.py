"""A client's request, independent of the shape in which it came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from rag.interfaces import Language, Message, Sampling, Scalar

Mode: TypeAlias = Literal["answer", "retrieve", "generate", "embed"]
Shape: TypeAlias = Literal["rag", "tgi", "chat"]


@dataclass(frozen=True, slots=True)
class Ask:
    """A client's request. The embed mode embeds all `texts`, the other modes use the first."""

    texts: tuple[str, ...]
    sampling: Sampling
    mode: Mode = "answer"
    history: tuple[Message, ...] = ()
    top_k: int | None = None
    filters: Mapping[str, Scalar | Sequence[Scalar]] = field(default_factory=dict)
    min_score: float | None = None
    language: Language | None = None
    stream: bool = False
    allow_long_context: bool = False
    shape: Shape = "rag"

    @property
    def question(self) -> str:
        """The text to retrieve for and to answer."""
        return self.texts[0]
