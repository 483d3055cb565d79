"""A library that is not imported at start is imported when it is used."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.harness.process import ROOT

_SCRIPT = """
import sys
from rag.process.imports import import_libraries
import_libraries()
assert {"torch", "sentence_transformers", "faiss", "bm25s"} <= sys.modules.keys()
assert not any(name.partition(".")[0] == "sklearn" for name in sys.modules), "scikit-learn was imported"
import torch
from sentence_transformers.util import similarity
print(similarity.pairwise_distances([[0.0, 0.0]], [[3.0, 4.0]]).item(), "sklearn.metrics" in sys.modules)
"""


def test_scikit_learn_is_not_imported_until_it_is_used() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", _SCRIPT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["5.0", "True"]
