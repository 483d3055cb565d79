"""BM25 over Portuguese and English texts, with scores that are comparable between questions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rag.errors import IndexRefused
from rag.interfaces import Language
from rag.retrieval import lexical_index
from rag.retrieval.lexical_index import FILES, LexicalIndex, fold, grams, terms

TEXTS: list[tuple[str, Language]] = [
    ("Brasília é a capital do Brasil.", "pt"),
    ("As organizações informaram os preços da informação.", "pt"),
    ("Canberra is the capital of Australia.", "en"),
    ("The servers are running and were cached.", "en"),
]


@pytest.fixture
def index() -> LexicalIndex:
    return LexicalIndex.build([text for text, _ in TEXTS], [language for _, language in TEXTS])


def best(index: LexicalIndex, question: str) -> int:
    return int(index.scores(question).argmax())


def test_folding_removes_accents_and_case() -> None:
    assert fold("AÇÃO Pingüim ﬁm") == "acao pinguim fim"


def test_stop_words_of_both_languages_are_dropped_and_inflections_share_a_stem() -> None:
    assert terms("Quais são as cidades do Brasil?", "pt") == terms("cidade brasil", "pt") == ["cidad", "brasil"]
    assert terms("informações informação informacao informar", "pt") == ["inform"] * 4
    assert terms("What is the running server?", "en") == ["run", "server"]


@pytest.mark.parametrize(
    ("question", "row"),
    [
        ("Qual a capital do brasil?", 0),
        ("informacoes sobre organizacao", 1),
        ("capital of Australia", 2),
        ("cache server run", 3),
        ("capital da Austrália", 2),
    ],
)
def test_the_passage_with_the_question_s_terms_comes_first(index: LexicalIndex, question: str, row: int) -> None:
    assert best(index, question) == row


def test_a_passage_is_stemmed_in_its_own_language() -> None:
    """Only the English stemmer maps "libraries" and "library" to one stem."""
    texts = ["The libraries were loading", "nada"]
    index = LexicalIndex.build(texts, ["en", "pt"], with_grams=False)
    assert index.scores("library load")[0] > 0
    assert LexicalIndex.build(texts, ["pt", "pt"], with_grams=False).scores("library")[0] == 0


def test_grams_match_where_stems_do_not(index: LexicalIndex) -> None:
    assert grams("Os pães, ar") == ["#_pae", "#paes", "#aes_", "#_ar_"]
    stems_only = LexicalIndex.build([text for text, _ in TEXTS], [lang for _, lang in TEXTS], with_grams=False)
    for misspelt, row in (("organisaçoes", 1), ("Camberra", 2), ("Australiana", 2)):
        assert not stems_only.scores(misspelt).any()
        assert best(index, misspelt) == row


def test_very_many_passages_are_indexed_without_grams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lexical_index, "MOST_PASSAGES_WITH_GRAMS", 1)
    assert not LexicalIndex.build(["Canberra", "nada"], ["en", "pt"]).scores("Camberra").any()


def test_an_index_without_grams_is_searched_without_them(tmp_path: Path) -> None:
    """Older indexes have none: the question's grams must not count as terms that the passages lack."""
    index = LexicalIndex.build(["capital do Brasil", "nada"], ["pt", "pt"], with_grams=False)
    index.save(tmp_path)
    assert LexicalIndex.load(tmp_path, ["pt", "pt"]).scores("capital Brasil")[0] == index.scores("capital Brasil")[0]
    assert index.scores("capital Brasil")[0] > 0.3


def test_scores_are_relative_to_the_upper_bound_of_the_question(index: LexicalIndex) -> None:
    full = index.scores("capital brasil")
    diluted = index.scores("capital brasil xilofone")
    assert 0.3 < full[0] < 1
    assert 0 < diluted[0] < full[0], "a term that no passage has lowers every score"
    assert index.scores("capital brasil capital")[0] == full[0], "repeated words count once"


@pytest.mark.parametrize("question", ["", "?!", "de a o", "xilofone"])
def test_a_question_without_known_terms_scores_zero_everywhere(index: LexicalIndex, question: str) -> None:
    assert not index.scores(question).any()


def test_passages_without_any_term_can_be_indexed() -> None:
    assert LexicalIndex.build(["?", "o a"], ["pt", "pt"]).scores("casa").tolist() == [0, 0]


def test_a_loaded_index_scores_like_the_saved_one(index: LexicalIndex, tmp_path: Path) -> None:
    index.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    loaded = LexicalIndex.load(tmp_path, [language for _, language in TEXTS])
    for question in ("capital do Brasil", "running servers", ""):
        np.testing.assert_array_equal(loaded.scores(question), index.scores(question))


def test_equal_texts_give_equal_files(index: LexicalIndex, tmp_path: Path) -> None:
    again = LexicalIndex.build([text for text, _ in TEXTS], [language for _, language in TEXTS])
    index.save(tmp_path / "one")
    again.save(tmp_path / "two")
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".npy")])
def test_an_array_of_pickled_objects_is_refused_without_unpickling(
    index: LexicalIndex, tmp_path: Path, name: str
) -> None:
    index.save(tmp_path)
    trap = tmp_path / "trap"
    np.save(tmp_path / name, np.array([Payload(trap)], dtype=object), allow_pickle=True)
    with pytest.raises(IndexRefused, match="holds no BM25 index"):
        LexicalIndex.load(tmp_path, [language for _, language in TEXTS])
    assert not trap.exists()


def test_arrays_that_point_outside_the_passages_are_refused(index: LexicalIndex, tmp_path: Path) -> None:
    index.save(tmp_path)
    with pytest.raises(IndexRefused, match="are inconsistent"):
        LexicalIndex.load(tmp_path, ["pt"])
    path = tmp_path / "indices.csc.index.npy"
    np.save(path, np.load(path) + 100)
    with pytest.raises(IndexRefused, match="are inconsistent"):
        LexicalIndex.load(tmp_path, [language for _, language in TEXTS])


@pytest.mark.parametrize("content", ["", "[]", "{", '{"backend": "numba"}', '{"unknown": 1}'])
def test_invalid_parameters_are_refused(index: LexicalIndex, tmp_path: Path, content: str) -> None:
    index.save(tmp_path)
    (tmp_path / "params.index.json").write_text(content)
    with pytest.raises(IndexRefused):
        LexicalIndex.load(tmp_path, [language for _, language in TEXTS])
