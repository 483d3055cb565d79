"""Plots a training log: losses, and exact match on held-out exercises, over the tokens processed.

python -m training.plot_log build/training/log.jsonl models/rag-tiny/training.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any


def read_log(log: Path) -> list[dict[str, Any]]:
    """The log's lines, in order."""
    return [json.loads(line) for line in log.read_text("utf-8").splitlines()]


def plot(log: Path, image: Path, window: int = 10) -> None:
    """Read the JSON lines of `log` and write `image`; losses are means over `window` lines."""
    # Imported here, because only plotting needs it (requirements-train.txt).
    import matplotlib  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415

    matplotlib.use("Agg")
    from matplotlib import pyplot  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415

    rows = read_log(log)
    losses = [row for row in rows if "answer_loss" in row]
    scores = [row for row in rows if "scores" in row]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4))
    for name, label in (("answer_loss", "answer"), ("language_loss", "rest of the text")):
        chunks = [losses[start : start + window] for start in range(0, len(losses), window)]
        left.plot(
            [chunk[-1]["tokens"] / 1e6 for chunk in chunks],
            [fmean(row[name] for row in chunk) for chunk in chunks],
            label=label,
        )
    left.set(xlabel="million tokens", ylabel="loss (nats a token)", title="Loss")
    for name in dict.fromkeys(name for row in scores for name in row["scores"]):
        points = [row for row in scores if name in row["scores"]]
        right.plot(
            [row["tokens"] / 1e6 for row in points], [row["scores"][name] for row in points], marker=".", label=name
        )
    right.set(xlabel="million tokens", ylabel="exact match", ylim=(0, 1), title="Held-out exercises")
    left.legend()
    right.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))  # outside, because the curves fill the plot
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(image, dpi=110)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path)
    parser.add_argument("image", type=Path)
    options = parser.parse_args()
    plot(options.log, options.image)


if __name__ == "__main__":
    main()
