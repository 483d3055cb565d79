"""Percentiles, and confidence intervals by resampling, without assumptions on the distribution of the values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 1000

Statistic = Callable[[NDArray[np.float64]], float]


def interval(values: Sequence[float], statistic: Statistic, seed: int = 0) -> dict[str, Any]:
    """The statistic of `values` and its 95 % interval (percentile bootstrap, 1,000 resamples); None for no values."""
    if not values:
        return {"value": None, "low": None, "high": None, "samples": 0}
    rng = np.random.default_rng(seed)
    data = np.asarray(values, dtype=np.float64)
    resampled = [statistic(rng.choice(data, len(data))) for _ in range(_RESAMPLES)]
    low, high = np.percentile(resampled, [2.5, 97.5])
    return {
        "value": round(float(statistic(data)), 6),
        "low": round(float(low), 6),
        "high": round(float(high), 6),
        "samples": len(values),
    }


def mean(values: Sequence[float]) -> dict[str, Any]:
    """The mean with its interval."""
    return interval(values, lambda data: float(data.mean()))


def percentiles(values: Sequence[float]) -> dict[str, Any]:
    """p50, p95 and p99, each with its interval."""
    return {f"p{share}": interval(values, _percentile(share)) for share in (50, 95, 99)}


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed; without an interval."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _percentile(share: int) -> Statistic:
    return lambda data: float(np.percentile(data, share))
