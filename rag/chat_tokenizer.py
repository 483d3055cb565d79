"""Messages to token ids without the model: what an LLM service publishes of its tokenizer, and who encodes with it.

The orchestrator writes prompts by counting their tokens. Asking the LLM service for every count would cost a hop each;
its tokenizer, fetched once, needs neither torch nor the model's files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from rag.seams import Message


@dataclass(frozen=True, slots=True)
class PublishedTokenizer:
    """A tokenizer as text: tokenizers' own JSON, the chat template where there is one, and the special tokens."""

    tokenizer: str
    chat_template: str | None
    special_tokens: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """Equal where the ids are: SHA-256 of everything that decides them."""
        parts = json.dumps([self.tokenizer, self.chat_template, dict(self.special_tokens)], sort_keys=True)
        return hashlib.sha256(parts.encode()).hexdigest()


class ChatTokenizer:
    """Encodes as TextGenerator.encode does. Raises ValueError for a tokenizer or a template that can't be read here."""

    def __init__(self, published: PublishedTokenizer) -> None:
        try:
            self._tokenizer = Tokenizer.from_str(published.tokenizer)
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
            template = published.chat_template
            self._template = None if template is None else _environment().from_string(template)
        except Exception as error:  # tokenizers raises plain Exception
            raise ValueError(f"a tokenizer that can't be read: {error}") from error
        self._special_tokens = dict(published.special_tokens)

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """By the chat template where there is one, else the contents a paragraph each."""
        if self._template is None:
            text = "\n\n".join(message.content for message in messages) + "\n\n"
            return list(self._tokenizer.encode(text).ids)
        turns = [{"role": message.role, "content": message.content} for message in messages]
        text = self._template.render(
            messages=turns, tools=None, documents=None, add_generation_prompt=True, **self._special_tokens
        )
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)


def _environment() -> ImmutableSandboxedEnvironment:
    """What chat templates may use, as transformers defines it. A template comes with a model: it runs sandboxed."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _tojson(value: object, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _raise(message: str) -> None:
    raise TemplateError(message)
