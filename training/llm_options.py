"""The options of the LLM's training, and their command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from training.exercises.texts import QUESTIONS, READING

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """A training run over `tokens` tokens; the learning rate decays over the last `decay_tokens` of them."""

    output: Path = ROOT / "models" / "rag-tiny"
    work: Path = ROOT / "build" / "training"
    corpus: Path = ROOT / "corpus"
    questions: Path = QUESTIONS
    reading: Path = READING
    squad: Path | None = None
    seed: int = 1
    tokens: int = 19_000_000
    decay_tokens: int = 13_000_000
    batch_scale: float = 1.0
    chunk: int = 512
    learning_rate: float = 3e-3
    warm_up_steps: int = 100
    first_token_weight: float = 5.0
    language_loss: float = 0.1
    pointing_loss: float = 0.5
    copying_loss: float = 0.3
    matching_loss: float = 0.2
    language_sample: float = 0.2
    averaging: float = 0.995
    layers: int = 6
    width: int = 192
    hidden: int = 384
    heads: int = 6
    kv_heads: int = 3
    vocabulary: int = 3072
    save_minutes: float = 3.0
    export_minutes: float = 20.0
    tokenizer_exercises: int = 1500
    exam_exercises: int = 40
    threads: int = 2
    resume: bool = False


def parse_options(description: str | None, arguments: Sequence[str] | None = None) -> TrainingOptions:
    """Options from the command line; every field has a flag of the same name."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in asdict(TrainingOptions()).items():
        flag = "--" + name.replace("_", "-")
        if isinstance(default, bool):
            parser.add_argument(flag, action="store_true")
        else:
            kind = Path if default is None or isinstance(default, Path) else type(default)
            parser.add_argument(flag, type=kind, default=default)
    return TrainingOptions(**vars(parser.parse_args(arguments)))
