r"""Writes the model card and the training curve beside the weights, from the logs and from an evaluation's figures.

    python -m training.evaluate_llm | tail -1 > build/answers.json
    python -m training.model_card --log build/training/log.jsonl --log build/tuning/log.jsonl \
        --answers build/answers.json

No figure is typed by hand, so the card says what was measured.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from string import Template
from typing import Any

from safetensors import safe_open

from training.plot_log import plot, read_logs

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
Portuguese or English. It is the default model of this project: small enough to lie in the repository and to answer at
once on any machine, and no more than that. Any other model takes its place by one setting.

## Architecture

`LlamaForCausalLM`: $layers layers, width $width, $heads heads ($kv_heads for keys and values), feed-forward $hidden, a
vocabulary of $vocabulary (byte-level BPE, digits one by one), tied embeddings, $positions positions, float32,
$megabytes MB. The chat template leaves the system message out. Prompts are those of `rag.prompt.write_messages`; others
it does not know.

## Training

From scratch, on a CPU, in two parts:

1. `python -m training.train_llm`: generated exercises only. Facts about invented names in $relations relations, each
   with several phrasings in both languages, among distractors; spans chosen in prose, the corpus's and invented;
   questions that the passages don't answer. $first
2. `python -m training.tune_llm`: questions written over the documents of `corpus/` (`corpus_questions.jsonl`),
   mixed with generated exercises. $second

The weights start with induction heads by construction (`training/induction.py`). With `--minutes` the curriculum
follows the clock, so a repetition on another machine gives other weights of the same kind; with `--steps` it depends on
the seed alone.

![Loss and held-out scores](training.png)

## Scores

Exact match of greedy answers.

| what | score |
|---|---|
$scores

Held-out exercises have names that training never drew. The questions of `benchmarks/questions.jsonl` are asked with the
passage that answers among $distractors similar ones, so retrieval plays no part. They are worded unlike every training
question, but **the documents are those of the training, and many of the facts are asked there too**: on other documents
expect less, nearer to the held-out exercises.

## Limits

- It copies: it does not reason, count, translate, compare or summarise.
- It often picks the wrong span, above all when several sentences share the question's words, or when none does.
- A refusal or an answer may be wrong: check the answer's source.
- Prompts beyond about 1,300 tokens are longer than any in training.
""")

_LABELS = {
    "facts": "held-out generated facts, one to four passages",
    "refusals": "held-out questions that the passages don't answer: refused",
    "prose": "held-out spans of prose",
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "rag-tiny")
    parser.add_argument("--log", type=Path, action="append", required=True, help="one for each part of the training")
    parser.add_argument("--answers", type=Path, required=True, help="the last line of training.evaluate_llm")
    options = parser.parse_args()
    answers = json.loads(options.answers.read_text("utf-8"))
    (options.model / "README.md").write_text(render(options.model, options.log, answers), "utf-8")
    plot(options.log, options.model / "training.png")


def render(model: Path, logs: list[Path], answers: dict[str, Any]) -> str:
    """The card's text for the weights in `model`."""
    from training.relations import RELATIONS  # noqa: PLC0415 - the tables are only counted here

    config = json.loads((model / "config.json").read_text("utf-8"))
    weights = model / "model.safetensors"
    with safe_open(weights, framework="numpy") as tensors:
        parameters = sum(_size(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    parts = [read_logs([log]) for log in logs]
    held_out: dict[str, float] = next((row["scores"] for row in reversed(parts[-1]) if "scores" in row), {})
    rows = [(label, held_out[name]) for name, label in _LABELS.items() if name in held_out]
    rows.append((f"{answers['questions']} questions over the corpus: the reference answer", answers["exact"]))
    rows.append(("the same: the reference stands in the answer", answers["contains"]))
    if "refused_rightly" in answers:
        rows.append(("the same, those that the corpus doesn't answer: refused", answers["refused_rightly"]))
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
        relations=len(RELATIONS),
        first=_extent(parts[0]),
        second=_extent(parts[1]) if len(parts) > 1 else "Not done for these weights.",
        scores="\n".join(f"| {label} | {share:.1%} |" for label, share in rows),
        distractors=answers["distractors"],
    )


def _size(shape: list[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _extent(rows: list[dict[str, Any]]) -> str:
    last = rows[-1]
    tokens = last["tokens"] / 1e6
    return f"{last['step']:,} steps, {tokens:.2f} million tokens, {last['minutes']:.0f} minutes on two cores."


if __name__ == "__main__":
    main()
