"""GGUF files byte by byte, sound and unsound."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def number(key: str, value: int) -> bytes:
    """A key with an unsigned number of 32 bits."""
    return text(key) + struct.pack("<II", 4, value)


def entry(name: str, shape: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    """A tensor's entry; sizes are innermost first, as in the file."""
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def build(
    keys: Sequence[bytes], entries: Sequence[bytes], data: int = 4096, *, counts: tuple[int, int] | None = None
) -> bytes:
    """A file with so many bytes of tensors; `counts` of tensors and keys, where it is to lie about them."""
    n_tensors, n_keys = counts or (len(entries), len(keys))
    head = b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_keys) + b"".join(keys) + b"".join(entries)
    return head + bytes(-len(head) % 32) + bytes(data)


def value_of(key: str, value: Any) -> bytes:
    """A key with a value of a usual kind."""
    match value:
        case bool():
            return text(key) + struct.pack("<IB", 7, value)
        case int():
            return number(key, value)
        case float():
            return text(key) + struct.pack("<If", 6, value)
        case str():
            return text(key) + struct.pack("<I", 8) + text(value)
        case [str(), *_]:
            return text(key) + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
        case _:
            return text(key) + struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)


def small_model(kind: str = "llama", **more: Any) -> bytes:
    """A small model with all its metadata; `more` has further keys of its architecture, with `__` for a dot."""
    facts: dict[str, Any] = {
        "general.architecture": kind,
        f"{kind}.block_count": 1,
        f"{kind}.context_length": 64,
        f"{kind}.embedding_length": 64,
        f"{kind}.feed_forward_length": 96,
        f"{kind}.attention.head_count": 4,
        f"{kind}.attention.head_count_kv": 2,
        f"{kind}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{kind}.rope.freq_base": 10_000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": ["<s>", "a", "b", "ab"],
        "tokenizer.ggml.token_type": [3, 1, 1, 1],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        **{f"{kind}.{key.replace('__', '.')}": value for key, value in more.items()},
    }
    entries = [entry("token_embd.weight", (64, 4), 8), entry("blk.0.attn_q.weight", (64, 64), 2, 288)]
    return build([value_of(key, value) for key, value in facts.items()], entries)
