"""The notebooks: .py and .ipynb agree, and each runs headless. With NOTEBOOKS=1, also those that start servers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jupytext
import pytest

from notebooks.execute import COMPARISON, HERE, ROOT, has_results, names

NAMES = names()


def run(name: str, folder: Path, **environment: str) -> str:
    """Execute a notebook without credentials; its outputs as text."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AWS_") and key != "ENDPOINT_NAME"}
    done = subprocess.run(
        [sys.executable, "-m", "notebooks.execute", name, "--output", str(folder)],
        cwd=ROOT, env={**kept, **environment}, capture_output=True, text=True, check=False, timeout=290,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return text_outputs(jupytext.read(folder / f"{name}.ipynb"))


def text_outputs(notebook: Any) -> str:
    """The cells' printed text and displayed Markdown."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            found.append(output.get("text", ""))
            found.append(output.get("data", {}).get("text/markdown", ""))
    return "\n".join(found)


def pictures(notebook: Any) -> int:
    return sum("image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", []))


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_notebook_has_the_same_cells_as_its_script(name: str) -> None:
    script, notebook = jupytext.read(HERE / f"{name}.py"), jupytext.read(HERE / f"{name}.ipynb")
    assert [(cell.cell_type, cell.source) for cell in script.cells] == [
        (cell.cell_type, cell.source) for cell in notebook.cells
    ], f"python -m notebooks.execute {name} --keep"


def test_sizing_runs_headless_and_every_fix_fits(tmp_path: Path) -> None:
    output = run("01_sizing", tmp_path, NOTEBOOK_LANGUAGE="en")
    assert "does not fit on 1 × ml.g6e.12xlarge" in output
    assert output.count("| fits |") == 6
    assert "DOES NOT FIT" not in output
    assert pictures(jupytext.read(tmp_path / "01_sizing.ipynb")) == 5


@pytest.mark.skipif(os.environ.get("NOTEBOOKS") != "1", reason="starts a container: NOTEBOOKS=1 runs it")
def test_invoking_runs_against_a_local_endpoint_without_credentials(tmp_path: Path) -> None:
    output = run("02_invoke", tmp_path, NOTEBOOK_LANGUAGE="en")
    for expected in ("local container: InService", "SessionClosed", "prompt_too_long", "fix: CONTEXT=", "stopped"):
        assert expected in output


@pytest.mark.skipif(os.environ.get("NOTEBOOKS") != "1", reason="starts another kernel: NOTEBOOKS=1 runs it")
@pytest.mark.skipif(not has_results(), reason="no results are committed in notebooks/results")
def test_the_comparison_shows_every_claim_with_its_verdict(tmp_path: Path) -> None:
    output = run(COMPARISON, tmp_path, NOTEBOOK_LANGUAGE="en", MEASURE="")
    assert output.count("\n| **") == 12
    assert "**Microservices**" in output
    assert pictures(jupytext.read(tmp_path / f"{COMPARISON}.ipynb")) == 5
