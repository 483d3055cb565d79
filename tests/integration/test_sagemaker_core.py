"""The SageMaker SDK's resource layer invokes the local runtime, from a separate virtual environment."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from deploy.local.runtime import LocalRuntime
from tests.unit.deploy.fake_container import FakeContainer

ROOT = Path(__file__).parents[2]
SDK = Path(os.environ.get("SDK_VENV", ROOT / ".venv-sagemaker-core")) / "bin" / "python"


@pytest.mark.skipif(not SDK.exists(), reason=f"{SDK} is not there: make sagemaker-core installs it")
def test_the_sdk_s_endpoint_resource_gets_the_container_s_answer() -> None:
    with FakeContainer() as container, LocalRuntime() as runtime:
        assert runtime.serve("rag", container.url).wait(10) == "InService"
        done = subprocess.run(
            [SDK, "examples/sagemaker_core.py", "--endpoint-name", "rag", "--runtime-url", runtime.url],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "HOME": "/tmp"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stdout) == (0, "Brasília: Qual a capital do Brasil?\n"), done.stderr
