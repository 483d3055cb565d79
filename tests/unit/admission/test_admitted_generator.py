"""Admission before the generator: an idle session is closed."""

from __future__ import annotations

import pytest

from rag.admission.admitted_generator import AdmittedGenerator
from rag.errors import (
    SessionClosed,
)
from tests.fakes import FakeGenerator, fake_admission
from tests.unit.remote.clients import GREEDY, text_of


def test_an_idle_session_is_closed_by_the_service() -> None:
    now_s = [0.0]
    admission = fake_admission()
    admitted = AdmittedGenerator(FakeGenerator(), admission, idle_s=10, clock=lambda: now_s[0])
    admitted.open_session("old")
    now_s[0] = 9.0
    admitted.open_session("new")
    now_s[0] = 11.0
    admitted.sweep()
    assert admission.usage().sessions == 1
    with pytest.raises(SessionClosed):
        admitted.generate([1], GREEDY, "old")
    assert text_of(admitted.generate([1], GREEDY, "new")) == "Brasília."
