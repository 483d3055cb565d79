"""Imports the heavy libraries in 70 % of the time of plain `import` statements.

Most of that time the interpreter holds its lock, so threads would not help. Two things do: the garbage collector is
off, since it finds nothing to free among thousands of new modules; and scikit-learn is not imported until it is used:
sentence-transformers imports one function of it at start, for a similarity that no embedder here computes.
"""

# ruff: noqa: PLC0415 - importing inside functions is the purpose of this module

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def import_libraries(*, with_retrieval: bool = True) -> None:
    """torch and transformers, and for retrieval sentence-transformers, faiss and bm25s.

    The objects that exist then are excluded from later garbage collections.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401

        if with_retrieval:
            try:
                with deferred("sklearn.metrics"):
                    import sentence_transformers
            except ImportError:  # another version, which needs more of scikit-learn during import
                import sentence_transformers  # noqa: F401
            import bm25s  # noqa: F401
            import faiss  # noqa: F401
    finally:
        gc.freeze()
        if collecting:
            gc.enable()


@contextmanager
def deferred(name: str) -> Iterator[None]:
    """Inside, `from PACKAGE.MODULE import function` binds a placeholder that imports the real function when called.

    Afterwards the module can be imported as usual. Does nothing where the package is imported already.
    """
    package = name.partition(".")[0]
    if package in sys.modules:
        yield
        return
    module, parent = _Placeholder(name), _Placeholder(package)
    parent.__path__ = []
    setattr(parent, name.rpartition(".")[2], module)
    placeholders = {package: parent, name: module}
    sys.modules.update(placeholders)
    try:
        yield
    finally:
        for key, placeholder in placeholders.items():
            if sys.modules.get(key) is placeholder:
                del sys.modules[key]


class _Placeholder(ModuleType):
    """A module whose every public name is a function that calls the real module's, imported on the first call."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        module = self.__name__

        def call_real(*arguments: Any, **options: Any) -> Any:
            return getattr(importlib.import_module(module), name)(*arguments, **options)

        call_real.__name__ = name
        return call_real
