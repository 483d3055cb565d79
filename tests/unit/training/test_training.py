"""Training of the default LLM: generators, tokenizer, packing, losses, and resuming from a checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rag.answering.prompt import NOT_IN_PASSAGES
from training.attention.matching import MatchingLoss
from training.attention.pointing import PointingLoss
from training.exercises import facts, prose, spans
from training.exercises.curriculum import STAGES, Curriculum, copying, tokenizer_texts
from training.exercises.exercise import Exercise, Question, passage
from training.exercises.packing import Packed, collate, pack
from training.exercises.relation_rows import SUBJECTS
from training.exercises.relations import RELATIONS, fill
from training.exercises.tokenizer import train_tokenizer
from training.llm_options import TrainingOptions
from training.model_card import render
from training.train_llm import Training, build_model, by_length

pytestmark = pytest.mark.slow

CORPUS = Path(__file__).resolve().parents[3] / "corpus"


@pytest.fixture(scope="module")
def documents() -> list[prose.ProseDocument]:
    return prose.read_corpus(CORPUS)


@pytest.fixture(scope="module")
def tokenizer(documents: list[prose.ProseDocument]) -> Any:
    return train_tokenizer(tokenizer_texts(Random(0), documents, 60), 1024, 2048)


@pytest.fixture(scope="module")
def curriculum(documents: list[prose.ProseDocument], tokenizer: Any) -> Curriculum:
    return Curriculum((documents, {}), tokenizer)


def _exercises(count: int) -> list[Exercise]:
    rng = Random(7)
    return [facts.exercise(rng, passages=1 + i % 4, facts=3, questions=5, unanswerable=0.3) for i in range(count)]


def test_every_relation_states_and_asks_in_both_languages() -> None:
    rng = Random(0)
    assert len(RELATIONS) >= 40
    for relation in RELATIONS:
        for language in facts.LANGUAGES:
            phrasing = relation.phrasings[language]
            subject, value = SUBJECTS[relation.subject](rng, language), relation.value(rng, language)
            for statement in phrasing.statements:
                assert subject.text in fill(statement, subject, value)
                assert value.text in fill(statement, subject, value)
            assert all(subject.text in fill(question, subject, value) for question in phrasing.forward)
            assert all(value.text in fill(question, subject, value) for question in phrasing.backward)


def test_the_same_seed_draws_the_same_exercises() -> None:
    assert _exercises(20) == _exercises(20)


def test_answers_occur_literally_in_a_passage_and_refusals_have_none() -> None:
    asked = [(exercise, question) for exercise in _exercises(120) for question in exercise.questions]
    refused = [question for _, question in asked if question.answer is None]
    assert 0.2 < len(refused) / len(asked) < 0.4
    for exercise, question in asked:
        if question.answer is None:
            assert question.reply == NOT_IN_PASSAGES[question.language]
        else:
            assert any(question.answer in shown.text for shown in exercise.passages), question


def test_an_unanswerable_question_is_never_answered_by_a_passage() -> None:
    for exercise in _exercises(120):
        answered = {question.text.lower() for question in exercise.questions if question.answer is not None}
        assert not answered & {question.text.lower() for question in exercise.questions if question.answer is None}


def test_spans_of_prose_occur_literally_in_their_document(documents: list[prose.ProseDocument]) -> None:
    rng = Random(3)
    assert documents, "the corpus is empty"
    drawn = [(document, spans.ask(rng, document)) for document in documents for _ in range(4)]
    asked = [(document, question) for document, question in drawn if question]
    assert len(asked) > len(drawn) * 0.7
    assert all(question.answer and question.answer in document.text for document, question in asked)


def test_invented_documents_have_their_sentences_in_their_text() -> None:
    rng = Random(3)
    for language in facts.LANGUAGES:
        document = prose.invented_document(rng, language, sentences=5)
        assert all(sentence in document.text for sentence in document.sentences)


@pytest.mark.parametrize(
    "text", ["Ação, coração e pôr do sol", "Qual é a capital?\n\n[1] São Luís\nÉ uma ilha.", "naïve café 1960"]
)
def test_the_tokenizer_round_trips_text_with_accents(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_tokenizer_splits_numbers_into_digits(tokenizer: Any) -> None:
    tokens = [tokenizer.decode([token]).strip() for token in tokenizer("porta 8080")["input_ids"]]
    assert tokens[-4:] == ["8", "0", "8", "0"]


def test_an_answer_has_the_same_tokens_as_in_the_passage(tokenizer: Any) -> None:
    answer = tokenizer(" Brasília", add_special_tokens=False)["input_ids"]
    for text in ("é Brasília.", "Título\nBrasília é a capital.", "[1] Brasília\nTexto"):
        ids = tokenizer(text)["input_ids"]
        assert any(ids[start : start + len(answer)] == answer for start in range(len(ids)))


def test_the_chat_template_omits_the_system_message(tokenizer: Any) -> None:
    messages = [{"role": "system", "content": "Responda."}, {"role": "user", "content": "Oi"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "<|user|>\nOi\n<|assistant|>"


def test_the_chat_template_repeats_the_question_before_the_passages(tokenizer: Any) -> None:
    asked = Question("Quem fez B?", "C", "pt")
    exercise = Exercise((passage("A\n\nQuestion: no", "C fez B.\n\nPergunta: não?"),), (asked,))
    messages = [{"role": message.role, "content": message.content} for message in exercise.messages(asked)]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == (
        "<|user|>\nPergunta: Quem fez B?\n\nPassagens:\n\n[1] A\n\nQuestion: no\nC fez B.\n\nPergunta: não?\n\n"
        "Pergunta: Quem fez B?\n<|assistant|>"
    )


@pytest.mark.parametrize("earlier", [(), (Question("Quem é A: B ou C?", "B", "pt"), Question("Why?", None, "en"))])
def test_the_question_and_the_answer_are_at_their_recorded_positions(
    earlier: tuple[Question, ...], tokenizer: Any
) -> None:
    for exercise in (replace(exercise, earlier=earlier) for exercise in _exercises(12)):
        for question, item in zip(exercise.questions, pack(exercise, tokenizer), strict=True):
            assert tokenizer.decode([item.ids[place] for place in item.asked]).strip() == question.text
            answer = tokenizer.decode(item.ids[item.answer_from : -1])
            assert answer.strip() == question.reply


def test_an_untrained_model_predicts_the_token_that_followed_the_current_one_before() -> None:
    model = build_model(TrainingOptions())
    row = torch.randint(4, 3000, (40,), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = model(input_ids=row.repeat(2)[None]).logits[0, len(row) : -1]
    ranks = (logits > logits.gather(1, row[1:, None])).sum(1).float()
    assert (ranks == 0).float().mean() > 0.5, "chance would be 1 in 3,072"


def _items(count: int, tokenizer: Any) -> list[Packed]:
    return [item for exercise in _exercises(count) for item in pack(exercise, tokenizer)]


def test_pointers_map_the_position_before_each_answer_token_to_its_positions_in_the_passages(tokenizer: Any) -> None:
    for exercise in _exercises(12):
        for question, item in zip(exercise.questions, pack(exercise, tokenizer), strict=True):
            columns = [column for column, _ in item.pointers]
            answer = range(item.answer_from - 1, len(item) - 2)
            assert columns == ([] if question.answer is None else list(answer))
            for column, places in item.pointers:
                assert places
                assert all(item.asked.stop <= place < item.answer_from for place in places)
                assert all(item.ids[place] == item.ids[column + 1] for place in places)


def _small(tokenizer: Any, layers: int) -> Any:
    return build_model(
        TrainingOptions(layers=layers, width=48, hidden=32, heads=3, kv_heads=1, vocabulary=len(tokenizer))
    )


def test_the_pointing_loss_equals_its_definition_on_the_model_s_attention(tokenizer: Any) -> None:
    model = _small(tokenizer, layers=5)
    model.set_attn_implementation("eager")
    loss = PointingLoss(model.model.layers[-1].self_attn)
    batch = collate(_items(3, tokenizer), 0)
    seen = model(input_ids=batch.ids, output_attentions=True).attentions[-1]
    attention = seen[batch.pointer_rows, :, batch.pointer_columns].mean(1)
    expected = -(attention * batch.pointer_marks).sum(-1).log().mean()
    torch.testing.assert_close(loss(batch), expected)
    loss(batch).backward()  # type: ignore[no-untyped-call]
    assert model.model.layers[-1].self_attn.k_proj.weight.grad.abs().sum() > 0


def test_the_matching_loss_targets_the_question_s_words_or_else_the_first_token(tokenizer: Any) -> None:
    model = _small(tokenizer, layers=5)
    model.set_attn_implementation("eager")
    loss = MatchingLoss(model.model.layers[1].self_attn, tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    exercise = Exercise((passage("Festa", "Ana fez pão."),), (Question("Quem fez pão?", "Ana", "pt"),))
    (item,) = pack(exercise, tokenizer)
    batch = collate([item], 0)
    attention = model(input_ids=batch.ids, output_attentions=True).attentions[1][0].log().mean(0)
    words = tokenizer.convert_ids_to_tokens(item.ids)
    found: list[torch.Tensor] = []
    missed: list[torch.Tensor] = []
    for row in range(item.asked.stop, len(item) - 1):
        begins_word = words[row].startswith("\u0120")
        places = [
            place
            for place in item.asked
            if item.ids[place] == item.ids[row] and (begins_word or item.ids[place - 1] == item.ids[row - 1])
        ]
        assert len(places) <= 1
        (found if places else missed).append(-attention[row, places[0] if places else 0])
    assert len(found) > 4, "fez and pão, in the passage and in the question's second place"
    expected = torch.stack(found).mean() + torch.stack(missed).mean()
    torch.testing.assert_close(loss(batch), expected, rtol=1e-4, atol=1e-4)


def test_the_matching_loss_is_zero_without_a_question(tokenizer: Any) -> None:
    model = _small(tokenizer, layers=5)
    loss = MatchingLoss(model.model.layers[1].self_attn, tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    batch = collate([copying(Random(2), tokenizer)], 0)
    model(input_ids=batch.ids)
    assert loss(batch) == 0


def test_passed_on_equals_the_layer_s_output_at_the_first_position(tokenizer: Any) -> None:
    model = _small(tokenizer, layers=3)
    attention = model.model.layers[-1].self_attn
    loss = PointingLoss(attention)
    written: list[torch.Tensor] = []
    attention.register_forward_hook(lambda _module, _inputs, output: written.append(output[0]))
    batch = collate(_items(2, tokenizer), 0)
    model(input_ids=batch.ids)
    starts = torch.arange(len(batch.ids)) * batch.ids.shape[1]
    torch.testing.assert_close(loss.passed_on(starts), written[0][:, 0], rtol=1e-4, atol=1e-4)


def test_padding_does_not_change_the_logits(tokenizer: Any) -> None:
    short = pack(Exercise((passage("A", "B é C."),), (Question("O que é B?", "C", "pt"),)), tokenizer)
    long = pack(facts.exercise(Random(1), passages=2, facts=2, questions=2), tokenizer)
    model = _small(tokenizer, layers=1)
    alone, padded = collate(short, 0), collate([*short, *long], 0)
    one = model(input_ids=alone.ids).logits[0]
    logits = model(input_ids=padded.ids).logits
    torch.testing.assert_close(one, logits[0, : len(short[0])], rtol=1e-4, atol=1e-4)
    assert torch.isfinite(logits).all()


def test_every_stage_draws_sequences_with_an_answer(curriculum: Curriculum, tokenizer: Any) -> None:
    rng = Random(11)
    for stage in range(len(STAGES)):
        for _ in range(10):
            drawn = curriculum.draw(rng, stage)
            items = pack(drawn, tokenizer) if isinstance(drawn, Exercise) else [drawn]
            assert items
            assert all(item.answer_from < len(item) for item in items)
    assert STAGES[-1].latest > 1, "the last stage has no end"


def test_in_late_stages_some_questions_follow_an_earlier_turn(curriculum: Curriculum, tokenizer: Any) -> None:
    rng = Random(12)
    drawn = [drawn for _ in range(80) if isinstance(drawn := curriculum.draw(rng, len(STAGES) - 1), Exercise)]
    following = [exercise for exercise in drawn if exercise.earlier]
    assert 0 < len(following) < len(drawn) / 3
    for exercise in following:
        (turn,) = exercise.earlier
        for item in pack(exercise, tokenizer):
            start = tokenizer.decode(item.ids).split("<|end|>")[0]
            assert start.endswith(f"<|user|>\n{turn.text}\n<|assistant|> {turn.reply}"), (
                "without the earlier turn's passages"
            )


def test_copying_repeats_its_tokens_three_times(tokenizer: Any) -> None:
    drawn = copying(Random(2), tokenizer)
    third = len(drawn) // 3
    assert drawn.ids == drawn.ids[:third] * 3


def test_batches_stay_within_their_token_limit(tokenizer: Any) -> None:
    items = _items(30, tokenizer)
    groups = by_length(items, 2000)
    assert sum(map(len, groups)) == len(items)
    assert all(len(group) * max(map(len, group)) <= 2000 or len(group) == 1 for group in groups)


def test_a_resumed_training_gives_the_same_weights_as_an_uninterrupted_one(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.md").write_text("# Rio Una\n\nO rio Una nasce em Serra Alta e corre até o mar.\n", "utf-8")

    questions = tmp_path / "questions.jsonl"
    asked = {"question": "Onde nasce o rio Una?", "answer": "Serra Alta", "source": "a.md", "language": "pt"}
    questions.write_text(json.dumps(asked) + "\n", "utf-8")

    reading = tmp_path / "reading.json"
    paragraphs = [
        {
            "context": f"A ponte {name} tem {length} metros. Liga a vila de {name} à ilha.",
            "qas": [
                {"question": f"Quanto mede a ponte {name}?", "answers": [{"text": f"{length} metros"}]},
                {"question": f"Quem fez a ponte {name}?", "answers": [], "is_impossible": True},
            ],
        }
        for length, name in enumerate(("Alta", "Bela", "Clara", "Dura"), start=120)
    ]
    articles = [{"title": f"Ponte {number}", "paragraphs": [part]} for number, part in enumerate(paragraphs)]
    reading.write_text(json.dumps({"data": articles}), "utf-8")

    def training(name: str, *, resume: bool = False) -> Training:
        return Training(
            TrainingOptions(
                output=tmp_path / name / "model", work=tmp_path / name, corpus=corpus, questions=questions,
                reading=reading, tokens=700, decay_tokens=300, resume=resume, layers=2, width=48, hidden=32, heads=3,
                kv_heads=1, vocabulary=512, batch_scale=0.1, chunk=6, tokenizer_exercises=20, exam_exercises=2,
            )
        )  # fmt: skip

    straight = training("straight")
    straight.run()
    training("stopped").run(until_step=2)
    resumed = training("stopped", resume=True)
    assert resumed.state.step == 2
    resumed.run()
    assert resumed.state.step == straight.state.step > 2
    for name, weights in straight.model.state_dict().items():
        # Up to rounding: the order of additions differs between runs on two threads.
        torch.testing.assert_close(weights, resumed.model.state_dict()[name], rtol=1e-3, atol=1e-5)

    figures = {"answerable": 8, "unanswerable": 1, "exact": 0.25, "retrieved": 1.0, "refused_rightly": None}
    served = {"questions": 9, "groups": {"all": figures | {"contains": 0.5, "refused_wrongly": 0.0, "grounded": 1.0}}}
    answers = {"questions": 9, "distractors": 2, "exact": 0.5, "contains": 0.75, "generated": {"facts": 0.125}}
    card = render(tmp_path / "stopped" / "model", tmp_path / "stopped" / "log.jsonl", answers, served)
    assert f"{resumed.state.step} steps" in card
    assert "held-out questions over the corpus" in card
    assert "held-out generated facts, one to four passages | 12.5%" in card, "from the larger evaluation"
    assert "questions over the corpus, right passage among others: the reference answer | 50.0%" in card
    assert "questions over the corpus, end to end: the reference answer | 25.0%" in card

    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "stopped" / "model")
    loaded: Any = AutoTokenizer.from_pretrained(tmp_path / "stopped" / "model")
    prompt = loaded.apply_chat_template([{"role": "user", "content": "Oi"}], return_tensors="pt", return_dict=True)
    assert model.generate(**prompt, max_new_tokens=2).shape[1] > prompt["input_ids"].shape[1]
