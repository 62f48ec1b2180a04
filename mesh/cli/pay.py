"""`mesh key` and `mesh pay`: a developer's API key, and the agent that pays for what it is used for."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli.chain_session import (
    DeploymentFile,
    PasswordFile,
    WalletFile,
    chain_folder,
    chain_group,
    default_deployment,
    default_wallet,
    pairs,
    read_amount,
)
from mesh.cli.console import emit, err, out, run, set_up_logging
from mesh.cli.environment import environment
from mesh.cli.options import AsJson, LogLevel

if TYPE_CHECKING:
    from rich.table import Table

    from chain.primitives import Address
    from chain.vouchers import Domain
    from chain.wallet import Account
    from mesh.client.payer import Paid, Payer, ReserveView

app = chain_group("Make and revoke API keys that spend from your deposit.")

GatewayUrl = Annotated[
    str, typer.Option("--gateway", envvar="MESH_GATEWAY", help="The gateway's address, as http://127.0.0.1:8000.")
]
ApiKey = Annotated[
    str | None, typer.Option("--api-key", envvar="MESH_API_KEY", help="The key; better in the environment.")
]
ForPayer = Annotated[
    str | None,
    typer.Option("--for", help="Whose deposit pays, if your wallet is a signer that its owner authorised."),
]
GatewayIdPin = Annotated[
    str | None, typer.Option("--gateway-id", help="Refuse a gateway that is paid under another id.")
]
TrustGateway = Annotated[
    bool,
    typer.Option(
        "--trust-gateway", help="Take chain and escrow from the gateway's word; no deployment file is needed."
    ),
]


@app.command("new")
def new(
    gateway: GatewayUrl,
    wallet: WalletFile = None,
    password_file: PasswordFile = None,
    deployment: DeploymentFile = None,
    for_payer: ForPayer = None,
    gateway_id: GatewayIdPin = None,
    trust_gateway: TrustGateway = False,
    as_json: AsJson = False,
) -> None:
    """Make an API key for your deposit in the escrow. It is shown once; the gateway keeps only its hash."""
    account = _open(wallet, password_file)
    payer = _payer(for_payer, account)
    key, name = run(_new(gateway, account, payer, _domain(deployment, trust_gateway), gateway_id)) or ("", "")
    if as_json:
        out.print_json(json.dumps({"key": key, "gateway": name, "payer": _shown(payer)}))
    else:
        out.print(key, markup=False)
        err.print(f"spends from the deposit of {_shown(payer)} at the gateway {name}; run `mesh pay` beside it")


@app.command("revoke")
def revoke(gateway: GatewayUrl, api_key: ApiKey = None) -> None:
    """Make a key open nothing any more."""
    run(_revoke(gateway, _key(api_key)))
    out.print("revoked")


def pay(
    gateway: GatewayUrl,
    api_key: ApiKey = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            help="Most FUNC to sign for in this run.",
            show_default="with --rpc what the escrow holds for this gateway, else 1",
        ),
    ] = None,
    ahead: Annotated[
        str, typer.Option("--ahead", help="Most FUNC to sign beyond what the gateway says it has handed out.")
    ] = "0.5",
    max_price: Annotated[
        str | None,
        typer.Option("--max-price", help="Most FUNC for a weighted token of any model.", show_default="any price"),
    ] = None,
    already_signed: Annotated[
        str, typer.Option("--already-signed", help="FUNC that you signed for this gateway on another machine, in all.")
    ] = "0",
    rpc: Annotated[
        str | None,
        typer.Option(
            "--rpc",
            envvar="MESH_RPC",
            help="JSON-RPC address of the chain, to see for ourselves what the escrow holds.",
            show_default="the gateway's word, within the budget",
        ),
    ] = None,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Where clients reach the gateway through us; 0: any port.")
    ] = 8010,
    beside: Annotated[
        bool,
        typer.Option(
            "--beside", help="Listen nowhere: clients ask the gateway, whose word is taken for what they get."
        ),
    ] = False,
    wallet: WalletFile = None,
    password_file: PasswordFile = None,
    deployment: DeploymentFile = None,
    for_payer: ForPayer = None,
    gateway_id: GatewayIdPin = None,
    trust_gateway: TrustGateway = False,
    as_json: AsJson = False,
    log_level: LogLevel = "error",
) -> None:
    """Pass requests on to a gateway and sign vouchers for what comes, until Ctrl-C. Clients use our address; no key.

    It keeps books of its own. A gateway gets nothing while nothing is asked; one that lies gets at most --ahead, and
    with --beside the budget; one that contradicts the books is paid nothing more.
    """
    set_up_logging(log_level)
    bounds = _Bounds(
        budget=None if budget is None else read_amount(budget, allow_zero=True, name="--budget"),
        ahead=read_amount(ahead, name="--ahead"),
        max_price=None if max_price is None else read_amount(max_price, allow_zero=True, name="--max-price"),
        already_signed=read_amount(already_signed, allow_zero=True, name="--already-signed"),
    )
    account = _open(wallet, password_file)
    chain = None if rpc is None or trust_gateway else _Chain(rpc, deployment or default_deployment())
    run(
        _pay(
            gateway,
            _key(api_key),
            account,
            _payer(for_payer, account),
            bounds,
            _domain(deployment, trust_gateway),
            gateway_id,
            chain,
            None if beside else port,
            as_json,
        ),
        ends_on_signal=True,
    )


@dataclass(frozen=True, slots=True)
class _Bounds:
    """What `mesh pay` may sign, in wei."""

    budget: int | None
    ahead: int
    max_price: int | None
    already_signed: int


@dataclass(frozen=True, slots=True)
class _Chain:
    """Where `mesh pay` looks at the escrow itself."""

    rpc: str
    deployment: Path


async def _new(
    url: str, account: Account, payer: Address, domain: Domain | None, gateway_id: str | None
) -> tuple[str, str]:
    from mesh.client.gateway_http import GatewayHttp, check_terms

    async with GatewayHttp(url) as gateway:
        terms = await gateway.terms()
        check_terms(terms, domain=domain, gateway=gateway_id)
        return await gateway.make_key(account, payer, terms), terms.gateway


async def _revoke(url: str, key: str) -> None:
    from mesh.client.gateway_http import GatewayHttp

    async with GatewayHttp(url, key) as gateway:
        await gateway.revoke_key()


@asynccontextmanager
async def _reserve(chain: _Chain | None, url: str, pinned: str | None) -> AsyncIterator[ReserveView | None]:
    """What the chain says is held for this gateway; None without a chain of our own."""
    if chain is None:
        yield None
        return
    from chain.client.staking import StakingClient
    from chain.deploy import Deployment
    from mesh.client.gateway_http import GatewayHttp
    from mesh.payment.accounts.onchain import ChainEscrow

    gateway = pinned
    if gateway is None:
        async with GatewayHttp(url) as http:
            gateway = (await http.terms()).gateway
    async with StakingClient(chain.rpc, Deployment.read(chain.deployment)) as client:
        view = ChainEscrow(client, gateway)
        try:
            yield view
        finally:
            await view.close()


async def _pay(
    url: str,
    key: str,
    account: Account,
    payer: Address,
    bounds: _Bounds,
    domain: Domain | None,
    gateway_id: str | None,
    chain: _Chain | None,
    port: int | None,
    as_json: bool,
) -> None:
    """`port` None: beside clients that we do not see."""
    from contextlib import nullcontext

    from rich.live import Live

    from mesh.client.payer import Payer

    last: Paid | None = None
    live: Live | nullcontext[None] = nullcontext() if as_json or not out.is_terminal else Live(console=out)

    def show(paid: Paid) -> None:
        nonlocal last
        if paid == last:
            return
        last = paid
        if as_json:
            emit("paid", **_json(paid))
        elif isinstance(live, Live):
            live.update(_table(paid))

    async with _reserve(chain, url, gateway_id) as reserve:
        agent = Payer(
            url,
            key,
            account,
            payer=payer,
            budget=bounds.budget,
            ahead=bounds.ahead,
            max_price=bounds.max_price,
            already_signed=bounds.already_signed,
            store=chain_folder() / "promises.sqlite",
            reserve=reserve,
            beside=port is None,
            domain=domain,
            gateway=gateway_id,
            on_change=show,
        )
        async with agent, _listening(agent, url, key, port) as api:
            if api is not None and not as_json:
                out.print(f"your clients' API, paid for as it is used: [bold]{api}[/] (no key is needed)")
            with live:
                if as_json:
                    emit("ready", url=api, **_json(agent.paid))
                elif not isinstance(live, Live):
                    out.print(_table(agent.paid))
                show(agent.paid)
                try:
                    await agent.finished()
                finally:
                    if not as_json and not isinstance(live, Live):
                        out.print(_table(agent.paid))


@asynccontextmanager
async def _listening(agent: Payer, url: str, key: str, port: int | None) -> AsyncIterator[str | None]:
    """Serve clients meanwhile; where they reach us."""
    if port is None:
        yield None
        return
    import asyncio

    from mesh.cli.gateway import serve_until_cancelled
    from mesh.gateway.paying_proxy import paying_proxy
    from mesh.gateway.serve import bind, server, url_of

    with bind("127.0.0.1", port) as listener:
        passed_on = paying_proxy(agent, url.rstrip("/").removesuffix("/v1"), key)
        async with passed_on as app, server(app, listener) as running:
            serving = asyncio.create_task(serve_until_cancelled(running, listener))
            try:
                yield f"{url_of('127.0.0.1', listener)}/v1"
            finally:
                serving.cancel()
                await asyncio.wait({serving})


def _json(paid: Paid) -> dict[str, object]:
    """Amounts as decimal strings of wei."""
    return {
        "gateway": paid.gateway,
        "payer": _shown(paid.payer),
        "signed": str(paid.signed),
        "promised": str(paid.promised),
        "spent": str(paid.spent),
        "used": str(paid.used),
        "credit": str(paid.credit),
        "deposit": str(paid.deposit),
        "wanted": str(paid.wanted),
        "limit": None if paid.limit is None else str(paid.limit),
        "reachable": paid.reachable,
    }


def _table(paid: Paid) -> Table:
    from chain.units import format_func

    def func(wei: int) -> str:
        return f"{format_func(wei)} FUNC"

    rows = [
        ("spent in this run", func(paid.used)),
        ("spent ever", func(paid.spent)),
        ("signed", func(paid.signed)),
        ("deposit", func(paid.deposit)),
    ]
    if paid.limit is not None:
        rows.append(("left of the budget", func(max(0, paid.limit - paid.signed))))
    if paid.exhausted:
        rows.append(("[yellow]nothing more is signed[/]", "budget or deposit are used up: see --budget"))
    if paid.wanted > paid.ahead:
        asked = f"the gateway asks for {func(paid.wanted)} ahead, --ahead allows {func(paid.ahead)}"
        rows.append(("[yellow]requests may wait[/]", asked))
    if not paid.reachable:
        rows.append(("[yellow]the gateway cannot be paid now[/]", "trying again"))
    return pairs(f"paying {paid.gateway.replace('[', chr(92) + '[')}", rows)


def _open(wallet: Path | None, password_file: Path | None) -> Account:
    from chain.wallet import find_password, keystore_address, open_keystore

    path = wallet or default_wallet()
    address = keystore_address(path)
    return open_keystore(path, find_password(file=password_file, environment=environment(), what=f"wallet {address}"))


def _payer(text: str | None, account: Account) -> Address:
    from eth_utils import to_canonical_address

    from chain.deploy import read_address

    return account.canonical if text is None else bytes(to_canonical_address(read_address(text)))


def _domain(deployment: Path | None, trust_gateway: bool) -> Domain | None:
    from eth_utils import to_canonical_address

    from chain.deploy import Deployment
    from chain.vouchers import Domain

    if trust_gateway:
        return None
    read = Deployment.read(deployment or default_deployment())
    return Domain(read.chain_id, bytes(to_canonical_address(read.address("Escrow"))))


def _key(given: str | None) -> str:
    if not given:
        raise typer.BadParameter("give the key that `mesh key new` made, best as MESH_API_KEY", param_hint="--api-key")
    return given


def _shown(address: Address) -> str:
    from chain.primitives import checksummed

    return checksummed(address)
