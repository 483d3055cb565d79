"""Settings come from the environment, and an error names the wrong one."""

from __future__ import annotations

import pytest

from rag.errors import InvalidRequest
from rag.settings import Settings


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = Settings.from_environment({})
    assert (settings.port, settings.concurrency, settings.context) == (8080, 16, 1024)
    assert Settings.from_environment({"PORT": ""}).port == 8080


def test_sagemaker_s_port_overrides_the_port() -> None:
    assert Settings.from_environment({"PORT": "9000", "SAGEMAKER_BIND_TO_PORT": "8111"}).port == 8111


def test_context_zero_is_the_model_s_own_maximum() -> None:
    assert Settings.from_environment({"CONTEXT": "0"}).context is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"),
        ("CONCURRENCY", "0"),
        ("DTYPE", "int3"),
        ("DEVICE", "tpu"),
        ("TOP_K", "-1"),
        ("DEADLINE_S", "0"),
    ],
)
def test_a_wrong_variable_is_named_with_its_value(name: str, value: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        Settings.from_environment({name: value})
    assert (raised.value.field, raised.value.value) == (name, value)


def test_an_answer_longer_than_the_context_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="MAX_NEW_TOKENS"):
        Settings.from_environment({"CONTEXT": "100", "MAX_NEW_TOKENS": "100"})


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().port = 1
