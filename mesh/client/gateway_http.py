"""What a paying developer asks of a gateway over HTTP: terms, keys, account, payments. Answers are not trusted."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import httpx
from eth_utils import to_canonical_address

from chain import safe_json
from chain.primitives import Address, Bytes32, checksummed, key_of
from chain.vouchers import Domain, PaymentVoucher, SignatureError, digest, recover
from chain.wallet import Account
from mesh.errors import ConfigError, PaymentRefused, PeerTimeout, PeerUnreachable, ProtocolViolation
from mesh.payment.accounts.api_keys import KeyRequest
from mesh.payment.accounts.promises import Told

MAX_ANSWER: Final = 1 << 20
TIMEOUT_SECONDS: Final = 30.0
_NOT_HIGHER: Final = "voucher_not_higher"
_SIGNATURE: Final = re.compile(r"0x[0-9a-fA-F]{130}")


@dataclass(frozen=True, slots=True)
class Terms:
    """Whom a gateway is paid as. `increment` is what a payer's vouchers should be ahead, in wei."""

    gateway: str
    domain: Domain
    increment: int
    prices: Mapping[str, int]

    @property
    def gateway_key(self) -> Bytes32:
        return key_of(self.gateway)


@dataclass(frozen=True, slots=True)
class AccountState:
    """An account as its gateway tells it; amounts in wei, all but `credit` and the deposit's cumulative."""

    payer: Address
    signed: int
    spent: int
    charged: int
    credit: int
    deposit: int
    available: int
    pending: int
    signature: bytes | None
    """Of the voucher over `signed`, if the gateway shows one; not checked yet."""
    terms: Terms

    def told(self, deposit: int | None = None) -> Told:
        """What decides on the next voucher; `deposit` is what we know of it ourselves."""
        covered = self.deposit if deposit is None else min(self.deposit, deposit)
        return Told(self.signed, self.spent, self.pending, covered, self.terms.increment)

    def is_signed_by(self, signers: Collection[Address]) -> bool:
        """Whether one of `signers` has signed the voucher that the gateway says it holds."""
        if self.signature is None:
            return False
        voucher = PaymentVoucher(self.payer, self.terms.gateway_key, self.signed)
        try:
            return recover(digest(self.terms.domain, voucher), self.signature) in signers
        except SignatureError:
            return False


class GatewayHttp:
    """One gateway. `async with GatewayHttp(url) as gateway: await gateway.terms()`.

    Raises of every call: `PeerUnreachable`, `PeerTimeout`, `PaymentRefused` (it said no), `ProtocolViolation` (its
    answer makes no sense).
    """

    def __init__(self, url: str, api_key: str | None = None) -> None:
        """`url` is the gateway's, with or without /v1. Raises `ConfigError` for what is not an HTTP address."""
        base = url.strip().rstrip("/").removesuffix("/v1")
        try:
            parsed = httpx.URL(base)
        except httpx.InvalidURL as error:
            raise ConfigError(f"{url!r} is not an address: {error}") from error
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ConfigError(f"a gateway's address is written like http://127.0.0.1:8000, got {url!r}")
        self.url = base
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._http = httpx.AsyncClient(base_url=base, headers=headers, timeout=TIMEOUT_SECONDS, follow_redirects=False)

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def terms(self) -> Terms:
        """What the gateway says of itself."""
        return _terms(await self._ask("GET", "/mesh/terms"))

    async def account(self, *, wait: int = 0, spent: int = 0, pending: int = 0) -> AccountState:
        """The account of our key; with `wait` (whole seconds), not before a voucher is due beyond what we know."""
        query = f"?wait={wait}&spent={spent}&pending={pending}" if wait else ""
        return _account(await self._ask("GET", f"/mesh/account{query}", seconds=wait))

    async def make_key(self, account: Account, payer: Address, terms: Terms) -> str:
        """A new API key for the deposit of `payer`, for which `account` may sign."""
        request = KeyRequest(
            payer=payer,
            gateway=terms.gateway,
            chain_id=terms.domain.chain_id,
            escrow=terms.domain.contract,
            issued=int(time.time()),
            nonce=secrets.token_bytes(32),
        )
        answer = await self._ask(
            "POST",
            "/mesh/keys",
            {
                "payer": checksummed(payer),
                "gateway": request.gateway,
                "chain_id": request.chain_id,
                "escrow": checksummed(request.escrow),
                "issued": request.issued,
                "nonce": "0x" + request.nonce.hex(),
                "signature": "0x" + account.sign_digest(request.digest()).hex(),
            },
        )
        key = answer.get("key")
        if not isinstance(key, str) or not key.isascii() or not key.isprintable() or " " in key:
            raise ProtocolViolation("the gateway's answer has no API key")
        return key

    async def pay(self, account: Account, voucher: PaymentVoucher, domain: Domain) -> AccountState | None:
        """Sign and hand in a voucher; None where the gateway has a higher one already."""
        try:
            answer = await self._ask(
                "POST",
                "/mesh/payments",
                {
                    "payer": checksummed(voucher.payer),
                    "gateway": "0x" + voucher.gateway.hex(),
                    "cumulative_amount": str(voucher.cumulative_amount),
                    "signature": "0x" + account.sign_digest(digest(domain, voucher)).hex(),
                },
            )
        except PaymentRefused as error:
            if error.code == _NOT_HIGHER:
                return None
            raise
        return _account(answer)

    async def revoke_key(self) -> None:
        """Our key opens nothing any more."""
        await self._ask("POST", "/mesh/keys/revoke", {})

    async def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, seconds: float = 0.0
    ) -> dict[str, Any]:
        timeout = httpx.Timeout(TIMEOUT_SECONDS, read=TIMEOUT_SECONDS + seconds)
        content = bytearray()
        try:
            async with self._http.stream(method, path, json=body, timeout=timeout) as response:
                async for part in response.aiter_bytes():
                    content += part
                    if len(content) > MAX_ANSWER:
                        raise ProtocolViolation("the gateway's answer is too long")
        except httpx.TimeoutException as error:
            raise PeerTimeout(f"{self.url} did not answer in time") from error
        except httpx.HTTPError as error:
            raise PeerUnreachable(f"{self.url}: {error or type(error).__name__}") from error
        try:
            answer = safe_json.parse(bytes(content))
        except ValueError:
            answer = None
        if response.status_code >= 400:
            raise _refusal(self.url, response.status_code, answer)
        if not isinstance(answer, dict):
            raise ProtocolViolation(f"{self.url} is no gateway: its answer is no JSON object")
        return answer


def check_terms(terms: Terms, *, domain: Domain | None, gateway: str | None) -> None:
    """Raises `ConfigError` unless the gateway is paid on the chain, by the contract and under the id that we expect."""
    if domain is not None and terms.domain != domain:
        raise ConfigError(
            f"the gateway is paid on chain {terms.domain.chain_id} through {checksummed(terms.domain.contract)}, we "
            f"expect chain {domain.chain_id} and {checksummed(domain.contract)}: is the deployment file right?"
        )
    if gateway is not None and terms.gateway != gateway:
        raise ConfigError(f"this is the gateway {terms.gateway!r}, not {gateway!r}")


def _refusal(url: str, status: int, answer: Any) -> PaymentRefused | PeerUnreachable:
    error = answer.get("error") if isinstance(answer, dict) else None
    error = error if isinstance(error, dict) else {}
    message, code = error.get("message"), error.get("code")
    shown = message[:500] if isinstance(message, str) else f"{url} answered with status {status}"
    if status == 429 or status >= 500:
        return PeerUnreachable(shown)
    return PaymentRefused(shown, code=code if isinstance(code, str) else None)


def _terms(answer: Mapping[str, Any]) -> Terms:
    gateway, chain_id, escrow, prices = (answer.get(name) for name in ("gateway", "chain_id", "escrow", "prices"))
    if (
        not isinstance(gateway, str)
        or not 0 < len(gateway.encode("utf-8", "replace")) <= 64
        or not isinstance(chain_id, int)
        or not 0 < chain_id < 1 << 63
        or not isinstance(prices, dict)
    ):
        raise ProtocolViolation("the gateway's terms make no sense")
    domain = Domain(chain_id, _address(escrow))
    return Terms(gateway, domain, _wei(answer, "increment"), {str(name): _wei(prices, name) for name in prices})


def _account(answer: Mapping[str, Any]) -> AccountState:
    names = ("signed", "spent", "charged", "credit", "deposit", "available", "pending")
    amounts = {name: _wei(answer, name) for name in names}
    signature = _signature(answer.get("voucher_signature"))
    return AccountState(payer=_address(answer.get("payer")), signature=signature, terms=_terms(answer), **amounts)


def _signature(text: Any) -> bytes | None:
    if text is None:
        return None
    if not isinstance(text, str) or _SIGNATURE.fullmatch(text) is None:
        raise ProtocolViolation("the gateway's voucher_signature is no signature")
    return bytes.fromhex(text[2:])


def _wei(answer: Mapping[str, Any], name: str) -> int:
    text = answer.get(name)
    if not isinstance(text, str) or not text.isascii() or not text.isdigit() or len(text) > 39:
        raise ProtocolViolation(f"the gateway's {name} is no amount")
    return int(text)


def _address(text: Any) -> Address:
    try:
        return bytes(to_canonical_address(text))
    except (ValueError, TypeError) as error:
        raise ProtocolViolation("an address in the gateway's answer is none") from error
