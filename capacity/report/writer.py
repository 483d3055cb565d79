"""The text and number formats of one language, which every section writes with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from capacity.catalog import read_json
from capacity.errors import UnknownName
from capacity.report.numbers import ENGLISH, PORTUGUESE, Numbers

LANGUAGES = ("pt-BR", "en")
SCENARIOS = ("minimum", "recommended", "ideal")
_WORDING = Path(__file__).parent / "wording"


class Writer:
    """Figures, text and number formats of one language; `say` fills a text's placeholders."""

    def __init__(self, figures: Mapping[str, Any], language: str) -> None:
        self.figures = figures
        self.language, self.text, self.numbers = _language(language)
        self.model: Mapping[str, Any] = figures["model"]
        self.hardware: Mapping[str, Any] = figures["hardware"]
        self.load: Mapping[str, Any] = figures["workload"]
        self.is_reference: bool = figures["method"] == "reference"
        self.context = self.numbers.number(self.load["context_tokens"])
        self.concurrency = self.numbers.number(self.load["concurrency"])
        self.kv_dtype = str(self.load["kv_dtype"]).upper()

    def say(self, key: str, **values: str) -> str:
        """The text `key` with its placeholders filled."""
        return self.text[key].format(**values)

    def scenario(self, name: str) -> Mapping[str, Any]:
        """Figures of a scenario."""
        found: Mapping[str, Any] = self.figures["scenarios"][name]
        return found

    def on_device(self, key: str) -> str:
        """The text `key`, or its variant for a machine without accelerators."""
        return self.text[f"{key}_cpu" if self.hardware["device"] == "cpu" else key]

    def size(self, gib: float, digits: int = 2) -> str:
        """A size in GiB, in smaller units below a tenth of one."""
        return self.numbers.gib(gib, digits) if gib >= 0.1 else self.bytes(gib * 2**30)

    def bytes(self, size: float) -> str:
        """Bytes in the unit that reads best."""
        for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
            if size >= scale:
                return f"{self.numbers.trimmed(size / scale, 2)} {unit}"
        return f"{self.numbers.trimmed(size, 1)} B"

    def count(self, value: float | None) -> str:
        """A count; a dash where there is none."""
        return "—" if value is None else self.numbers.number(value)

    def nodes(self, count: int | None) -> str:
        """A number of nodes, singular or plural."""
        if count is None:
            return self.text["not_feasible"]
        return self.text["node_one"] if count == 1 else self.say("node_many", count=self.numbers.number(count))

    def servers(self, count: int) -> str:
        """A number of nodes of the requested server."""
        values = {"count": self.numbers.number(count), "server": self.hardware["name"]}
        return self.say("server_one" if count == 1 else "server_many", **values)

    def confidence(self, word: str) -> str:
        """How well a fact is known."""
        return self.text[f"confidence_{word}"]

    def capex(self, scenario: Mapping[str, Any]) -> str:
        """A scenario's nodes relative to the minimum's."""
        relative = scenario["relative_capex"]
        if relative is None:
            return "—"
        if not relative:
            return self.text["baseline"]
        return f"{'+' if relative > 0 else '−'}{self.numbers.percent(abs(relative))}"

    def seconds(self, latency: Mapping[str, Any] | None, name: str, *, unit: str) -> str:
        """A latency with its band, in s or ms."""
        if latency is None:
            return self.text["latency_none"]
        scale, digits = (1000.0, 1) if unit == "ms" else (1.0, 2)
        value, low, high = (
            self.numbers.number(latency[f"{name}{end}_s"] * scale, digits) for end in ("", "_low", "_high")
        )
        if latency["label"] == "measured" and not latency["band"]:
            return self.say("latency_measured", value=value, unit=unit)
        return self.say("latency", value=value, unit=unit, low=low, high=high)


def _language(language: str) -> tuple[str, Mapping[str, str], Numbers]:
    """(name, texts, number formats) of a language; the texts are in wording/, with the same keys in every file."""
    names = {"pt-br": "pt-BR", "pt": "pt-BR", "en": "en", "en-us": "en"}
    name = names.get(language.lower())
    if name is None:
        raise UnknownName("language", language, LANGUAGES)
    texts: Mapping[str, str] = read_json(_WORDING / f"{name}.json")
    return name, texts, PORTUGUESE if name == "pt-BR" else ENGLISH
