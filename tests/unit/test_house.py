"""The house rules that a machine can hold: who imports whom, how long a file is, what stands in the README."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RAG = {path.stem for path in (ROOT / "rag").glob("*.py")} - {"__init__"}

# Upper rows may import lower rows and their own, never the other way round.
STOREYS = [
    {
        "boot",
        "build_artifact",
        "example",
        "load",
        "planning",
    },
    {
        "build_index",
        "fusion",
        "grounding",
        "pipeline",
        "prompt",
        "remote",
        "retrieval",
        "run",
        "sessions",
        "telemetry",
        "wire",
    },
    {
        "admission",
        "backend_choice",
        "chunking",
        "documents",
        "embedding",
        "engine",
        "generation",
        "hangups",
        "imports",
        "index",
        "int8_linear",
        "openvino_graph",
        "openvino_paged",
        "reranking",
        "schema",
        "settings",
        "torch_slots",
        "torch_t5",
    },
    {
        "artifact",
        "attention",
        "backend",
        "blocks",
        "call",
        "checkpoint",
        "conformance",
        "embedding_store",
        "index_store",
        "language",
        "ledger",
        "lexical",
        "microbatch",
        "passages",
        "readers",
        "rates",
        "sampling",
        "scheduler",
        "text",
        "vectors",
        "weight_pages",
    },
    {
        "fingerprint",
    },
    {
        "errors",
        "seams",
    },
]
HEAVY = {"torch", "transformers", "sentence_transformers", "faiss", "bm25s", "openvino"}


def imported(path: Path, *, at_import_time: bool = False) -> Iterator[str]:
    """Modules that `path` imports; `at_import_time` leaves out those inside functions and for type checkers only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if at_import_time else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ([f"rag.{alias.name}" for alias in node.names] if node.module == "rag" else [node.module])


def storey(module: str) -> int:
    return next(level for level, names in enumerate(STOREYS) if module in names)


@pytest.mark.parametrize("module", sorted(RAG))
def test_no_import_in_rag_runs_uphill(module: str) -> None:
    for name in imported(ROOT / "rag" / f"{module}.py"):
        package, _, below = name.partition(".")
        if package == "rag":
            assert storey(below.split(".")[0]) >= storey(module), f"{module} imports {name}"


@pytest.mark.parametrize("path", sorted((ROOT / "capacity").rglob("*.py")), ids=lambda path: path.name)
def test_capacity_imports_nothing_of_ours(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & {"rag", "inference", "deploy", "microservices"}


@pytest.mark.parametrize("path", sorted((ROOT / "rag").glob("*.py")), ids=lambda path: path.name)
def test_rag_sees_capacity_only_where_plans_are_made_and_kept(path: Path) -> None:
    if path.stem not in {"backend_choice", "load", "planning"}:
        assert not any(name.split(".")[0] in {"capacity", "deploy"} for name in imported(path))


@pytest.mark.parametrize(
    "module", ["boot", "load", "pipeline", "schema", "settings", "wire", "seams", "errors", "prompt"]
)
def test_what_serves_http_starts_without_the_heavy_libraries(module: str) -> None:
    seen: set[str] = set()
    pending = [module]
    while pending:
        current = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        for name in imported(ROOT / "rag" / f"{current}.py", at_import_time=True):
            assert name.split(".")[0] not in HEAVY, f"{module} → {current} imports {name}"
            if name.startswith("rag."):
                pending.append(name.split(".")[1])


def test_every_setting_stands_in_the_readme() -> None:
    from rag.settings import Settings, table

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, _, meaning in table():
        assert f"| `{name}` |" in readme, name
        assert meaning in readme, f"the README's row of {name} differs from settings.py"
    assert len(table()) == len(Settings.model_fields)
