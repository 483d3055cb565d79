"""benchmarks.answers: how answers are scored and summarised. The models are fakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.answers import Outcome, ask_all, by_language, main
from benchmarks.harness.questions import ReferenceQuestion, contains, exact, f1, read_questions
from rag.answering.pipeline import Pipeline
from rag.answering.prompt import NOT_IN_PASSAGES
from rag.settings import Settings
from tests.fakes import FakeGenerator, fake_pipeline
from tests.unit.documents.test_squad import squad_file
from tests.unit.words_embedder import WordsEmbedder

CAPITAL = ReferenceQuestion("Qual a capital do Brasil?", "pt", ("Brasília",), "pt/brasilia.md")
ELSEWHERE = ReferenceQuestion("Where is the capital?", "en", ("in Brasília",), "en/glossary.jsonl#en/nothing.md")
UNKNOWN = ReferenceQuestion("Quem descobriu a penicilina?", "pt", (), None)


def outcomes(text: str, *questions: ReferenceQuestion) -> list[Outcome]:
    generator = FakeGenerator()
    generator.pieces = (text,)
    return list(ask_all(fake_pipeline(generator), questions, max_new_tokens=8))


def test_answers_are_compared_without_case_articles_and_punctuation_but_with_accents() -> None:
    assert exact("a Brasília.", ["brasília"])
    assert not exact("Brasilia", ["Brasília"])
    assert contains("em 21 de abril de 1960", ["1960"])
    assert not contains("19600", ["1960"])


def test_f1_is_that_of_the_best_reference() -> None:
    assert f1("Edmund Hillary", ["Edmund Hillary"]) == 1
    assert f1("Edmund", ["Tenzing Norgay", "Edmund Hillary"]) == pytest.approx(2 / 3)
    assert f1("Oslo", ["Brasília"]) == 0


def test_a_correct_answer_is_exact_grounded_and_from_the_right_document() -> None:
    (outcome,) = outcomes("Brasília.", CAPITAL)
    assert (outcome.exact, outcome.contains, outcome.f1, outcome.refused) == (True, True, 1.0, False)
    assert outcome.grounded
    assert outcome.retrieved
    assert outcome.seconds > 0


def test_a_refusal_is_correct_only_for_an_unanswerable_question() -> None:
    groups = by_language(outcomes(NOT_IN_PASSAGES["pt"], CAPITAL, UNKNOWN))
    assert groups["pt"] == groups["all"]
    assert groups["all"] | {"median_ms": 0, "p95_ms": 0} == {
        "answerable": 1, "unanswerable": 1, "recall_at_1": 1.0, "recall_at_3": 1.0, "recall_at_5": 1.0, "mrr": 1.0,
        "exact": 0.0, "f1": 0.0, "contains": 0.0, "refused_wrongly": 1.0,
        "retrieved": 1.0, "refused_rightly": 1.0, "grounded": None, "median_ms": 0, "p95_ms": 0,
    }  # fmt: skip


def test_figures_are_also_given_by_language() -> None:
    groups = by_language(outcomes("Brasília", CAPITAL, ELSEWHERE, UNKNOWN))
    assert {name: figures["exact"] for name, figures in groups.items()} == {"all": 0.5, "pt": 1.0, "en": 0.0}
    assert groups["pt"]["refused_rightly"] == 0
    assert groups["en"]["refused_rightly"] is None
    assert groups["en"]["retrieved"] == 0


def test_a_document_has_the_rank_of_its_best_passage() -> None:
    second = ReferenceQuestion("Qual era a capital?", "pt", ("Rio de Janeiro",), "en/brazil.md")
    third = ReferenceQuestion("Qual era a capital?", "pt", ("Rio de Janeiro",), "pt/rio.md")
    found = outcomes("Rio de Janeiro", CAPITAL, second, third, ELSEWHERE, UNKNOWN)
    assert [outcome.rank for outcome in found] == [1, 2, 3, None, None]
    figures = by_language(found)["all"]
    assert (figures["recall_at_1"], figures["recall_at_3"]) == (0.25, 0.75)
    assert figures["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 4, abs=1e-4)


def test_the_command_builds_an_index_for_a_file_in_squad_s_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Settings] = []

    def load(settings: Settings, _on_phase: object) -> Pipeline:
        loaded.append(settings)
        return fake_pipeline()

    monkeypatch.setattr("benchmarks.answers.ROOT", tmp_path)
    monkeypatch.setattr("benchmarks.answers.load_embedder", lambda *_: WordsEmbedder())
    assert main(["--data", str(squad_file(tmp_path / "squad.json"))], load=load) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (figures["groups"]["all"]["answerable"], figures["groups"]["all"]["unanswerable"]) == (2, 1)
    manifest = json.loads((Path(loaded[0].index) / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["documents"] == 2


def test_the_project_s_questions_can_be_read() -> None:
    questions = read_questions()
    assert sum(bool(question.answers) for question in questions) == 64
    assert sum(not question.answers for question in questions) == 8


def test_the_command_prints_a_table_and_ends_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = {"question": CAPITAL.text, "language": "pt", "answers": ["Brasília"], "source": "pt/brasilia.md"}
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps(asked) + "\n\n", encoding="utf-8")
    assert main(["--questions", str(path), "--show"], load=lambda *_: fake_pipeline()) == 0
    printed = capsys.readouterr().out
    assert "+ Qual a capital do Brasil? → Brasília.   (Brasília)" in printed
    assert "exact match" in printed
    figures = json.loads(printed.splitlines()[-1])
    assert (figures["questions"], figures["groups"]["all"]["exact"]) == (1, 1.0)


def test_a_question_without_a_required_field_is_refused_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question": "Oi?", "language": "pt", "source": null}\n', encoding="utf-8")
    assert main(["--questions", str(path)], load=lambda *_: fake_pipeline()) == 2
    printed = capsys.readouterr().out.replace("\n", "")
    assert "line 1" in printed
    assert "answers" in printed
