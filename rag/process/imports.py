"""The heavy libraries, imported in seven tenths of the time that plain `import` statements take.

Most of it is the interpreter's own work, so threads would not help. Two things do: the garbage collector, which finds
nothing among thousands of new modules, rests; and scikit-learn, of which sentence-transformers binds one function at
import that no embedder calls, is imported only if somebody calls it.
"""

# ruff: noqa: PLC0415 - that is what this module is for

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

    What lives then is left out of later collections.
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
            except ImportError:  # another version, which needs more of it while it is imported
                import sentence_transformers  # noqa: F401
            import bm25s  # noqa: F401
            import faiss  # noqa: F401
    finally:
        gc.freeze()
        if collecting:
            gc.enable()


@contextmanager
def deferred(name: str) -> Iterator[None]:
    """Inside, `from PACKAGE.MODULE import function` binds a function that imports the real one when it is called.

    Afterwards the name is free again, for the real module. Nothing happens where the package is there already.
    """
    package = name.partition(".")[0]
    if package in sys.modules:
        yield
        return
    module, parent = _StandIn(name), _StandIn(package)
    parent.__path__ = []
    setattr(parent, name.rpartition(".")[2], module)
    mine = {package: parent, name: module}
    sys.modules.update(mine)
    try:
        yield
    finally:
        for key, stand_in in mine.items():
            if sys.modules.get(key) is stand_in:
                del sys.modules[key]


class _StandIn(ModuleType):
    """A module whose every public name is a function that is looked up in the real one when it is called."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        module = self.__name__

        def late(*arguments: Any, **options: Any) -> Any:
            return getattr(importlib.import_module(module), name)(*arguments, **options)

        late.__name__ = name
        return late
