"""Decoders of HTTP: what developers send to a gateway, and what a gateway answers to a developer's agent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from chain import safe_json
from chain.vouchers import Domain, PaymentVoucher, SignatureError, digest, recover
from chain.wallet import Account
from mesh.client.gateway_http import _account, _refusal, _terms
from mesh.client.types import ModelInfo
from mesh.errors import InvalidRequest, ProtocolViolation
from mesh.gateway.accounts_api import MAX_BODY, KeyBody, PaymentBody, _bytes
from mesh.gateway.chat import read_message
from mesh.gateway.edge import parse_body
from mesh.gateway.errors import ApiFailure
from mesh.gateway.paying_proxy import Piece, read_piece
from mesh.gateway.sampling import sampling_params, stop_strings, top_logprobs
from mesh.gateway.schemas import ChatRequest, CompletionRequest, SamplingFields
from mesh.payment.accounts.api_keys import KeyRequest
from shards.engine.sampling_params import SamplingParams
from shards.errors import InvalidSampling
from tests.fuzz.decoder import Decoder
from tests.fuzz.mutate import mutate_json

ACCOUNT = Account(b"\x07" * 32)
DOMAIN = Domain(31337, bytes(range(20)))
INFO = ModelInfo("m", "ab" * 32, 5, 512, 300, True, ())
NOW = 1_800_000_000
COMPLETION = {
    "model": "m", "prompt": "def add", "n": 1, "max_tokens": 5, "temperature": 0.7, "top_p": 0.9, "seed": 5,
    "stop": ["\n"],
    "logit_bias": {"5": 1.5}, "logprobs": 2, "stream": True, "stream_options": {"include_usage": True}, "echo": False,
    "presence_penalty": 0.5, "top_k": 40, "resume_token_ids": [1, 2, 3],
}  # fmt: skip
CHAT = {
    "model": "m", "max_completion_tokens": 5, "temperature": 0.0, "logprobs": True, "top_logprobs": 2,
    "messages": [{"role": "system", "content": "be brief"},
                 {"role": "user", "content": [{"type": "text", "text": "hello"}]}],
}  # fmt: skip


def _params(fields: SamplingFields) -> SamplingParams:
    logprobs = fields.logprobs if isinstance(fields, CompletionRequest) else None
    stop_strings(fields.stop)
    return sampling_params(fields, INFO, seed=fields.seed or 0, logprobs=top_logprobs(logprobs, "logprobs"))


def _completion(data: bytes) -> SamplingParams:
    return _params(parse_body(CompletionRequest, data))


def _chat(data: bytes) -> SamplingParams:
    request = parse_body(ChatRequest, data)
    for position, message in enumerate(request.messages):
        read_message(position, message)
    return _params(request)


def _params_wrong(sample: bytes, data: bytes, params: SamplingParams) -> str | None:
    numbers = (params.temperature, params.top_p, params.min_p, params.repetition_penalty, params.presence_penalty)
    if not all(-2 <= number <= 100 for number in numbers) or not 0 <= params.seed < 1 << 64:
        return f"{params}"
    return None if all(0 <= token < INFO.vocab_size for token in params.logit_bias) else "a token that is not there"


def _key_bodies() -> list[bytes]:
    asked = KeyRequest(ACCOUNT.canonical, "gate", DOMAIN.chain_id, DOMAIN.contract, NOW, b"n" * 32)
    return [json.dumps({
        "payer": ACCOUNT.address, "gateway": "gate", "chain_id": DOMAIN.chain_id,
        "escrow": "0x" + DOMAIN.contract.hex(), "issued": NOW, "nonce": "0x" + (b"n" * 32).hex(),
        "signature": "0x" + ACCOUNT.sign_digest(asked.digest()).hex(),
    }).encode()]  # fmt: skip


def _small(data: bytes) -> bytes:
    """`read_body` reads no more."""
    if len(data) > MAX_BODY:
        raise ProtocolViolation("a body over the limit")
    return data


def _key(data: bytes) -> KeyRequest:
    """The checks of `POST /mesh/keys` in their order, without the store behind them."""
    body = parse_body(KeyBody, _small(data))
    asked = KeyRequest(
        _bytes(body.payer), body.gateway, body.chain_id, _bytes(body.escrow), body.issued, _bytes(body.nonce)
    )
    if (asked.gateway, asked.chain_id, asked.escrow) != ("gate", DOMAIN.chain_id, DOMAIN.contract):
        raise ProtocolViolation("another gateway")
    if not asked.is_current(NOW):
        raise ProtocolViolation(f"a request of {asked.issued}")
    if recover(asked.digest(), _bytes(body.signature)) != asked.payer:
        raise ProtocolViolation("somebody else signed")
    return asked


def _key_wrong(sample: bytes, data: bytes, asked: KeyRequest) -> str | None:
    return None if asked == _key(_key_bodies()[0]) else "a request that nobody signed"


PAYMENT = PaymentVoucher(ACCOUNT.canonical, b"g" * 32, 12345)


def _payments() -> list[bytes]:
    signature = ACCOUNT.sign_digest(digest(DOMAIN, PAYMENT))
    return [json.dumps({
        "payer": ACCOUNT.address, "gateway": "0x" + PAYMENT.gateway.hex(), "cumulative_amount": "12345",
        "signature": "0x" + signature.hex(),
    }).encode()]  # fmt: skip


def _payment(data: bytes) -> PaymentVoucher:
    body = parse_body(PaymentBody, _small(data))
    voucher = PaymentVoucher(_bytes(body.payer), _bytes(body.gateway), int(body.cumulative_amount))
    if recover(digest(DOMAIN, voucher), _bytes(body.signature)) != voucher.payer:
        raise ProtocolViolation("somebody else signed")
    return voucher


TERMS: Mapping[str, Any] = {
    "gateway": "gate", "chain_id": 31337, "escrow": "0x" + DOMAIN.contract.hex(), "increment": "1000",
    "prices": {"m": "12", "n": "0"}, "payer": ACCOUNT.address,
    **dict.fromkeys(("signed", "spent", "charged", "credit", "deposit", "available", "pending"), "7"),
}  # fmt: skip


def _gateway_answer(data: bytes) -> Any:
    """What `GatewayHttp` does with the body of an answer."""
    try:
        answer = safe_json.parse(data)
    except ValueError:
        answer = None
    _refusal("http://gate", 400, answer)
    if not isinstance(answer, dict):
        raise ProtocolViolation("no object")
    return _terms(answer), _account(answer)


def _answer_wrong(sample: bytes, data: bytes, found: Any) -> str | None:
    terms, state = found
    amounts = (terms.increment, *terms.prices.values(), state.signed, state.spent, state.deposit)
    return None if all(0 <= amount < 10**39 for amount in amounts) and len(state.payer) == 20 else "no amounts"


def _pieces() -> list[bytes]:
    usage = {"usage": {"completion_tokens": 2, "cost": {"wei": "120", "func": "0.1"}}}
    return [json.dumps(each).encode() for each in (
        {"choices": [{"text": "ab", "delta": {"content": "c", "tool_calls": [{"id": "x"}]}}], **usage},
        {"type": "response.completed", "response": usage}, {"delta": {"text": "x"}}, {"delta": "x", **usage},
    )]  # fmt: skip


def _piece_wrong(sample: bytes, data: bytes, piece: Piece) -> str | None:
    right = (piece.cost is None or 0 <= piece.cost < 10**38) and 0 <= piece.letters <= 12 * len(data)
    return None if right else "no amount, or more text than there is"


def decoders() -> list[Decoder]:
    """All of this module."""
    asked = (ApiFailure, InvalidRequest, InvalidSampling)
    body = ("mesh.gateway.edge:parse_body",)
    return [
        Decoder(
            "completion requests",
            lambda: [
                json.dumps(COMPLETION | {"prompt": prompt}).encode() for prompt in ("x", [1, 2], ["a", "b"], [[1]])
            ],
            _completion,
            asked,
            _params_wrong,
            body,
            mutate_json,
        ),
        Decoder(
            "chat requests",
            lambda: [json.dumps(CHAT).encode()],
            _chat,
            asked,
            _params_wrong,
            (*body, "mesh.gateway.chat:read_message"),
            mutate_json,
        ),
        Decoder(
            "requests for API keys",
            _key_bodies,
            _key,
            (ApiFailure, ProtocolViolation, SignatureError),
            _key_wrong,
            body,
            mutate_json,
        ),
        Decoder(
            "payments",
            _payments,
            _payment,
            (ApiFailure, ProtocolViolation, SignatureError),
            lambda sample, data, voucher: None if voucher == PAYMENT else "a voucher that nobody signed",
            body,
            mutate_json,
        ),
        Decoder(
            "answers of a gateway",
            lambda: [json.dumps(TERMS).encode()],
            _gateway_answer,
            (ProtocolViolation,),
            _answer_wrong,
            ("mesh.client.gateway_http:GatewayHttp._ask",),
            mutate_json,
        ),
        Decoder(
            "answers that pass through a payer",
            _pieces,
            read_piece,
            (),
            _piece_wrong,
            ("mesh.gateway.paying_proxy:_object",),
            mutate_json,
        ),
    ]
