"""Evaluates a trained model: questions over documents, each with its document among distractors.

Also scores it on generated exercises with held-out names, several times as many as during training.

    python -m training.evaluate_llm --model models/rag-tiny --questions benchmarks/questions.jsonl --corpus corpus

A line of the questions' file has `question`, `language`, `answers` (empty: unanswerable) and `source`, the id of the
document that answers. Retrieval is not involved; `python -m benchmarks.answers` measures the whole pipeline. The last
line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.harness.questions import contains, exact
from rag.answering.prompt import NOT_IN_PASSAGES, write_messages
from rag.documents.folder import Document, read_folder
from training.exercises.exercise import passage
from training.exercises.scoring import HELD_OUT, after_a_turn, generated, score

ROOT = Path(__file__).resolve().parents[1]


def distractors(question: str, documents: Sequence[Document], language: str, count: int) -> list[Document]:
    """The documents of that language that share most words with the question, like a retriever's near misses."""
    words = set(re.findall(r"\w{3,}", question.lower()))
    same = [document for document in documents if document.metadata["language"] == language]
    return sorted(same, key=lambda d: -len(words & set(re.findall(r"\w{3,}", f"{d.title} {d.text}".lower()))))[:count]


def answer(model: Any, tokenizer: Any, question: str, documents: Sequence[Document], language: Any) -> str:
    """The model's greedy answer over these documents, with the prompt used in serving."""
    passages = [passage(document.title, document.text) for document in documents]
    messages = [{"role": m.role, "content": m.content} for m in write_messages(question, passages, language)]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=48, do_sample=False)
    text: str = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return text.strip()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "rag-tiny")
    parser.add_argument("--questions", type=Path, default=ROOT / "benchmarks" / "questions.jsonl")
    parser.add_argument("--corpus", type=Path, default=ROOT / "corpus")
    parser.add_argument("--distractors", type=int, default=2, help="passages besides the one that answers")
    parser.add_argument("--generated", type=int, default=200, help="generated exercises, of up to five questions each")
    parser.add_argument("--seed", type=int, default=1, help="seed of the order of the passages")
    parser.add_argument("--show", action="store_true", help="print every answer")
    options = parser.parse_args()
    tokenizer: Any = AutoTokenizer.from_pretrained(options.model)
    model: Any = AutoModelForCausalLM.from_pretrained(options.model)
    exams = generated(Random(HELD_OUT), options.generated)
    scores = score(model, tokenizer, exams | {"facts_after_a_turn": after_a_turn(exams["facts"])})
    documents = read_folder(options.corpus).documents
    by_id = {document.id: document for document in documents}
    by_id |= {f"{document.metadata['source']}#{document.id}": document for document in documents}
    rng = Random(options.seed)
    rows = [json.loads(line) for line in options.questions.read_text("utf-8").splitlines() if line.strip()]
    outcomes: dict[str, list[bool]] = {"exact": [], "contains": [], "refused_rightly": [], "refused_wrongly": []}
    for row in tqdm(rows, desc="questions"):
        gold = [by_id[row["source"]]] if row["source"] else []
        near = distractors(row["question"], documents, row["language"], options.distractors + 1)
        shown = gold + [d for d in near if d not in gold][: options.distractors + (not gold)]
        rng.shuffle(shown)
        said = answer(model, tokenizer, row["question"], shown, row["language"])
        refused = said in NOT_IN_PASSAGES.values()
        if row["answers"]:
            outcomes["exact"].append(exact(said, row["answers"]))
            outcomes["contains"].append(contains(said, row["answers"]))
            outcomes["refused_wrongly"].append(refused)
        else:
            outcomes["refused_rightly"].append(refused)
        if options.show:
            tqdm.write(f"{row['question']} -> {said}   [{' | '.join(row['answers']) or 'refusal'}]")
    figures = {name: round(sum(hits) / len(hits), 4) for name, hits in outcomes.items() if hits}
    print(json.dumps({"questions": len(rows), "distractors": options.distractors, **figures, "generated": scores}))


if __name__ == "__main__":
    main()
