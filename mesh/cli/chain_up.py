"""`mesh chain`: a development chain, FUNC from its faucet, and the mining curves."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from mesh.cli.chain_session import (
    Session,
    chain_command,
    chain_folder,
    chain_group,
    default_deployment,
    pairs,
    read_amount,
)
from mesh.cli.console import emit, err, out, print_json, run, set_up_logging
from mesh.cli.options import AllowedHosts, AllowedOrigins, AsJson, LogLevel

app = chain_group("Run a development chain, and look at the schedules of emission.")
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@app.command("up")
def up(
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port of the endpoint; 0 takes a free one.")
    ] = 8545,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    state: Annotated[
        Path | None, typer.Option("--state", help="Folder to keep the chain in; it survives any end of the process.")
    ] = None,
    persist: Annotated[bool, typer.Option("--persist", help="Keep the chain in this user's data folder.")] = False,
    use_anvil: Annotated[bool, typer.Option("--anvil", help="Run anvil instead of the embedded EVM.")] = False,
    anvil_path: Annotated[Path | None, typer.Option("--anvil-path", help="The anvil executable.")] = None,
    chain_id: Annotated[int, typer.Option("--chain-id", min=1)] = 31337,
    block_time: Annotated[
        float, typer.Option("--block-time", min=0, help="Seconds between blocks; 0 mines each transaction at once.")
    ] = 0,
    epoch_length: Annotated[int, typer.Option("--epoch-length", min=2, help="Blocks in an epoch.")] = 10,
    timelock: Annotated[
        int,
        typer.Option(
            "--timelock",
            min=0,
            max=30 * 86_400,
            help="Seconds that everything the contracts' owner does is announced "
            "before it takes effect. 0 is for development: the owner acts at once.",
        ),
    ] = 0,
    deployment: Annotated[
        Path | None, typer.Option("--deployment", envvar="MESH_DEPLOYMENT", help="Deployment file to write.")
    ] = None,
    allowed_hosts: AllowedHosts = None,
    allowed_origins: AllowedOrigins = None,
    as_json: AsJson = False,
    log_level: LogLevel = "warning",
) -> None:
    """Run a development chain with the contracts deployed and ten funded accounts, until Ctrl-C."""
    from chain.http_guard import Allowed

    set_up_logging(log_level)
    folder = state or (chain_folder() / "devnet" if persist else None)
    options: dict[str, Any] = {"folder": folder, "host": host, "port": port, "chain_id": chain_id}
    if host not in LOOPBACK:
        err.print(f"[yellow]warning:[/] everybody who reaches {host} can use this chain's well-known keys")
    from chain.deploy import Parameters

    options["parameters"] = Parameters(epoch_length=epoch_length, timelock_delay=timelock)
    guarded = bool(allowed_hosts or allowed_origins)
    if guarded and (use_anvil or anvil_path is not None):
        raise typer.BadParameter("anvil has no such option", param_hint="--allowed-host, --allowed-origin")
    if guarded:
        options["allowed"] = Allowed.of(allowed_hosts or (), allowed_origins or ())
    run(
        _up(use_anvil or anvil_path is not None, anvil_path, options, block_time, deployment, as_json),
        ends_on_signal=True,
    )


async def _up(
    use_anvil: bool,
    anvil_path: Path | None,
    options: dict[str, Any],
    block_time: float,
    deployment: Path | None,
    as_json: bool,
) -> None:
    from chain.devnet.accounts import faucets
    from chain.devnet.up import anvil, embedded

    options["block_seconds"] = block_time
    if use_anvil:
        from chain.devnet.anvil import find_anvil

        running = anvil(find_anvil(anvil_path), **options)
    else:
        running = embedded(**options)
    async with running as net:
        path = deployment or default_deployment()
        net.deployment.save(path)
        accounts = faucets()
        if as_json:
            emit(
                "ready",
                url=net.url,
                kind=net.kind,
                chain_id=net.deployment.chain_id,
                deployment=str(path),
                timelock=options["parameters"].timelock_delay,
                contracts=dict(net.deployment.contracts),
                accounts=[account.address for account in accounts],
            )
        else:
            rows = [("endpoint", net.url), ("chain id", str(net.deployment.chain_id)), ("deployment", str(path))]
            delay = options["parameters"].timelock_delay
            rows += [("owner's delay", f"{delay} s" if delay else "none: account 0 acts at once (--timelock)")]
            rows += [(f"account {index}", account.address) for index, account in enumerate(accounts)]
            out.print(pairs(f"development chain ({net.kind})", rows))
            out.print("use an account with `mesh wallet import --devnet-account 1`; Ctrl-C ends the chain")
        await asyncio.Event().wait()


@chain_command(app, "fund")
async def fund(
    session: Session,
    address: Annotated[str, typer.Argument(help="Who gets it.")],
    func: Annotated[str, typer.Option("--func", help="FUNC to give.")] = "10000",
    native: Annotated[str, typer.Option("--gas", help="The coin that pays gas, to give.")] = "10",
) -> None:
    """Give FUNC and gas money from the development chain's account 0."""
    from chain.client.pending import Call
    from chain.client.staking import StakingClient
    from chain.deploy import Deployment, read_address
    from chain.devnet.accounts import CHAIN_ID, faucet
    from chain.errors import ChainConfigError

    deployment = Deployment.read(session.deployment)
    if deployment.deployer != faucet(0).address:
        raise ChainConfigError(f"chain {deployment.chain_id} is not a development chain ({CHAIN_ID} usually is)")
    to = read_address(address)
    coins, gas_money = read_amount(func, allow_zero=True), read_amount(native, allow_zero=True)
    async with StakingClient(session.rpc, deployment, account=faucet(0)) as client:
        if gas_money:
            await client.transactor.send(Call(to, b"", "gas money", value=gas_money))
        if coins:
            await client.token.transfer(to, coins)
        balances = {"address": to, "func_wei": await client.token.balance(to)}
        balances["native_wei"] = await client.core.native_balance(to)
    if session.as_json:
        print_json(balances)
    else:
        out.print(f"{to} got {func} FUNC and {native} for gas")


@chain_command(app, "mine")
async def mine(
    session: Session,
    blocks: Annotated[int | None, typer.Argument(help="How many blocks.", show_default="to the next epoch")] = None,
    epochs: Annotated[int, typer.Option("--epochs", min=0, help="Instead: so many epochs further.")] = 0,
) -> None:
    """Let a development chain's time pass: blocks, or whole epochs."""
    async with session.reading() as client:
        status = await client.epochs.status()
        if blocks is None:
            target = await client.epochs.start_block(status.epoch + max(1, epochs))
            blocks = target - status.block
        await client.core.rpc.call("anvil_mine", hex(blocks))
        status = await client.epochs.status()
    if session.as_json:
        print_json({"mined": blocks, "block": status.block, "epoch": status.epoch})
    else:
        out.print(f"mined {blocks} blocks: block {status.block}, epoch {status.epoch}")


@app.command("curves")
def curves(
    months: Annotated[int, typer.Option("--months", min=1, max=1200)] = 240,
    svg: Annotated[Path | None, typer.Option("--svg", help="Write the plot to this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Plot both mining curves: node mining (exponential decay) and task mining (Avrami)."""
    from chain.errors import ChainConfigError
    from chain.mining import MINING_TOTAL, node_mined, task_mined
    from chain.plots import mining_plot
    from chain.primitives import FUNC

    node = [node_mined(month) for month in range(months + 1)]
    task = [task_mined(month) for month in range(months + 1)]
    if svg is not None:
        try:
            svg.write_text(mining_plot(months), encoding="utf-8")
        except OSError as error:
            raise ChainConfigError(f"cannot write {svg}: {error.strerror or error}") from error
    if as_json:
        rows = [{"month": a, "node_wei": node[a], "task_wei": task[a]} for a in range(months + 1)]
        print_json({"total_wei": MINING_TOTAL, "months": rows})
        return
    for line in _drawing(node, task, MINING_TOTAL):
        out.print(line, markup=False)
    out.print(
        f"n node mining, t task mining, * both; of {MINING_TOTAL // FUNC:,} FUNC each, after {months} months: "
        f"{node[-1] // FUNC:,} and {task[-1] // FUNC:,}"
    )
    if svg is not None:
        out.print(f"written to {svg}")


def _drawing(node: list[int], task: list[int], total: int, width: int = 72, height: int = 20) -> list[str]:
    """Both curves in characters; cumulative, from nothing to all."""
    grid = [[" "] * width for _ in range(height)]
    last = len(node) - 1
    for column in range(width):
        month = column * last // (width - 1)
        for curve, mark in ((node, "n"), (task, "t")):
            row = height - 1 - curve[month] * (height - 1) // total
            grid[row][column] = "*" if grid[row][column] not in (" ", mark) else mark
    lines = [
        f"{100 * (height - 1 - row) // (height - 1):>4}% |{''.join(cells).rstrip()}" for row, cells in enumerate(grid)
    ]
    middle, end = f"month {last // 2}", f"{last}"
    axis = "0".ljust(width // 2 - len(middle) // 2) + middle
    return [*lines, "      +" + "-" * width, "       " + axis.ljust(width - len(end)) + end]
