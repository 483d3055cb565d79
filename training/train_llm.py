"""Trains the default LLM from scratch: it answers from given passages, in Portuguese and English.

    python -m training.train_llm --output models/rag-tiny   # two hours on two cores
    python -m training.train_llm --squad train.json         # with additional texts and questions, in SQuAD's format
    python -m training.train_llm --resume                   # from the last checkpoint

The curriculum and the learning rate depend on the tokens processed, so the result depends on the seed and the options,
not on the machine's speed. A resumed run may have other options: fewer --tokens end it earlier.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from tqdm import tqdm
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rag.process import process_memory
from training.attention.induction import ROPE_THETA, start_with_induction_heads
from training.exercises.curriculum import STAGES, Curriculum, tokenizer_texts
from training.exercises.exercise import Exercise
from training.exercises.packing import IGNORED, Batch, Packed, collate, pack
from training.exercises.scoring import Scores, held_out, score
from training.exercises.texts import read_material
from training.exercises.tokenizer import train_tokenizer
from training.llm_options import TrainingOptions, parse_options
from training.losses import CombinedLoss
from training.optimizer import build_optimizers

MAX_PACKED_TOKENS = 1280


@dataclass(slots=True)
class TrainingState:
    """The progress of a run. With the seed it determines all further batches: a chunk depends on its number and stage.

    `answer_loss` is a running mean, which decides when the curriculum advances.
    """

    step: int = 0
    tokens: int = 0
    elapsed_s: float = 0.0
    chunk: int = 0
    stage: int = 0
    answer_loss: float = 8.0
    batch: int = 0


def build_model(options: TrainingOptions) -> LlamaForCausalLM:
    """A Llama of the options' shape, initialised with induction heads."""
    torch.manual_seed(options.seed)
    config = LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.width,
        intermediate_size=options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.kv_heads,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(config)
    start_with_induction_heads(model)
    return model


class Training:
    """A training run: batches, optimizer steps, evaluation, export and checkpoints."""

    def __init__(self, options: TrainingOptions) -> None:
        self.options = options
        self.state = TrainingState()
        torch.set_num_threads(options.threads)
        material = read_material(options.corpus, options.questions, options.reading, options.squad)
        options.work.mkdir(parents=True, exist_ok=True)
        if options.resume:
            self.tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(
                options.work / "tokenizer"
            )
        else:
            texts = tokenizer_texts(
                Random(f"{options.seed}:tokenizer"), material.documents, options.tokenizer_exercises
            )
            self.tokenizer = train_tokenizer(texts, options.vocabulary, 2048)
            self.tokenizer.save_pretrained(options.work / "tokenizer")
        self.curriculum = Curriculum(material.corpus, self.tokenizer, material.reading)
        self.model = build_model(options)
        # Exports and scores use an exponential moving average, which is better than any single step at a high rate.
        self.average = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.optimizers = build_optimizers(self.model, options.learning_rate)
        tokens = self.tokenizer.convert_ids_to_tokens(list(range(len(self.tokenizer))))
        self._loss = CombinedLoss(self.model, tokens, options)
        self._stopping = False
        if options.resume:
            self._load()
        self.exams = held_out(self.curriculum, options.exam_exercises) | material.exams

    # Checkpoints

    @property
    def _checkpoint(self) -> Path:
        return self.options.work / "checkpoint.pt"

    def save(self) -> None:
        """Write the checkpoint atomically."""
        partial = self._checkpoint.with_suffix(".partial")
        torch.save(
            {
                "model": self.model.state_dict(),
                "average": self.average,
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "state": asdict(self.state),
            },
            partial,
        )
        partial.replace(self._checkpoint)

    def _load(self) -> None:
        saved = torch.load(self._checkpoint, weights_only=True)
        self.model.load_state_dict(saved["model"])
        self.average = saved["average"]
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.state = TrainingState(**saved["state"])
        # Drop the log lines after the checkpoint: those steps run again.
        log = self.options.work / "log.jsonl"
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= self.state.step]
        log.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def stop(self) -> None:
        """Stop after the current step and write a checkpoint."""
        self._stopping = True

    # The loop

    @property
    def progress(self) -> float:
        """The share of the planned tokens processed so far."""
        return self.state.tokens / self.options.tokens

    def batches(self) -> Iterator[Batch]:
        """An endless sequence of batches; `state` is updated, so that a resumed run continues with the next batch."""
        while True:
            if self.state.batch == 0:
                stage = STAGES[self.state.stage]
                if self.state.answer_loss < stage.loss or self.progress > stage.latest:
                    self.state.stage += 1
            rng = Random(f"{self.options.seed}:{self.state.chunk}")
            items: list[Packed] = []
            while len(items) < self.options.chunk:
                drawn = self.curriculum.draw(rng, self.state.stage)
                packed = pack(drawn, self.tokenizer) if isinstance(drawn, Exercise) else [drawn]
                items += [item for item in packed if len(item) <= MAX_PACKED_TOKENS]
            groups = by_length(items, int(STAGES[self.state.stage].batch_tokens * self.options.batch_scale))
            rng.shuffle(groups)
            for group in groups[self.state.batch :]:
                self.state.batch += 1
                yield collate(group, self.tokenizer.pad_token_id)
            self.state.chunk, self.state.batch = self.state.chunk + 1, 0

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One optimizer step; returns the losses and the learning rate."""
        left = (self.options.tokens - self.state.tokens) / self.options.decay_tokens
        rate = self.options.learning_rate * learning_rate_share(left, self.state.step, self.options.warm_up_steps)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["share"]
        loss, figures = self._loss(batch, self.state.step)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.state.step += 1
        self.state.answer_loss += (figures["answer_loss"] - self.state.answer_loss) / min(50, self.state.step)
        self.state.tokens += int((batch.targets != IGNORED).sum())
        decay = min(self.options.averaging, self.state.step / (self.state.step + 10))
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                self.average[name].lerp_(value, 1 - decay)
        return {**figures, "rate": rate}

    def run(self, *, until_step: int | None = None) -> None:
        """Train to the last token or `until_step`; evaluate, export and save periodically and at the end."""
        self.model.train()
        started = time.monotonic() - self.state.elapsed_s
        saved = exported = time.monotonic()
        with tqdm(total=1000, desc="per mille of the tokens", mininterval=10) as bar:
            for batch in self.batches():
                losses = self.train_step(batch)
                self.state.elapsed_s = time.monotonic() - started
                if self.state.step % 10 == 0:
                    self.log(losses)
                    bar.set_postfix(loss=f"{losses['answer_loss']:.3f}", step=self.state.step, refresh=False)
                    bar.update(min(1000, int(self.progress * 1000)) - bar.n)
                if self.progress >= 1 or self.state.step == until_step:
                    break
                if self._stopping:
                    self.save()
                    return
                if time.monotonic() - exported > 60 * self.options.export_minutes:
                    self.export()
                    exported = time.monotonic()
                if time.monotonic() - saved > 60 * self.options.save_minutes:
                    self.save()
                    saved = time.monotonic()
        self.save()
        self.export()

    # Results

    def log(self, figures: dict[str, Any]) -> None:
        """Append the progress and `figures` to the log, as a line of JSON."""
        progress = {
            "step": self.state.step,
            "minutes": round(self.state.elapsed_s / 60, 2),
            "progress": round(self.progress, 4),
            "tokens": self.state.tokens,
            "stage": self.state.stage,
        }
        with (self.options.work / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(progress | figures) + "\n")

    def export(self) -> Scores:
        """Score the averaged weights on held-out exercises, and save them with config and tokenizer."""
        averaged = LlamaForCausalLM(self.model.config)
        averaged.load_state_dict(self.average)
        scores = score(averaged, self.tokenizer, self.exams)
        self.log({"scores": scores})
        averaged.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
            do_sample=False,
            max_new_tokens=64,
        )
        self.options.output.mkdir(parents=True, exist_ok=True)
        averaged.save_pretrained(self.options.output)
        self.tokenizer.save_pretrained(self.options.output)
        for path in self.options.output.iterdir():
            path.chmod(0o644)
        tqdm.write(f"step {self.state.step}: " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items()))
        return scores


def by_length(items: list[Packed], batch_tokens: int) -> list[list[Packed]]:
    """Groups of items of similar length, each at most `batch_tokens` tokens with padding."""
    groups: list[list[Packed]] = []
    for item in sorted(items, key=len):
        if groups and (len(groups[-1]) + 1) * len(item) <= batch_tokens:
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups


def learning_rate_share(left: float, step: int, warm_up_steps: int) -> float:
    """Linear warm-up, then constant while `left` is above 1, then cosine decay to 2 % at 0."""
    warm_up = min(1.0, (step + 1) / warm_up_steps)
    decay = 1 - min(1.0, max(0.0, left))
    return warm_up * (0.02 + 0.98 * (1 + math.cos(math.pi * decay)) / 2)


def main() -> None:
    """Train; on SIGTERM save a checkpoint and stop."""
    process_memory.keep_freed_memory()
    training = Training(parse_options(__doc__))
    signal.signal(signal.SIGTERM, lambda *_: training.stop())
    training.run()


if __name__ == "__main__":
    main()
