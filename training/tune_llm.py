"""The second half of the training: the questions over the shipped corpus, mixed with generated exercises.

    python -m training.train_llm --minutes 60                     # learns to read and to copy
    python -m training.tune_llm --minutes 30 --start build/training

Goes on from the checkpoint and tokenizer in --start, with a rate that falls to nothing, and writes the model again.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

from training.corpus_questions import CorpusQuestions, exam
from training.train_llm import ROOT, Options, State, Training

_EXAM = ROOT / "benchmarks" / "questions.jsonl"


class Tuning(Training):
    """A Training that starts from another one's weights and draws from the corpus's questions."""

    def __init__(self, options: Options, start: Path) -> None:
        options.work.mkdir(parents=True, exist_ok=True)
        if not options.resume:
            shutil.copytree(start / "tokenizer", options.work / "tokenizer", dirs_exist_ok=True)
            shutil.copy(start / "checkpoint.pt", options.work / "checkpoint.pt")
        super().__init__(replace(options, resume=True))
        if not options.resume:
            self.state = State(stage=1, answer_loss=self.state.answer_loss)
        self.exams["corpus"] = exam(self.curriculum.documents, options.corpus, _EXAM)
        self.curriculum = CorpusQuestions(self.curriculum, options.corpus)  # type: ignore[assignment]


def main() -> None:
    """Tune and export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=Path, default=ROOT / "build" / "training")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "tuning")
    parser.add_argument("--output", type=Path, default=ROOT / "models" / "rag-tiny")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--export-minutes", type=float, default=5.0)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--resume", action="store_true")
    arguments = vars(parser.parse_args())
    start = arguments.pop("start")
    Tuning(Options(**arguments), start).run()


if __name__ == "__main__":
    main()
