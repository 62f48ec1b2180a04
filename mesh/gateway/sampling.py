"""From a request's sampling fields to what a session gets: defaults, bounds, seeds and lengths (pure)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TypeVar

from mesh.client.types import ModelInfo
from mesh.errors import ContextLengthExceeded, InvalidRequest
from mesh.gateway.schemas import SamplingFields
from shards.engine.sampling_params import MAX_TOP_LOGPROBS, SEED_BITS, SamplingParams

_Fields = TypeVar("_Fields", bound=SamplingFields)

MAX_STOPS = 64
"""OpenAI takes four; chat programs send more, and vLLM and llama.cpp have no limit."""
MAX_STOP_CHARS = 1024
"""A stop string makes the client library hold back as much text; OpenAI states no limit."""


def with_defaults(fields: _Fields, defaults: Mapping[str, float]) -> _Fields:
    """The fields with the model's own defaults where they are left out, as vLLM has it."""
    absent = {name: value for name, value in defaults.items() if getattr(fields, name) is None}
    return fields.model_copy(update=absent) if absent else fields


def sampling_params(fields: SamplingFields, info: ModelInfo, *, seed: int, logprobs: int | None) -> SamplingParams:
    """The session's sampling parameters. Raises `InvalidSampling` and `InvalidRequest`.

    Absent fields take OpenAI's defaults (temperature 1, so not greedy). `top_k` -1 means off, as in vLLM; `top_p` 0
    leaves the likeliest token alone, as at OpenAI.
    """
    top_k = fields.top_k or 0
    return SamplingParams(
        temperature=1.0 if fields.temperature is None else fields.temperature,
        top_k=0 if top_k == -1 else top_k,
        top_p=1.0 if fields.top_p is None else fields.top_p or LEAST_TOP_P,
        min_p=fields.min_p or 0.0,
        repetition_penalty=1.0 if fields.repetition_penalty is None else fields.repetition_penalty,
        presence_penalty=fields.presence_penalty or 0.0,
        frequency_penalty=fields.frequency_penalty or 0.0,
        logit_bias=logit_bias(fields.logit_bias or {}, info.vocab_size),
        logprobs=logprobs,
        seed=wrap_seed(seed),
    )


LEAST_TOP_P = 1e-9


def seed_of(request_id: str) -> int:
    """The seed of a request that names none but has an id which its client chose: sent again, it answers the same."""
    return int.from_bytes(hashlib.sha256(b"inference mesh: seed\0" + request_id.encode()).digest()[:8])


def resumed(fields: SamplingFields, sessions: int) -> tuple[int, ...]:
    """The tokens of the answer that the client has already. Raises `InvalidRequest` where it cannot go on from them."""
    tokens = tuple(fields.resume_token_ids or ())
    if tokens:
        if sessions != 1:
            raise InvalidRequest("only an answer with one choice can be resumed", param="resume_token_ids")
        if fields.seed is None and fields.temperature != 0:
            raise InvalidRequest(
                "to resume an answer, send the seed or the X-Request-Id of the request that it began with",
                param="resume_token_ids",
            )
    return tokens


def wrap_seed(seed: int) -> int:
    """Any integer as an unsigned 64-bit one (two's complement for negative ones)."""
    return seed % (1 << SEED_BITS)


def logit_bias(biases: Mapping[str, float], vocab_size: int) -> dict[int, float]:
    """OpenAI writes token ids as JSON keys, that is as strings. Raises `InvalidRequest` for other keys."""
    tokens: dict[int, float] = {}
    for key, bias in biases.items():
        if not (key.isascii() and key.isdecimal() and len(key) < 10 and int(key) < vocab_size):
            raise InvalidRequest(
                f"logit_bias: {key[:40]!r} is not a token id of this model (0 to {vocab_size - 1})",
                param="logit_bias",
            )
        tokens[int(key)] = bias
    return tokens


def stop_strings(stop: str | list[str] | None) -> tuple[str, ...]:
    """The stop strings. Empty ones stop nothing: programs send them for "none". Raises `InvalidRequest`."""
    stops = tuple(text for text in ((stop,) if isinstance(stop, str) else stop or ()) if text)
    if len(stops) > MAX_STOPS:
        raise InvalidRequest(f"stop may hold at most {MAX_STOPS} strings, got {len(stops)}", param="stop")
    for text in stops:
        if len(text) > MAX_STOP_CHARS:
            raise InvalidRequest(
                f"a stop string must have at most {MAX_STOP_CHARS} characters, got {len(text)}", param="stop"
            )
    return stops


def choices(n: int | None, prompts: int, limit: int) -> int:
    """How many choices each of `prompts` prompts gets. Raises `InvalidRequest`."""
    count = 1 if n is None else n
    if count < 1:
        raise InvalidRequest(f"n must be at least 1, got {count}", param="n")
    if count * prompts > limit:
        raise InvalidRequest(
            f"at most {limit} choices (prompts times n) per request, got {prompts} x {count}", param="n"
        )
    return count


def named_length(asked: int | None) -> int | None:
    """The length that a request names; None for none, or for -1: as many tokens as there is room for."""
    return None if asked == -1 else asked


def top_logprobs(count: int | None, param: str) -> int | None:
    """The number of alternatives to report. Raises `InvalidRequest` when it is out of range."""
    if count is not None and not 0 <= count <= MAX_TOP_LOGPROBS:
        raise InvalidRequest(f"{param} must be between 0 and {MAX_TOP_LOGPROBS}, got {count}", param=param)
    return count


def answer_length(asked: int | None, default: int, prompt_tokens: int, context_length: int, param: str) -> int:
    """How many tokens to generate after a prompt of `prompt_tokens`.

    A length that the client named must fit the context; the default shrinks to what is left of it. The caller has made
    -1, which Open WebUI and llama.cpp's clients send for "as many as there is room for", None.
    Raises `ContextLengthExceeded`, and `InvalidRequest` for a length below 1.
    """
    if asked is not None and asked < 1:
        raise InvalidRequest(f"{param} must be at least 1, got {asked}", param=param)
    room = context_length - prompt_tokens
    if room < 1 or (asked is not None and asked > room):
        wanted = f"{prompt_tokens} in the prompt" + (f" and {asked} to generate" if asked is not None else "")
        raise ContextLengthExceeded(
            f"This model's context holds {context_length} tokens, but the request needs more: {wanted}.",
            param=param if room >= 1 else None,
        )
    return min(default, room) if asked is None else asked
