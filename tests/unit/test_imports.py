"""A deferred import costs nothing until it is used, and leaves sys.modules as it was."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from rag.process.imports import deferred


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package slowpoke with a module slowpoke.sums that adds."""
    (tmp_path / "slowpoke").mkdir()
    (tmp_path / "slowpoke" / "__init__.py").write_text("")
    (tmp_path / "slowpoke" / "sums.py").write_text("def add(a, b=0):\n    return a + b\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("slowpoke", "slowpoke.sums"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "slowpoke.sums"


def test_a_function_bound_inside_imports_the_real_one_when_it_is_called(package: str) -> None:
    with deferred(package):
        add = importlib.import_module(package).add
    assert package not in sys.modules
    assert add(1, b=2) == 3
    assert package in sys.modules
    assert importlib.import_module(package).add(2, 2) == 4


def test_a_package_that_is_imported_already_is_not_replaced(package: str) -> None:
    real = importlib.import_module(package)
    with deferred(package):
        assert importlib.import_module(package) is real


def test_the_real_module_can_be_imported_after_a_failed_import(package: str) -> None:
    with pytest.raises(ImportError), deferred(package):
        importlib.import_module("slowpoke.absent")
    assert importlib.import_module(package).add(1, 1) == 2
