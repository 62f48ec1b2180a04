"""What the code takes from the world around it, made deterministic: clocks, randomness, expensive pure functions.

Inside `nature(loop, seed)` the standard library's clocks show the time of the machine whose code asks, and its random
numbers come from the seed. Signatures are real; of those that were made here it is known whose they are.
"""

from __future__ import annotations

import logging
import random
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np

import mesh.client.audits as audits
import mesh.discovery.records as records
import mesh.payment.credit.binding as binding
import mesh.payment.credit.collector as collector
import mesh.payment.credit.comparison as comparison
import mesh.payment.credit.issuer as issuer
import mesh.payment.credit.terms as terms
import mesh.provider.join as join
import mesh.provider.stage.core as core
import mesh.provider.stage.server as service
import mesh.verification.commitments as commitments
from chain import primitives, vouchers
from chain.wallet import Account
from mesh.identity import Identity
from tests.mesh.provider.guesses import KnownGuesses
from tests.simulation.engine import VirtualEngine
from tests.simulation.loop import MACHINE, VirtualLoop

WALL = 1_800_000_000.0
"""What a right clock shows when a simulation begins."""
TICK_SECONDS = 0.5
"""How often a collector looks whether receipts are due: coarser than in life, where it costs nothing."""

_read = lru_cache(20_000)(records._parse)
_keccak256 = lru_cache(20_000)(vouchers.keccak256)
_real_sign, _real_verify = Identity.sign, binding.verify
_real_sign_digest, _real_recover = Account.sign_digest, vouchers.recover
_checksummed = lru_cache(1000)(primitives.checksummed)
_key_of = lru_cache(1000)(primitives.key_of)


class Signatures:
    """Real ones. Who made one here need not be found out again from its bytes; any other is checked in earnest."""

    def __init__(self) -> None:
        self._signed: dict[tuple[str, bytes], bytes] = {}
        self._signers: dict[tuple[bytes, bytes], bytes] = {}

    def sign(self, identity: Identity, message: bytes) -> bytes:
        signature = _real_sign(identity, message)
        self._signed[identity.peer_id, message] = signature
        return signature

    def verify(self, peer: str, message: bytes, signature: bytes) -> bool:
        return self._signed.get((peer, message)) == signature or _real_verify(peer, message, signature)

    def sign_digest(self, account: Account, digest: bytes) -> bytes:
        signature = _real_sign_digest(account, digest)
        self._signers[digest, signature] = account.canonical
        return signature

    def recover(self, digest: bytes, signature: bytes) -> bytes:
        return self._signers.get((digest, bytes(signature))) or _real_recover(digest, signature)


class Errors(logging.Handler):
    """Whatever is logged as an error: a bug that somebody noticed but survived."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self.lines.append(f"{record.name}: {record.getMessage()}" + (f": {error!r}" if error is not None else ""))


def wall_time(loop: VirtualLoop) -> float:
    """What the clock of whoever asks shows (Unix time, seconds)."""
    machine = MACHINE.get()
    now = loop.time()
    return WALL + (now if machine is None else machine.clock.read(now))


def monotonic(loop: VirtualLoop) -> float:
    machine = MACHINE.get()
    return loop.time() + (0.0 if machine is None else machine.boot)


@contextmanager
def nature(
    loop: VirtualLoop, seed: object, *, verbose: bool = False, guesses: KnownGuesses | None = None
) -> Iterator[Errors]:
    """Everything that runs inside sees virtual time and seeded randomness; last hops make these `guesses`."""
    chance = Random(f"{seed}/secrets")
    noise = np.random.default_rng(chance.getrandbits(64))
    errors = Errors()
    signatures = Signatures()
    swaps: list[tuple[Any, str, Callable[..., Any] | type | float]] = [
        (time, "time", lambda: wall_time(loop)),
        (time, "monotonic", lambda: monotonic(loop)),
        (time, "perf_counter", lambda: monotonic(loop)),
        (secrets, "token_bytes", lambda size=32: chance.randbytes(size)),
        (secrets, "randbits", chance.getrandbits),
        (np.random, "default_rng", lambda: noise),
        (records, "_parse", _read),
        (Identity, "sign", lambda identity, message: signatures.sign(identity, message)),
        (Account, "sign_digest", lambda account, digest: signatures.sign_digest(account, digest)),
        *((owner, "verify", signatures.verify) for owner in (records, binding, comparison, commitments)),
        *((owner, "recover", signatures.recover) for owner in (binding, vouchers)),
        (vouchers, "keccak256", _keccak256),
        *((owner, "checksummed", _checksummed) for owner in (binding, collector, comparison, terms)),
        *((owner, "key_of", _key_of) for owner in (collector, comparison, issuer)),
        (service, "Engine", VirtualEngine),
        (join, "measure", lambda model, threads: (1, model.block_rate)),
        (collector, "TICK_SECONDS", TICK_SECONDS),
        (audits, "SystemRandom", lambda: Random(chance.getrandbits(64))),
    ]
    if guesses is not None:
        swaps.append((core, "StageGuesses", lambda share: guesses))
    before = random.getstate()
    silence = logging.root.manager.disable
    root = logging.getLogger()
    with ExitStack() as stack:
        for owner, name, new in swaps:
            stack.enter_context(patch.object(owner, name, new))
        random.seed(f"{seed}/random")
        if not verbose:
            logging.disable(logging.WARNING)
        root.addHandler(errors)
        try:
            yield errors
        finally:
            root.removeHandler(errors)
            logging.disable(silence)
            random.setstate(before)
