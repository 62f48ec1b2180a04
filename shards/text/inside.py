"""The part of a tokenizer that runs in a child process: its files are read there, texts encoded, templates rendered."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgpack
import tokenizers

from shards.errors import TokenizerError
from shards.shown import shown
from shards.text.failures import rust_failures
from shards.text.limits import (
    MAX_DECODER_BYTES,
    MAX_END_TOKENS,
    MAX_TEMPLATE_CHARACTERS,
    MAX_TOKEN_BYTES,
    MAX_VOCABULARY,
    MAX_VOCABULARY_BYTES,
)
from shards.text.rendering import Template
from shards.text.sampling_defaults import sampling_defaults
from shards.text.tokenizer import ADDED, MAX_TOKEN_ID, PRESENT, SPECIAL, TOKENIZER
from shards.text.tool_format import tool_format

_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def new_operations() -> Mapping[str, Callable[..., Any]]:
    """What a fresh worker can do."""
    inside = _Inside()
    return {"load": inside.load, "compile": inside.compile, "encode": inside.encode, "render": inside.render}


class _Inside:
    """One model's tokenizer and chat template. Every method raises `TokenizerError`."""

    def __init__(self) -> None:
        self._inner: Any = None
        self._template: Template | None = None
        self._tool_template: Template | None = None
        """Of a model that has another template where there are tools."""
        self._named_tokens: dict[str, str] = {}

    def load(self, files: dict[str, bytes]) -> dict[str, Any]:
        """Read the files (by name); answers what `FastTokenizer` is made of."""
        with rust_failures(f"{TOKENIZER} is not a tokenizer"):
            inner = tokenizers.Tokenizer.from_buffer(files[TOKENIZER])
            inner.no_truncation()  # a file that asks for it would cut prompts in silence
            inner.no_padding()
        settings = read_json(files, "special_tokens_map.json") | read_json(files, "tokenizer_config.json")
        named = {name: text for name in _NAMED_TOKENS if (text := _token_text(settings.get(name))) is not None}
        eos = _eos_token_ids(inner, read_json(files, "generation_config.json"), read_json(files, "config.json"), named)
        source = _template_source(files, settings)
        tool_source = _named_template(settings, "tool_use") if "chat_template.jinja" not in files else None
        if source is not None:
            self.compile(source)
        if tool_source is not None:
            self._tool_template = _compiled(tool_source)
        self._inner, self._named_tokens = inner, named
        decoder = None if inner.decoder is None else inner.decoder.__getstate__()
        if decoder is not None and len(decoder) > MAX_DECODER_BYTES:
            raise TokenizerError(f"{TOKENIZER}: its decoder is larger than {MAX_DECODER_BYTES} bytes")
        with rust_failures(f"{TOKENIZER} is not a tokenizer"):
            table = _table(inner)
        tools = tool_format(tool_source or source or "")
        return {
            "eos": list(eos),
            "template": source is not None,
            "tools": tools,
            "sampling": sampling_defaults(read_json(files, "generation_config.json")),
            "decoder": decoder,
            **table,
        }

    def compile(self, source: str) -> None:
        """Make a chat template of its source."""
        self._template = _compiled(source)

    def encode(self, texts: list[str], plain: list[bool], add_special_tokens: bool, most: int) -> bytes:
        """The ids of all texts, not more than `most`, as 32-bit numbers of this machine.

        Of `plain` texts what is written like a special token is ordinary text.
        """
        ids: dict[tuple[str, bool], list[int]] = {}
        with rust_failures("the text cannot be tokenised"):
            for kind in (False, True):
                self._inner.encode_special_tokens = kind
                some = list(
                    dict.fromkeys(text for text, is_plain in zip(texts, plain, strict=True) if is_plain == kind)
                )
                # Without offsets into the text, which nobody asks for and which take as long again.
                encoded = self._inner.encode_batch_fast(some, add_special_tokens=add_special_tokens) if some else ()
                ids |= {(text, kind): encoding.ids for text, encoding in zip(some, encoded, strict=True)}
        count = sum(len(ids[each]) for each in zip(texts, plain, strict=True))
        if count > most:
            raise TokenizerError(f"the tokenizer makes {count} tokens of {sum(map(len, texts))} characters")
        return b"".join(_packed(ids[each]) for each in zip(texts, plain, strict=True))

    def render(self, packed: bytes) -> str:
        """The prompt for a conversation: msgpack of the messages and the template's variables."""
        if self._template is None:
            raise TokenizerError("this model has no chat template")
        messages, variables = msgpack.unpackb(packed, strict_map_key=False)
        template = self._tool_template if self._tool_template and variables.get("tools") else self._template
        prompt = template.render(messages, {**variables, **self._named_tokens})
        _check_unicode(prompt, "the prompt of the chat template")
        return prompt


def _compiled(source: str) -> Template:
    if len(source) > MAX_TEMPLATE_CHARACTERS:
        raise TokenizerError(f"the chat template has {len(source)} characters, more than {MAX_TEMPLATE_CHARACTERS}")
    return Template(source)


def _packed(numbers: Sequence[int]) -> bytes:
    packed = array("I", numbers)
    return packed.tobytes()


def _check_unicode(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(f"{what} holds half a surrogate pair, which is not Unicode") from error


def _table(inner: Any) -> dict[str, bytes]:
    """Every token's text, end to end; where each ends; and what it is (`PRESENT`, `ADDED`, `SPECIAL`)."""
    size = max(inner.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    if size > MAX_VOCABULARY:
        raise TokenizerError(f"{TOKENIZER} has token ids up to {size - 1}, more than {MAX_VOCABULARY}")
    added = inner.get_added_tokens_decoder()
    special = {entry.content for entry in added.values() if entry.special}
    texts, ends, kinds = bytearray(), array("I"), bytearray()
    for token in range(size):
        text = inner.id_to_token(token)
        if text is not None:
            written = text.encode()
            if len(written) > MAX_TOKEN_BYTES or len(texts) + len(written) > MAX_VOCABULARY_BYTES:
                raise TokenizerError(f"{TOKENIZER}: the text of token {token} is too long")
            texts += written
        kinds.append(0 if text is None else PRESENT | ADDED * (token in added) | SPECIAL * (text in special))
        ends.append(len(texts))
    return {"texts": bytes(texts), "ends": ends.tobytes(), "kinds": bytes(kinds)}


def read_json(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """The object in a file, empty where there is no such file."""
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
    """All that any of the files names: generation_config.json, config.json with its text part, and the named token.

    A fine-tune's config often has its base model's token only, and its tokenizer the one that ends a turn. -1 is none.
    """
    text_config = config.get("text_config")
    sources = {
        "generation_config.json": generation,
        "config.json": config,
        "config.json's text_config": text_config if isinstance(text_config, dict) else {},
    }
    found: dict[int, None] = {}
    for name, source in sources.items():
        value = source.get("eos_token_id")
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if len(ids) > MAX_END_TOKENS:
            raise TokenizerError(f"{name} has {len(ids)} end tokens, more than {MAX_END_TOKENS}")
        for token in ids:
            if not isinstance(token, int) or isinstance(token, bool) or not -1 <= token <= MAX_TOKEN_ID:
                raise TokenizerError(f"{name}: eos_token_id must be token ids, got {shown(value)}")
        found |= dict.fromkeys(token for token in ids if token >= 0)
    token = inner.token_to_id(named["eos_token"]) if "eos_token" in named else None
    return tuple(found) if token is None else tuple({**found, int(token): None})


def _template_source(files: Mapping[str, bytes], settings: Mapping[str, Any]) -> str | None:
    """chat_template.jinja, else tokenizer_config.json's (of several, the one named default)."""
    if "chat_template.jinja" in files:
        try:
            return files["chat_template.jinja"].decode("utf-8")
        except UnicodeDecodeError as error:
            raise TokenizerError("chat_template.jinja is not UTF-8") from error
    value = settings.get("chat_template")
    if isinstance(value, list):
        return _named_template(settings, "default")
    if value is not None and not isinstance(value, str):
        raise TokenizerError("tokenizer_config.json: chat_template is neither a text nor a list of texts")
    return value


def _named_template(settings: Mapping[str, Any], name: str) -> str | None:
    """Of several templates the last one of this name."""
    value = settings.get("chat_template")
    if not isinstance(value, list):
        return None
    named = [item for item in value if isinstance(item, dict) and item.get("name") == name]
    template = named[-1].get("template") if named else None
    if template is not None and not isinstance(template, str):
        raise TokenizerError("tokenizer_config.json: chat_template is neither a text nor a list of texts")
    return template
