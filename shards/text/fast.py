"""The tokenizer of a checkpoint folder, on Hugging Face's `tokenizers` library (no transformers here)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import tokenizers

from shards.config import ModelSpec
from shards.errors import TokenizerError
from shards.shown import shown
from shards.text.chat_template import ChatTemplate
from shards.text.stream import ByteStream, WindowStream
from shards.text.tokenizer import TextStream, Tokenizer

TOKENIZER = "tokenizer.json"
MAX_FILE_BYTES: Mapping[str, int] = {
    TOKENIZER: 128 << 20,
    "tokenizer_config.json": 8 << 20,
    "special_tokens_map.json": 1 << 20,
    "generation_config.json": 1 << 20,
    "config.json": 8 << 20,
    "chat_template.jinja": 1 << 20,
}
"""The files a tokenizer is made of, and the most bytes of each that we read. Only the first must exist."""
MAX_TOKEN_ID = (1 << 31) - 1

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_WORD_START = "\u2581"


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder. Raises `TokenizerError` when it is missing, too large or corrupt."""
    files: dict[str, bytes] = {}
    for name, limit in MAX_FILE_BYTES.items():
        path = folder / name
        try:
            with path.open("rb") as file:
                files[name] = file.read(limit + 1)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise TokenizerError(f"{path} cannot be read: {error.strerror or error}") from error
    if TOKENIZER not in files:
        raise TokenizerError(f"{folder} holds no {TOKENIZER}")
    return tokenizer_from_files(files)


def tokenizer_from_files(files: Mapping[str, bytes]) -> Tokenizer:
    """A tokenizer from the content of its files, by name; names that are not in `MAX_FILE_BYTES` are ignored.

    Raises `TokenizerError` when tokenizer.json is missing, or any file is too large or corrupt.
    """
    for name, limit in MAX_FILE_BYTES.items():
        if len(files.get(name, b"")) > limit:
            raise TokenizerError(f"{name} is larger than {limit} bytes")
    if TOKENIZER not in files:
        raise TokenizerError(f"there is no {TOKENIZER}")
    with _rust_failures(f"{TOKENIZER} is not a tokenizer"):
        inner = tokenizers.Tokenizer.from_buffer(files[TOKENIZER])
        inner.no_truncation()  # a file that asks for it would cut prompts in silence
        inner.no_padding()
    settings = _json(files, "special_tokens_map.json") | _json(files, "tokenizer_config.json")
    named = {name: text for name in _NAMED_TOKENS if (text := _token_text(settings.get(name))) is not None}
    eos = _eos_token_ids(inner, _json(files, "generation_config.json"), _json(files, "config.json"), named)
    source = _template_source(files, settings)
    template = None if source is None else ChatTemplate(source)
    return FastTokenizer(inner, eos, template, named)


def check_tokenizer(tokenizer: Tokenizer, spec: ModelSpec) -> None:
    """Raise `TokenizerError` when the tokenizer can produce ids that the model has no embedding for."""
    if tokenizer.vocab_size > spec.vocab_size:
        raise TokenizerError(
            f"wrong tokenizer: its ids go up to {tokenizer.vocab_size - 1}, "
            f"but the model knows only {spec.vocab_size} tokens"
        )
    beyond = [token for token in tokenizer.eos_token_ids if token >= spec.vocab_size]
    if beyond:
        raise TokenizerError(f"wrong tokenizer: end tokens {beyond} are not among the model's {spec.vocab_size} tokens")


class FastTokenizer:
    """The `Tokenizer` port over a `tokenizers.Tokenizer`. Made by `load_tokenizer` or `tokenizer_from_files`.

    `vocab_size` is one more than the highest id. An id between that and the model's own vocabulary size is
    padding and has the empty text. `named_tokens` are the special tokens that templates use by name.
    """

    def __init__(
        self,
        inner: Any,
        eos_token_ids: tuple[int, ...],
        template: ChatTemplate | None,
        named_tokens: Mapping[str, str],
    ) -> None:
        self._inner = inner
        self._template = template
        self._named_tokens = dict(named_tokens)
        self.eos_token_ids = eos_token_ids
        self.vocab_size = max(inner.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.has_chat_template = template is not None
        added = inner.get_added_tokens_decoder()
        self._added: dict[int, str] = {token: entry.content for token, entry in added.items()}
        self._special = frozenset(token for token, entry in added.items() if entry.special)
        self._is_byte_level = _decodes_bytes(inner)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`. A rendered chat template already has its special tokens: pass False for it."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TokenizerError("the text holds half a surrogate pair, which is not Unicode") from error
        with _rust_failures("the text cannot be tokenised"):
            ids: list[int] = self._inner.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of token ids; U+FFFD for bytes that are no character, nothing for ids without a token."""
        for token in tokens:
            _check_id(token)
        with _rust_failures("the tokens cannot be decoded"):
            text: str = self._inner.decode(list(tokens), skip_special_tokens=skip_special_tokens)
        return text

    def token_text(self, token: int) -> str:
        """One token's own text, with the space that begins it, and U+FFFD for part of a character."""
        return self.token_bytes(token).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        """One token's own bytes; empty for an id without a token."""
        _check_id(token)
        if token in self._added:
            return self._added[token].encode()
        written = self._known(token)
        if written is None:
            return b""
        if self._is_byte_level:
            return _alphabet_bytes(written)
        found = _BYTE_TOKEN.fullmatch(written)
        return bytes.fromhex(found[1]) if found else written.replace(_WORD_START, " ").encode()

    def stream(self, *, skip_special_tokens: bool = True) -> TextStream:
        """A streaming decoder whose pieces together equal `decode` of the same ids with the same option."""
        skipped = self._special if skip_special_tokens else frozenset()
        if self._is_byte_level:
            return ByteStream(lambda token: b"" if token in skipped else self._decoded_bytes(token))
        return WindowStream(
            lambda tokens: self.decode(tokens, skip_special_tokens=False),
            lambda token: _BYTE_TOKEN.fullmatch(self._inner.id_to_token(token) or "") is not None,
            lambda token: self._known(token) is None or token in skipped,
        )

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """The prompt text for a conversation. Raises `TokenizerError` without a template or when it fails."""
        if self._template is None:
            raise TokenizerError("this model has no chat template")
        return self._template.render(
            messages,
            add_generation_prompt=add_generation_prompt,
            tools=None if tools is None else [*tools],
            documents=None,
            **self._named_tokens,
        )

    def _known(self, token: int) -> str | None:
        _check_id(token)
        written: str | None = self._inner.id_to_token(token)
        return written

    def _decoded_bytes(self, token: int) -> bytes:
        """What a byte-level decoder makes of a token: added tokens too are read through the byte alphabet."""
        written = self._known(token)
        return b"" if written is None else _alphabet_bytes(written)


def _check_id(token: int) -> None:
    if not 0 <= token <= MAX_TOKEN_ID:
        raise TokenizerError(f"{token} is not a token id")


@lru_cache(maxsize=1)
def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins: bytes that print stand for themselves, the others follow from U+0100."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printing)]
    alphabet = {chr(byte): byte for byte in printing}
    return alphabet | {chr(0x100 + place): byte for place, byte in enumerate(others)}


def _alphabet_bytes(written: str) -> bytes:
    alphabet = _byte_alphabet()
    try:
        return bytes([alphabet[character] for character in written])
    except KeyError:  # not written in the alphabet: an added token, taken as it stands
        return written.encode()


def _decodes_bytes(inner: Any) -> bool:
    """True when the decoder is the byte-level one and nothing else."""
    if inner.decoder is None:
        return False
    # A decoder's own state is its JSON, far smaller than the tokenizer's with its vocabulary.
    decoder = json.loads(inner.decoder.__getstate__())
    while decoder.get("type") == "Sequence" and len(decoder.get("decoders", ())) == 1:
        decoder = decoder["decoders"][0]
    return bool(decoder.get("type") == "ByteLevel")


def _json(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    if name not in files:
        return {}
    try:
        content = json.loads(files[name])
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{name} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise TokenizerError(f"{name} is not a JSON object")
    return content


def _token_text(value: object) -> str | None:
    """A special token as the files write it: a string, or an object with `content`."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None


def _eos_token_ids(
    inner: Any, generation: Mapping[str, Any], config: Mapping[str, Any], named: Mapping[str, str]
) -> tuple[int, ...]:
    """From generation_config.json, else config.json (its text part too), else the named token."""
    text_config = config.get("text_config")
    sources = {
        "generation_config.json": generation,
        "config.json": config,
        "config.json's text_config": text_config if isinstance(text_config, dict) else {},
    }
    for name, source in sources.items():
        value = source.get("eos_token_id")
        if value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        for token in ids:
            if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token <= MAX_TOKEN_ID:
                raise TokenizerError(f"{name}: eos_token_id must be token ids, got {shown(value)}")
        return tuple(dict.fromkeys(ids))
    token = inner.token_to_id(named["eos_token"]) if "eos_token" in named else None
    return () if token is None else (int(token),)


def _template_source(files: Mapping[str, bytes], settings: Mapping[str, Any]) -> str | None:
    """chat_template.jinja, else tokenizer_config.json's (of several, the one named default)."""
    if "chat_template.jinja" in files:
        try:
            return files["chat_template.jinja"].decode("utf-8")
        except UnicodeDecodeError as error:
            raise TokenizerError("chat_template.jinja is not UTF-8") from error
    value = settings.get("chat_template")
    if isinstance(value, list):
        choices = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        value = choices.get("default")
    if value is not None and not isinstance(value, str):
        raise TokenizerError("tokenizer_config.json: chat_template is neither a text nor a list of texts")
    return value


@contextmanager
def _rust_failures(what: str) -> Iterator[None]:
    """Turn what `tokenizers` raises into `TokenizerError`; a panic there is no ordinary exception."""
    try:
        yield
    except (ValueError, TypeError, OverflowError, MemoryError) as error:
        raise TokenizerError(f"{what}: {str(error)[:300]}") from error
    except BaseException as error:
        if type(error) is Exception or type(error).__name__ == "PanicException":
            raise TokenizerError(f"{what}: {str(error)[:300]}") from error
        raise
