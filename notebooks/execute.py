"""Executes the notebooks, each from its .py in a new kernel, without display, network or credentials.

    python -m notebooks.execute [01_sizing …] [--output build/notebooks] [--keep]

The .py (py:percent) is the source. The executed copies are written to `--output`; with `--keep` they also replace the
committed .ipynb. A failing cell ends the command with status 1 and is printed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from rich.console import Console
from traitlets.config import Config

HERE = Path(__file__).parent
ROOT = HERE.parent
COMPARISON = "03_monolith_vs_microservices"
CELL_LIMIT_S, MEASURED_CELL_LIMIT_S = 240, 1800


def has_results() -> bool:
    """Whether both documents that the comparison needs exist."""
    return all(any((HERE / "results").glob(f"{kind}-*.json")) for kind in ("compare", "operation"))


def names() -> list[str]:
    """Every notebook, in order."""
    return sorted(path.stem for path in HERE.glob("[0-9][0-9]_*.py"))


def execute(name: str) -> nbformat.NotebookNode:
    """The notebook with its outputs. Raises CellExecutionError, CellTimeoutError."""
    limit_s = MEASURED_CELL_LIMIT_S if os.environ.get("MEASURE") == "1" else CELL_LIMIT_S
    notebook: nbformat.NotebookNode = jupytext.read(HERE / f"{name}.py")
    for place, cell in enumerate(notebook.cells):
        cell["id"] = f"{name[:2]}-{place:02d}"  # random ids would change the file in every run
    NotebookClient(
        notebook, timeout=limit_s, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}},
        config=Config(ConnectionFileMixin={"transport": "ipc"}),  # needs no TCP port
    ).execute()  # fmt: skip
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # the timestamps, which would change in every run
    return notebook


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=names(), help="which notebooks (default: all)")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "notebooks")
    parser.add_argument("--keep", action="store_true", help="also replace the committed .ipynb")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    arguments.output.mkdir(parents=True, exist_ok=True)
    console = Console()
    for name in arguments.names:
        if name not in names():
            parser.error(f"{name}: no such notebook; available: {', '.join(names())}")
        if name == COMPARISON and os.environ.get("MEASURE") != "1" and not has_results():
            console.print(f"{name}: SKIPPED: no results in notebooks/results; MEASURE=1 measures here", style="yellow")
            continue
        began = time.monotonic()
        try:
            with console.status(f"{name}: running"):
                notebook = execute(name)
        except (CellExecutionError, CellTimeoutError) as error:
            print(f"{name}: failed\n{error}", file=sys.stderr)
            return 1
        jupytext.write(notebook, arguments.output / f"{name}.ipynb")
        if arguments.keep:
            jupytext.write(notebook, HERE / f"{name}.ipynb")
        console.print(f"{name}: {time.monotonic() - began:.1f} s, {len(notebook.cells)} cells", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
