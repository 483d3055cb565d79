"""The model's tokenizer: byte-level BPE over Portuguese and English, and the chat template used in serving.

An answer can only be copied if it has the same tokens as in the passage. So every word includes the space before it,
also the first word of a line (the normalizer inserts that space, the decoder removes it) and the first word of an
answer; and every digit is a token, because numbers split by frequency are the hardest to copy.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

USER, ASSISTANT, END, PADDING = "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>"
SPECIAL_TOKENS = (PADDING, END, USER, ASSISTANT)

# The system message is omitted: the model is trained for this one task, and it would only cost prompt tokens. The
# question is repeated before the passages, so that their tokens can attend to it, which a model this small needs.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}"
    "{% set mark = 'Pergunta: ' if message['content'].startswith('Passagens:\\n') else 'Question: ' %}"
    "{% set parts = message['content'].rsplit('\\n\\n' + mark, 1) %}" + USER + "\n"
    "{% if parts | length == 2 %}{{ mark + parts[1] + '\\n\\n' }}{% endif %}{{ message['content'] }}\n"
    + ASSISTANT
    + "{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] }}" + END + "{% endif %}{% endfor %}"
)

_WORDS = Regex(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]|\s*[\r\n]+|\s+")


def train_tokenizer(texts: Iterable[str], vocabulary_size: int, max_length_tokens: int) -> PreTrainedTokenizerFast:
    """A fast tokenizer of `vocabulary_size` entries, trained on `texts`, with the chat template set."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"(?<=\n)(?=[^\s])"), " ")])
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(_WORDS, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("\n ", "\n")])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=PADDING,
        additional_special_tokens=[USER, ASSISTANT],
        model_max_length=max_length_tokens,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
    )
