"""Transactions in trouble: lost answers, reorganisations, stuck fees, nonces that strangers use, gaps, failures."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from chain.client.journal import Journal
from chain.client.lifecycle import Policy, State
from chain.client.pending import Call
from chain.client.retry import RetryPolicy
from chain.client.staking import chain_name
from chain.contract_errors import UnknownGateway
from chain.devnet.accounts import CHAIN_ID, faucet
from chain.errors import InsufficientFunds, NodeError, StillPending, TransactionError, TransactionFailed
from chain.transactions import Fees, SignedTransaction, Transaction
from chain.wallet import Account
from tests.chain.shells.proxy import Verdict, methods, proxy
from tests.chain.shells.world import QUICK, Net, eventually

RETRY = RetryPolicy(deadline=20, attempt_timeout=5, first=0.01, most=0.1)
TO = faucet(8).address
SEND = "eth_sendRawTransaction"


def transfer(value: int) -> Call:
    return Call(TO, b"", f"transfer {value}", value=value)


async def count(net: Net, address: str) -> int:
    return int(await net.rpc.call("eth_getTransactionCount", address, "latest"), 16)


# --- the way to the node ---


async def test_when_every_answer_to_a_broadcast_is_lost_nothing_is_sent_twice(any_net: Net, tmp_path: Path) -> None:
    lost = 0

    def decide(number: int, body: Any) -> Verdict:
        nonlocal lost
        if methods(body) == [SEND] and lost < 3:
            lost += 1
            return "swallow"
        return "pass"

    async with (
        proxy(any_net.url, decide) as between,
        any_net.client(6, url=between.url, retry=RETRY, journal=tmp_path / "j.sqlite") as client,
    ):
        before = await count(any_net, client.address)
        outcome = await client.transactor.send(transfer(5))
        assert await count(any_net, client.address) == before + 1
        raws = {body["params"][0] for body in between.seen if methods(body) == [SEND]}
        assert len(raws) == 1 and lost == 3
        assert len(client.transactor.journal.history(client.address)[0].attempts) == 1
        assert outcome.gas_used == 21_000


async def test_a_broadcast_that_never_arrives_is_sent_again_later(any_net: Net) -> None:
    """The first tries are lost for longer than a call is retried: the journal's task sends the same bytes again."""
    dropped = 0

    def decide(number: int, body: Any) -> Verdict:
        nonlocal dropped
        if methods(body) == [SEND] and dropped < 6:
            dropped += 1
            return "drop"
        return "pass"

    impatient = RetryPolicy(deadline=0.1, attempt_timeout=5, first=0.05, most=0.1)
    async with proxy(any_net.url, decide) as between, any_net.client(6, url=between.url, retry=impatient) as client:
        before = await count(any_net, client.address)
        await client.transactor.send(transfer(5))
        assert dropped == 6 and await count(any_net, client.address) == before + 1


async def test_forty_sends_through_a_bad_connection_arrive_once_each(any_net: Net) -> None:
    draw = random.Random(11)

    def decide(number: int, body: Any) -> Verdict:
        return draw.choices(["pass", "drop", "swallow", "slow down", "bad gateway"], [12, 1, 2, 1, 1])[0]  # type: ignore[return-value]

    async with (
        proxy(any_net.url, decide) as between,
        any_net.client(6, url=between.url, retry=RETRY) as client,
    ):
        before = await count(any_net, client.address)
        balance = int(await any_net.rpc.call("eth_getBalance", TO, "latest"), 16)
        await asyncio.gather(*(client.transactor.send(transfer(1 << i)) for i in range(40)))
        assert await count(any_net, client.address) == before + 40
        assert int(await any_net.rpc.call("eth_getBalance", TO, "latest"), 16) == balance + (1 << 40) - 1
        assert len(set(between.verdicts)) == 5


async def test_a_node_that_is_gone_is_an_error_with_the_hash_and_the_journal_keeps_it(net: Net, tmp_path: Path) -> None:
    gone = False

    def decide(number: int, body: Any) -> Verdict:
        nonlocal gone
        gone = gone or methods(body) == [SEND]
        return "drop" if gone else "pass"

    impatient = RetryPolicy(deadline=0.3, attempt_timeout=5, first=0.05, most=0.1)
    journal = tmp_path / "j.sqlite"
    async with (
        proxy(net.url, decide) as between,
        net.client(6, url=between.url, retry=impatient, journal=journal) as client,
    ):
        with pytest.raises(StillPending) as raised:
            await client.transactor.send(transfer(5), timeout=2)
        with pytest.raises(NodeError):
            await client.core.block_number()
        before = await count(net, client.address)
    # The node is back: the next start sends those same bytes, and does not sign another.
    async with net.client(6, journal=journal) as client:
        outcome = await client.transactor.send(transfer(5))
        assert outcome.tx_hash == raised.value.tx_hash and outcome.resumed
        assert await count(net, client.address) == before + 1


# --- blocks that go away ---


async def test_a_transaction_that_is_reorganised_away_is_sent_again(any_net: Net, tmp_path: Path) -> None:
    deep = Policy(confirmations=4, resend_after=1.0, stuck_after=60.0)
    async with any_net.client(6, policy=deep, journal=tmp_path / "j.sqlite") as client:
        before = await count(any_net, client.address)
        snapshot = await any_net.snapshot()
        pending = await client.transactor.submit(transfer(5))
        await pending.wait_mined(20)
        first_block = pending.intent.block_hash
        await any_net.mine(1)
        await any_net.revert(snapshot)  # its block, and one more, are gone
        await any_net.mine(1)

        async def mined_again() -> bool:
            return pending.intent.state is State.MINED and pending.intent.block_hash != first_block

        await eventually(mined_again, "it is in another block")
        await any_net.mine(4)
        outcome = await pending.outcome(30)
        assert await count(any_net, client.address) == before + 1
        receipt = await any_net.rpc.call("eth_getTransactionReceipt", outcome.tx_hash)
        assert int(receipt["blockNumber"], 16) == outcome.block


async def test_a_confirmation_waits_for_as_many_blocks_as_asked(any_net: Net) -> None:
    async with any_net.client(6, policy=Policy(confirmations=3)) as client:
        pending = await client.transactor.submit(transfer(5))
        await pending.wait_mined(20)
        with pytest.raises(StillPending):
            await pending.outcome(0.5)
        await any_net.mine(2)
        assert (await pending.outcome(20)).gas_used == 21_000


# --- fees ---


async def test_a_stuck_transaction_is_replaced_and_only_one_of_them_is_mined(any_net: Net, tmp_path: Path) -> None:
    async with any_net.client(6, journal=tmp_path / "j.sqlite") as client:
        before = await count(any_net, client.address)
        await any_net.automine(False)
        pending = await client.transactor.submit(transfer(5))

        async def replaced() -> bool:
            return len(pending.intent.attempts) >= 2 and pending.intent.state is State.SENT

        await eventually(replaced, "a replacement with higher fees")
        await any_net.mine()
        outcome = await pending.outcome(20)
        first, *later = pending.intent.attempts
        assert outcome.tx_hash in ["0x" + each.hash.hex() for each in later]
        assert later[0].fees.max_fee * 10 >= first.fees.max_fee * 11
        assert {each.nonce for each in pending.intent.attempts} == {before}
        assert await count(any_net, client.address) == before + 1


# --- nonces ---


async def test_a_nonce_that_a_stranger_used_is_replaced_by_another(any_net: Net, tmp_path: Path) -> None:
    """The same key is used by other software too: ours is signed again, and both transactions happen once."""
    async with any_net.client(6, journal=tmp_path / "j.sqlite") as client:
        before = await count(any_net, client.address)
        await any_net.automine(False)
        pending = await client.transactor.submit(transfer(5))
        stranger = faucet(6).sign_transaction(
            Transaction(CHAIN_ID, before, Fees(10**12, 10**11), 21_000, faucet(9).canonical, 1, b"")
        )
        await any_net.rpc.call(SEND, "0x" + stranger.raw.hex())
        await any_net.mine()
        await any_net.automine(True)
        outcome = await pending.outcome(30)
        assert pending.intent.nonce == before + 1 and outcome.tx_hash != "0x" + stranger.hash.hex()
        assert await count(any_net, client.address) == before + 2


async def test_the_nonce_of_a_refused_transaction_does_not_hold_up_later_ones(any_net: Net) -> None:
    poor = Account.create()
    price = 10**9 * 2
    async with any_net.client(0) as rich:
        await rich.transactor.send(Call(poor.address, b"", "gas money", value=21_000 * price * 4))
    async with any_net.client(poor) as client:
        await client.transactor.send(transfer(1))
        with pytest.raises(InsufficientFunds):
            await client.transactor.send(Call(TO, b"", "too much", value=10**18, gas=21_000))
        await client.transactor.send(transfer(2))
        assert await count(any_net, client.address) == 2


async def test_a_gap_below_transactions_that_wait_is_filled(any_net: Net, tmp_path: Path) -> None:
    path, account = tmp_path / "j.sqlite", faucet(6)
    before = await count(any_net, account.address)

    def sign(nonce: int) -> tuple[SignedTransaction, Fees]:
        fees = Fees(10**11, 10**9)
        return account.sign_transaction(Transaction(CHAIN_ID, nonce, fees, 21_000, faucet(8).canonical, 2, b"")), fees

    # What a process leaves that died after a node had refused the first of two transactions.
    with Journal(path, chain_name(any_net.deployment)) as journal:
        first, second = (
            journal.record_signed(
                key=None,
                sender=account.address,
                to=faucet(8).canonical,
                data=b"",
                value=2,
                gas=21_000,
                label=label,
                floor=before,
                sign=sign,
            )
            for label in ("refused", "waiting")
        )
        journal.record_refused(first)
    async with any_net.client(6, journal=path) as client:
        (pending,) = client.transactor.recovered
        assert (await pending.outcome(30)).tx_hash == "0x" + second.current.hash.hex()
        labels = [each.label for each in client.transactor.journal.history(client.address)]
        assert labels == ["use up a nonce", "waiting", "refused"]
        assert await count(any_net, client.address) == before + 2


# --- failures ---


async def test_a_transaction_that_fails_in_its_block_is_an_error_with_the_contract_s_reason(any_net: Net) -> None:
    async with any_net.client(6) as client:
        call = client.core.call("GatewayStaking", "restartGateway", "nobody")
        doomed = Call(call.to, call.data, call.label, gas=200_000)  # explicit gas: no estimate refuses it before
        with pytest.raises(TransactionFailed) as raised:
            await client.transactor.send(doomed)
        assert isinstance(raised.value.reason, UnknownGateway)
        assert raised.value.tx_hash is not None and "no gateway is registered" in str(raised.value)


async def test_a_transaction_that_no_node_will_take_is_an_error_at_once(net: Net) -> None:
    async with net.client(6, policy=QUICK) as client:
        with pytest.raises(TransactionError, match="gas limit"):
            await client.transactor.send(Call(TO, b"", "far too much gas", gas=10**9))
        await client.transactor.send(transfer(1))
