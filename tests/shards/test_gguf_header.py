"""A GGUF file's head is hostile until it has been checked: every file is read or refused, nothing else."""

from __future__ import annotations

import io
import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest

from shards.checkpoint.gguf import GgufCheckpoint
from shards.checkpoint.gguf_config import config_of
from shards.checkpoint.gguf_header import MAX_HEAD_BYTES, GgufHead, read_head
from shards.checkpoint.gguf_tokenizer import ends_of, tokenizer_of
from shards.errors import CheckpointError, ShardError, UnsupportedModel
from shards.text.fast import tokenizer_from_files
from tests.shards.gguf_bytes import build, entry, number, text
from tests.shards.gguf_files import NARROW, make_gguf


def parse(data: bytes) -> GgufHead:
    return read_head(io.BytesIO(data), len(data), "x.gguf")


SOUND = build([number("a", 7)], [entry("one"), entry("two", (32, 4), 8, 128)])


def test_a_sound_head_is_read() -> None:
    head = parse(SOUND)
    assert head.metadata == {"a": 7}
    assert {name: (each.type.name, each.shape, each.nbytes) for name, each in head.tensors.items()} == {
        "one": ("F32", (32,), 128),
        "two": ("Q8_0", (4, 32), 136),
    }
    assert [each.begin - head.size for each in head.tensors.values()] == [0, 128]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GGML" + SOUND[4:], "no GGUF file"),
        (b"GGUF\0\0\0\3" + SOUND[8:], "big-endian"),
        (b"GGUF\1\0\0\0" + SOUND[8:], "version 1"),
        (build([], [], counts=(1 << 40, 0)), "over the limits"),
        (build([], [], counts=(0, 1 << 40)), "over the limits"),
        (build([number("a", 1), number("a", 2)], []), "occurs twice"),
        (build([struct.pack("<Q", 1 << 60)], [], counts=(0, 1)), "a text of"),
        (build([text(b"\xff")], [], counts=(0, 1)), "not UTF-8"),
        (build([text("a") + struct.pack("<I", 99)], []), "a value of type 99"),
        (build([text("a") + struct.pack("<IIQ", 9, 8, 1 << 50)], []), "items"),
        (build([text("a") + struct.pack("<IIQ", 9, 9, 1)], []), "items of type 9"),
        (build([text("a") + struct.pack("<IIQ", 9, 4, 1 << 21)], []), "truncated"),
        (build([number("general.alignment", 0)], []), "alignment"),
        (build([number("general.alignment", 12)], []), "alignment"),
        (build([], [entry("a"), entry("a", offset=128)]), "occurs twice"),
        (build([], [entry("a", offset=1)]), "not aligned"),
        (build([], [entry("a"), entry("b", offset=96)]), "overlaps"),
        (build([], [entry("a", offset=1 << 62)]), "truncated"),
        (build([], [entry("a", (1 << 20, 1 << 10))]), "truncated"),
        (build([], [entry("a", (0,))]), "sizes"),
        (build([], [entry("a", ())]), "0 dimensions"),
        (build([], [entry("a", (1 << 30, 1 << 30))]), "sizes"),
        (build([], [entry("a", (32,), 99)]), "type 99, which is not read: take a file of F32"),
        (build([], [entry("a", (31,), 8)]), "no whole blocks of Q8_0"),
    ],
)
def test_what_breaks_the_format_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        parse(data)


def test_a_head_without_end_is_given_up() -> None:
    """Without its data: a sparse file is as large as it likes."""
    keys = [text(f"{index}") + struct.pack("<I", 8) + text(bytes(4 << 20)) for index in range(17)]
    data = build(keys, [])
    assert len(data) > MAX_HEAD_BYTES
    with pytest.raises(CheckpointError, match="over the limit"):
        parse(data)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path, _ = make_gguf(tmp_path_factory.mktemp("gguf"), "llama", "Q8_0", **NARROW)
    return path.read_bytes()


def test_a_truncated_file_is_refused_wherever_it_ends(whole: bytes) -> None:
    head = parse(whole)
    end = max(each.begin + each.nbytes for each in head.tensors.values())
    for length in [*range(0, head.size, 97), head.size, end - 1]:
        with pytest.raises(CheckpointError):
            parse(whole[:length])


def test_a_head_with_wrong_bytes_is_read_or_refused(whole: bytes, tmp_path: Path) -> None:
    size, numbers, path = parse(whole).size, random.Random(5), tmp_path / "model.gguf"
    read = 0
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(numbers.choice((1, 1, 4))):
            data[numbers.randrange(8, size)] = numbers.choice((0, 1, 8, 255, numbers.randrange(256)))
        path.write_bytes(data)
        try:
            GgufCheckpoint.open(path).small_files()
            read += 1
        except ShardError:
            pass
    assert 0 < read < 400


def facts(**changes: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.context_length": 64,
        "llama.embedding_length": 64,
        "llama.feed_forward_length": 96,
        "llama.attention.head_count": 4,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.vocab_size": 300,
    }
    return {**known, **{key.replace("__", "."): value for key, value in changes.items()}}


def config(**changes: Any) -> dict[str, Any]:
    return config_of(GgufHead(facts(**changes), {}, 0), {})


def test_defaults_are_those_of_the_format() -> None:
    found = config()
    assert (found["num_key_value_heads"], found["head_dim"], found["tie_word_embeddings"]) == (4, 16, True)
    assert found["rope_parameters"] == {"rope_type": "default", "rope_theta": 10_000.0}


def other(kind: str, factors: dict[str, list[float]] | None = None, **changes: Any) -> dict[str, Any]:
    """The config of a file of another architecture, `changes` to its own section."""
    known = {key.replace("llama.", f"{kind}."): value for key, value in facts().items()}
    own = {f"{kind}.{key.replace('__', '.')}": value for key, value in changes.items()}
    return config_of(GgufHead({**known, "general.architecture": kind, **own}, {}, 0), factors or {})


def test_what_gemma_files_leave_out_is_what_llama_cpp_takes() -> None:
    second, third = other("gemma2"), other("gemma3", attention__sliding_window=512)
    assert (second["attn_logit_softcapping"], second["final_logit_softcapping"]) == (50.0, 30.0)
    assert (third["attn_logit_softcapping"], third["final_logit_softcapping"]) == (None, None)
    assert (second["sliding_window"], third["sliding_window"]) == (4096, 512)
    assert third["sliding_window_pattern"] == 6 and third["model_type"] == "gemma3_text"
    assert third["rope_parameters"]["sliding_attention"]["rope_theta"] == 10_000.0
    assert second["query_pre_attn_scalar"] == third["query_pre_attn_scalar"] == 16
    of_27b = {"attention__key_length": 32, "attention__value_length": 32}
    assert other("gemma2", block_count=46, **of_27b)["query_pre_attn_scalar"] == 16
    assert other("gemma2", block_count=42, **of_27b)["query_pre_attn_scalar"] == 32
    assert other("gemma3", block_count=62, attention__sliding_window=512, **of_27b)["query_pre_attn_scalar"] == 16


def test_linear_scaling_of_a_gemma3_is_for_blocks_without_a_window() -> None:
    found = other(
        "gemma3",
        attention__sliding_window=512,
        rope__freq_base=1e6,
        rope__freq_base_swa=2e4,
        rope__scaling__type="linear",
        rope__scaling__factor=8.0,
    )
    assert found["rope_parameters"] == {
        "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
    }


def test_a_window_of_zero_in_a_phi3_is_none() -> None:
    assert other("phi3", attention__sliding_window=0)["sliding_window"] is None
    assert other("phi3", attention__sliding_window=2047)["sliding_window"] == 2047
    assert other("phi3", rope__dimension_count=12)["rope_parameters"]["partial_rotary_factor"] == 0.75


@pytest.mark.parametrize(
    ("kind", "changes", "factors", "message"),
    [
        ("gemma2", {"rope__freq_base_swa": 5e4}, {}, "two rotary bases"),
        ("gemma2", {"attention__sliding_window_pattern": 3}, {}, "every 3 blocks"),
        ("gemma2", {"attention__something_new": 3}, {}, "something_new = 3"),
        ("gemma2", {"rope__dimension_count": 8}, {}, "rotation of a part"),
        ("gemma3", {"attention__sliding_window": 9, "attn_logit_softcapping": 50.0}, {}, "attn_logit_softcapping"),
        ("phi3", {"rope__scaling__attn_factor": 1.25}, {}, "attn_factor = 1.25"),
        ("phi3", {"rope__scaling__type": "yarn"}, {}, "type = 'yarn'"),
        ("phi3", {}, {"rope_freqs.weight": [1.0] * 8}, "rope_freqs"),
        ("qwen2", {}, {"rope_factors_short.weight": [1.0] * 8}, "rope_factors_short"),
    ],
)
def test_what_is_not_honoured_of_gemma_and_phi_is_refused_by_name(
    kind: str, changes: dict[str, Any], factors: dict[str, list[float]], message: str
) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        other(kind, factors, **changes)


@pytest.mark.parametrize(
    ("kind", "changes", "factors"),
    [
        ("gemma3", {}, {}),
        ("gemma2", {"final_logit_softcapping": 0.0}, {}),
        ("phi3", {"rope__dimension_count": 17}, {}),
        ("phi3", {}, {"rope_factors_short.weight": [1.0] * 8}),
    ],
)
def test_a_gemma_or_phi_that_makes_no_sense_is_refused(
    kind: str, changes: dict[str, Any], factors: dict[str, list[float]]
) -> None:
    with pytest.raises(CheckpointError):
        other(kind, factors, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general__architecture": "mamba"}, "architecture 'mamba'"),
        ({"llama__expert_shared_count": 8}, "llama.expert_shared_count = 8"),
        ({"llama__attention__sliding_window": 512}, "llama.attention.sliding_window = 512"),
        ({"llama__rope__dimension_count": 8}, "rotation of a part"),
        ({"llama__attention__value_length": 8}, "different sizes"),
        ({"llama__rope__scaling__type": "yarn"}, "rotary scaling 'yarn'"),
        ({"llama__attention__head_count": [4, 2]}, "differs between blocks"),
        ({"llama__something_new": 1}, "llama.something_new = 1"),
        ({"split__count": 3}, "one of several parts"),
    ],
)
def test_what_is_not_honoured_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        config(**changes)


@pytest.mark.parametrize("name", ["block_count", "embedding_length", "attention.head_count", "feed_forward_length"])
@pytest.mark.parametrize("value", [0, -1, 1 << 31, "4", 1.5, True])
def test_a_number_that_is_none_is_refused(name: str, value: Any) -> None:
    with pytest.raises((CheckpointError, UnsupportedModel), match="must be a positive integer"):
        config(**{f"llama__{name.replace('.', '__')}": value})


def test_keys_that_change_nothing_are_let_pass() -> None:
    assert config(llama__expert_count=0, llama__attention__causal=True, llama__rope__dimension_count=16) == config()
    assert config(llama__attention__head_count=[4, 4]) == config()


def tokenizer(pre: str, tokens: list[str], merges: list[str], **more: Any) -> dict[str, Any]:
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": merges,
        **{f"tokenizer.ggml.{key}": value for key, value in more.items()},
    }


def encode(metadata: dict[str, Any], value: str) -> list[str]:
    loaded = tokenizer_from_files({"tokenizer.json": json.dumps(tokenizer_of(metadata)).encode()})
    return [metadata["tokenizer.ggml.tokens"][each] for each in loaded.encode(value)]


DIGITS = [*"0123456789", "Ġ", "12", "123", "1234"]
DIGIT_MERGES = ["1 2", "12 3", "123 4"]


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("gpt-2", ["1234"]),
        ("smollm", ["1", "2", "3", "4"]),
        ("qwen2", ["1", "2", "3", "4"]),
        ("llama-bpe", ["123", "4"]),
    ],
)
def test_words_are_parted_as_the_file_says(pre: str, expected: list[str]) -> None:
    assert encode(tokenizer(pre, DIGITS, DIGIT_MERGES), "1234") == expected


def test_sentencepiece_joins_what_has_the_highest_score_and_falls_back_to_bytes() -> None:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "ab", "▁a", "▁ab"]
    scores = [0.0] * 259 + [-9.0, -9.0, -9.0, -1.0, -2.0, -0.5]
    kinds = [2, 3, 3, *[6] * 256, *[1] * 6]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 1,
    }
    assert encode(metadata, "ab") == ["<s>", "▁ab"]
    assert encode(metadata, "aab") == ["<s>", "▁a", "ab"]
    assert encode(metadata, "é") == ["<s>", "▁", "<0xC3>", "<0xA9>"]
    assert encode({**metadata, "tokenizer.ggml.add_bos_token": False}, "ab") == ["▁ab"]
    assert encode({**metadata, "tokenizer.ggml.add_space_prefix": False}, "ab") == ["<s>", "ab"]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"tokenizer.ggml.model": "bert"}, UnsupportedModel, "of kind 'bert'"),
        ({"tokenizer.ggml.pre": "tekken"}, UnsupportedModel, "parts words as 'tekken'"),
        ({"tokenizer.ggml.tokens": ["a", "a"]}, CheckpointError, "a token twice"),
        ({"tokenizer.ggml.tokens": 5}, CheckpointError, "list of texts"),
        ({"tokenizer.ggml.merges": ["ab"]}, CheckpointError, "pairs"),
        ({"tokenizer.ggml.token_type": [1]}, CheckpointError, "every token"),
        ({"tokenizer.ggml.bos_token_id": 99}, CheckpointError, "bos token 99"),
        ({"tokenizer.ggml.add_eos_token": True}, UnsupportedModel, "end token"),
    ],
)
def test_a_tokenizer_that_is_not_read_is_refused_by_name(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        tokenizer_of({**tokenizer("gpt-2", DIGITS, DIGIT_MERGES), **changes})


@pytest.mark.parametrize(("architecture", "dropped"), [("phi3", True), ("llama", False)])
def test_tokens_of_phi3_take_the_spaces_after_them_along(architecture: str, dropped: bool) -> None:
    tokens = ["<unk>", "<s>", "</s>", "<|user|>", "▁", "a", "▁a", "b", "<0x0A>"]
    metadata = {
        "general.architecture": architecture,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0, 0.0, 0.0, 0.0, -3.0, -2.0, -1.0, -4.0, 0.0],
        "tokenizer.ggml.token_type": [2, 3, 3, 3, 1, 1, 1, 1, 6],
        "tokenizer.ggml.bos_token_id": 1,
    }
    space = [] if dropped else ["▁", "<0x0A>"]
    assert encode(metadata, "<|user|>\na b") == ["<s>", "<|user|>", *(["▁a"] if dropped else [*space, "a"]), "▁", "b"]
    assert encode(metadata, "<s> a") == ["<s>", "<s>", "▁", "▁a"]


@pytest.mark.parametrize(
    ("architecture", "ends"), [("gemma2", [1, 2]), ("gemma3", [1, 2]), ("phi3", [1, 3]), ("llama", [1])]
)
def test_a_turn_of_gemma_and_phi3_ends_with_their_own_token(architecture: str, ends: list[int]) -> None:
    metadata = {
        "general.architecture": architecture,
        "tokenizer.ggml.tokens": ["a", "<eos>", "<end_of_turn>", "<|end|>"],
        "tokenizer.ggml.eos_token_id": 1,
    }
    assert ends_of(metadata) == ends
