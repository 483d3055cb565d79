"""The local runtime, called by a real boto3 client."""

from __future__ import annotations

import contextlib
import json
import random
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError, EventStreamError

from deploy.local.local_endpoint import Limits
from deploy.local.runtime import LocalRuntime
from tests.unit.deploy.conftest import ENDPOINT
from tests.unit.deploy.fake_container import FakeContainer


def invoke(boto: Any, document: Any, **parameters: Any) -> Any:
    return boto.invoke_endpoint(
        EndpointName=ENDPOINT, ContentType="application/json", Body=json.dumps(document), **parameters
    )


def stream(boto: Any, document: Any, **parameters: Any) -> Any:
    return boto.invoke_endpoint_with_response_stream(
        EndpointName=ENDPOINT,
        ContentType="application/json",
        Accept="application/jsonlines",
        Body=json.dumps(document),
        **parameters,
    )


def parts(response: Any) -> list[bytes]:
    with contextlib.closing(response["Body"]) as body:
        return [event["PayloadPart"]["Bytes"] for event in body]


def test_a_plain_invocation_comes_back_with_the_platform_s_headers_and_only_those(
    boto: Any, container: FakeContainer
) -> None:
    response = invoke(boto, {"query": "q"}, Accept="application/json", CustomAttributes="a=1", InferenceId="i1")
    assert json.loads(response["Body"].read()) == {"text": "Brasília: q"}
    assert response["InvokedProductionVariant"] == "AllTraffic"
    assert response["CustomAttributes"] == "a=1"
    headers = response["ResponseMetadata"]["HTTPHeaders"]
    assert "x-secret" not in headers
    seen = {name.lower() for name in container.headers[-1]}
    assert {"content-type", "accept", "x-amzn-sagemaker-custom-attributes", "x-amzn-sagemaker-inference-id"} <= seen
    assert not seen & {"authorization", "x-amz-date", "user-agent"}


def test_a_stream_is_payload_parts_that_add_up(boto: Any, container: FakeContainer) -> None:
    response = stream(boto, {"query": "uma pergunta"})
    assert response["ContentType"] == "application/jsonlines"
    lines = b"".join(parts(response)).splitlines()
    assert [json.loads(line) for line in lines] == container.events("uma pergunta")
    assert container.headers[-1]["Accept"] == "application/jsonlines"


def test_re_chunking_cuts_elsewhere_and_loses_nothing(boto: Any, runtime: LocalRuntime) -> None:
    straight = parts(stream(boto, {"query": "a b c"}))
    runtime.chance = random.Random(7)
    cut = parts(stream(boto, {"query": "a b c"}))
    assert b"".join(cut) == b"".join(straight)
    assert any(not part.endswith(b"\n") for part in cut)


@pytest.mark.parametrize("call", [invoke, stream])
@pytest.mark.parametrize("status", [400, 422, 429, 500, 503])
def test_a_refusal_becomes_a_model_error_with_its_status_and_text(boto: Any, call: Any, status: int) -> None:
    error = {"code": "overloaded", "message": "cheio — volte", "retryable": True}
    with pytest.raises(boto.exceptions.ModelError) as raised:
        call(boto, {"refuse": status, "error": error})
    response = raised.value.response
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert response["OriginalStatusCode"] == status
    assert json.loads(response["OriginalMessage"]) == {"error": error}
    assert response["LogStreamArn"].endswith(f"/aws/sagemaker/Endpoints/{ENDPOINT}")


def test_a_long_refusal_is_cut_at_2048_characters(boto: Any) -> None:
    with pytest.raises(boto.exceptions.ModelError) as raised:
        invoke(boto, {"refuse": 400, "error": {"message": "é" * 5000}})
    assert len(raised.value.response["OriginalMessage"]) == 2048


def test_an_unknown_endpoint_is_a_validation_error(boto: Any) -> None:
    with pytest.raises(boto.exceptions.ValidationError, match=r"Endpoint other of account .* not found"):
        boto.invoke_endpoint(EndpointName="other", Body=b"{}")


def test_a_plain_answer_that_takes_longer_than_the_limit_is_a_model_error(boto: Any) -> None:
    began = time.monotonic()
    with pytest.raises(boto.exceptions.ModelError, match="timed out") as raised:
        invoke(boto, {"query": "q", "sleep_s": 1.5})
    assert raised.value.response["OriginalStatusCode"] == 0
    assert time.monotonic() - began < 1.4


def test_a_plain_answer_that_arrives_slowly_has_the_same_limit(boto: Any) -> None:
    with pytest.raises(boto.exceptions.ModelError, match="timed out"):
        invoke(boto, {"pieces": ["x"] * 20, "pause_s": 0.1})


def test_a_stream_that_takes_longer_than_its_limit_ends_in_a_typed_error(boto: Any) -> None:
    response = stream(boto, {"pieces": ['{"type": "text"}\n'] * 20, "pause_s": 0.1})
    with pytest.raises(EventStreamError, match="timed out") as raised:
        parts(response)
    assert raised.value.response["Error"]["Code"] == "ModelStreamError"


def test_a_container_that_disconnects_in_mid_stream_ends_it_in_a_typed_error(boto: Any, runtime: LocalRuntime) -> None:
    runtime.chance = random.Random(1)
    response = stream(boto, {"pieces": ["first\n", "second\n"], "break": True})
    seen = []
    with pytest.raises(EventStreamError, match="broke"), contextlib.closing(response["Body"]) as body:
        for event in body:
            seen.append(event["PayloadPart"]["Bytes"])
    assert b"".join(seen) == b"first\nsecond\n"


def test_a_client_s_disconnect_in_mid_stream_reaches_the_container(boto: Any, container: FakeContainer) -> None:
    response = stream(boto, {"pieces": ["x" * 200_000] * 50, "pause_s": 0.01})
    begun = iter(response["Body"])
    next(begun)
    response["Body"].close()
    assert container.client_left.wait(5)


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"CustomAttributes": "a" * 1025}, "1024 ASCII"),
        ({"InferenceId": "i" * 65}, "64 ASCII"),
        ({"Body": b"x" * 3000}, "above 2000"),
    ],
)
def test_what_the_platform_refuses_never_reaches_the_container(
    boto: Any, runtime: LocalRuntime, container: FakeContainer, parameters: dict[str, Any], reason: str
) -> None:
    runtime.limits = Limits(body_bytes=2000)
    with pytest.raises(ClientError, match=reason):
        boto.invoke_endpoint(**{"EndpointName": ENDPOINT, "Body": b"{}", **parameters})
    assert container.headers == []


def test_a_session_is_opened_by_a_plain_call_and_not_by_a_stream(boto: Any) -> None:
    response = invoke(boto, {"query": "um"}, SessionId="NEW_SESSION")
    session, _, expires = response["NewSessionId"].partition("; Expires=")
    assert expires == "2030-01-02T03:04:05Z"
    assert json.loads(invoke(boto, {"query": "dois"}, SessionId=session)["Body"].read())["text"] == "um / dois"
    assert invoke(boto, {"close_session": True}, SessionId=session)["ClosedSessionId"] == session
    with pytest.raises(ClientError, match="opened by InvokeEndpoint"):
        stream(boto, {"query": "um"}, SessionId="NEW_SESSION")


def test_an_endpoint_is_in_service_only_once_ping_says_200(runtime: LocalRuntime, boto: Any) -> None:
    with FakeContainer(ping=503) as loading:
        endpoint = runtime.serve("later", loading.url)
        assert endpoint.wait(0.1) == "Creating"
        with pytest.raises(boto.exceptions.ValidationError):
            boto.invoke_endpoint(EndpointName="later", Body=b"{}")
        loading.ping = 200
        assert endpoint.wait(5) == "InService"
        assert boto.invoke_endpoint(EndpointName="later", Body=b'{"query": "q"}')["Body"].read()


def test_a_container_that_never_answers_200_fails_with_a_reason(runtime: LocalRuntime) -> None:
    with FakeContainer(ping=503) as broken:
        endpoint = runtime.serve("broken", broken.url)
        assert endpoint.wait(5) == "Failed"
        assert endpoint.failure_reason is not None
        assert "did not pass the ping health check" in endpoint.failure_reason
        assert "503" in endpoint.failure_reason


def test_an_endpoint_whose_pings_fail_is_unavailable_until_they_succeed(
    runtime: LocalRuntime, boto: Any, container: FakeContainer
) -> None:
    endpoint = runtime.endpoint(ENDPOINT)
    assert endpoint is not None

    def becomes(state: str) -> bool:
        end = time.monotonic() + 5
        while endpoint.state != state and time.monotonic() < end:
            time.sleep(0.01)
        return endpoint.state == state

    container.ping = 500
    assert becomes("Unhealthy")
    with pytest.raises(boto.exceptions.ServiceUnavailable):
        invoke(boto, {"query": "q"})
    container.ping = 200
    assert becomes("InService")
    assert invoke(boto, {"query": "q"})["Body"].read()
