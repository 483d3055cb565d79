"""A multilingual embedder: another architecture and tokenizer, and the prefixes of its family."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rag.embedding.sentence_transformer import Prefixes, SentenceTransformerEmbedder

TEXTS = [
    "O conselho municipal aprovou as mudanças no regulamento das escolas públicas durante o verão.",
    "As famílias não precisam preencher nenhuma inscrição para a alimentação gratuita.",
    "Milhares de crianças terão direito a refeições, segundo a direção, e passam a oferecer ontem.",
    "The council approved the changes to the rules of the public schools.",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny XLM-RoBERTa with a Unigram tokenizer and random weights, named like a model of the e5 family."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from tokenizers import Tokenizer
    from tokenizers.models import Unigram
    from tokenizers.pre_tokenizers import Metaspace
    from tokenizers.processors import TemplateProcessing
    from tokenizers.trainers import UnigramTrainer
    from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel, set_seed

    words = Tokenizer(Unigram())
    words.pre_tokenizer = Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    words.train_from_iterator(TEXTS * 20, UnigramTrainer(vocab_size=400, special_tokens=special, unk_token="<unk>"))
    words.post_processor = TemplateProcessing("<s> $A </s>", "<s> $A </s> $B </s>", [("<s>", 0), ("</s>", 2)])
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        cls_token="<s>", sep_token="</s>", model_max_length=64,
    )  # fmt: skip
    set_seed(0)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=70, pad_token_id=1,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("models")
    XLMRobertaModel(config).save_pretrained(folder / "bare")
    tokenizer.save_pretrained(folder / "bare")
    transformer = Transformer(str(folder / "bare"), max_seq_length=64)
    SentenceTransformer(modules=[transformer, Pooling(32)], device="cpu").save(str(folder / "multilingual-e5-tiny"))
    return folder / "multilingual-e5-tiny"


@pytest.fixture(scope="module")
def embedder(model: Path) -> Iterator[SentenceTransformerEmbedder]:
    embedder = SentenceTransformerEmbedder.load(str(model))
    yield embedder
    embedder.close()


def test_its_family_s_prefixes_are_prepended_to_queries_and_passages(embedder: SentenceTransformerEmbedder) -> None:
    assert embedder.prefixes == Prefixes("query: ", "passage: ")
    query, passage = embedder.embed_queries(TEXTS[:1]), embedder.embed_passages(TEXTS[:1])
    assert not np.allclose(query, passage, atol=1e-3)


def test_its_vectors_are_those_of_the_library_with_the_prefix_prepended(
    embedder: SentenceTransformerEmbedder, model: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    written = ["passage: " + text for text in TEXTS]
    expected = SentenceTransformer(str(model), device="cpu").encode(written, normalize_embeddings=True)
    np.testing.assert_allclose(embedder.embed_passages(TEXTS), expected, atol=1e-5)


def test_tokens_are_counted_by_its_own_tokenizer(embedder: SentenceTransformerEmbedder) -> None:
    spans = embedder.token_spans(TEXTS[0])
    assert TEXTS[0][spans[0][0] : spans[-1][1]].strip() == TEXTS[0]
    assert 40 < embedder.max_tokens < 62, "64, less the special tokens and the prefix"
