"""A signer's consent: nobody can be made the signer of a provider or gateway without having signed so."""

from __future__ import annotations

from chain.client.checks import check_id
from chain.client.core import Core
from chain.deploy import read_address
from chain.primitives import key_of
from chain.vouchers import Domain, SignerConsent, digest


def sign_consent(core: Core, registry: str, identifier: str, owner: str) -> bytes:
    """The 65-byte signature of this client's account that it signs for `identifier` of `owner` in a registry."""
    account = core.signer.account
    domain = Domain(core.deployment.chain_id, bytes.fromhex(core.deployment.address(registry)[2:]))
    consent = SignerConsent(key_of(check_id(identifier)), bytes.fromhex(read_address(owner)[2:]), account.canonical)
    return account.sign_digest(digest(domain, consent))
