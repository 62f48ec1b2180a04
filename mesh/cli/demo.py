"""`mesh demo`: a whole swarm on this machine, from nothing to a streamed answer, and away again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import typer

from mesh.cli.console import out, run, set_up_logging
from mesh.cli.identities import runtime_root
from mesh.cli.options import LogLevel
from mesh.cli.processes import Child, Children, children
from mesh.cli.tables import route_table, short
from mesh.errors import MeshError
from mesh.transport.runtime_dir import RuntimeDirectory

START_SECONDS = 90.0
ANSWER_SECONDS = 60.0
PROMPT = "def read_lines(path):\n"
LOOPBACK = "/ip4/127.0.0.1/tcp/0"


def demo(
    model: Annotated[str, typer.Option("--model", "-m", help="Model to serve.")] = "tiny-python",
    providers: Annotated[int, typer.Option("--providers", min=1, max=16, help="Provider processes.")] = 3,
    prompt: Annotated[str, typer.Option("--prompt", help="Text to continue.")] = PROMPT,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", min=1)] = 160,
    temperature: Annotated[float, typer.Option("--temperature", "-t", min=0)] = 0.6,
    seed: Annotated[int, typer.Option("--seed")] = 7,
    log_level: LogLevel = "warning",
) -> None:
    """Start providers and a gateway on this machine, stream an answer, print its route, and stop everything.

    Every provider is a process of its own; they find each other over the DHT and share the model's blocks.
    """
    set_up_logging(log_level)
    run(_demo(model, providers, prompt, max_tokens, temperature, seed))


async def _demo(model: str, providers: int, prompt: str, max_tokens: int, temperature: float, seed: int) -> None:
    # Its keys go where the next start of any node cleans up after us, should we be killed.
    with RuntimeDirectory(runtime_root()) as own:
        async with children() as family:
            url, served = await _start_swarm(family, own.path, model, providers)
            body = {
                "model": served,
                "prompt": prompt,
                "max_tokens": max_tokens,
                "temperature": temperature,
                "seed": seed,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            out.print(f"\nasking {served} through {url} (temperature {temperature:g}, seed {seed}):\n")
            out.print(prompt, style="bold", end="", markup=False)
            answer_id = ""
            async for chunk in _stream(f"{url}/completions", body):
                answer_id = chunk.get("id", answer_id)
                for choice in chunk.get("choices", ()):
                    out.print(choice.get("text", ""), end="", markup=False)
            out.print("\n")
            _show_route(await _get(f"{url.removesuffix('/v1')}/mesh/requests/{answer_id}"))
        out.print("every process has stopped")


async def _start_swarm(family: Children, folder: Path, model: str, providers: int) -> tuple[str, str]:
    """The gateway's URL and the name of the model, once every block is served."""
    out.print(f"starting {providers} providers of {model} …")
    share = ["--max-blocks", str(-(-_blocks_of(model) // providers))]
    nodes: list[Child] = []
    address = ""
    for number in range(1, providers + 1):
        arguments = ["join", "--model", model, "--json", "--host-maddrs", LOOPBACK, "--threads", "1", *share]
        arguments += ["--identity", str(folder / f"provider-{number}.key")]
        arguments += ["--peers", address] if address else []
        nodes.append(await family.start(f"provider {number}", *arguments))
        if not address:
            address = (await nodes[0].wait_for("joined", START_SECONDS))["maddrs"][0]
    gateway = await family.start(
        "gateway", "gateway", "--port", "0", "--json", "--peers", address, "--identity", str(folder / "gateway.key")
    )
    served = model
    for node in nodes:
        event = await node.wait_for("serving", START_SECONDS)
        served = event["model"]
        peer = (await node.wait_for("joined", START_SECONDS))["peer"]
        out.print(
            f"  {node.name}  {short(peer)}  blocks {event['span']} of {event['n_blocks']}"
            f"  {event['tokens_per_second']:,.0f} tokens/s"
        )
    url = (await gateway.wait_for("ready", START_SECONDS))["url"]
    out.print(f"  gateway     {url}")
    await _until_complete(url, served)
    return url, served


def _blocks_of(model: str) -> int:
    from shards.config import parse_config
    from shards.source import resolve

    return parse_config((resolve(model) / "config.json").read_bytes()).n_blocks


async def _until_complete(url: str, model: str) -> None:
    """Wait until the gateway has seen a provider for every block."""
    import asyncio

    for _ in range(100):
        report = await _get(f"{url.removesuffix('/v1')}/mesh/status")
        if any(entry.get("id") == model and entry.get("complete") for entry in report["models"]):
            return
        await asyncio.sleep(0.2)
    raise MeshError(f"not all blocks of {model} are served: {json.dumps(report)}")


async def _stream(url: str, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """Chunks of a streamed completion. Raises `MeshError` with the gateway's own words when it fails."""
    import httpx

    async with (
        httpx.AsyncClient(timeout=ANSWER_SECONDS, trust_env=False) as http,
        http.stream("POST", url, json=body) as response,
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


async def _get(url: str) -> dict[str, Any]:
    import httpx

    async with httpx.AsyncClient(timeout=10, trust_env=False) as http:
        response = await http.get(url)
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
