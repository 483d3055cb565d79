"""The deployer's plan is the container's, and what follows from it."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.harness.process import ROOT
from deploy.errors import Refused, WrongOption
from deploy.spec.artifact_reader import read_artifact
from deploy.spec.deployment import Deployment, Options, ami_version
from deploy.spec.instance_plan import RequestedEndpoint, plan_endpoint, plan_serverless, sessions_per_instance
from rag.planning import make_plan
from rag.settings import Settings
from tests.unit.deploy.artifact_fixture import write_artifact


@pytest.mark.parametrize("hardware", ["ml.m5.large", "ml.g4dn.xlarge", "ml.g5.xlarge", "ml.g5.12xlarge"])
@pytest.mark.parametrize(
    "settings", [{}, {"CONTEXT": "512", "CONCURRENCY": "3"}, {"BACKEND": "torch", "MAX_BATCH_TOKENS": "64"}]
)
def test_the_deployer_and_the_container_make_the_same_plan(
    tmp_path: Path, hardware: str, settings: dict[str, str]
) -> None:
    artifact = read_artifact(write_artifact(tmp_path / "artifact", settings=settings))
    places = {name: str(artifact.directory / place) for name, place in artifact.settings.items() if "/" in place}
    index = {"INDEX": str(artifact.directory / "index")}
    container = make_plan(Settings.from_environment({**settings, **places, **index, "HARDWARE": hardware}))
    assert plan_endpoint(artifact, RequestedEndpoint(instance_type=hardware, instances=1)) == container


def test_an_instance_type_is_chosen_where_none_is_named(tmp_path: Path) -> None:
    artifact = read_artifact(write_artifact(tmp_path / "artifact"))
    assert plan_endpoint(artifact, RequestedEndpoint()).instance_type == "ml.m5.large"
    many = plan_endpoint(artifact, RequestedEndpoint(concurrency=1000))
    assert many.concurrency == 1000
    assert many.instances * many.sessions_per_instance >= 1000


def test_the_sessions_are_shared_by_the_instances(tmp_path: Path) -> None:
    artifact = read_artifact(write_artifact(tmp_path / "artifact"))
    plan = plan_endpoint(artifact, RequestedEndpoint(concurrency=10, instances=3))
    assert (plan.instances, sessions_per_instance(plan), plan.max_sequences) == (3, 4, 4)


def test_a_gpu_with_several_devices_is_planned_with_the_one_that_the_engine_uses(tmp_path: Path) -> None:
    artifact = read_artifact(write_artifact(tmp_path / "artifact"))
    one = plan_endpoint(artifact, RequestedEndpoint(instance_type="ml.g5.xlarge", instances=1))
    four = plan_endpoint(artifact, RequestedEndpoint(instance_type="ml.g5.12xlarge", instances=1))
    assert four.sessions_per_instance == one.sessions_per_instance


def test_serverless_takes_the_least_memory_and_refuses_what_none_holds(tmp_path: Path) -> None:
    artifact = read_artifact(write_artifact(tmp_path / "artifact"))
    few, _ = plan_serverless(artifact, RequestedEndpoint(concurrency=1, context_tokens=128))
    more, _ = plan_serverless(artifact, RequestedEndpoint(concurrency=100, context_tokens=2048))
    assert few < more
    with pytest.raises(Refused, match="largest that fits"):
        plan_serverless(artifact, RequestedEndpoint(concurrency=100_000, context_tokens=2048))


@pytest.mark.parametrize(
    ("cuda", "version"),
    [
        ("11.8", "al2-ami-sagemaker-inference-gpu-2"),
        ("12.2", "al2-ami-sagemaker-inference-gpu-2"),
        ("12.4", "al2-ami-sagemaker-inference-gpu-3-1"),
        ("12.8", "al2023-ami-sagemaker-inference-gpu-4-1"),
        ("13.0", "al2023-ami-sagemaker-inference-gpu-4-1"),
    ],
)
def test_the_driver_is_one_that_runs_torch_s_cuda(cuda: str, version: str) -> None:
    assert ami_version(cuda) == version


def test_time_outs_grow_with_what_is_loaded_and_stay_in_sagemaker_s_range(tmp_path: Path) -> None:
    artifact = read_artifact(write_artifact(tmp_path / "artifact"))
    plan = plan_endpoint(artifact, RequestedEndpoint())

    def of(size_bytes: int) -> tuple[int, int]:
        made = Deployment("rag", "r", "i", "s3://b/p/", size_bytes, plan, "monolith", "b")
        return made.download_timeout_s, made.start_up_timeout_s

    small, middle, large = of(10**6), of(20 * 10**9), of(10**12)
    assert small == (60, 240)
    assert small < middle < large == (3600, 3600)


def test_names_follow_from_contents(tmp_path: Path) -> None:
    artifact = read_artifact(write_artifact(tmp_path / "artifact"))
    plan = plan_endpoint(artifact, RequestedEndpoint())

    same = Deployment("rag", "r", "i@sha256:1", "s3://b/1/", 1, plan, "monolith", "b")
    again = replace(same)
    assert (again.model_name, again.config_name) == (same.model_name, same.config_name)
    for changed in (replace(same, image="i@sha256:2"), replace(same, model_data_uri="s3://b/2/")):
        assert changed.model_name != same.model_name
        assert changed.config_name != same.config_name
    captured = replace(same, options=Options(capture_percent=1))
    assert captured.model_name == same.model_name
    assert captured.config_name != same.config_name


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("manifest.json", "is no artifact"),
        ("index/passages.jsonl", "is missing or not as the manifest says"),
        ("settings.json", "is missing or not as the manifest says"),
    ],
)
def test_a_damaged_artifact_is_refused_by_the_file_s_name(tmp_path: Path, path: str, reason: str) -> None:
    directory = write_artifact(tmp_path / "artifact")
    (directory / path).unlink()
    with pytest.raises(WrongOption, match=reason):
        read_artifact(directory)
    shutil.rmtree(directory)
    with pytest.raises(WrongOption, match="is no artifact"):
        read_artifact(directory)


def test_formats_that_only_the_container_knows_come_from_its_own_plan(tmp_path: Path) -> None:
    settings = {"WEIGHTS": "int8", "KV_DTYPE": "u8"}
    artifact = read_artifact(write_artifact(tmp_path / "artifact", settings=settings))
    places = {name: str(artifact.directory / artifact.settings[name]) for name in ("LLM", "EMBEDDING_MODEL", "INDEX")}
    container = make_plan(Settings.from_environment({**settings, **places, "HARDWARE": "ml.m5.large"}))
    assert plan_endpoint(artifact, RequestedEndpoint(instance_type="ml.m5.large", instances=1)) == container


def test_an_artifact_planned_for_a_gpu_is_made_again_for_a_cpu(tmp_path: Path) -> None:
    artifact = read_artifact(write_artifact(tmp_path / "artifact", hardware="ml.g5.xlarge"))
    assert plan_endpoint(artifact, RequestedEndpoint()).instance_type == "ml.g5.xlarge"
    with pytest.raises(WrongOption, match=r"make artifact HARDWARE=ml\.m5\.large"):
        plan_endpoint(artifact, RequestedEndpoint(instance_type="ml.m5.large"))


@pytest.mark.parametrize(
    ("given", "option"),
    [
        (["TORCH=torch==2.13.0 --index-url mirror/whl/cu128"], ["12.8"]),
        (["TORCH=torch==2.13.0 --index-url mirror/whl/cpu"], []),
        (["TORCH=torch==2.13.0 --index-url mirror/whl/cu128", "CUDA=13.0"], ["13.0"]),
        ([], []),
    ],
)
def test_make_deploy_takes_the_driver_from_the_wheels_that_torch_names(given: list[str], option: list[str]) -> None:
    commands = subprocess.run(
        ["make", "--dry-run", "deploy", *given], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    assert re.findall(r"deploy deploy .*--cuda ([\d.]+)", commands) == option
