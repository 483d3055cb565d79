"""Messages to token ids without the model or transformers: from a tokenizer's JSON and its chat template.

The LLM's own process encodes with it because it is faster than transformers. An orchestrator, which counts tokens while
it builds prompts, would otherwise pay one request for every count; it fetches the tokenizer once and needs no model
files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from rag.interfaces import Message

# Messages on which two encoders differ: every role, accents, whitespace at both ends, and what a template may trim.
_PROBES = (
    (Message("user", "Qual é a capital do Brasil?"),),
    (
        Message("system", "Responda.\n  "),
        Message("user", " [1] São Paulo\n\nTexto: {{ x }} <b>&amp;</b>"),
        Message("assistant", "Não."),
        Message("user", "E 日本 ≤ 😀?"),
    ),
)


@dataclass(frozen=True, slots=True)
class PublishedTokenizer:
    """A tokenizer as text: tokenizers' own JSON, the chat template where there is one, and the special tokens."""

    tokenizer: str
    chat_template: str | None
    special_tokens: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides the ids: equal fingerprints give equal ids."""
        parts = json.dumps([self.tokenizer, self.chat_template, dict(self.special_tokens)], sort_keys=True)
        return hashlib.sha256(parts.encode()).hexdigest()


class ChatTokenizer:
    """Encodes as transformers does. Raises ValueError for a tokenizer or a template that can't be read."""

    def __init__(self, tokenizer: Tokenizer, chat_template: str | None, special_tokens: Mapping[str, Any]) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        try:
            self._template = None if chat_template is None else _environment().from_string(chat_template)
        except TemplateError as error:
            raise ValueError(f"a chat template that can't be read: {error}") from error
        self._tokenizer = tokenizer
        self._special_tokens = dict(special_tokens)

    @classmethod
    def read(cls, published: PublishedTokenizer) -> ChatTokenizer:
        """The tokenizer of another process."""
        try:
            tokenizer = Tokenizer.from_str(published.tokenizer)
        except Exception as error:  # tokenizers raises plain Exception
            raise ValueError(f"a tokenizer that can't be read: {error}") from error
        return cls(tokenizer, published.chat_template, published.special_tokens)

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """By the chat template; without one, each message's content is a paragraph."""
        if self._template is None:
            text = "\n\n".join(message.content for message in messages) + "\n\n"
            return self._ids(text, special_tokens=True)
        turns = [{"role": message.role, "content": message.content} for message in messages]
        text = self._template.render(
            messages=turns, tools=None, documents=None, add_generation_prompt=True, **self._special_tokens
        )
        return self._ids(text, special_tokens=False)

    def encodes_as(self, other: Callable[[Sequence[Message]], list[int]]) -> bool:
        """Whether `other` gives the same ids for conversations of all roles. Raises what encoding raises."""
        return all(self.encode(probe) == other(probe) for probe in _PROBES)

    def _ids(self, text: str, *, special_tokens: bool) -> list[int]:
        # A batch of one: only the batch method can skip the computation of each token's offsets in the text.
        return list(self._tokenizer.encode_batch_fast([text], add_special_tokens=special_tokens)[0].ids)


def _environment() -> ImmutableSandboxedEnvironment:
    """What chat templates may use, as in transformers. A template comes with a model, so it runs in a sandbox."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _tojson(value: object, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _raise(message: str) -> None:
    raise TemplateError(message)
