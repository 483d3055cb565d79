"""Passages are stored unchanged, and filters return exactly those that match."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rag.errors import IndexRefused, InvalidRequest
from rag.interfaces import Scalar
from rag.retrieval.passage_store import Chunk, PassageStore, write_passages

METADATA: list[dict[str, Scalar]] = [
    {"language": "pt", "year": 2020, "draft": True},
    {"language": "en", "year": 2021, "draft": False},
    {"language": "pt", "year": 2021, "rank": 1},
    {"language": "en", "rank": 1.0, "topic": "água\u2028\n"},
]
CHUNKS = [Chunk(f"d{i}#1", f"d{i // 2}", f"Título {i}", f"text {i}\n\u2028", data) for i, data in enumerate(METADATA)]


@pytest.fixture
def store(tmp_path: Path) -> PassageStore:
    write_passages(tmp_path / "passages.jsonl", CHUNKS)
    return PassageStore(tmp_path / "passages.jsonl")


def test_chunks_are_read_by_row(store: PassageStore) -> None:
    assert len(store) == 4
    assert [store[i] for i in range(4)] == CHUNKS
    assert store.documents == 2
    assert store.languages == ["pt", "en", "pt", "en"]


@pytest.mark.parametrize(
    ("filters", "rows"),
    [
        ({}, [0, 1, 2, 3]),
        ({"language": "pt"}, [0, 2]),
        ({"language": "pt", "year": 2021}, [2]),
        ({"year": [2020, 2021]}, [0, 1, 2]),
        ({"year": 2021.0}, [1, 2]),
        ({"language": ["pt", "pt"]}, [0, 2]),
        ({"draft": True}, [0]),
        ({"rank": 1}, [2, 3]),
        ({"rank": True}, []),
        ({"draft": 1}, []),
        ({"year": 1999}, []),
        ({"year": []}, []),
        ({"topic": "água\u2028\n"}, [3]),
    ],
)
def test_filters_match_any_value_of_a_field_and_all_fields(
    store: PassageStore, filters: dict[str, Any], rows: list[int]
) -> None:
    assert store.matching(filters).tolist() == rows


def test_an_unknown_field_is_refused_with_the_known_fields(store: PassageStore) -> None:
    with pytest.raises(InvalidRequest) as refused:
        store.matching({"lang": "pt"})
    assert "'lang'" in refused.value.message
    assert refused.value.remedy == "filter by one of: draft, language, rank, topic, year"


@pytest.mark.parametrize("value", [None, {"a": 1}, [["pt"]], [None]])
def test_a_value_that_is_not_a_scalar_is_refused_with_its_field(store: PassageStore, value: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        store.matching({"language": value})
    assert refused.value.field == "filters.language"


@pytest.mark.parametrize("content", ["", "\n", "[]\n", '{"id": "a"}\n', "not json\n", "[" * 100_000])
def test_a_file_of_another_format_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "passages.jsonl").write_text(content)
    with pytest.raises(IndexRefused, match=r"passages\.jsonl holds no passages"):
        PassageStore(tmp_path / "passages.jsonl")
