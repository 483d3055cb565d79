"""The LLM: a directory or a hub id becomes a Generator, messages become token ids, token ids become text."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel

from rag.backends.base import Backend
from rag.backends.choice import BackendName
from rag.backends.torch_slots import TorchSlots
from rag.backends.torch_t5 import TorchT5
from rag.checkpoint import refuse_pickle, refuse_quantised, refuse_remote_code, resolve_model
from rag.engine.block_pool import Lease
from rag.engine.chat_tokenizer import ChatTokenizer, PublishedTokenizer
from rag.engine.detokenizer import TextStream
from rag.engine.engine import Engine, Ticket
from rag.engine.sampling import Draw
from rag.errors import ModelRefused, RagError, SessionClosed
from rag.interfaces import Delta, FinishReason, KvUse, Message, Sampling, TokenDetail

_log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TextGenerator:
    """Fills the Generator seam with a transformers causal LM on this process's engine."""

    def __init__(self, name: str, tokenizer: Any, engine: Engine) -> None:
        self.name = name
        self.engine = engine
        self._tokenizer = tokenizer
        self._leases: dict[str, Lease] = {}
        self._chat = self._chat_tokenizer()

    @property
    def alive(self) -> bool:
        """Whether the engine's thread runs."""
        return self.engine.alive

    @property
    def max_model_len(self) -> int:
        """Tokens that a prompt and its output may have together."""
        return self.engine.max_model_len

    @property
    def kv_use(self) -> KvUse:
        """See Generator.kv_use."""
        return KvUse(self.engine.num_blocks - self.engine.free_blocks, self.engine.reused_tokens)

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """By the chat template where there is one, else the contents a paragraph each."""
        return self._encode_by_transformers(messages) if self._chat is None else self._chat.encode(messages)

    def published_tokenizer(self) -> PublishedTokenizer | None:
        """What another process needs to encode the same way; None for a tokenizer with several chat templates."""
        template = self._tokenizer.chat_template
        if not isinstance(template, str | None):
            return None
        return PublishedTokenizer(
            self._tokenizer.backend_tokenizer.to_str(), template, dict(self._tokenizer.special_tokens_map)
        )

    def _encode_by_transformers(self, messages: Sequence[Message]) -> list[int]:
        """What every other way must agree with."""
        if self._tokenizer.chat_template is None:
            text = "\n\n".join(message.content for message in messages) + "\n\n"
            return list(self._tokenizer(text)["input_ids"])
        turns = [{"role": message.role, "content": message.content} for message in messages]
        encoded = self._tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=True, return_dict=True
        )
        return list(encoded["input_ids"])

    def _chat_tokenizer(self) -> ChatTokenizer | None:
        """What does the same in half of the time; None where it doesn't do the same."""
        template = self._tokenizer.chat_template
        if not isinstance(template, str | None):
            return None
        try:
            chat = ChatTokenizer(self._tokenizer.backend_tokenizer, template, self._tokenizer.special_tokens_map)
            return chat if chat.encodes_as(self._encode_by_transformers) else None
        except Exception as error:  # a template that is not for this sandbox, or that knows no system
            _log.info("prompts are encoded by transformers: %s", error)
            return None

    def generate(self, prompt_ids: Sequence[int], sampling: Sampling, session: str | None = None) -> TextDeltas:
        """See Generator.generate."""
        lease = None
        if session is not None:
            lease = self._leases.get(session)
            if lease is None:
                raise SessionClosed("the session's memory is gone", field="session", remedy="open a new session")
        ticket = self.engine.submit(prompt_ids, sampling, lease)
        return TextDeltas(ticket, self._tokenizer.backend_tokenizer)

    def open_session(self, session: str) -> None:
        """See Generator.open_session."""
        self._leases[session] = self.engine.lease()

    def close_session(self, session: str) -> None:
        """See Generator.close_session."""
        lease = self._leases.pop(session, None)
        if lease is not None:
            self.engine.end_lease(lease)

    def revive(self) -> None:
        """See Generator.revive."""
        self._leases.clear()
        self.engine = self.engine.rebuilt()

    def close(self) -> None:
        """Stop the engine."""
        self.engine.stop()


class TextDeltas:
    """The deltas of one generation, decoded in the caller's thread so that the engine's never waits for text."""

    def __init__(self, ticket: Ticket, tokenizer: Tokenizer) -> None:
        sampling = ticket.sequence.sampling
        self._ticket = ticket
        self._tokenizer = tokenizer
        self._text = TextStream(tokenizer, sampling.stop)
        self._ends_at = None if sampling.deadline_s is None else time.monotonic() + sampling.deadline_s
        self._done = False

    def __iter__(self) -> TextDeltas:
        return self

    def __next__(self) -> Delta:
        """The next delta, as long as there is one; it may carry a token without any text yet."""
        if self._done:
            raise StopIteration
        remaining_s = None if self._ends_at is None else max(0.0, self._ends_at - time.monotonic())
        try:
            event = self._ticket.events.get(timeout=remaining_s)
        except queue.Empty:
            return self._finish("deadline", new_tokens=0)
        if isinstance(event, RagError):
            self._done = True
            raise event
        if event.draw is None:
            return self._finish(event.finish_reason or "stop", new_tokens=0)
        shown, detail = self._text.push(event.draw.token), self._detail(event.draw)
        reason: FinishReason | None = "stop" if self._text.stopped else event.finish_reason
        if reason is not None:
            return self._finish(reason, 1, shown, detail)
        return Delta(shown, 1, token=detail)

    def close(self) -> None:
        """Cancel the generation if it still runs."""
        if not self._done:
            self._done = True
            self._ticket.cancel()

    def _finish(
        self, reason: FinishReason, new_tokens: int, shown: str = "", detail: TokenDetail | None = None
    ) -> Delta:
        self.close()
        return Delta(shown + self._text.flush(), new_tokens, reason, detail)

    def _detail(self, draw: Draw) -> TokenDetail | None:
        if draw.logprob is None:
            return None
        top = tuple((self._token_text(token), logprob) for token, logprob in draw.top)
        return TokenDetail(draw.token, self._token_text(draw.token), draw.logprob, top)

    def _token_text(self, token: int) -> str:
        return self._tokenizer.decode([token], skip_special_tokens=False)


def load_generator(
    source: str,
    *,
    dtype: str,
    device: str,
    context_tokens: int | None,
    num_blocks: int,
    max_waiting: int,
    max_batch_tokens: int = 512,
    trust_remote_code: bool = False,
    backend_name: BackendName = "torch",
    weights: str | None = None,
    kv_dtype: str | None = None,
    threads: int = 1,
    on_phase: Callable[[str], None] = lambda _phase: None,
) -> TextGenerator:
    """Load a model directory, or a hub id from the local cache, and allocate its KV memory.

    `context_tokens` None takes the model's own maximum. Weights come from safetensors only. `weights` and `kv_dtype`
    (None: `dtype`) and `threads` are for the OpenVINO backend. Raises ModelRefused, by name, for a source that is not
    there, has no safetensors or no fast tokenizer, or can't run here, and BackendRefused where torch may run it still.
    """
    directory = resolve_model(source)
    refuse_pickle(directory)
    refuse_quantised(directory, device)
    if not trust_remote_code:
        refuse_remote_code(directory)
    trusted: dict[str, Any] = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(directory, **trusted)
        tokenizer = AutoTokenizer.from_pretrained(directory, **trusted)
        model_class: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model = model_class.from_pretrained(
            directory,
            config=config,
            dtype="auto" if backend_name == "openvino" else DTYPES[dtype],  # OpenVINO's graph is made in float32
            use_safetensors=True,
            **trusted,
        )
        model.to(device)
    except Exception as error:  # whatever the library chokes on, the model is what can't be served
        raise ModelRefused(
            f"the LLM {source!r} can't be loaded: {_first_line(error)}",
            field="LLM",
            value=source,
            remedy="give a directory with config.json, tokenizer.json and *.safetensors, or a cached hub id",
        ) from error
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ModelRefused(
            f"the LLM {source!r} has no fast tokenizer", field="LLM", value=source, remedy="add tokenizer.json"
        )
    longest = int(getattr(config.get_text_config(), "max_position_embeddings", 0) or 0)
    max_model_len = context_tokens or longest or 2048
    if longest and max_model_len > longest:
        raise ModelRefused(
            f"CONTEXT {max_model_len} exceeds what {source!r} was made for",
            field="CONTEXT",
            value=max_model_len,
            limit=longest,
            remedy=f"set CONTEXT to {longest} or less",
        )
    eos_ids = _eos_ids(model, tokenizer)
    backend: Backend
    if backend_name == "openvino":
        from rag.backends.int8_linear import quantize  # noqa: PLC0415 - only where it is chosen: OpenVINO takes its share of memory
        from rag.backends.openvino_paged import KV_TYPES, OpenVinoPaged  # noqa: PLC0415

        if weights == "int8":
            quantize(model)
        backend = OpenVinoPaged(
            model,
            max_model_len=max_model_len,
            threads=threads,
            precision="bf16" if dtype == "bfloat16" else "f32",
            kv_type=KV_TYPES[kv_dtype or dtype],
            on_phase=on_phase,
        )
        del model  # its weights are the graph's now
    elif config.is_encoder_decoder:
        backend = TorchT5(model, max_model_len=max_model_len)
    else:
        backend = TorchSlots(model, max_model_len=max_model_len, max_chunk_tokens=max_batch_tokens)
    engine = Engine(
        backend,
        num_blocks=num_blocks,
        max_model_len=max_model_len,
        max_batch_tokens=max_batch_tokens,
        max_waiting=max_waiting,
        eos_ids=eos_ids,
    )
    return TextGenerator(Path(source).name, tokenizer, engine)


def _eos_ids(model: PreTrainedModel, tokenizer: Any) -> list[int]:
    """All ids that end an answer: a generation config may name several."""
    named = getattr(model.generation_config, "eos_token_id", None)
    ids = named if isinstance(named, list) else [named]
    return sorted({int(token) for token in (*ids, tokenizer.eos_token_id) if token is not None})


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
