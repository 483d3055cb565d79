"""The LLM from a directory: loaded, prompted with text, refused by name where it can't be served."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from rag.engine.generator import TextGenerator
from rag.engine.loading import EngineConfig, load_generator
from rag.errors import ModelRefused
from rag.interfaces import Message, Sampling
from tests.shapes import random_model
from tests.unit.engine.test_detokenizer import byte_tokenizer

TEMPLATE = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"


def save_model(directory: Path, *, template: str | None = None) -> Path:
    random_model("llama").save_pretrained(directory)
    untyped: Any = PreTrainedTokenizerFast
    tokenizer = untyped(tokenizer_object=byte_tokenizer())
    tokenizer.chat_template = template
    tokenizer.save_pretrained(directory)
    return directory


def load(directory: Path, **settings: Any) -> TextGenerator:
    chosen: dict[str, Any] = {"context_tokens": 128, "num_blocks": 2, "max_waiting": 4, **settings}
    return load_generator(EngineConfig(str(directory), **chosen))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama-bytes"), template=TEMPLATE)


@pytest.fixture
def generator(directory: Path) -> Iterator[TextGenerator]:
    generator = load(directory)
    yield generator
    generator.close()


def text_of(generator: TextGenerator, sampling: Sampling) -> tuple[str, str | None, int]:
    deltas = list(generator.generate(generator.encode([Message("user", "Olá")]), sampling))
    return "".join(delta.text for delta in deltas), deltas[-1].finish_reason, sum(delta.new_tokens for delta in deltas)


def test_messages_go_through_the_model_s_chat_template(generator: TextGenerator) -> None:
    ids = generator.encode([Message("system", "s"), Message("user", "ção")])
    assert ids == byte_tokenizer().encode("<system>s<user>ção").ids


def test_a_template_that_only_transformers_supports_is_rendered_by_it(tmp_path: Path) -> None:
    template = "{% for message in messages %}{% generation %}{{ message.content }}!{% endgeneration %}{% endfor %}"
    generator = load(save_model(tmp_path, template=template))
    assert generator.encode([Message("user", "Olá")]) == byte_tokenizer().encode("Olá!").ids
    generator.close()


def test_without_a_template_the_contents_are_paragraphs(tmp_path: Path) -> None:
    generator = load(save_model(tmp_path))
    try:
        assert (
            generator.encode([Message("system", "s"), Message("user", "u")])
            == byte_tokenizer().encode("s\n\nu\n\n").ids
        )
    finally:
        generator.close()


def test_a_generation_ends_by_its_length_and_counts_its_tokens(generator: TextGenerator) -> None:
    text, reason, tokens = text_of(generator, Sampling(max_new_tokens=20))
    assert (reason, tokens) == ("length", 20)
    assert text


def test_a_stop_string_ends_the_text_before_it_and_frees_the_slot(generator: TextGenerator) -> None:
    whole, _, _ = text_of(generator, Sampling(max_new_tokens=40))
    stop = whole[len(whole) // 2]
    text, reason, _ = text_of(generator, Sampling(max_new_tokens=40, stop=(stop,)))
    assert (text, reason) == (whole[: whole.index(stop)], "stop")
    for _ in range(100):
        if generator.engine.free_blocks == 2:
            break
        time.sleep(0.01)
    assert generator.engine.free_blocks == 2


def test_past_its_deadline_a_generation_ends_with_what_it_has(generator: TextGenerator) -> None:
    *_, last = generator.generate([5], Sampling(max_new_tokens=100, deadline_s=0.0))
    assert last.finish_reason == "deadline"


def test_a_context_beyond_the_model_s_own_is_refused_with_the_limit(directory: Path) -> None:
    with pytest.raises(ModelRefused) as raised:
        load(directory, context_tokens=4096)
    assert (raised.value.field, raised.value.value, raised.value.limit) == ("CONTEXT", 4096, 1024)


def test_without_a_context_the_model_s_own_is_taken(directory: Path) -> None:
    generator = load(directory, context_tokens=None)
    try:
        assert generator.max_model_len == 1024
    finally:
        generator.close()


def test_weights_in_a_pickle_are_refused_by_the_file_s_name(tmp_path: Path) -> None:
    save_model(tmp_path)
    weights = tmp_path / "model.safetensors"
    torch.save({}, tmp_path / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ModelRefused, match=r"pytorch_model\.bin"):
        load(tmp_path)


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "mxfp4"])
def test_weights_quantised_as_published_are_refused_on_a_cpu_by_their_method(tmp_path: Path, method: str) -> None:
    config = json.loads((save_model(tmp_path) / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "bits": 4, "group_size": 128}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelRefused, match=method) as raised:
        load(tmp_path)
    assert raised.value.value == method
    assert "GPU" in str(raised.value.remedy)


def test_a_missing_directory_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="nowhere"):
        load(tmp_path / "nowhere")


def test_a_damaged_model_is_refused_and_not_a_traceback(tmp_path: Path) -> None:
    save_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ModelRefused, match="can't be loaded"):
        load(tmp_path)
