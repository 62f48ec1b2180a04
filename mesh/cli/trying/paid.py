"""The README's paid block, from a chain to a claimed reward."""

from __future__ import annotations

import json
from typing import Any, Final

from chain.units import format_func
from mesh.cli.console import out
from mesh.cli.demo import LOOPBACK, stream_chunks, until_complete
from mesh.cli.demo_chain import SETTLE_SECONDS, START_SECONDS
from mesh.cli.processes import Child
from mesh.cli.tables import short
from mesh.cli.trying.steps import Walk

MODEL: Final = "tiny-python"
PROMPT: Final = "def read_lines(path):\n"
TOKENS: Final = 60
EPOCH_BLOCKS: Final = 120
"""More than there are transactions before the request is paid for: one block each."""
JOIN_SECONDS: Final = 120.0


async def walk(steps: Walk) -> None:
    """All steps. Raises `MeshError` where one fails, with what its command said."""
    rpc = await _chain(steps)
    provider = await _provider(steps, rpc)
    gateway, url, gateway_id = await _gateway(steps, provider, rpc)
    key = await _developer(steps, url, gateway_id)
    steps.step("Begin an epoch", "Work is settled by epochs; we begin a new one, so that all of it falls into one.")
    await steps.run("chain", "mine", "--epochs", "1")
    payer, own = await _pay(steps, url, rpc, key)
    cost = await _ask(steps, own)
    await _settle(steps, gateway, provider, payer, cost)


async def _chain(steps: Walk) -> str:
    steps.step(
        "A chain", "Where stakes, deposits and rewards are. This one is made for trying; its money is play money."
    )
    length = ("--epoch-length", str(EPOCH_BLOCKS))
    chain = await steps.start("the chain", "chain", "up", "--port", "0", *length, shown=("chain", "up", *length))
    rpc: str = (await chain.wait_for("ready", START_SECONDS))["url"]
    steps.say(
        f"its node answers at {rpc}; one epoch is {EPOCH_BLOCKS} blocks, and a block is made for each transaction"
    )
    steps.variables["MESH_RPC"] = rpc
    steps.step("Three wallets", "Alice has the model and serves it, Bob runs the gateway, and a developer asks.")
    for number, wallet in ((1, ("--wallet", "alice.json")), (2, ("--wallet", "bob.json")), (3, ())):
        await steps.run("wallet", "import", "--devnet-account", str(number), *wallet)
    return rpc


async def _provider(steps: Walk, rpc: str) -> Child:
    steps.step("A model on the marketplace", "Its name, digest and price: what a provider of it must stake and earns.")
    await steps.run(
        *("model", "publish", MODEL, "--checkpoint", MODEL, "--price", "0.0001", "--stake", "1000"),
        *("--wallet", "alice.json"),
    )
    steps.step("A provider", "It registers, stakes 1,000 FUNC, and serves all eight blocks of the model.")
    typed = ("join", "--model", MODEL, "--max-blocks", "8", "--wallet", "alice.json", "--yes")
    local = ("--host-maddrs", LOOPBACK, "--threads", "1", "--drain-seconds", "0", "--rpc", rpc, "--chain-poll", "0.25")
    provider = await steps.start("the provider", *typed, *local, shown=typed)
    serving = await provider.wait_for("serving", JOIN_SECONDS)
    _show_staked(steps, provider)
    steps.say(
        f"it serves blocks {serving['span']} of {serving['n_blocks']}: {serving['tokens_per_second']:,.0f} tokens/s"
    )
    return provider


async def _gateway(steps: Walk, provider: Child, rpc: str) -> tuple[Child, str, str]:
    address = (await provider.wait_for("joined", START_SECONDS))["maddrs"][0]
    steps.step(
        "A gateway", "It stakes too, guarantees each provider a part of that, and runs work again before it pays."
    )
    typed = ("gateway", "--peers", "ADDRESS", "--wallet", "bob.json", "--weights", MODEL, "--yes")
    local = ("--port", "0", "--host-maddrs", LOOPBACK, "--rpc", rpc, "--chain-poll", "0.25")
    real = (address if word == "ADDRESS" else word for word in typed)
    gateway = await steps.start("the gateway", *real, *local, shown=typed)
    ready = await gateway.wait_for("ready", JOIN_SECONDS)
    _show_staked(steps, gateway)
    url, name = ready["url"], ready["peer"]
    steps.say(f"its API is at {url}, and its id on the chain is {name}")
    await steps.run("gateway-stake", "lines", name, shown=("gateway-stake", "lines", short(name)))
    return gateway, url, name


async def _developer(steps: Walk, url: str, gateway_id: str) -> str:
    steps.step("A deposit and a key", "The developer puts money aside for this gateway, and gets a key that spends it.")
    await steps.run(
        *("escrow", "deposit", "10", "--reserve", gateway_id),
        shown=("escrow", "deposit", "10", "--reserve", short(gateway_id)),
    )
    base = url.removesuffix("/v1")
    said = await steps.run(
        "key", "new", "--gateway", base, "--json", shown=("key", "new", "--gateway", base), quiet=True
    )
    key: str = json.loads(said)["key"]
    steps.say("it is shown once, and kept in MESH_API_KEY here")
    return key


async def _pay(steps: Walk, url: str, rpc: str, key: str) -> tuple[Child, str]:
    """The agent, and where clients reach the gateway through it."""
    steps.step(
        "Pay as you go", "Between any client and the gateway an agent signs vouchers for what comes, and no more."
    )
    base = url.removesuffix("/v1")
    typed = ("pay", "--gateway", base, "--rpc", rpc, "--budget", "1")
    payer = await steps.start("the payer", *typed, "--port", "0", shown=typed, more={"MESH_API_KEY": key})
    ready = await payer.wait_for("ready", START_SECONDS)
    steps.say(f"it is ready to sign for at most 1 FUNC, for what clients ask at {ready['url']}")
    return payer, ready["url"]


async def _ask(steps: Walk, url: str) -> int:
    """The answer's cost, in wei."""
    steps.step("Ask", "With any OpenAI client, which needs no key there; each token is paid for as it comes.")
    headers: dict[str, str] = {}
    await until_complete(url, MODEL, headers)
    out.print(f"   [green]POST {url}/completions[/]", highlight=False)
    body = {"model": MODEL, "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0.6, "seed": 7, "stream": True}
    usage: dict[str, Any] = {}
    text = PROMPT
    async for chunk in stream_chunks(
        f"{url}/completions", {**body, "stream_options": {"include_usage": True}}, headers
    ):
        text += "".join(choice.get("text") or "" for choice in chunk.get("choices", ()))
        usage = chunk.get("usage") or usage
    for line in text.splitlines():
        out.print("   │ " + line, markup=False, highlight=False)
    cost = int(usage.get("cost", {}).get("wei", 0))
    steps.say(f"{usage['completion_tokens']} tokens for {format_func(cost)} FUNC")
    return cost


async def _settle(steps: Walk, gateway: Child, provider: Child, payer: Child, cost: int) -> None:
    paid = await payer.wait_until(lambda: _signed(payer, cost), "sign for the answer", SETTLE_SECONDS)
    steps.say(f"the agent has signed for {format_func(int(paid['signed']))} FUNC so far")
    steps.step("The epoch ends", "The gateway posts what was done and who is owed what, and everybody can check it.")
    await steps.run("chain", "mine", "--epochs", "1")
    await gateway.wait_until(lambda: _sent(gateway, "post"), "post the epoch", SETTLE_SECONDS)
    steps.say("the gateway has posted its checkpoint")
    steps.step("The reward", "After some epochs in which anybody may object, the provider claims what it earned.")
    status = await steps.run("epoch", "status", "--json", quiet=True, shown=("epoch", "status"))
    delay = json.loads(status)["reward_delay"]
    steps.say(f"rewards wait for {delay} epochs")
    await steps.run("chain", "mine", "--epochs", str(delay - 1))
    claim = await provider.wait_until(lambda: _sent(provider, "claim"), "claim its reward", SETTLE_SECONDS)
    await steps.run("earnings", "--wallet", "alice.json")
    out.print(
        f"\n[bold green]claimed:[/] {format_func(claim['amount'])} FUNC by the provider, in transaction "
        f"{claim['tx_hash']}",
        highlight=False,
    )


def _sent(child: Child, what: str) -> dict[str, Any] | None:
    """A transaction of that kind that it has sent for work done."""
    for seen in child.events:
        if seen["event"] == "settlement" and (seen["kind"], seen["what"]) == ("sent", what):
            return seen
    return None


def _signed(payer: Child, cost: int) -> dict[str, Any] | None:
    return next((seen for seen in payer.events if seen["event"] == "paid" and int(seen["signed"]) >= cost), None)


def _show_staked(steps: Walk, child: Child) -> None:
    for seen in child.events:
        if seen["event"] == "staked":
            steps.say(seen["what"])
