"""Train the small model's byte-level BPE and turn the corpus into token ids (no torch here)."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from shards.training.corpus import ASSISTANT, END, ENDOFTEXT, SPECIAL_TOKENS, SYSTEM, USER, Document

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('this model knows the roles system, user and assistant') }}"
    "{% endif %}"
    "<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
_ENCODE_AT_ONCE = 64


def train_tokenizer(documents: Iterable[Document], vocab_size: int) -> Any:
    """A `tokenizers.Tokenizer`: byte-level BPE over GPT-2's pre-tokens, special tokens at ids 0 to 4."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocab_size < 256 + len(SPECIAL_TOKENS):
        raise ValueError(f"a byte-level vocabulary needs at least {256 + len(SPECIAL_TOKENS)} entries")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((document.text for document in documents), trainer)
    return tokenizer


def encode_all(tokenizer: Any, texts: Iterable[str]) -> tuple[array[int], list[int]]:
    """Ids of all texts in one row, each followed by the end-of-text token, and where each text starts."""
    end = int(tokenizer.token_to_id(ENDOFTEXT))
    ids = array("i")
    starts: list[int] = []
    for batch in _batches(texts, _ENCODE_AT_ONCE):
        for encoding in tokenizer.encode_batch(batch, add_special_tokens=False):
            starts.append(len(ids))
            ids.extend(encoding.ids)
            ids.append(end)
    return ids, starts


def _batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(texts)
    while batch := list(islice(iterator, size)):
        yield batch


def tokenizer_config(context: int) -> str:
    """tokenizer_config.json with the chat template."""
    content = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "eos_token": ENDOFTEXT,
        "pad_token": ENDOFTEXT,
        "additional_special_tokens": [USER, ASSISTANT, SYSTEM, END],
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    return json.dumps(content, indent=2) + "\n"
