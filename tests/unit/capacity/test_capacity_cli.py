"""The command line: any invalid input is one clear line on stderr and status 2."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sizing
from capacity.catalog import document
from capacity.errors import CapacityError
from capacity.model.families import FAMILIES
from capacity.planning.calibrate import LatencySample, fit
from capacity.planning.measurements import read_measurements

ROOT = Path(__file__).parents[3]
PLAN = "plan --model Llama-3.1-8B --server dgx300 --context 8192 --concurrency 10"


def ask(line: list[str]) -> tuple[int, str, str]:
    """(status, stdout, stderr) of one command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = sizing.main(line)
        except SystemExit as left:
            status = int(left.code or 0)
    return status, out.getvalue(), err.getvalue()


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (PLAN.replace("Llama-3.1-8B", "Lama-3.1-8B"), "nearest: Llama-3.1-8B"),
        (PLAN.replace("dgx300", "dgx999"), "nearest:"),
        (PLAN.replace("8192", "200000"), "200000 tokens is above Llama-3.1-8B's maximum of 131072"),
        (PLAN.replace("8192", "0"), "--context: 0 is outside"),
        (PLAN.replace("8192", "-5"), "--context"),
        (PLAN.replace("8192", "many"), "'many' is not a whole number"),
        (PLAN.replace(" 10", " 0"), "--concurrency: 0 is outside"),
        (PLAN + " --tensor-parallel 3", "3 does not divide the 32 attention heads"),
        (PLAN + " --utilization 1.5", "--utilization: 1.5 is outside"),
        (PLAN + " --utilization nan", "--utilization: nan is outside"),
        (PLAN + " --kv-dtype fp5", "unknown KV dtype 'fp5'"),
        (PLAN + " --weights-dtype int3", "unknown weight dtype 'int3'"),
        (PLAN + " --embedder nothing", "unknown embedder 'nothing'"),
        (PLAN + " --vectors 5 --index IVX,Flat", "'IVX'"),
        (PLAN + " --input-tokens 9000", "exceed a context of 8192"),
        (PLAN + " --memory-gib 4", "goes with --hardware cpu"),
        (PLAN + " --gpus 4", "goes with --hardware custom"),
        (PLAN.replace("dgx300", "custom"), "--gpu or --gpu-memory-mib"),
        (PLAN + " --measured /nowhere.json", "/nowhere.json"),
        (PLAN.replace("plan", "report") + " --budget-ratio 1.2", "--budget-ratio"),
        (PLAN.replace("plan", "report") + " --budget-ratio 0.1,0.2", "neither one value nor three"),
        (PLAN.replace("plan", "report") + " --overhead-gib 5", "--method reference"),
        (PLAN.replace("plan", "report") + " --method reference", "flat overhead"),
        (PLAN.replace("plan", "report") + " --storage-profile tape", "unknown storage profile 'tape'"),
        (PLAN.replace("plan", "report") + " --output /nowhere/x.md", "/nowhere/x.md"),
        ("explain --model gpt2x", "nearest:"),
        ("explain --model gpt-oss-20b --tensor-parallel 7", "does not divide"),
        ("explain --model gpt-oss-20b --pipeline-parallel 99", "pipeline_parallel"),
        ("check --model SmolLM2-135M --server cpu --context 512 --concurrency 1 --tpot 1", "speed is not known"),
        ("calibrate --url ftp://x", "not an http address"),
        ("calibrate --url http://127.0.0.1:9/invocations", "can't be reached"),
        ("", "required"),
        ("fly", "invalid choice"),
    ],
)
def test_invalid_input_is_one_line_on_stderr_and_status_2(line: str, named: str) -> None:
    status, out, err = ask(line.split())
    assert (status, out) == (2, "")
    assert named in err
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_a_broken_file_is_named_with_line_and_column(tmp_path: Path) -> None:
    (tmp_path / "box.json").write_text('{"name": "x",\n  oops}')
    status, _, err = ask([*PLAN.replace("dgx300", str(tmp_path / "box.json")).split()])
    assert status == 2
    assert "line 2, column 3" in err
    status, _, err = ask(["validate", str(tmp_path / "box.json")])
    assert status == 2
    assert "line 2, column 3" in err


COMMANDS = ("plan", "check", "report", "explain", "compare", "validate")
VALUES = st.one_of(
    st.sampled_from(
        ["Llama-3.1-8B", "dgx300", "cpu", "fp8", "L4", "pt-BR", "reference", "html", "../", "", "Flat", "1"]
    ),
    st.integers(-(10**6), 10**15).map(str),
    st.floats().map(str),
    st.text(max_size=12),
)
FLAGS = st.sampled_from(
    [
        "--model",
        "--server",
        "--context",
        "--concurrency",
        "--kv-dtype",
        "--weights-dtype",
        "--tensor-parallel",
        "--pipeline-parallel",
        "--instances",
        "--utilization",
        "--block-size",
        "--vectors",
        "--index",
        "--dimensions",
        "--headroom",
        "--budget-ratio",
        "--spare-nodes",
        "--overhead-gib",
        "--method",
        "--format",
        "--lang",
        "--ttft",
        "--tpot",
        "--node-availability",
        "--memory-gib",
        "--gpu",
        "--gpus",
        "--gpu-memory-mib",
        "--input-tokens",
        "--output-tokens",
        "--embedder",
        "--measured",
        "--reserve-gib",
        "--max-sequences",
    ]
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.sampled_from(COMMANDS), st.lists(st.tuples(FLAGS, VALUES), max_size=6), st.booleans())
def test_any_input_exits_with_0_2_or_3_and_without_a_traceback(
    command: str, pairs: list[tuple[str, str]], complete: bool
) -> None:
    line = [command]
    if complete and command != "validate":
        line += ["--model", "Qwen2.5-0.5B"]
        if command != "explain":
            line += ["--server", "L4", "--context", "1024", "--concurrency", "2"]
    for flag, value in pairs:
        line.append(f"{flag}={value}")
    status, _, err = ask(line)
    assert status in (0, 2, 3)
    if status == 2:
        assert err.count("\n") == 1 or command == "validate"


KNOWN = sorted({field for defaults in document("defaults")["model_types"].values() for field in defaults})
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(FAMILIES)),
    st.dictionaries(
        st.sampled_from([*KNOWN, "layer_types", "quantization_config", "vision_config", "rope_scaling", "dtype"]),
        ANYTHING,
        max_size=3,
    ),
)
def test_any_invalid_config_is_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, model_type: str, fields: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, **fields}))
    status, _, err = ask(["explain", "--model", str(folder), "--json"])
    assert status in (0, 2)
    assert err.count("\n") == (1 if status else 0)


def test_explain_prints_the_figures_that_engine_logs_have() -> None:
    line = [
        "explain",
        "--model",
        "Llama-3.1-70B",
        "--kv-dtype",
        "fp8",
        "--tensor-parallel",
        "4",
        "--context",
        "8192",
        "--json",
    ]
    status, out, _ = ask(line)
    found = json.loads(out)
    assert status == 0
    assert found["kv_bytes_per_token_per_rank"] == 80 * 2 * 2 * 128
    assert found["kv_constant_bytes_per_rank"] == 0
    assert found["kv_bytes_at_context_per_rank"] == 80 * 2 * 2 * 128 * 8192
    assert found["weights_bytes_per_rank"] == pytest.approx(141_107_412_992 / 4, rel=0.01)


def test_server_and_hardware_are_the_same_flag() -> None:
    one, two = (ask(PLAN.replace("--server", flag).split())[1] for flag in ("--server", "--hardware"))
    assert one == two != ""


def test_check_exits_with_3_and_fixes_where_it_does_not_fit() -> None:
    status, out, _ = ask(
        ["check", "--model", "Llama-3.1-70B", "--server", "L4", "--context", "8192", "--concurrency", "1", "--json"]
    )
    assert status == 3
    answer = json.loads(out)
    assert answer["fits"] is False
    assert all(fix["verified"] for fix in answer["fixes"])


@pytest.mark.parametrize(("tpot", "status", "met"), [("0.05", 0, True), ("0.03", 3, False), ("0.001", 3, False)])
def test_an_objective_that_is_not_met_is_no_fit_either(tpot: str, status: int, met: bool) -> None:
    line = "check --model Llama-3.1-8B --server L40S --context 4096 --concurrency 40 --input-tokens 1000"
    command = [*line.split(), "--output-tokens", "200", "--tpot", tpot]
    assert ask(command)[0] == status
    found = json.loads(ask([*command, "--json"])[1])
    assert (found["fits"], found["objective"]["sessions"] >= 40) == (met, met)
    assert found["latency"]["label"] == "estimated"
    assert "objective" in ask(command)[1]


def test_validate_accepts_the_catalogue_and_names_problems_of_a_file(tmp_path: Path) -> None:
    assert ask(["validate"])[0] == 0
    (tmp_path / "gpu.json").write_text(json.dumps({"name": "x", "nvidia_smi_total_mib": -1}))
    status, _, err = ask(["validate", str(tmp_path / "gpu.json")])
    assert status == 2
    assert "nvidia_smi_total_mib: -1 is outside" in err


def test_help_takes_less_than_three_tenths_of_a_second() -> None:
    program = (
        "import resource, sys\n"
        "sys.argv = ['sizing.py', '--help']\n"
        "import sizing\n"
        "try: sizing.main()\n"
        "except SystemExit: pass\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(used.ru_utime + used.ru_stime, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "plan" in done.stdout
    assert float(done.stderr) < 0.3


class _Engine(BaseHTTPRequestHandler):
    """A chat endpoint: 2 ms a prompt word, then a token every 5 ms."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        own = self.path == "/invocations"
        words = len((body["query"] if own else body["messages"][0]["content"]).split())
        if words > 300:
            self.send_error(422)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        time.sleep(0.0005 * words)
        for index in range(6):
            text = f"t{index}"
            self._event({"type": "text", "text": text} if own else {"choices": [{"delta": {"content": text}}]})
            time.sleep(0.004)
        usage = {"prompt_tokens": words, "completion_tokens": 6}
        self._event({"type": "end", "usage": usage} if own else {"choices": [{"delta": {}}], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, event: object) -> None:
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        self.wfile.flush()


@pytest.fixture
def engine() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Engine)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("path", ["/invocations", "/v1/chat/completions"])
def test_calibrate_measures_an_engine_and_a_plan_takes_the_file(tmp_path: Path, engine: str, path: str) -> None:
    measured = tmp_path / "measured.json"
    status, _, err = ask(["calibrate", "--url", engine + path, "--repeats", "2", "--output", str(measured)])
    assert (status, err.count("tokens in"), err.count("left out")) == (0, 6, 1)
    latency = read_measurements(measured).latency
    assert latency is not None
    assert latency.tpot_s > 0.003
    assert latency.prefill_tokens_per_s > 100
    line = f"report --model SmolLM2-135M --server cpu --context 1024 --concurrency 2 --measured {measured} --json"
    status, out, _ = ask(line.split())
    assert status == 0
    assert json.loads(out)["scenarios"]["minimum"]["latency"]["label"] == "measured"


def test_the_slope_of_ttft_is_the_pace_of_prefill() -> None:
    samples = [LatencySample(0.1 + tokens / 1000, 0.02, tokens, 10) for tokens in (10, 100, 400)]
    found = fit(samples)
    assert found.prefill_tokens_per_s == pytest.approx(1000)
    assert found.ttft_floor_s == pytest.approx(0.1)
    concurrent = [LatencySample(0.3, 0.06, 10, 10) for _ in range(5)]
    assert fit(samples, concurrent).tpot_added_s == pytest.approx(0.01)
    with pytest.raises(CapacityError, match="no answer had two tokens"):
        fit([LatencySample(0.1, None, 10, 1)])
