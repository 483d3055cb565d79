"""Ranking quality: recall@k and mean reciprocal rank (MRR), their table, and reciprocal rank fusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

_RRF_CONSTANT = 60  # Cormack, Clarke and Büttcher, SIGIR 2009

Scores = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RankingQuality:
    """Recall@1 and recall@5 as shares of the questions, and the mean of 1 / rank."""

    recall_at_1: float
    recall_at_5: float
    mrr: float

    @classmethod
    def of(cls, ranks: Sequence[int]) -> RankingQuality:
        """From the rank of the right document for each question, counted from 1."""
        found = np.array(ranks)
        return cls(float(np.mean(found == 1)), float(np.mean(found <= 5)), float(np.mean(1 / found)))

    def figures(self) -> dict[str, float]:
        """The figures for the JSON line."""
        return {"recall@1": self.recall_at_1, "recall@5": self.recall_at_5, "mrr": self.mrr}


def quality_table(title: str, qualities: Mapping[str, RankingQuality]) -> Table:
    """One row per ranking."""
    table = Table(title=title)
    for heading in ("ranking", "recall@1", "recall@5", "MRR"):
        table.add_column(heading, justify="left" if heading == "ranking" else "right")
    for name, quality in qualities.items():
        table.add_row(name, *(f"{figure:.3f}" for figure in quality.figures().values()))
    return table


def order(scores: Scores) -> NDArray[np.int64]:
    """The rows of `scores`, highest first; ties keep their order."""
    return np.argsort(-scores, kind="stable")


def reciprocal_ranks(scores: Scores) -> Scores:
    """1 / (60 + rank) for each of `scores` (documents,): the summands of reciprocal rank fusion."""
    ranks = np.empty(len(scores), dtype=np.float32)
    ranks[order(scores)] = np.arange(1, len(scores) + 1)
    return np.float32(1) / (_RRF_CONSTANT + ranks)
