"""Trains a linear adapter for the embedder: x → f(W·x) → loss → gradient → W ← W − η∇W.

    python -m training.train_adapter pairs.jsonl --output build/adapter          {"question": …, "passage": …} per line
    python -m training.train_adapter train.json --output build/adapter --folds 5  a file in SQuAD's format

A line may have a "group" (questions of a group are never split between training and validation; default: the passage)
and, in logged feedback, "helpful"; lines with "helpful": false are skipped. The embedder is frozen: every text is
embedded once and cached in OUTPUT.embeddings. W starts as the identity and is regularised towards it, so it is never
worse at the start. Cross-entropy uses every other passage of the training split as a negative. Training stops early
when the validation loss no longer falls, and keeps the best W. `--folds` cross-validates: each fold is ranked by a W
that was trained on neither its questions nor its passages. Writes adapter.safetensors, adapter.json and loss.png; the
last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy, mse_loss, normalize
from tqdm import tqdm

from rag.documents.embedding_store import EmbeddingStore, embed_texts
from rag.documents.squad import read_squad
from rag.embedding.adapter import save_adapter, unit
from rag.embedding.sentence_transformer import DEFAULT_MODEL, SentenceTransformerEmbedder
from rag.errors import InvalidRequest, RagError
from rag.interfaces import Language, Vectors
from rag.language import detect_language

_TEMPERATURE = 0.05
_PATIENCE_EPOCHS = 10


@dataclass(frozen=True, slots=True)
class Recipe:
    """Hyperparameters. `pull`: the weight of |W − I|², which regularises W towards the identity."""

    loss: str = "cross-entropy"
    learning_rate: float = 3e-4
    pull: float = 0.03
    epochs: int = 150
    batch: int = 64
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Pairs:
    """Questions, the row of each one's passage in the distinct `passages`, and the number of its group."""

    questions: list[str]
    passages: list[str]
    answers: NDArray[np.int64]
    groups: NDArray[np.int64]


def read_pairs(path: Path, language: Language) -> Pairs:
    """The pairs whose question is in `language`. Raises InvalidRequest for a file with too few groups to split."""
    try:
        if path.suffix == ".json":
            rows = _squad(path)
        else:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
        rows = [row for row in rows if row.get("helpful", True) and detect_language(row["question"]) == language]
        passages = {passage: i for i, passage in enumerate(dict.fromkeys(row["passage"] for row in rows))}
        names = {name: i for i, name in enumerate(dict.fromkeys(row.get("group", row["passage"]) for row in rows))}
        groups = np.array([names[row.get("group", row["passage"])] for row in rows], dtype=np.int64)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRequest(f"{path} has no pairs of question and passage: {error!r}", value=str(path)) from error
    if len(names) < 5:
        raise InvalidRequest(
            f"{path} has {len(names)} groups of {language} questions; training needs 5", value=str(path)
        )
    answers = np.array([passages[row["passage"]] for row in rows], dtype=np.int64)
    return Pairs([row["question"] for row in rows], list(passages), answers, groups)


def _squad(path: Path) -> list[dict[str, Any]]:
    documents, questions = read_squad(path)
    texts = {document.id: document.text for document in documents}
    return [{"question": row.text, "passage": texts[row.document], "group": row.article} for row in questions]


def train(
    queries: Vectors, passages: Vectors, answers: NDArray[np.int64], *, learn: NDArray[np.bool_],
    stop: NDArray[np.bool_], recipe: Recipe,
) -> tuple[NDArray[np.float32], list[tuple[float, float]]]:  # fmt: skip
    """W (dimension, dimension), and the training and validation loss of each epoch.

    `queries` (questions, dimension), `passages` (passages, dimension); `learn` and `stop`, both (questions,), are the
    disjoint training and validation splits.
    """
    torch.manual_seed(recipe.seed)
    x, p, answer = torch.from_numpy(queries), torch.from_numpy(passages), torch.from_numpy(answers)
    identity = torch.eye(x.shape[1])
    weights = identity.clone().requires_grad_()
    optimizer = torch.optim.Adam([weights], lr=recipe.learning_rate)

    def loss_of(rows: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        cosines = normalize(x[rows] @ weights.T, dim=1) @ normalize(p[candidates] @ weights.T, dim=1).T
        right = torch.searchsorted(candidates, answer[rows])
        if recipe.loss == "mse":
            return mse_loss(cosines, torch.nn.functional.one_hot(right, len(candidates)).float())
        return cross_entropy(cosines / _TEMPERATURE, right)

    learn_rows, stop_rows = (torch.from_numpy(np.flatnonzero(part)) for part in (learn, stop))
    learn_candidates, all_candidates = (torch.from_numpy(np.unique(answers[part])) for part in (learn, learn | stop))
    best, best_weights, waited = float("inf"), identity, 0
    curve: list[tuple[float, float]] = []
    for _ in tqdm(range(recipe.epochs + 1), desc="training", unit="epoch"):
        with torch.no_grad():
            curve.append((float(loss_of(learn_rows, learn_candidates)), float(loss_of(stop_rows, all_candidates))))
        if curve[-1][1] < best - 1e-5:
            best, best_weights, waited = curve[-1][1], weights.detach().clone(), 0
        else:
            waited += 1
        if waited >= _PATIENCE_EPOCHS:
            break
        for rows in torch.split(learn_rows[torch.randperm(len(learn_rows))], recipe.batch):
            loss = loss_of(rows, learn_candidates) + recipe.pull * ((weights - identity) ** 2).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return best_weights.numpy(), curve


def ranks(queries: Vectors, passages: Vectors, answers: NDArray[np.int64]) -> NDArray[np.int64]:
    """(questions,): the rank of the right passage among all, by cosine."""
    order = np.argsort(-(queries @ passages.T), axis=1, kind="stable")
    return np.asarray((order == answers[:, None]).argmax(axis=1) + 1)


def cross_validate(queries: Vectors, passages: Vectors, pairs: Pairs, folds: int, recipe: Recipe) -> dict[str, float]:
    """Recall@1, recall@5 and MRR without and with W, each question ranked by a W not trained on its fold."""
    fold = _folds(pairs, folds, recipe.seed)
    adapted = np.empty(len(queries), dtype=np.int64)
    for held_out in range(folds):
        inside, stop = fold == held_out, fold == (held_out + 1) % folds
        weights, _ = train(queries, passages, pairs.answers, learn=~inside & ~stop, stop=stop, recipe=recipe)
        adapted[inside] = ranks(unit(queries[inside] @ weights.T), unit(passages @ weights.T), pairs.answers[inside])
    figures: dict[str, float] = {}
    for name, found in (("plain", ranks(queries, passages, pairs.answers)), ("adapted", adapted)):
        figures |= {f"{name} recall@1": float(np.mean(found == 1)), f"{name} recall@5": float(np.mean(found <= 5)),
                    f"{name} MRR": float(np.mean(1 / found))}  # fmt: skip
    return figures


def _folds(pairs: Pairs, folds: int, seed: int) -> NDArray[np.int64]:
    return np.asarray((np.random.default_rng(seed).permutation(int(pairs.groups.max()) + 1) % folds)[pairs.groups])


def plot(curve: Sequence[tuple[float, float]], image: Path) -> None:
    """Write the loss curves to `image`."""
    # Imported here, because only plotting needs it (requirements-train.txt).
    import matplotlib  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415

    matplotlib.use("Agg")
    from matplotlib import pyplot  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for place, label in enumerate(("training", "validation")):
        axes.plot([losses[place] for losses in curve], label=label)
    axes.axvline(int(np.argmin([losses[1] for losses in curve])), linestyle=":", color="grey", label="best")
    axes.set(xlabel="epoch", ylabel="loss", title="Adapter")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(image, dpi=110)
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help=".jsonl of pairs, or .json in SQuAD's format")
    parser.add_argument("--output", type=Path, required=True, help="directory for the adapter")
    parser.add_argument("--language", choices=("pt", "en"), default="pt", help="language of the texts to adapt")
    parser.add_argument("--loss", choices=("cross-entropy", "mse"), default="cross-entropy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=Recipe().epochs)
    parser.add_argument("--folds", type=int, default=0, help="also cross-validate, with this many folds (3 or more)")
    parser.add_argument("--embedding-model", default=DEFAULT_MODEL)
    options = parser.parse_args(arguments)
    recipe = Recipe(loss=options.loss, seed=options.seed, epochs=options.epochs)
    try:
        pairs = read_pairs(options.data, options.language)
        embedder = SentenceTransformerEmbedder.load(options.embedding_model)
        with EmbeddingStore(options.output.with_name(options.output.name + ".embeddings"), embedder) as store:
            texts = [*pairs.questions, *pairs.passages]
            with tqdm(total=len(texts), desc="embedding", unit="text") as bar:
                vectors = store.vectors(embed_texts(texts, embedder.embed_passages, store, bar.update))[:]
    except RagError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 2
    queries, passages = vectors[: len(pairs.questions)], vectors[len(pairs.questions) :]
    figures = cross_validate(queries, passages, pairs, options.folds, recipe) if options.folds >= 3 else {}
    stop = _folds(pairs, 5, recipe.seed) == 0
    weights, curve = train(queries, passages, pairs.answers, learn=~stop, stop=stop, recipe=recipe)
    about = {
        "questions": len(pairs.questions),
        "passages": len(pairs.passages),
        "loss": recipe.loss,
        "seed": recipe.seed,
    }
    save_adapter(options.output, weights, embedder, [options.language], **about, **figures)
    plot(curve, options.output / "loss.png")
    embedder.close()
    best = min(validation for _, validation in curve)
    print(json.dumps({**about, "epochs": len(curve) - 1, "loss_apart": best, **figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
