"""Arbitrary well-formed messages of every kind, for the tests of the wire."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from mesh.wire.messages import (
    MAX_DRAFTS,
    MAX_TOKENS,
    Activations,
    CloseSession,
    ExtendSession,
    FetchFile,
    FileData,
    Message,
    NewToken,
    NewTokens,
    NextTokens,
    OpenSession,
    Ping,
    Pong,
    Prompt,
    PromptProgress,
    PromptScores,
    SessionClosed,
    SessionFailed,
    SessionOpened,
    SessionRefused,
)
from mesh.wire.paying import Compare, Hello, Receipt, Unwelcome, Voucher, Welcome
from mesh.wire.work import Work

session_ids = st.binary(min_size=16, max_size=16)
roots = st.binary(min_size=32, max_size=32)
positions = st.integers(0, MAX_TOKENS)
counts = st.integers(1, MAX_TOKENS)
tokens = st.integers(0, (1 << 31) - 1)
logprobs = st.floats(-1e30, 0.0)
tops = st.lists(st.tuples(tokens, logprobs), max_size=32).map(tuple)
numbers = st.integers(0, 1 << 53)
peers = st.text(max_size=80)
reasons = st.text(max_size=40)
digests = st.text(max_size=64)

sampling: st.SearchStrategy[tuple[Any, ...]] = st.tuples(
    st.floats(0, 100),
    st.integers(0, 1 << 31),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 100),
    st.floats(-2, 2),
    st.floats(-2, 2),
    st.none() | st.integers(0, 32),
    st.integers(0, (1 << 64) - 1),
)

BY_KIND: dict[type[Any], st.SearchStrategy[Any]] = {
    OpenSession: st.builds(
        OpenSession,
        session=session_ids,
        digest=digests,
        start=st.integers(0, 1 << 16),
        end=st.integers(1, 1 << 16),
        previous=peers,
        following=peers,
        prompt_tokens=counts,
        fed_tokens=counts,
        capacity=counts,
        limit=counts,
        eos=st.lists(tokens, max_size=64).map(tuple),
        prompt_scores=st.booleans(),
        wire_dtype=st.sampled_from(("float32", "bfloat16", "float16")),
        sampling=sampling,
        logit_bias=st.lists(st.tuples(tokens, st.floats(-100, 100)), max_size=20).map(tuple),
        keys=st.lists(st.binary(min_size=16, max_size=16), max_size=5).map(b"".join),
    ),
    SessionOpened: st.builds(SessionOpened, session_ids),
    SessionRefused: st.builds(
        SessionRefused, session_ids, st.text(max_size=64), reasons, st.integers(0, 3_600_000), positions
    ),
    Prompt: st.builds(Prompt, session_ids),
    NewToken: st.builds(
        NewToken,
        session_ids,
        positions,
        tokens,
        st.sampled_from((None, "stop", "length")),
        st.none() | logprobs,
        tops,
    ),
    NewTokens: st.builds(
        NewTokens,
        session_ids,
        positions,
        st.lists(st.tuples(tokens, st.none() | logprobs, tops), min_size=1, max_size=4).map(tuple),
        st.sampled_from((None, "stop", "length")),
        st.integers(3, MAX_DRAFTS),
    ),
    PromptScores: st.builds(
        PromptScores, session_ids, positions, st.lists(st.tuples(logprobs, tops), max_size=6).map(tuple)
    ),
    SessionFailed: st.builds(SessionFailed, session_ids, st.text(max_size=64), reasons, st.none() | peers),
    CloseSession: st.builds(CloseSession, session_ids, positions),
    ExtendSession: st.builds(ExtendSession, session_ids, counts),
    PromptProgress: st.builds(PromptProgress, session_ids, positions),
    Hello: st.builds(Hello),
    Welcome: st.builds(Welcome, st.text(max_size=16), st.integers(1, 1 << 53), st.integers(1, 1 << 32)),
    Unwelcome: st.builds(Unwelcome, st.text(max_size=64), reasons, st.integers(0, 3_600_000)),
    Receipt: st.builds(
        Receipt,
        st.integers(1, 1 << 53),
        st.integers(1, 1 << 53),
        st.integers(1, (1 << 63) - 1),
        st.binary(min_size=32, max_size=32),
        st.binary(min_size=65, max_size=65),
        st.binary(min_size=64, max_size=64),
    ),
    Voucher: st.builds(
        Voucher, st.integers(1, 1 << 53), st.integers(1, (1 << 63) - 1), st.binary(min_size=65, max_size=65)
    ),
    Compare: st.builds(
        Compare,
        numbers,
        numbers,
        st.integers(0, (1 << 63) - 1),
        st.binary(min_size=32, max_size=32),
        st.binary(min_size=65, max_size=65),
    ),
    Work: st.builds(
        Work,
        session_ids,
        positions,
        st.integers(0, 100),
        st.integers(101, MAX_TOKENS),
        roots,
        roots,
        st.lists(st.integers(2, 1 << 25), max_size=64).map(tuple),
        roots,
        roots,
        st.binary(min_size=64, max_size=64),
    ),
    SessionClosed: st.builds(SessionClosed, session_ids, numbers, numbers),
    FetchFile: st.builds(FetchFile, numbers, digests, st.text(max_size=200)),
    FileData: st.builds(FileData, numbers, st.none() | reasons),
    Ping: st.builds(Ping, numbers),
    Pong: st.builds(Pong, numbers),
    Activations: st.builds(
        Activations, st.lists(st.tuples(session_ids, positions, counts), min_size=1, max_size=20).map(tuple)
    ),
    NextTokens: st.lists(
        st.tuples(st.tuples(session_ids, positions, tokens), st.lists(tokens, max_size=MAX_DRAFTS).map(tuple)),
        min_size=1,
        max_size=20,
    ).map(lambda parts: NextTokens(tuple(part for part, _ in parts), tuple(drafts for _, drafts in parts))),
}
messages: st.SearchStrategy[Message] = st.one_of(*BY_KIND.values())

ID = bytes(range(16))
SAMPLES: tuple[Message, ...] = (
    OpenSession(
        ID, "ab" * 32, 0, 3, "12D3KooWa", "12D3KooWb", 5, 7, 20, 12, (1, 2), True, "bfloat16",
        (0.8, 40, 0.9, 0.0, 1.1, 0.5, -0.5, 5, 1 << 63), ((3, -1.5), (9, 100.0)),
    ),
    SessionOpened(ID),
    SessionRefused(ID, "too_large", "it does not fit into the memory", 0, 4096),
    Prompt(ID),
    NewToken(ID, 12, 34, "stop", -0.25, ((34, -0.25), (35, -2.0))),
    NewTokens(ID, 12, ((34, -0.25, ((34, -0.25), (35, -2.0))), (36, None, ())), "length", 3),
    PromptScores(ID, 1, ((-1.0, ((5, -1.0),)), (-9999.0, ()))),
    SessionFailed(ID, "bad_input", "not a number", "12D3KooWa"),
    CloseSession(ID, 11),
    ExtendSession(ID, 15),
    PromptProgress(ID, 9),
    Hello(),
    Welcome("alice", 3, 1024),
    Unwelcome("not_accepted", "who are you?", 5000),
    Receipt(7, 12, 1 << 40, bytes(32), bytes(range(65)), bytes(64)),
    Voucher(7, 1 << 40, bytes(65)),
    Compare(7, 12, 1 << 40, bytes(32), bytes(65)),
    Work(ID, 1, 32, 64, bytes(32), bytes(range(32)), (32, 3), bytes(32), bytes(32), bytes(64)),
    SessionClosed(ID, 100, 12345),
    FetchFile(7, "ab" * 32, "tokenizer.json"),
    FileData(7, None),
    Ping(1),
    Pong(1),
    Activations(((ID, 0, 16), (ID[::-1], 3, 1))),
    NextTokens(((ID, 5, 299), (ID[::-1], 6, 0)), ((7, 8), ())),
)  # fmt: skip
