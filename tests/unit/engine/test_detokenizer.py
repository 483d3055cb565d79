"""Text pieces: whole characters, nothing from a stop string on, the same text for any tokenization."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from rag.engine.detokenizer import TextStream


@cache
def byte_tokenizer() -> Tokenizer:
    """One byte a token: the hardest case for accents and emoji."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def pieces(text: str, stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    stream = TextStream(byte_tokenizer(), stop)
    shown = []
    for token in byte_tokenizer().encode(text).ids:
        shown.append(stream.push(token))
        if stream.stopped:
            break
    return [*shown, stream.flush()], stream.stopped


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
def test_the_pieces_add_up_to_the_text_and_never_split_a_character(text: str) -> None:
    shown, _ = pieces(text)
    assert "".join(shown) == text.lstrip()
    assert not any("\ufffd" in piece for piece in shown if "\ufffd" not in text)


@pytest.mark.parametrize("text", ["São Tomé", "👩🏽‍🚀 voa", "日本"])
def test_accents_and_emoji_come_whole(text: str) -> None:
    assert "".join(pieces(text)[0]) == text


def test_text_ends_before_a_stop_string_even_where_it_spans_tokens() -> None:
    shown, stopped = pieces("Brasília.\n\nPergunta: outra", ("\n\nPergunta",))
    assert ("".join(shown), stopped) == ("Brasília.", True)


def test_a_prefix_of_a_stop_string_that_is_not_completed_is_part_of_the_text() -> None:
    shown, stopped = pieces("um <fi dois <f", ("<fim>",))
    assert ("".join(shown), stopped) == ("um <fi dois <f", False)


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=3))
def test_the_first_stop_string_cuts_the_text_at_any_position(text: str, stop: list[str]) -> None:
    places = [text.find(one) for one in stop if one in text]
    shown, stopped = pieces(text, tuple(stop))
    assert stopped == bool(places)
    assert "".join(shown) == (text[: min(places)] if places else text) or stopped
    assert not any(one in "".join(shown) for one in stop)
