"""The tokenizer of a checkpoint folder: files and texts are read in a child process, tokens become text in this one."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from shards.checkpoint.model_folder import find
from shards.errors import CheckpointError, NotText, TextTooLong, TokenizerError
from shards.model.spec import ModelSpec
from shards.sandbox.box import Box
from shards.sandbox.limits import Call
from shards.text import limits
from shards.text.chat_template import SANDBOX, ask, begin, render
from shards.text.decoder import Decoder
from shards.text.stream import BoundedStream, ByteStream, WindowStream
from shards.text.tokenizer import TOKENIZER, TextStream
from shards.text.vocabulary import Vocabulary

MAX_FILE_BYTES: Mapping[str, int] = {
    TOKENIZER: 128 << 20,
    "tokenizer_config.json": 8 << 20,
    "special_tokens_map.json": 1 << 20,
    "generation_config.json": 1 << 20,
    "config.json": 8 << 20,
    "chat_template.jinja": 1 << 20,
}
"""The files a tokenizer is made of, and the most bytes of each that we read. Only the first must exist."""


def load_tokenizer(folder: Path) -> FastTokenizer:
    """The tokenizer of a folder. Raises `TokenizerError` when it is missing, too large or corrupt."""
    files: dict[str, bytes] = {}
    try:
        for name, limit in MAX_FILE_BYTES.items():
            data = find(folder / name, limit)
            if data is not None:
                files[name] = data
    except CheckpointError as error:
        raise TokenizerError(str(error)) from error
    if TOKENIZER not in files:
        raise TokenizerError(f"{folder} holds no {TOKENIZER}")
    return tokenizer_from_files(files)


def tokenizer_from_files(files: Mapping[str, bytes]) -> FastTokenizer:
    """A tokenizer from the content of its files, by name; names that are not in `MAX_FILE_BYTES` are ignored.

    Raises `TokenizerError` when tokenizer.json is missing, or any file is too large or corrupt. Takes seconds for a
    large one: not for an event loop.
    """
    for name, limit in MAX_FILE_BYTES.items():
        if len(files.get(name, b"")) > limit:
            raise TokenizerError(f"{name} is larger than {limit} bytes")
    if TOKENIZER not in files:
        raise TokenizerError(f"there is no {TOKENIZER}")
    known = {name: bytes(data) for name, data in files.items() if name in MAX_FILE_BYTES}
    size = sum(map(len, known.values()))
    box = SANDBOX.box(Call("load", (known,), limits.loading(size)))
    return FastTokenizer(box, begin(box), size)


def check_tokenizer(tokenizer: FastTokenizer, spec: ModelSpec) -> None:
    """Raise `TokenizerError` when the tokenizer makes ids of ordinary text that the model has no embedding for.

    Added tokens may lie beyond the vocabulary, as those of fine-tunes and of Gemma 3 do: prompts with them are refused.
    """
    if tokenizer.own_vocab_size > spec.vocab_size:
        raise TokenizerError(
            f"wrong tokenizer: its ids go up to {tokenizer.own_vocab_size - 1}, "
            f"but the model knows only {spec.vocab_size} tokens"
        )
    beyond = [token for token in tokenizer.eos_token_ids if token >= spec.vocab_size]
    if beyond:
        raise TokenizerError(f"wrong tokenizer: end tokens {beyond} are not among the model's {spec.vocab_size} tokens")


class FastTokenizer:
    """The `Tokenizer` port over a sandbox. Made by `load_tokenizer` or `tokenizer_from_files`.

    `vocab_size` is one more than the highest id, `own_vocab_size` than the highest without added tokens. An id between
    the first and the model's own vocabulary size is padding and has the empty text. `held_bytes` is about what it keeps
    in memory here. `encode` and `apply_chat_template` call a child process and may take seconds: not for an event loop.
    """

    def __init__(self, box: Box, loaded: Mapping[str, Any], size: int) -> None:
        """`loaded` is what the box answered to `load`, `size` the files' bytes."""
        self._box = box
        match loaded:
            case {
                "eos": list(eos),
                "template": bool(has_template),
                "tools": str() | None as tools,
                "sampling": dict(sampling),
                "decoder": bytes() | None as decoder,
                "texts": bytes(texts),
                "ends": bytes(ends),
                "kinds": bytes(kinds),
            }:
                self._decoder = Decoder(decoder)
                self._vocabulary = Vocabulary(texts, ends, kinds, is_byte_level=self._decoder.is_byte_level)
                self.has_chat_template = has_template
                self.tool_format = tools
                self.sampling_defaults: Mapping[str, float] = sampling
                self.eos_token_ids: tuple[int, ...] = tuple(eos)
            case _:
                raise TokenizerError(f"{TOKENIZER} was not read")
        self.vocab_size = len(self._vocabulary)
        self.own_vocab_size = self._vocabulary.own_size
        self.special_tokens: Mapping[str, int] = self._vocabulary.special_tokens()
        self.held_bytes = size + len(texts) + len(ends) + len(kinds)

    @property
    def special_texts(self) -> tuple[str, ...]:
        """How the tokens are written that mark structure."""
        return tuple(self.special_tokens)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`. A rendered chat template already has its special tokens: pass False for it.

        Raises `TokenizerError`, `TextTooLong` above 4 MiB of UTF-8; `CapacityExceeded` when others leave no room.
        """
        return self._encode([text], [False], add_special_tokens)

    def encode_parts(self, parts: Sequence[tuple[str, bool]]) -> list[int]:
        """Token ids of texts one after another; of those with True what is written like a special token is text.

        No special tokens are added. Raises what `encode` does.
        """
        return self._encode([text for text, _ in parts], [plain for _, plain in parts], False)

    def _encode(self, texts: list[str], plain: list[bool], add_special_tokens: bool) -> list[int]:
        characters = sum(map(len, texts))
        if characters > limits.MAX_TEXT_BYTES:
            raise TextTooLong(f"the text has {characters} characters, more than {limits.MAX_TEXT_BYTES}")
        try:
            size = sum(len(text.encode()) for text in texts)
        except UnicodeEncodeError as error:
            raise NotText("the text holds half a surrogate pair, which is not Unicode") from error
        if size > limits.MAX_TEXT_BYTES:
            raise TextTooLong(f"the text has {size} bytes, more than {limits.MAX_TEXT_BYTES}")
        arguments = (texts, plain, add_special_tokens, limits.most_tokens(size))
        packed = ask(self._box, Call("encode", arguments, limits.encoding(size)))
        ids = array("I")
        if not isinstance(packed, bytes) or len(packed) % ids.itemsize:
            raise TokenizerError("the text was not tokenised")
        ids.frombytes(packed)
        return ids.tolist()

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of token ids; U+FFFD for bytes that are no character, nothing for ids without a token."""
        vocabulary = self._vocabulary
        texts: list[str] = []
        size = 0
        for token in tokens:
            if vocabulary.known(token) and not (skip_special_tokens and vocabulary.special(token)):
                written = vocabulary.written(token)
                size += len(written)
                if size > limits.MAX_DECODED_BYTES:
                    raise TextTooLong(f"the tokens' text has more than {limits.MAX_DECODED_BYTES} bytes")
                texts.append(written.decode("utf-8", "replace"))
        return self._decoder(texts)

    def token_text(self, token: int) -> str:
        """One token's own text, with the space that begins it, and U+FFFD for part of a character."""
        return self.token_bytes(token).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        """One token's own bytes; empty for an id without a token."""
        return self._vocabulary.shown(token)

    def stream(self, *, skip_special_tokens: bool = True, shown: Collection[int] = ()) -> TextStream:
        """A streaming decoder whose pieces together equal `decode` of the same ids with the same option.

        Special tokens of `shown` are not skipped.
        """
        vocabulary = self._vocabulary

        def is_skipped(token: int) -> bool:
            special = skip_special_tokens and vocabulary.special(token) and token not in shown
            return not vocabulary.known(token) or special

        if self._decoder.is_byte_level:
            bytes_of = vocabulary.decoded
            return BoundedStream(ByteStream(lambda token: b"" if is_skipped(token) else bytes_of(token)))
        return BoundedStream(
            WindowStream(
                lambda tokens: self.decode(tokens, skip_special_tokens=False),
                lambda token: vocabulary.single_byte(token) is not None,
                is_skipped,
            )
        )

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """The prompt text for a conversation. Raises `TokenizerError` without a template or when it fails."""
        if not self.has_chat_template:
            raise TokenizerError("this model has no chat template")
        variables = {
            "add_generation_prompt": add_generation_prompt,
            "tools": None if tools is None else [*tools],
            "documents": None,
        }
        return render(self._box, messages, variables)
