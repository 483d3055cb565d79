"""How large folders, modules and functions may be; what HTTP starts without. pyproject.toml has the import rules."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = [
    "benchmarks",
    "capacity",
    "deploy",
    "examples",
    "microservices",
    "notebooks",
    "rag",
    "rag_client",
    "tests",
    "training",
]
MODULES = [*ROOT.glob("*.py"), ROOT / "serve", *(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))]
FOLDERS = sorted({path.parent for path in MODULES})
HEAVY = {"torch", "transformers", "sentence_transformers", "faiss", "bm25s", "openvino"}


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported_at_start(path: Path) -> Iterator[str]:
    """Modules that importing `path` imports: those inside functions and for type checkers only are left out."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(
    "module",
    [
        "serve", "inference.py", "container.py", "microservices/orchestrator.py", "microservices/supervisor.py",
        "microservices/vector_service.py", "microservices/llm_service.py",
    ],
)  # fmt: skip
def test_what_serves_http_starts_without_the_heavy_libraries(module: str) -> None:
    seen: set[str] = set()
    pending = [module]
    while pending:
        current = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        for name in imported_at_start(ROOT / current):
            assert name.split(".")[0] not in HEAVY, f"{module} → {current} imports {name}"
            file = f"{name.replace('.', '/')}.py"
            if (ROOT / file).is_file():
                pending.append(file)
    assert "rag/errors.py" in seen, "the imports of our own were followed"


@pytest.mark.parametrize("folder", FOLDERS, ids=shown)
def test_a_folder_is_read_at_a_glance(folder: Path) -> None:
    most = 12 if (ROOT / "rag") in (folder, *folder.parents) else 16
    assert len([path for path in folder.glob("*.py") if path.stem != "__init__"]) <= most


@pytest.mark.parametrize("module", MODULES, ids=shown)
def test_a_module_is_read_in_one_sitting(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 350
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name
