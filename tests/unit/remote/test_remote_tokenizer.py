"""The LLM service's tokenizer in the orchestrator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rag.interfaces import Message
from rag.remote import payloads
from rag.remote.http_client import Exchange
from tests.fakes import FakeGenerator
from tests.services import llm_app, serving
from tests.unit.remote.clients import remote_generator


def test_the_published_tokenizer_gives_the_model_s_ids_in_another_process() -> None:
    from transformers import AutoTokenizer

    from rag.engine.chat_tokenizer import ChatTokenizer
    from rag.engine.generator import TextGenerator

    directory = Path(__file__).parents[3] / "models" / "rag-tiny"
    tokenizer = AutoTokenizer.from_pretrained(directory)
    engine: Any = None
    conversation = [Message("system", "Responda."), Message("user", " São  Paulo\n"), Message("assistant", "Não.")]
    for template in (
        tokenizer.chat_template,
        None,
        "{% for m in messages %}\n  {%- if loop.index > 2 %}{% break %}{% endif %}\n{{ m | tojson }}{% endfor %}",
    ):
        tokenizer.chat_template = template
        there = TextGenerator("rag-tiny", tokenizer, engine)
        published = there.published_tokenizer()
        assert published is not None
        here = ChatTokenizer.read(payloads.read(payloads.TOKENIZER, payloads.write(payloads.TOKENIZER, published)))
        for messages in (conversation, conversation[1:2]):
            assert here.encode(messages) == there.encode(messages) == there._encode_by_transformers(messages)


def test_with_a_template_that_gives_other_ids_here_prompts_are_encoded_by_the_service(fake: FakeGenerator) -> None:
    from rag.engine.chat_tokenizer import PublishedTokenizer

    tokenizer = (Path(__file__).parents[3] / "models" / "rag-tiny" / "tokenizer.json").read_text(encoding="utf-8")
    exchanges: list[Exchange] = []
    with serving(llm_app(fake, PublishedTokenizer(tokenizer, "{{ messages }}", {}))) as url:
        remote = remote_generator(url, on_exchange=exchanges.append)
        assert remote.encode([Message("user", "um dois")]) == [1, 1]
    assert exchanges[-1].path == "/encode"
