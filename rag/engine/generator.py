"""The generator of this process: messages to token ids, token ids to the engine, the engine's tokens to text."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer
from typing_extensions import override

from rag.engine.block_pool import PinnedBlocks
from rag.engine.chat_tokenizer import ChatTokenizer, PublishedTokenizer
from rag.engine.detokenizer import TextStream
from rag.engine.engine import Engine, Ticket
from rag.engine.sampling import Draw
from rag.errors import RagError, SessionClosed
from rag.interfaces import Delta, DeltaStream, FinishReason, KvUse, LocalGenerator, Message, Sampling, TokenDetail

_log = logging.getLogger(__name__)


class TextGenerator(LocalGenerator):
    """An engine with the tokenizer of its model, by transformers."""

    def __init__(self, name: str, tokenizer: Any, engine: Engine) -> None:
        self.engine = engine
        self._name = name
        self._tokenizer = tokenizer
        self._pinned: dict[str, PinnedBlocks] = {}
        self._chat = self._chat_tokenizer()

    @property
    @override
    def name(self) -> str:
        return self._name

    @property
    @override
    def alive(self) -> bool:
        return self.engine.alive

    @property
    @override
    def max_model_len(self) -> int:
        return self.engine.max_model_len

    @property
    @override
    def kv_use(self) -> KvUse:
        return KvUse(self.engine.num_blocks - self.engine.free_blocks, self.engine.reused_tokens)

    @override
    def encode(self, messages: Sequence[Message]) -> list[int]:
        """By the chat template where there is one, else each message as a paragraph."""
        return self._encode_by_transformers(messages) if self._chat is None else self._chat.encode(messages)

    def published_tokenizer(self) -> PublishedTokenizer | None:
        """The tokenizer for use in another process; None for one with several chat templates."""
        template = self._tokenizer.chat_template
        if not isinstance(template, str | None):
            return None
        return PublishedTokenizer(
            self._tokenizer.backend_tokenizer.to_str(), template, dict(self._tokenizer.special_tokens_map)
        )

    def _encode_by_transformers(self, messages: Sequence[Message]) -> list[int]:
        """The reference: ChatTokenizer must give the same ids."""
        if self._tokenizer.chat_template is None:
            text = "\n\n".join(message.content for message in messages) + "\n\n"
            return list(self._tokenizer(text)["input_ids"])
        turns = [{"role": message.role, "content": message.content} for message in messages]
        encoded = self._tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=True, return_dict=True
        )
        return list(encoded["input_ids"])

    def _chat_tokenizer(self) -> ChatTokenizer | None:
        """Encodes in half the time that transformers takes; None where the ids differ."""
        template = self._tokenizer.chat_template
        if not isinstance(template, str | None):
            return None
        try:
            chat = ChatTokenizer(self._tokenizer.backend_tokenizer, template, self._tokenizer.special_tokens_map)
            return chat if chat.encodes_as(self._encode_by_transformers) else None
        except Exception as error:  # a template that the sandbox refuses, or that refuses the role "system"
            _log.info("prompts are encoded by transformers: %s", error)
            return None

    @override
    def generate(self, prompt_ids: Sequence[int], sampling: Sampling, session: str | None = None) -> TextDeltas:
        pinned = None
        if session is not None:
            pinned = self._pinned.get(session)
            if pinned is None:
                raise SessionClosed("the session's memory is gone", field="session", remedy="open a new session")
        ticket = self.engine.submit(prompt_ids, sampling, pinned)
        return TextDeltas(ticket, self._tokenizer.backend_tokenizer)

    @override
    def open_session(self, session: str) -> None:
        self._pinned[session] = self.engine.pin_blocks()

    @override
    def close_session(self, session: str) -> None:
        pinned = self._pinned.pop(session, None)
        if pinned is not None:
            self.engine.unpin_blocks(pinned)

    @override
    def revive(self) -> None:
        self._pinned.clear()
        self.engine = self.engine.rebuilt()

    @override
    def close(self) -> None:
        self.engine.stop()


class TextDeltas(DeltaStream):
    """The deltas of one generation, decoded in the caller's thread so that the engine's never waits for it."""

    def __init__(self, ticket: Ticket, tokenizer: Tokenizer) -> None:
        sampling = ticket.sequence.sampling
        self._ticket = ticket
        self._tokenizer = tokenizer
        self._text = TextStream(tokenizer, sampling.stop)
        self._ends_at = None if sampling.deadline_s is None else time.monotonic() + sampling.deadline_s
        self._done = False

    @override
    def __iter__(self) -> TextDeltas:
        return self

    @override
    def __next__(self) -> Delta:
        """The next delta; it may have a token and no text yet."""
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

    @override
    def close(self) -> None:
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
