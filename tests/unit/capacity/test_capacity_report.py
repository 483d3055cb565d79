"""The report: every figure of the reference, equal numbers in every form and language, self-contained pages."""

from __future__ import annotations

import datetime
import json
import re
import string
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import sizing
from capacity import EngineSpec, Request, Workload, load_hardware, load_model
from capacity.report import markdown, page, terminal
from capacity.report.figures import ReportOptions, figures
from capacity.report.numbers import ENGLISH, PORTUGUESE
from capacity.report.sections import compose
from capacity.report.writer import Writer

ROOT = Path(__file__).parents[3]
REFERENCE = [
    "report",
    "--method",
    "reference",
    "--model",
    "opt-oss-120b",
    "--server",
    "dgx300",
    "--concurrency",
    "1000",
    "--context",
    "131072",
    "--kv-dtype",
    "fp8",
    "--overhead-gib",
    "120",
]
MOMENT = datetime.datetime(2026, 2, 8, 13, 14, 57, tzinfo=datetime.UTC)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert sizing.main([*REFERENCE, *arguments]) == 0
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    asked = Request(
        load_model("opt-oss-120b"), load_hardware("dgx300"), Workload(131_072, 1000), EngineSpec(kv_dtype="fp8")
    )
    options = ReportOptions("reference", overhead_gib=120, requested_name="opt-oss-120b", hardware_name="dgx300")
    return figures(asked, ReportOptions(**{**_fields(options), "generated_at": MOMENT}))


def _fields(options: ReportOptions) -> dict[str, Any]:
    return {name: getattr(options, name) for name in options.__dataclass_fields__}


# (scenario, field, value, digits), every number that the reference report prints for a scenario.
GOLDEN = [
    (scenario, field, value, digits)
    for scenario, budget, sessions, nodes, headroom in (
        ("minimum", 1418.0, 629, 2, 0.0),
        ("recommended", 1418.0, 629, 3, 0.2),
        ("ideal", 1316.7, 584, 5, 0.3),
    )
    for field, value, digits in (
        ("kv_per_session_gib", 2.25, 2),
        ("kv_total_tib", 2.20, 2),
        ("kv_total_gib", 2252.2, 1),
        ("node_memory_gib", 2145.8, 1),
        ("budget_per_node_gib", budget, 1),
        ("sessions_per_node", sessions, 0),
        ("nodes", nodes, 0),
        ("headroom", headroom, 2),
    )
]


@pytest.mark.parametrize(("scenario", "field", "value", "digits"), GOLDEN)
def test_every_figure_of_the_reference_report(
    reference: dict[str, Any], scenario: str, field: str, value: float, digits: int
) -> None:
    assert round(reference["scenarios"][scenario][field], digits) == value


def test_the_other_figures_of_the_reference_report(reference: dict[str, Any]) -> None:
    scenarios = reference["scenarios"]
    assert [scenarios[name]["budget_ratio"] for name in scenarios] == [0.70, 0.70, 0.65]
    assert [scenarios[name]["ha"] for name in scenarios] == ["none", "N+1", "N+2"]
    assert [scenarios[name]["relative_capex"] for name in scenarios] == [0, 0.5, 1.5]
    assert [scenarios[name]["needed_nodes"] for name in scenarios] == [2, 2, 3]
    assert scenarios["recommended"]["surviving_sessions"] == 1258
    assert scenarios["recommended"]["overhead_gib"] == 120
    assert reference["governance"]["alert_sessions"] == 800
    model, server = reference["model"], reference["hardware"]
    assert (model["layers"], model["kv_heads"], model["attention_pattern"]) == (36, 8, "hybrid")
    assert (server["name"], server["devices"], server["marketing_gb"]) == ("dgx300", 8, 2304)
    assert reference["storage"] == {"name": "profile_default", "read_gb_s": 28, "read_p99_ms": 0.15}


@pytest.mark.parametrize(
    ("language", "numbers"),
    [
        (
            "pt-BR",
            ["2,25 GiB", "2,20 TiB (2.252,2 GiB)", "1.418,0 GiB (de 2.145,8 GiB", "1.316,7 GiB", "131.072 tokens"],
        ),
        ("en", ["2.25 GiB", "2.20 TiB (2,252.2 GiB)", "1,418.0 GiB (of 2,145.8 GiB", "1,316.7 GiB", "131,072 tokens"]),
    ],
)
def test_numbers_are_written_as_the_language_does(reference: dict[str, Any], language: str, numbers: list[str]) -> None:
    text = markdown.render(compose(reference, language))
    for number in [*numbers, "629", "584"]:
        assert number in text
    assert ("08/02/2026" if language == "pt-BR" else "2026-02-08") in text


def numbers_in(text: str, language: str) -> list[float]:
    """The decimal numbers of a text, read by its language's separators."""
    marks = str.maketrans({".": "", ",": "."}) if language == "pt-BR" else str.maketrans({",": ""})
    found = re.findall(r"(?<![\w.,/-])\d[\d.,]*\d|(?<![\w.,/-])\d(?![\w.,])", text)
    return [float(number.translate(marks)) for number in found if not re.fullmatch(r"[\d/]+\.", number)]


def test_portuguese_english_and_json_carry_equal_numbers(reference: dict[str, Any]) -> None:
    texts = {language: compose(reference, language) for language in ("pt-BR", "en")}
    for number in (3, 5):  # the tables of results and of the comparison
        tables = {
            language: re.sub(r"\*\*[^*]*\*\*", " ", "\n".join(map(str, document.sections[number - 1].blocks)))
            for language, document in texts.items()
        }
        figures_of = {language: sorted(numbers_in(_values(text), language)) for language, text in tables.items()}
        assert figures_of["pt-BR"] == figures_of["en"]
    flat = json.dumps(reference)
    for figure in ("2252.197266", "1418.037048", "1316.748688", "2.252197"):
        assert figure in flat


def _values(text: str) -> str:
    """Quoted cells only, without names that hold digits of their own."""
    return re.sub(r"opt-oss-120b|dgx300|N\+\d|P9\d", " ", " ".join(re.findall(r"'([^']*)'", text)))


def test_both_languages_have_the_same_texts_with_the_same_placeholders() -> None:
    words = {
        name: json.loads((ROOT / f"capacity/report/wording/{name}.json").read_text(encoding="utf-8"))
        for name in ("pt-BR", "en")
    }
    assert words["pt-BR"].keys() == words["en"].keys()
    for key, text in words["en"].items():
        placeholders = [
            {name_ for _, name_, _, _ in string.Formatter().parse(words[name][key]) if name_} for name in words
        ]
        assert placeholders[0] == placeholders[1], (key, text)


def test_the_report_has_the_eight_sections_and_a_whole_dictionary(reference: dict[str, Any]) -> None:
    document = compose(reference, "pt-BR")
    assert [section.number for section in document.sections] == list(range(1, 9))
    text = markdown.render(document)
    dictionary = text[text.index("## 8.") :]
    for parameter in (
        "num_layers",
        "num_key_value_heads",
        "attention_pattern",
        "effective_context",
        "concurrency",
        "kv_precision",
        "kv_budget_ratio",
        "runtime_overhead_gib",
        "peak_headroom_ratio",
        "ha_mode",
    ):
        assert f"**{parameter}**" in dictionary
    assert "por exemplo, 0,70 reserva 30%" in dictionary  # not cut at the first dot


def test_no_availability_is_claimed_without_a_model(reference: dict[str, Any]) -> None:
    for language in ("pt-BR", "en"):
        assert "99.9" not in markdown.render(compose(reference, language)).replace(",", ".")


class _Page(HTMLParser):
    """Collects what a page would fetch, its open elements, and its headings."""

    VOID = ("meta", "br", "hr", "img", "link")

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("language", ["pt-BR", "en"])
def test_the_page_is_self_contained_well_formed_and_prints_on_a4(reference: dict[str, Any], language: str) -> None:
    text = page.render(compose(reference, language), Writer(reference, language))
    parsed = _Page()
    parsed.feed(text)
    assert parsed.open == []
    assert parsed.fetched == []
    assert parsed.tags.count("svg") == 3
    assert "script" not in parsed.tags
    assert parsed.tags.count("h2") == 8
    assert "size: A4" in text
    assert "break-before: page" in text
    assert f'<html lang="{language}">' in text


def test_names_are_escaped_in_the_page(reference: dict[str, Any]) -> None:
    hostile = {**reference, "model": {**reference["model"], "name": "<script>alert(1)</script>"}}
    assert "<script>" not in page.render(compose(hostile, "en"), Writer(hostile, "en"))


def test_the_terminal_table_shows_the_scenarios(reference: dict[str, Any]) -> None:
    text = terminal.render(compose(reference, "pt-BR"))
    assert "1.418,0 GiB" in text
    assert "Recomendado" in text


def test_the_command_writes_each_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(capsys, "--json"))
    assert found["scenarios"]["recommended"]["nodes"] == 3
    assert set(found["scenarios"]) == {"minimum", "recommended", "ideal"}
    assert run(capsys, "--format", "md", "--lang", "pt-BR").startswith("# Relatório executivo")
    for suffix, begins in (("html", "<!doctype html>"), ("md", "# Executive report"), ("json", "{")):
        run(capsys, "--output", str(tmp_path / f"report.{suffix}"))
        assert (tmp_path / f"report.{suffix}").read_text(encoding="utf-8").startswith(begins)


def test_a_report_of_what_does_not_fit_lists_fixes(capsys: pytest.CaptureFixture[str]) -> None:
    command = (
        "report --model Llama-3.1-70B --server ml.g5.xlarge --concurrency 8 --context 8192 --format md --lang pt-BR"
    )
    assert sizing.main(command.split()) == 0
    text = capsys.readouterr().out
    assert "inviável" in text
    assert "--hardware" in text


def test_an_objective_is_answered_in_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    command = "report --model Llama-3.1-8B --server ml.g5.xlarge --concurrency 4 --context 4096 --input-tokens 1000"
    command += " --output-tokens 100 --tpot 0.05 --json"
    assert sizing.main(command.split()) == 0
    found = json.loads(capsys.readouterr().out)["scenarios"]["recommended"]
    assert found["objective"]["infeasible"] is None
    assert found["objective"]["sessions_per_node"] >= 1
    assert found["facility"]["usd_per_1k_requests"] > 0


def test_compare_puts_variants_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = "compare --model gpt-oss-20b --model Llama-3.1-8B --server L40S --server ml.g5.xlarge --kv-dtype fp8 "
    command += "--context 16384 --concurrency 20"
    assert sizing.main([*command.split(), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["variants"]
    assert len(rows) == 4
    assert {row["scenarios"]["recommended"]["nodes"] is not None for row in rows} == {True}
    assert sizing.main([*command.split(), "--lang", "pt-BR", "--output", str(tmp_path / "compare.html")]) == 0
    text = (tmp_path / "compare.html").read_text(encoding="utf-8")
    assert text.count("<svg") == 1
    assert text.count("gpt-oss-20b") >= 2


def test_a_variant_with_an_invalid_request_has_its_error_beside_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    command = "compare --model gpt-oss-20b --model Phi-4 --server L40S --context 32768 --concurrency 4 --json"
    assert sizing.main(command.split()) == 0
    rows = json.loads(capsys.readouterr().out)["variants"]
    assert rows[0]["error"] is None
    assert "above Phi-4's maximum" in rows[1]["error"]


def test_thousands_and_decimal_separators() -> None:
    assert (PORTUGUESE.number(1234567.891, 2), ENGLISH.number(1234567.891, 2)) == ("1.234.567,89", "1,234,567.89")
    assert (PORTUGUESE.trimmed(0.5), PORTUGUESE.percent(0.125, 1)) == ("0,5", "12,5%")


@pytest.mark.parametrize("model", ["DeepSeek-V3.2", "Qwen3-Next-80B-A3B", "Mistral-7B-v0.1", "t5-small", "Jamba-v0.1"])
@pytest.mark.parametrize("machine", ["dgx300", "ml.g5.xlarge", "cpu"])
def test_every_family_on_every_kind_of_machine_can_be_reported(model: str, machine: str) -> None:
    asked = Request(load_model(model), load_hardware(machine), Workload(512, 20))
    found = figures(asked, ReportOptions(tpot_s=0.05, node_availability=0.99) if machine != "cpu" else ReportOptions())
    for language in ("pt-BR", "en"):
        text = page.render(compose(found, language), Writer(found, language))
        assert "{" not in text[text.index("<main>") :]
