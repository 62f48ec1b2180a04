"""Decoders of a model's texts: tokenizer files, chat template, the sandbox that they are read in."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Sequence
from random import Random
from typing import Any

from shards.errors import TokenizerError
from shards.sandbox.frames import FrameError, receive
from shards.text.decoder import MAX_GROWTH
from shards.text.decoder import Decoder as TokensDecoder
from shards.text.fast import tokenizer_from_files
from tests.fuzz.decoder import Decoder
from tests.fuzz.mutate import mutate_bytes, mutate_json

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja")
TEMPLATE = (
    b"{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] | trim }}\n{% endfor %}"
    b"{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def _small_tokenizer() -> bytes:
    vocab = {character: at for at, character in enumerate("abcdefgh")} | {"<s>": 8, "</s>": 9, "ab": 10}
    added = [{"id": 9, "content": "</s>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True}]  # fmt: skip
    return json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None, "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                                            "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocab, "merges": [["a", "b"]]},
    }).encode()  # fmt: skip


def _joined(parts: Sequence[bytes]) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _split(data: bytes) -> list[bytes]:
    parts, at = [], 0
    for _ in TOKENIZER_FILES:
        size = int.from_bytes(data[at : at + 4], "big")
        parts.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return parts


def _tokenizers() -> list[bytes]:
    settings = json.dumps({"eos_token": {"content": "</s>"}, "bos_token": "<s>"}).encode()
    return [_joined((_small_tokenizer(), settings, b'{"eos_token_id": [9]}', TEMPLATE))]


def _mutate_tokenizer(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    parts = _split(data)
    at = rng.choice((0, 0, 1, 2, 3))
    parts[at] = mutate_bytes(parts[at], rng) if at == 3 else mutate_json(parts[at], rng)
    return _joined(parts)


def _tokenizer(data: bytes) -> list[int]:
    tokenizer = tokenizer_from_files(dict(zip(TOKENIZER_FILES, _split(data), strict=True)))
    ids = tokenizer.encode("abba cab")
    tokenizer.decode(ids)
    if tokenizer.has_chat_template:
        tokenizer.apply_chat_template([{"role": "user", "content": "ab"}])
    return [*ids, *tokenizer.eos_token_ids, *([tokenizer.vocab_size - 1] if tokenizer.vocab_size else [])]


def _ids_wrong(sample: bytes, data: bytes, ids: list[int]) -> str | None:
    return None if all(type(token) is int and 0 <= token < 1 << 32 for token in ids) else f"ids {str(ids)[:80]}"


def _decoder_states() -> list[bytes]:
    replace = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    parts = [
        replace,
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]
    flags = {"add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    states: list[dict[str, Any]] = [
        {"type": "ByteLevel", **flags},
        {"type": "Sequence", "decoders": parts},
        {"type": "WordPiece", "prefix": "##", "cleanup": True},
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        {"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": True},
        {"type": "BPEDecoder", "suffix": "</w>"},
    ]
    return [json.dumps(state).encode() for state in states]


def _sandbox_frame(data: bytes) -> bytearray | None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data[:65536])
        theirs.shutdown(socket.SHUT_WR)
        return receive(ours, 1000, time.monotonic() + 5)


def decoders() -> list[Decoder]:
    """All of this module."""
    return [
        Decoder(
            "tokenizer files",
            _tokenizers,
            _tokenizer,
            (TokenizerError,),
            _ids_wrong,
            (
                "shards.text.fast:tokenizer_from_files",
                "shards.text.inside:_Inside.load",
                "shards.text.inside:_Inside.render",
                "shards.text.inside:read_json",
            ),
            _mutate_tokenizer,
            0.15,
        ),
        Decoder(
            "decoders of tokenizers",
            _decoder_states,
            lambda data: (TokensDecoder(data), TokensDecoder(data)(["a", "<0x41>", "▁b"])),
            (TokenizerError,),
            lambda sample, data, found: (
                None if found[0].growth <= MAX_GROWTH and len(found[1]) < 200 else found[1][:80]
            ),
            ("shards.text.decoder:Decoder", "shards.text.decoder:_read"),
            mutate_json,
        ),
        Decoder(
            "frames of a sandbox",
            lambda: [len(body).to_bytes(4, "big") + body for body in (b"", b"abc", bytes(1000))],
            _sandbox_frame,
            (FrameError,),
            lambda sample, data, body: None if body is None or data[4:].startswith(body) else "another body",
            ("shards.sandbox.frames:receive",),
            mutate_bytes,
        ),
    ]
