"""What ledger and contracts must agree on: every view that the ledger answers too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import IntEnum
from typing import Any

from chain.primitives import Address, Bytes32, checksummed, key_of
from tests.chain.spec import Ledger

PARTS = ("escrow", "settlement", "disputes", "reward_pool", "gateway_staking", "providers", "gateways", "slashing")


@dataclass(frozen=True, slots=True)
class Observation:
    part: str
    function: str
    arguments: tuple[Any, ...]
    expected: Any


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose state is looked at. `epochs` are the ones whose books are compared.

    `whole` also looks where, for the ledger, there is nothing, and at what only the calls of a registry change.
    `registries`: those that were called since the last look.
    """

    accounts: tuple[Address, ...]
    providers: tuple[str, ...]
    gateways: tuple[str, ...]
    epochs: range
    block: int
    whole: bool
    registries: frozenset[str] = frozenset()


def plain(value: Any) -> Any:
    """As eth_abi decodes it: enums as numbers, records as tuples, 20 bytes as an address in lower-case text."""
    match value:
        case bool():
            return value
        case IntEnum():
            return int(value)
        case bytes() if len(value) == 20:
            return checksummed(value).lower()
        case list() | tuple():
            return tuple(plain(item) for item in value)
        case _ if is_dataclass(value) and not isinstance(value, type):
            return tuple(plain(getattr(value, field.name)) for field in fields(value))
    return value


def observations(ledger: Ledger, scope: Scope) -> Iterator[Observation]:
    """All that is compared after a step."""
    for part, function, arguments, expected in _all(ledger, scope):
        yield Observation(part, function, tuple(arguments), plain(expected))


_Seen = Iterable[tuple[str, str, Sequence[Any], Any]]


def _all(ledger: Ledger, scope: Scope) -> _Seen:
    yield from _money(ledger, scope)
    yield from _clock(ledger, scope)
    yield from _models(ledger, scope)
    yield from _providers(ledger, scope)
    yield from _gateways(ledger, scope)
    yield from _settlement(ledger, scope)
    yield from _disputes(ledger, scope)


def _money(ledger: Ledger, scope: Scope) -> _Seen:
    token, escrow = ledger.token, ledger.escrow
    yield "token", "totalSupply", (), token.total_supply
    yield "reward_pool", "emitted", (), ledger.reward_pool.emitted
    holders = [*scope.accounts, *(getattr(ledger, part).address for part in PARTS)]
    for holder in (*holders, *(pool.address for pool in ledger.pools())):
        yield "token", "balanceOf", (holder,), token.balance_of(holder)
    for account in scope.accounts:
        if scope.whole or escrow.free_of(account):
            yield "escrow", "freeOf", (account,), escrow.free_of(account)
        if scope.whole or token.sent_to(account):
            yield "token", "sentTo", (account,), token.sent_to(account)
        for name, part in (("settlement", ledger.settlement), ("disputes", ledger.disputes)):
            if scope.whole or part.payments_of(account):
                yield name, "paymentsOf", (account,), part.payments_of(account)
        for key in map(key_of, scope.gateways):
            redeemed = escrow.redeemed(account, key)
            if scope.whole or redeemed:
                yield "escrow", "redeemed", (account, key), redeemed
            reserved = escrow.reservation_of(account, key)
            if scope.whole or reserved.amount or reserved.thaw_end:
                yield "escrow", "reservationOf", (account, key), reserved
                yield "escrow", "available", (account, key), escrow.available(account, key)


def _clock(ledger: Ledger, scope: Scope) -> _Seen:
    epochs, block = ledger.epochs, scope.block
    yield "epochs", "currentEpoch", (), epochs.current_epoch(block)
    yield "epochs", "epochLength", (), epochs.epoch_length(block)
    yield "epochs", "claimableEpoch", (), epochs.claimable_epoch(block)
    following = epochs.current_epoch(block) + 1
    yield "epochs", "epochStartBlock", (following,), epochs.epoch_start_block(following)


def _models(ledger: Ledger, scope: Scope) -> _Seen:
    models, settlement = ledger.models, ledger.settlement
    yield "models", "modelCount", (), models.model_count
    for model_id in range(1, models.model_count + 1):
        model = models.model(model_id)
        current = ledger.epochs.current_epoch(scope.block)
        if scope.whole or "models" in scope.registries:
            listed = (model.creator, model.blocks, model.royalty_bps, model.enabled, model.stake_amount)
            yield "models", "model", (model_id,), (*listed, model.manifest_hash, model.name, model.metadata_uri)
            yield "models", "priceAt", (model_id, current), models.price_at(model_id, current)
            yield "models", "rating", (model_id,), models.rating(model_id)
        yield "models", "usage", (model_id,), models.usage(model_id)
        for gateway in map(key_of, scope.gateways):
            if scope.whole or models.spent_by(model_id, gateway):
                yield "models", "spentBy", (model_id, gateway), models.spent_by(model_id, gateway)
        yield "settlement", "royaltyOf", (model_id,), settlement.royalty_of(model_id)
        pool, name = ledger.router.pool(model_id), f"pool {model_id}"
        yield name, "carried", (), pool.carried
        yield name, "totalStake", (), pool.total_stake
        for epoch in scope.epochs:
            sums = settlement.model_epoch(model_id, epoch)
            if not scope.whole and not (sums.checkpoints or sums.finalized or sums.units):
                continue
            yield "settlement", "modelEpoch", (model_id, epoch), sums
            yield "settlement", "postersOf", (model_id, epoch), settlement.posters_of(model_id, epoch)
            yield name, "pot", (epoch,), pool.pot(epoch)
            for provider in scope.providers:
                yield name, "contribution", (provider, epoch), pool.contribution(provider, epoch)
        for epoch in range(current, current + 2):
            yield "reward_pool", "boostOf", (model_id, epoch), ledger.reward_pool.boost_of(model_id, epoch)


def _providers(ledger: Ledger, scope: Scope) -> _Seen:
    current = ledger.epochs.current_epoch(scope.block)
    for identifier in scope.providers:
        key = key_of(identifier)
        found = ledger.providers.by_key(key)
        yield "providers", "isActive", (identifier,), ledger.providers.is_active(identifier)
        yield "providers", "isEligible", (identifier,), ledger.providers.is_eligible(identifier, scope.block)
        yield "providers", "signerAt", (key, current), ledger.providers.signer_at(key, current)
        yield "slashing", "providerJailedUntil", (key,), ledger.slashing.provider_jailed_until(key)
        yield "slashing", "isStakeHeld", (key,), ledger.slashing.is_stake_held(key, scope.block)
        if scope.whole or "slashing" in scope.registries:
            yield "slashing", "sla", (identifier,), ledger.slashing.sla(identifier)
        if found is None:
            continue
        if scope.whole or "providers" in scope.registries:
            listed = (found.owner, found.model_id, found.deactivated, found.whitelisted, found.id, found.metadata)
            yield "providers", "provider", (identifier,), listed
        pool, name = ledger.router.pool(found.model_id), f"pool {found.model_id}"
        yield name, "stakeOf", (identifier,), pool.stake_of_key(key)
        first = max(scope.epochs[0], 1)
        yield (
            name,
            "viewRewards",
            (identifier, first, current),
            pool.view_rewards(identifier, first, current, scope.block),
        )


def _gateways(ledger: Ledger, scope: Scope) -> _Seen:
    current = ledger.epochs.current_epoch(scope.block)
    for identifier in scope.gateways:
        key = key_of(identifier)
        yield "gateways", "isActive", (identifier,), ledger.gateways.is_active(identifier)
        yield "gateways", "isEligible", (identifier,), ledger.gateways.is_eligible(identifier, scope.block)
        if scope.whole:
            yield "gateways", "isActiveKey", (key,), ledger.gateways.is_active_key(key)
            yield "gateways", "isEligibleKey", (key,), ledger.gateways.is_eligible_key(key, scope.block)
        yield "gateways", "signerAt", (key, current), ledger.gateways.signer_at(key, current)
        yield "gateway_staking", "stakeOf", (identifier,), ledger.gateway_staking.stake_of_key(key)
        yield "gateway_staking", "isOverdrawn", (key,), ledger.gateway_staking.is_overdrawn(key)
        yield "slashing", "gatewayJailedUntil", (key,), ledger.slashing.gateway_jailed_until(key)
        yield "escrow", "creditStateOf", (key,), ledger.escrow.credit_state_of(key)
        yield "escrow", "creditOf", (key,), ledger.escrow.credit_of(key)
        yield "settlement", "debtOf", (key,), ledger.settlement.debt_of(key)
        for provider in map(key_of, scope.providers):
            line = ledger.gateway_staking.line_of(key, provider)
            if scope.whole or line.amount or line.thaw_end:
                yield "gateway_staking", "lineOf", (key, provider), line
                yield "gateway_staking", "guaranteed", (key, provider), ledger.gateway_staking.guaranteed(key, provider)
        if ledger.gateways.owner_of(key) != bytes(20):
            first = max(scope.epochs[0], 1)
            rewards = ledger.gateway_staking.view_rewards(identifier, first, current, scope.block)
            yield "gateway_staking", "viewRewards", (identifier, first, current), rewards


def _settlement(ledger: Ledger, scope: Scope) -> _Seen:
    settlement = ledger.settlement
    yield "settlement", "parameters", (), settlement.parameters(scope.block)
    challenges = settlement.challenges()
    yield "settlement", "challengeCount", (), len(challenges)
    for number in range(max(0, len(challenges) - 3), len(challenges)):
        yield "settlement", "challenge", (number,), challenges[number]
    for epoch in scope.epochs:
        yield "settlement", "emissionWeight", (epoch,), settlement.emission_weight(epoch)
        for gateway in scope.gateways:
            yield from _slots(ledger, scope, key_of(gateway), epoch)


def _slots(ledger: Ledger, scope: Scope, gateway: Bytes32, epoch: int) -> _Seen:
    settlement = ledger.settlement
    used = False
    for model_id in range(1, ledger.models.model_count + 1):
        checkpoint = settlement.checkpoint(gateway, model_id, epoch)
        if checkpoint.status or scope.whole:
            used = True
            yield "settlement", "checkpoint", (gateway, model_id, epoch), checkpoint
    if used:
        yield "settlement", "gatewayShare", (gateway, epoch), settlement.gateway_share(gateway, epoch)
    for provider in scope.providers:
        key = key_of(provider)
        work = (gateway, key, epoch)
        units = {
            "provenUnits": settlement.proven_units(*work),
            "compensatedUnits": settlement.compensated_units(*work),
            "shownUnits": settlement.shown_units(*work),
            "challengedUnits": settlement.challenged_units(*work),
            "debtUnits": settlement.debt_units(*work),
        }
        if scope.whole or any(units.values()):
            for function, expected in units.items():
                yield "settlement", function, work, expected


def _disputes(ledger: Ledger, scope: Scope) -> _Seen:
    disputes = ledger.disputes
    if not scope.whole and "disputes" not in scope.registries:
        return
    yield "disputes", "verifiers", (), disputes.verifiers
    for number in range(max(0, len(disputes.cases) - 2), len(disputes.cases)):
        case = disputes.case_of(number)
        values = (case.provider, case.model_id, case.epoch, case.evidence_hash, case.status, case.deadline)
        yield (
            "disputes",
            "caseOf",
            (number,),
            (*values, case.guilty, case.innocent, case.bonder, case.bond, case.draw_block),
        )
        yield "disputes", "panelOf", (number,), case.panel
