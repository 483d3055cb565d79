"""Writes the model card and the training curve next to the weights, from the log and the figures of two evaluations.

    python -m training.evaluate_llm | tail -1 > build/answers.json
    python -m benchmarks.answers | tail -1 > build/served.json
    python -m training.model_card --answers build/answers.json --served build/served.json

Every figure in the card is measured, none is written by hand.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from string import Template
from typing import Any

from safetensors import safe_open

from training.plot_log import plot, read_log

ROOT = Path(__file__).resolve().parents[1]

CARD = Template("""\
---
license: apache-2.0
language:
- pt
- en
library_name: transformers
pipeline_tag: text-generation
---
# $name

A decoder of $parameters parameters that answers a question with a short span copied from the given passages, in
Portuguese or English. It is the default model of this project: small enough for the repository and fast on any
machine, but not more than that. One setting replaces it by any other model.

## Architecture

`LlamaForCausalLM`: $layers layers, width $width, $heads heads ($kv_heads for keys and values), feed-forward $hidden, a
vocabulary of $vocabulary (byte-level BPE, digits one by one), tied embeddings, $positions positions, float32,
$megabytes MB. It is trained only on prompts of `rag.answering.prompt.write_messages`. The chat template
omits the system message and repeats the question before the passages, so that their tokens can attend to it.

## Training

From scratch, on a CPU, by `python -m training.train_llm`:
$extent.
The weights are initialised with induction heads (`training/attention/induction.py`), and one head is trained to find
the question's words in the passages (`training/attention/matching.py`). A curriculum in $stages stages, each started
at the target loss or the time limit of the one before, goes from plain copying and single facts to the prompts of
serving:

- facts about invented names in $relations relations, each with several phrasings in both languages, among distractors;
- texts of every kind with paraphrasing questions, written for this training (`reading.json`);
- questions written over the documents of `corpus/` (`corpus_questions.jsonl`); half of these, and of the
  questions over those texts, have their names and numbers replaced by invented ones, so that the answer has to be read;
- spans of prose, from the corpus and invented;
- questions that the passages don't answer.

The learning rate and the curriculum depend on the tokens processed, so the result depends on the seed and the options.
$history
![Loss and held-out scores](training.png)

## Scores

Exact match of greedy answers.

| what | score |
|---|---|
$scores

Held-out exercises have names that do not occur in training; the table has more of generated facts than the curve. The
questions of `benchmarks/questions.jsonl` are asked in two ways: with the passage that answers and $distractors
similar ones (`python -m training.evaluate_llm`), and end to end, with the passages retrieved (`python -m
benchmarks.answers`). None of them is worded similarly to a training question, but **the documents are those of the
training, and many of the facts are asked there too**: on other documents expect lower scores, closer to those of the
held-out exercises.

## Limits

- It copies: it does not reason, count, translate, compare or summarise.
- It often picks the wrong span, above all when several sentences share the question's words, or when none does.
- A refusal or an answer may be wrong: check the answer's source.
- It does not resolve references to earlier turns ("and when?").
- It was trained on prompts of at most about 1,300 tokens.
""")

_LABELS = {
    "facts": "held-out generated facts, one to four passages",
    "facts_after_a_turn": "the same, after another question and its answer",
    "refusals": "held-out questions that the passages don't answer: refused",
    "corpus": "held-out questions over the corpus, the right document among three",
    "reading": "held-out questions over texts not used in training, the right one among three",
    "prose": "held-out spans of prose",
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "rag-tiny")
    parser.add_argument("--log", type=Path, default=ROOT / "build" / "training" / "log.jsonl")
    parser.add_argument("--answers", type=Path, required=True, help="the last line of training.evaluate_llm")
    parser.add_argument("--served", type=Path, required=True, help="the last line of benchmarks.answers")
    parser.add_argument("--history", type=Path, help="a text file: a paragraph on what was special about this training")
    options = parser.parse_args()
    answers = json.loads(options.answers.read_text("utf-8"))
    served = json.loads(options.served.read_text("utf-8"))
    history = options.history.read_text("utf-8").strip() if options.history else ""
    card = render(options.model, options.log, answers, served, history)
    (options.model / "README.md").write_text(card, "utf-8")
    plot(options.log, options.model / "training.png")


def render(model: Path, log: Path, answers: dict[str, Any], served: dict[str, Any], history: str = "") -> str:
    """The card's text for the weights in `model`; `history`: a paragraph on what was special about their training."""
    from training.exercises.curriculum import STAGES  # noqa: PLC0415 - only their lengths are used
    from training.exercises.relations import RELATIONS  # noqa: PLC0415

    config = json.loads((model / "config.json").read_text("utf-8"))
    weights = model / "model.safetensors"
    with safe_open(weights, framework="numpy") as tensors:
        parameters = sum(_size(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    rows = read_log(log)
    held_out: dict[str, float] = next((row["scores"] for row in reversed(rows) if "scores" in row), {})
    held_out |= answers.get("generated", {})
    scores = [(label, held_out.get(name)) for name, label in _LABELS.items()]
    everywhere = served["groups"]["all"]
    for label, figures in (("right passage among others", answers), ("end to end", everywhere)):
        scores += [
            (f"questions over the corpus, {label}: the reference answer", figures["exact"]),
            (f"questions over the corpus, {label}: the reference stands in the answer", figures["contains"]),
            (f"questions over the corpus, {label}: wrongly refused", figures.get("refused_wrongly")),
            (f"questions that the corpus doesn't answer, {label}: refused", figures.get("refused_rightly")),
        ]
    scores.append(("questions over the corpus, end to end: claims that are grounded", everywhere["grounded"]))
    return CARD.substitute(
        name=model.resolve().name,
        parameters=f"{parameters / 1e6:.2f} million",
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        hidden=config["intermediate_size"],
        vocabulary=f"{config['vocab_size']:,}",
        positions=f"{config['max_position_embeddings']:,}",
        megabytes=f"{weights.stat().st_size / 1e6:.1f}",
        stages=len(STAGES),
        relations=len(RELATIONS),
        extent=(
            f"{rows[-1]['step']:,} steps, {rows[-1]['tokens'] / 1e6:.2f} million tokens, "
            f"{rows[-1]['minutes']:.0f} minutes on two shared cores"
        ),
        history=f"\n{history}\n" if history else "",
        scores="\n".join(f"| {label} | {share:.1%} |" for label, share in scores if share is not None),
        distractors=answers["distractors"],
    )


def _size(shape: list[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


if __name__ == "__main__":
    main()
