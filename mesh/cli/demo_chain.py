"""The demo's money: an embedded chain, wallets with play money, and the settlement of one epoch with its sums."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table

from chain.primitives import key_of
from chain.units import WEI_PER_FUNC, format_func
from mesh.cli.console import out
from mesh.cli.processes import Child, Children
from mesh.errors import MeshError

if TYPE_CHECKING:
    from chain.client.staking import StakingClient
    from chain.deploy import Deployment
    from chain.wallet import Account

START_SECONDS: Final = 60.0
SETTLE_SECONDS: Final = 60.0
PLAY_MONEY: Final = 10_000 * WEI_PER_FUNC
DEPOSIT: Final = 100 * WEI_PER_FUNC
STAKE: Final = 1_000 * WEI_PER_FUNC
PRICE: Final[int] = WEI_PER_FUNC // 10_000
ROYALTY_BPS: Final = 500
KEY_COST: Final = 1 << 12
"""These keys live as long as the demo: no need to make them costly to guess."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One transaction: who sent it, what it did, its hash."""

    who: str
    what: str
    tx: str


@dataclass(slots=True)
class DemoChain:
    """A running chain with the demo's accounts on it. Made by `start_chain`."""

    url: str
    deployment: Deployment
    folder: Path
    accounts: dict[str, Account]
    model_id: int = 0
    sent: list[Sent] = field(default_factory=list)

    def options(self, who: str) -> list[str]:
        """What `mesh join` and `mesh gateway` need to be told to work for money as `who`."""
        return [
            *("--rpc", self.url, "--deployment", str(self.folder / "deployment.json"), "--chain-poll", "0.25"),
            *("--wallet", str(self.folder / f"{who}.json"), "--payment-folder", str(self.folder / f"{who}-books")),
            *("--password-file", str(self.password_file), "--yes"),
        ]

    @property
    def password_file(self) -> Path:
        """The file with the password of all the wallets."""
        return self.folder / "password"

    def client(self, who: str | None = None) -> StakingClient:
        """A client for an account; without one it only reads."""
        from chain.client.staking import StakingClient

        def approved(contract: str, amount: int, tx: str) -> None:
            self.sent.append(Sent(str(who), f"approved {format_func(amount)} FUNC for {contract}", tx))

        account = self.accounts[who] if who else None
        return StakingClient(self.url, self.deployment, account=account, poll=0.02, on_approval=approved)

    async def balances(self) -> dict[str, int]:
        """FUNC of every account and contract, in wei. Raises `MeshError` unless that is all there is."""
        from chain.devnet.accounts import faucets

        holders = {name: account.address for name, account in self.accounts.items()}
        holders |= {f"contract {name}": address for name, address in self.deployment.contracts.items()}
        holders |= {f"faucet {number}": account.address for number, account in enumerate(faucets())}
        async with self.client() as client:
            for model_id in range(1, await client.models.model_count() + 1):
                holders[f"contract pool {model_id}"] = await client.core.pool(model_id)
            found = await client.core.views([("FuncToken", "balanceOf", (address,)) for address in holders.values()])
            supply = await client.token.total_supply()
        if sum(found) != supply:
            raise MeshError(f"all balances are {sum(found)} wei and the supply is {supply}")
        return dict(zip(holders, found, strict=True))

    async def next_epoch(self, epochs: int = 1) -> int:
        """Let blocks pass until a later epoch begins; its number."""
        async with self.client() as client:
            status = await client.epochs.status()
            target = await client.epochs.start_block(status.epoch + epochs)
            await client.core.rpc.call("anvil_mine", hex(target - status.block))
            return (await client.epochs.status()).epoch


async def start_chain(
    family: Children,
    folder: Path,
    names: Sequence[str],
    model: str,
    digest: str,
    blocks: int,
    *,
    arguments: Sequence[str] = (),
    password: str | None = None,
) -> DemoChain:
    """Start a chain, fund the accounts, publish the model, and deposit for the developer.

    `arguments` are further ones of `mesh chain up`; `password` is that of all wallets (default: a random one).
    """
    from chain.client.pending import Call
    from chain.client.staking import StakingClient
    from chain.deploy import Deployment
    from chain.devnet.accounts import faucet
    from chain.wallet import Account, create_keystore

    length = 60 + 8 * len(names)  # in blocks; every transaction is one
    file = folder / "deployment.json"
    child = await family.start(
        "chain",
        *("chain", "up", "--port", "0", "--json", "--deployment", str(file), "--epoch-length", str(length)),
        *arguments,
    )
    url = (await child.wait_for("ready", START_SECONDS))["url"]
    accounts = {name: Account.create() for name in names}
    chain = DemoChain(url, Deployment.read(file), folder, accounts)
    password = password or secrets.token_hex(16)
    chain.password_file.touch(mode=0o600)
    chain.password_file.write_text(password + "\n")
    for name, account in accounts.items():
        await asyncio.to_thread(create_keystore, folder / f"{name}.json", account, password, cost=KEY_COST)
    async with StakingClient(url, chain.deployment, account=faucet(0), poll=0.02) as client:
        for name, account in accounts.items():
            await client.transactor.send(Call(account.address, b"", "gas money", value=10**18))
            result = await client.token.transfer(account.address, PLAY_MONEY)
            chain.sent.append(Sent("faucet", f"gave {name} {format_func(PLAY_MONEY)} FUNC", result.tx_hash))
    async with chain.client("creator") as client:
        result = await client.models.create_model(
            model,
            bytes.fromhex(digest),
            "",
            blocks=blocks,
            price_per_token=PRICE,
            royalty_bps=ROYALTY_BPS,
            model_stake_amount=STAKE,
        )
        chain.model_id = result.event("ModelCreated").arguments.model_id
        chain.sent.append(Sent("creator", f"published {model}", result.tx_hash))
    async with chain.client("developer") as client:
        result = await client.escrow.deposit(DEPOSIT)
        chain.sent.append(Sent("developer", f"deposited {format_func(DEPOSIT)} FUNC", result.tx_hash))
    return chain


async def reserve(chain: DemoChain, gateway: str) -> None:
    """Reserve the developer's deposit for one gateway: its vouchers are paid from that and from nothing else."""
    async with chain.client("developer") as client:
        result = await client.escrow.reserve(gateway, DEPOSIT)
        text = f"reserved {format_func(DEPOSIT)} FUNC for {gateway}"
        chain.sent.append(Sent("developer", text, result.tx_hash))


@dataclass(frozen=True, slots=True)
class Share:
    """One line of the settlement: who, for what, and what he received, in wei."""

    who: str
    what: str
    units: int
    received: int


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of an epoch's fees; amounts in wei."""

    epoch: int
    charged: int
    tried: int
    """What the gateway itself paid for the sessions by which it verified the providers."""
    shares: tuple[Share, ...]
    burned: int
    emission: int
    dust: int
    """What rounding left in the pot for a later epoch."""
    before: dict[str, int]
    after: dict[str, int]

    @property
    def paid(self) -> int:
        """Where the fees and what was minted went."""
        return sum(share.received for share in self.shares) + self.burned + self.dust

    def with_nothing_for(self, who: str) -> Settlement:
        """With a row for somebody who got nothing. Raises `MeshError` where that is not so."""
        if self.after[who] != self.before[who]:
            raise MeshError(f"{who} has {self.after[who] - self.before[who]} wei more than before")
        return replace(self, shares=(*self.shares, Share(who, "work", 0, 0)))

    def check(self) -> None:
        """Raises `MeshError` when a wei is missing, or is there that should not be."""
        if self.paid != self.charged + self.tried + self.emission:
            came = f"{self.charged} charged, {self.tried} spent on trials and {self.emission} minted"
            raise MeshError(f"{self.paid} wei were paid, {came}")


async def settle(
    chain: DemoChain,
    gateway: Child,
    providers: Sequence[Child],
    charged: int,
    tried: int,
    epoch: int,
    before: dict[str, int],
) -> Settlement:
    """Let time pass until the epoch is paid out. Raises `MeshError` when a step does not come, or a sum is wrong."""
    await chain.next_epoch()
    await _event(gateway, "post", epoch)
    async with chain.client() as client:
        delay = (await client.epochs.status()).reward_delay
    await chain.next_epoch(delay - 1)
    claims = await asyncio.gather(*(_event(provider, "claim") for provider in providers))
    share = await _event(gateway, "claim_share")
    units: dict[bytes, int] = {}
    async with chain.client() as client:
        async for event in client.core.events("Settlement", "ContributionProven"):
            proven = event.arguments
            units[proven.provider] = units.get(proven.provider, 0) + proven.units
    shares = [
        Share(provider.name, "work", units[key_of(claim["provider"])], claim["amount"])
        for provider, claim in zip(providers, claims, strict=True)
    ]
    shares.append(Share("gateway", "routing", 0, share["amount"]))
    async with chain.client("creator") as client:
        result = await client.settlement.claim_royalty(chain.model_id)
        royalty = result.event("RoyaltyClaimed").arguments.amount
        chain.sent.append(Sent("creator", f"claimed {format_func(royalty)} FUNC of royalty", result.tx_hash))
        shares.append(Share("creator", "royalty", 0, royalty))
        final = None
        async for event in client.core.events("Settlement", "EpochFinalized"):
            final = event.arguments if event.arguments.epoch == epoch else final
    if final is None:
        raise MeshError(f"epoch {epoch} was not finalised")
    after = await chain.balances()
    settled = Settlement(
        epoch,
        charged,
        tried,
        tuple(shares),
        burned=sum(before.values()) + final.emission - sum(after.values()),
        emission=final.emission,
        dust=final.pot - sum(share.received for share in shares if share.units),
        before=before,
        after=after,
    )
    settled.check()
    return settled


async def _event(child: Child, what: str, epoch: int | None = None) -> dict[str, Any]:
    """The first transaction of that kind. Raises `MeshError` when it does not come in time."""

    def find() -> dict[str, Any] | None:
        for seen in child.events:
            sent = seen["event"] == "settlement" and seen["kind"] == "sent" and seen["what"] == what
            if sent and (epoch is None or seen.get("epoch") == epoch):
                return seen
        return None

    return await child.wait_until(find, f"settle ({what})", SETTLE_SECONDS)


def show(chain: DemoChain, settled: Settlement, family: Sequence[Child], spans: dict[str, str]) -> None:
    """Who did what and got what, where the money went, and every transaction."""
    table = Table(title=f"epoch {settled.epoch}: FUNC received, and balances before and after", title_justify="left")
    for column in ("who", "for", "blocks", "units", "received", "before", "after"):
        left = column in ("who", "for", "blocks")
        table.add_column(column, justify="left" if left else "right", no_wrap=True)
    for share in settled.shares:
        before, after = settled.before[share.who], settled.after[share.who]
        units = f"{share.units:,}" if share.units else ""
        amounts = [format_func(amount) for amount in (share.received, before, after)]
        table.add_row(share.who, share.what, spans.get(share.who, ""), units, *amounts)
    out.print(table)
    sums = Table(title="where the money went (FUNC)", title_justify="left", show_header=False)
    people = sum(share.received for share in settled.shares)
    sums.add_row("charged to the developer", format_func(settled.charged))
    sums.add_row("spent by the gateway on trials of the providers", format_func(settled.tried))
    sums.add_row("minted (at most half of what is burned)", format_func(settled.emission))
    sums.add_section()
    sums.add_row("paid to these people", format_func(people))
    sums.add_row("burned", format_func(settled.burned))
    sums.add_row("left in the pot by rounding", format_func(settled.dust))
    sums.add_section()
    sums.add_row("both sides", f"{settled.paid:,} wei")
    out.print(sums)
    sent = list(chain.sent)
    for child in family:
        for event in child.events:
            if event["event"] == "staked":
                sent.append(Sent(child.name, event["what"], event["tx"]))
            elif event["event"] == "settlement" and event.get("tx_hash"):
                sent.append(Sent(child.name, event["text"], event["tx_hash"]))
    out.print(f"{len(sent)} transactions on the embedded chain:")
    for each in sent:
        out.print(f"  {each.tx}  {each.who}: {each.what}", markup=False, highlight=False)
