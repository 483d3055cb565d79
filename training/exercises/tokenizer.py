"""The model's tokenizer: byte-level BPE over Portuguese and English, and the chat template that serving fills.

An answer must be made of the very tokens that the passage shows, or it could not be copied. So every word carries the
space before it, also the first word of a line (the normalizer puts one there, the decoder takes it away again) and
the first word of an answer; and digits stand alone, since a number cut by frequency is the hardest thing to copy.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

USER, ASSISTANT, END, PADDING = "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>"
SPECIAL_TOKENS = (PADDING, END, USER, ASSISTANT)

# The system message repeats what training has taught, so it would only cost prompt tokens. The question stands before
# the passages too: so every word of a passage is read in the light of it, which a model this small needs.
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
    """A fast tokenizer of `vocabulary_size` entries, learnt from `texts`, with the chat template set."""
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
