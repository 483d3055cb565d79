"""Records and errors are equal after serialization; invalid bodies are refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.errors import (
    DoesNotFit,
    Failed,
    InvalidRequest,
    NotReady,
    Overloaded,
    PromptTooLong,
    RagError,
    rebuilt,
    status_of,
)
from rag.interfaces import Delta, TokenDetail
from rag.remote import payloads
from tests.fakes import BROKEN, FakeGenerator
from tests.services import llm_app

REFUSAL = {
    "message": "too large", "requested": {"context_tokens": 9}, "need_bytes": {"kv": 7}, "have_bytes": 5,
    "short_by_bytes": 2, "largest_that_fits": {"context_at_concurrency": 4},
    "fixes": [{"flags": "--context 4", "effect": "fits"}],
}  # fmt: skip


@settings(max_examples=40)
@given(st.text(), st.floats(), st.lists(st.tuples(st.text(), st.floats(allow_nan=False)), max_size=3))
def test_any_delta_reads_back_equal(text: str, logprob: float, top: list[tuple[str, float]]) -> None:
    written = payloads.write_delta(Delta(text, 1, "stop", TokenDetail(5, text, logprob, tuple(top))))
    assert written.count(b"\n") == 1
    read = payloads.read_delta(written)
    assert read is not None
    assert read.token is not None
    assert read.text == text
    assert read.token.logprob == logprob or (math.isnan(logprob) and math.isnan(read.token.logprob))
    assert read.token.top == tuple(top)


@pytest.mark.parametrize(
    "error",
    [
        Overloaded("busy", field="queue", value=64, limit=64, remedy="wait", retry_after_s=2.5, figures={"have": 1}),
        PromptTooLong("too long", field="query", value="9 tokens", limit="8 tokens"),
        NotReady("loading: loading the LLM", field="phase", value="loading the LLM", retry_after_s=1.0),
        Failed("the engine has died", field="phase", value="dead"),
        InvalidRequest("x" * 900, field="f" * 200, value="v" * 500),
        DoesNotFit(REFUSAL),
        BROKEN,
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_raised_again_with_the_same_status_body_and_retry_after(error: RagError) -> None:
    again = rebuilt(error.body())
    assert type(again) is type(error)
    assert again.body() == error.body()
    assert (status_of(again), again.retry_after_s) == (status_of(error), error.retry_after_s)


def test_an_invalid_request_body_is_refused_by_its_field() -> None:
    app = llm_app(FakeGenerator()).test_client()
    response = app.post("/generate", data=b'{"prompt_ids": ["x"], "sampling": {}, "tokenizer": ""}')
    assert response.status_code == 400
    assert response.get_json()["error"]["field"] == "prompt_ids.0"
    assert app.get("/nowhere").status_code == 404
