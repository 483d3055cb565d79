"""The house rules that a machine can hold: who imports whom, how long a file is, what stands in the README."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RAG = {
    ".".join(path.relative_to(ROOT / "rag").with_suffix("").parts)
    for path in (ROOT / "rag").rglob("*.py")
    if path.stem != "__init__"
}

# Upper rows may import lower rows and their own, never the other way round.
STOREYS = [
    {
        "serving.lifecycle",
        "build_artifact",
        "serving.example",
        "composition",
        "planning",
        "remote.retrieval_plan",
    },
    {
        "admission.admitted_generator",
        "build_index",
        "documents.ray_embedding",
        "retrieval.fusion",
        "answering.grounding",
        "remote.payloads",
        "remote.servables",
        "answering.pipeline",
        "answering.prompt",
        "remote.clients",
        "remote.remote_admission",
        "retrieval.hybrid",
        "answering.run",
        "remote.http_client",
        "answering.sessions",
        "serving.telemetry",
        "serving.responses",
    },
    {
        "embedding.adapter",
        "admission.admission",
        "backends.choice",
        "documents.chunking",
        "documents.folder",
        "embedding.sentence_transformer",
        "engine.engine",
        "engine.generator",
        "serving.disconnects",
        "process.imports",
        "retrieval.index",
        "backends.openvino_graph",
        "backends.openvino_paged",
        "retrieval.reranking",
        "serving.requests",
        "settings",
        "backends.torch_slots",
        "backends.torch_t5",
    },
    {
        "artifact",
        "backends.attention",
        "backends.base",
        "engine.block_pool",
        "retrieval.calibration",
        "cancellation",
        "engine.chat_tokenizer",
        "checkpoint",
        "remote.circuit_breaker",
        "answering.text_matching",
        "backends.self_test",
        "documents.embedding_store",
        "retrieval.manifest",
        "backends.int8_linear",
        "language",
        "admission.ledger",
        "retrieval.lexical_index",
        "embedding.microbatch",
        "retrieval.passage_store",
        "admission.rates",
        "documents.readers",
        "engine.sampling",
        "engine.scheduler",
        "engine.detokenizer",
        "retrieval.vector_index",
        "backends.mapped_weights",
    },
    {
        "embedding.fingerprint",
    },
    {
        "errors",
        "process.process_memory",
        "interfaces",
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
            whole = node.module == "microservices" or (
                (ROOT / node.module.replace(".", "/")).is_dir() and node.module.startswith("rag")
            )
            yield from ([f"{node.module}.{alias.name}" for alias in node.names] if whole else [node.module])


def storey(module: str) -> int:
    return next(level for level, names in enumerate(STOREYS) if module in names)


@pytest.mark.parametrize("module", sorted(RAG))
def test_no_import_in_rag_runs_uphill(module: str) -> None:
    for name in imported(ROOT / "rag" / f"{module.replace('.', '/')}.py"):
        package, _, below = name.partition(".")
        if package == "rag":
            assert storey(below) >= storey(module), f"{module} imports {name}"


@pytest.mark.parametrize("path", sorted((ROOT / "capacity").rglob("*.py")), ids=lambda path: path.name)
def test_capacity_imports_nothing_of_ours(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & {"rag", "inference", "deploy", "microservices"}


@pytest.mark.parametrize("path", sorted((ROOT / "deploy").rglob("*.py")), ids=lambda path: path.name)
def test_deploy_sees_capacity_and_never_what_runs_in_the_container(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & {"rag", "inference", "microservices", "benchmarks"}


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.py")), ids=lambda path: path.name)
def test_the_notebooks_show_what_others_compute_and_reach_into_no_container(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & {"rag", "inference", "microservices", "torch"}


@pytest.mark.parametrize("path", sorted((ROOT / "rag").rglob("*.py")), ids=lambda path: path.name)
def test_rag_sees_capacity_only_where_plans_are_made_and_kept(path: Path) -> None:
    if path.stem not in {"choice", "composition", "servables", "planning", "retrieval_plan"}:
        assert not any(name.split(".")[0] in {"capacity", "deploy"} for name in imported(path))


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
        for name in imported(ROOT / current, at_import_time=True):
            assert name.split(".")[0] not in HEAVY, f"{module} → {current} imports {name}"
            file = f"{name.replace('.', '/')}.py"
            if (ROOT / file).is_file():
                pending.append(file)
    assert "rag/errors.py" in seen, "the imports of our own were followed"


@pytest.mark.parametrize("path", sorted((ROOT / "microservices").glob("*.py")), ids=lambda path: path.name)
def test_the_services_are_faces_over_rag(path: Path) -> None:
    """They know rag's seams and the HTTP application, never an engine, an index or the capacity model."""
    outer = {
        "serving.lifecycle",
        "cancellation",
        "errors",
        "serving.disconnects",
        "remote.payloads",
        "composition",
        "remote.servables",
        "answering.pipeline",
        "remote.clients",
        "remote.remote_admission",
        "interfaces",
        "remote.http_client",
        "settings",
        "serving.telemetry",
        "serving.responses",
    }  # fmt: skip
    inner = {"capacity", *(f"rag.{name}" for name in RAG - outer)}
    assert not set(imported(path)) & inner


def test_rag_does_not_know_who_serves_it() -> None:
    above = {"inference", "container", "microservices", "serve", "flask", "gunicorn"}
    for module in RAG:
        assert not {name.split(".")[0] for name in imported(ROOT / "rag" / f"{module.replace('.', '/')}.py")} & above, (
            module
        )


def test_every_setting_stands_in_the_readme() -> None:
    from rag.settings import Settings, table

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, _, meaning in table():
        assert f"| `{name}` |" in readme, name
        assert meaning in readme, f"the README's row of {name} differs from settings.py"
    assert len(table()) == len(Settings.model_fields)
