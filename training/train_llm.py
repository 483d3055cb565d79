"""Trains the small LLM that ships with the project: it answers from given passages, in Portuguese and English.

    python -m training.train_llm --output models/rag-tiny   # two hours on two cores
    python -m training.train_llm --squad train.json      # with a further file of texts and questions in SQuAD's format
    python -m training.train_llm --resume                # goes on where the last checkpoint stands

The curriculum and the learning rate follow the tokens read, so the result depends on the seed and the plan, not on the
machine's speed. A resumed training may be given another plan: with --tokens nearer, it ends earlier.
"""

from __future__ import annotations

import argparse
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
from torch.nn import functional
from tqdm import tqdm
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rag.process import process_memory
from training.attention.induction import ROPE_THETA, start_with_induction_heads
from training.attention.matching import MatchingLoss
from training.attention.pointing import PointingLoss
from training.exercises.curriculum import STAGES, Curriculum, tokenizer_texts
from training.exercises.exercise import Exercise
from training.exercises.packing import IGNORED, Batch, Packed, collate, pack
from training.exercises.scoring import Scores, held_out, score
from training.exercises.texts import QUESTIONS, READING, read_material
from training.exercises.tokenizer import train_tokenizer
from training.optimizer import build_optimizers

ROOT = Path(__file__).resolve().parents[1]
MAX_PACKED_TOKENS = 1280


@dataclass(frozen=True, slots=True)
class Options:
    """One training's settings. It reads `tokens` in all, the last `decay_tokens` of them at a falling rate."""

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


@dataclass(slots=True)
class State:
    """Where a training stands. A chunk of exercises is drawn from (seed, chunk, stage), so this says it all.

    `answer_loss` is a running mean, by which the curriculum moves on."""

    step: int = 0
    tokens: int = 0
    elapsed_s: float = 0.0
    chunk: int = 0
    stage: int = 0
    answer_loss: float = 8.0
    batch: int = 0


def build_model(options: Options) -> LlamaForCausalLM:
    """A Llama of the options' shape, untrained but for its induction heads."""
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
    """One run: draws batches, steps, evaluates, exports, and can be taken up again from its checkpoint."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.state = State()
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
        # Exports and scores use an average over the last steps: better than any one of them while the rate is high.
        self.average = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.optimizers = build_optimizers(self.model, options.learning_rate)
        self._pointing_loss = PointingLoss(self.model.model.layers[-1].self_attn, options.first_token_weight)
        tokens = self.tokenizer.convert_ids_to_tokens(list(range(len(self.tokenizer))))
        # The layer that starts by looking for contents: see training/attention/induction.py.
        self._matching_loss = MatchingLoss(self.model.model.layers[1].self_attn, tokens)
        self._sampling = torch.Generator()
        self._stopping = False
        if options.resume:
            self._load()
        self.exams = held_out(self.curriculum, options.exam_exercises) | material.exams

    # Checkpoints

    @property
    def _checkpoint(self) -> Path:
        return self.options.work / "checkpoint.pt"

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
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
        self.state = State(**saved["state"])
        # What the log holds of the steps after the checkpoint is about to be done again.
        log = self.options.work / "log.jsonl"
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= self.state.step]
        log.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def stop(self) -> None:
        """End after the present step, with a checkpoint to resume from."""
        self._stopping = True

    # The loop

    @property
    def progress(self) -> float:
        """From 0 to 1, by the tokens read."""
        return self.state.tokens / self.options.tokens

    def batches(self) -> Iterator[Batch]:
        """Batches without end; `state` follows, so that a resumed training draws on where it stopped."""
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
        """One update; returns the losses and the rate."""
        left = (self.options.tokens - self.state.tokens) / self.options.decay_tokens
        rate = self.options.learning_rate * learning_rate_share(left, self.state.step, self.options.warm_up_steps)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["share"]
        hidden = self.model.model(input_ids=batch.ids, use_cache=False).last_hidden_state
        targets = batch.targets.flatten()
        answer = batch.answer.flatten() & (targets != IGNORED)
        # The head takes much of the arithmetic and most targets are not of answers, so a sample of them does.
        self._sampling.manual_seed(self.state.step)
        sampled = torch.rand(len(targets), generator=self._sampling) < self.options.language_sample
        language = (targets != IGNORED) & ~answer & sampled
        kept = answer | language
        logits = self.model.lm_head(hidden.flatten(0, 1)[kept])
        losses = functional.cross_entropy(logits, targets[kept], reduction="none")
        # An answer's first token is the choice among all spans; the others only go on copying, which is learnt first.
        first = batch.first.flatten()[kept][answer[kept]]
        weights = 1 + (self.options.first_token_weight - 1) * first.float()
        answer_losses = losses[answer[kept]]
        answer_loss = (answer_losses * weights).sum() / weights.sum().clamp(min=1)
        first_loss = answer_losses[first].mean().nan_to_num()
        language_loss = losses[language[kept]].sum() / language.sum().clamp(min=1)
        pointing_loss = self._pointing_loss(batch)
        copying_loss = self._copying_loss(batch)
        matching_loss = self._matching_loss(batch)
        loss = (
            answer_loss
            + self.options.language_loss * language_loss
            + self.options.pointing_loss * pointing_loss
            + self.options.copying_loss * copying_loss
            + self.options.matching_loss * matching_loss
        )
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.state.step += 1
        self.state.answer_loss += (answer_loss.item() - self.state.answer_loss) / min(50, self.state.step)
        self.state.tokens += int((targets != IGNORED).sum())
        decay = min(self.options.averaging, self.state.step / (self.state.step + 10))
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                self.average[name].lerp_(value, 1 - decay)
        return {
            "answer_loss": answer_loss.item(),
            "first_token_loss": first_loss.item(),
            "pointing_loss": pointing_loss.item(),
            "copying_loss": copying_loss.item(),
            "matching_loss": matching_loss.item(),
            "language_loss": language_loss.item(),
            "rate": rate,
        }

    def _copying_loss(self, batch: Batch) -> torch.Tensor:
        """How badly the last layer names the token that it attends to, over a tenth of the tokens."""
        chosen = torch.rand(batch.ids.numel(), generator=self._sampling) < 0.1
        places = (chosen & batch.targets.flatten().ne(IGNORED)).nonzero().squeeze(1)
        named = self.model.lm_head(self.model.model.norm(self._pointing_loss.passed_on(places)))
        return functional.cross_entropy(named, batch.ids.flatten()[places]) if len(places) else torch.zeros(())

    def run(self, *, until_step: int | None = None) -> None:
        """Train to the end of the plan, or until a step; evaluates, exports and saves on the way and at the end."""
        self.model.train()
        started = time.monotonic() - self.state.elapsed_s
        saved = exported = time.monotonic()
        with tqdm(total=1000, desc="per mille of the plan", mininterval=10) as bar:
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
        """Append a line to the log: where the training stands, and the figures."""
        where = {
            "step": self.state.step,
            "minutes": round(self.state.elapsed_s / 60, 2),
            "progress": round(self.progress, 4),
            "tokens": self.state.tokens,
            "stage": self.state.stage,
        }
        with (self.options.work / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(where | figures) + "\n")

    def export(self) -> Scores:
        """Score the averaged weights on held-out exercises and write them, with all that `from_pretrained` reads."""
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
    """Groups of items of like length, each at most `batch_tokens` tokens with its padding."""
    groups: list[list[Packed]] = []
    for item in sorted(items, key=len):
        if groups and (len(groups[-1]) + 1) * len(item) <= batch_tokens:
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups


def learning_rate_share(left: float, step: int, warm_up_steps: int) -> float:
    """Linear warm-up, then a constant rate while `left` is above 1, then a cosine down to 2 % at 0."""
    warm_up = min(1.0, (step + 1) / warm_up_steps)
    fall = 1 - min(1.0, max(0.0, left))
    return warm_up * (0.02 + 0.98 * (1 + math.cos(math.pi * fall)) / 2)


def parse(arguments: list[str] | None = None) -> Options:
    """Options from the command line, each flag named as its field."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in asdict(Options()).items():
        flag = "--" + name.replace("_", "-")
        if isinstance(default, bool):
            parser.add_argument(flag, action="store_true")
        else:
            kind = Path if default is None or isinstance(default, Path) else type(default)
            parser.add_argument(flag, type=kind, default=default)
    return Options(**vars(parser.parse_args(arguments)))


def main() -> None:
    """Train; SIGTERM saves a checkpoint first."""
    process_memory.keep_freed_memory()
    training = Training(parse())
    signal.signal(signal.SIGTERM, lambda *_: training.stop())
    training.run()


if __name__ == "__main__":
    main()
