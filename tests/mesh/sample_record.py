"""A provider's record with something in every field."""

from __future__ import annotations

from mesh.discovery.records import FileDigest, ProviderRecord
from shards.model.span import Span

NOW = 1_800_000_000.0


def sample_record(peer: str) -> ProviderRecord:
    """Valid at `NOW`, for half a minute."""
    return ProviderRecord(
        peer=peer,
        model="tiny/llama",
        digest="ab" * 32,
        n_blocks=12,
        span=Span(4, 8),
        state="serving",
        context_length=2048,
        vocab_size=32000,
        throughput=123.5,
        queue_depth=3,
        kv_free_tokens=100_000,
        sessions=2,
        maddrs=("/ip4/10.0.0.1/tcp/31330/p2p/" + peer,),
        numerics="fp32",
        wire_dtype="float32",
        version="0.1.0",
        files={"config.json": FileDigest("cd" * 32, 700), "tokenizer.json": FileDigest("ef" * 32, 9_000_000)},
        sequence=7,
        expires=NOW + 30,
    )
