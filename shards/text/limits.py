"""How much strangers' tokenizers and chat templates may take, and how long texts may be (pure)."""

from __future__ import annotations

from shards.sandbox.limits import Limits

MAX_TEMPLATE_CHARACTERS = 256 << 10
MAX_PROMPT_CHARACTERS = 4 << 20
MAX_TEXT_BYTES = 4 << 20
"""Of a text that is encoded: about a million tokens."""
MAX_VOCABULARY = 1 << 21
"""Token ids, of which the largest vocabularies in use have half as many."""
MAX_TOKEN_BYTES = 4096
MAX_VOCABULARY_BYTES = 32 << 20
"""Of one token's text, and of all tokens' texts together."""
MAX_DECODER_BYTES = 64 << 10
MAX_DECODED_BYTES = 16 << 20
"""Of the text that is made of token ids at once, or in one stream."""
MAX_END_TOKENS = 256
MAX_TOKENS = 4 << 20
"""That a text may become; of a shorter one `most_tokens`."""
SMALL_TEXT = 64 << 10
"""A text that any tokenizer reads in no time: who is slow with it is to blame, not who sent it."""

_MIB = 1 << 20


def loading(size: int) -> Limits:
    """For files of so many bytes. A tokenizer of 28 MiB and 262,144 tokens took 1 to 2 s and 380 MiB."""
    answer = MAX_VOCABULARY_BYTES + 5 * MAX_VOCABULARY + _MIB
    return Limits(4 + size / (2 * _MIB), 192 * _MIB + 24 * size, answer)


def most_tokens(size: int) -> int:
    """Of a text of so many bytes: nearly always one for each at most, a few more for ligatures and frames."""
    return min(16 * size + (1 << 16), MAX_TOKENS)


def encoding(size: int) -> Limits:
    """For a text of so many bytes. Ordinary tokenizers took up to 0.5 s and 200 MiB for each MiB."""
    return Limits(1 + 3 * size / _MIB, 64 * _MIB + 320 * size, 4 * most_tokens(size) + 1024, size <= SMALL_TEXT)


def rendering(size: int) -> Limits:
    """For a conversation of so many bytes. The kernel counts whole seconds: it ends within two."""
    return Limits(1, 128 * _MIB + 16 * size, 4 * MAX_PROMPT_CHARACTERS + _MIB, size <= SMALL_TEXT)
