"""`mesh generate` and `mesh chat`: talk to a swarm from a terminal."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.cli.console import EXIT_ERROR, err, fail, out, run, set_up_logging
from mesh.cli.identities import PINS, data_folder, runtime_root
from mesh.cli.lines import InputLines
from mesh.cli.options import (
    AsJson,
    DigestOption,
    LogLevel,
    Model,
    Peers,
    TransportKind,
    TransportOption,
    read_digests,
    require_peers,
)
from mesh.cli.tables import route_table
from mesh.errors import InvalidRequest, MeshError
from shards.errors import ShardError

if TYPE_CHECKING:
    from mesh.client.client import Client
    from shards.grammar.constraint import Constraint


class Speculation(StrEnum):
    """Whether the last hop guesses at the next tokens."""

    AUTO = "auto"
    ALWAYS = "always"
    OFF = "off"


MaxTokens = Annotated[int, typer.Option("--max-tokens", "-n", help="Most tokens of an answer.")]
Temperature = Annotated[float, typer.Option("--temperature", "-t", help="0 is greedy.")]
TopP = Annotated[float, typer.Option("--top-p", help="Nucleus sampling.")]
TopK = Annotated[int, typer.Option("--top-k", help="0 is off.")]
Seed = Annotated[int | None, typer.Option("--seed", help="The same seed gives the same text.", show_default="random")]
Speculate = Annotated[
    Speculation,
    typer.Option(
        "--speculate",
        help="Guess at the next tokens, for several a trip. auto: where the text stays the same to the bit; "
        "always: also where rounding may decide between tokens that are all but equally likely.",
    ),
]
JsonSchema = Annotated[
    Path | None,
    typer.Option("--json-schema", exists=True, dir_okay=False, help="Hold the answer to the JSON Schema in this file."),
]
Regex = Annotated[str | None, typer.Option("--regex", help="Hold the answer to this regular expression.")]
Stop = Annotated[list[str] | None, typer.Option("--stop", help="Text that ends the answer; may be repeated.")]


def generate(
    prompt: Annotated[str, typer.Argument(help="Text to continue; `-` reads it from standard input.")],
    peers: Peers = None,
    model: Model = None,
    max_tokens: MaxTokens = 128,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    seed: Seed = None,
    stop: Stop = None,
    json_schema: JsonSchema = None,
    regex: Regex = None,
    speculate: Speculate = Speculation.AUTO,
    digest: DigestOption = None,
    transport: TransportOption = TransportKind.HIVEMIND,
    show_route: Annotated[bool, typer.Option("--route", help="Show which way the answer went.")] = False,
    as_json: AsJson = False,
    log_level: LogLevel = "warning",
) -> None:
    """Continue a text; the answer streams to standard output."""
    set_up_logging(log_level)
    joined = require_peers(peers)
    text = _read_stdin() if prompt == "-" else _checked(prompt)
    options = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "seed": seed,
        "stop": stop or [],
        "speculate": speculate.value,
        "constraint": _constraint(json_schema, regex),
    }
    run(_generate(_Way(joined, transport, read_digests(model, digest)), model, text, options, as_json, show_route))


def _constraint(schema: Path | None, regex: str | None) -> Constraint | None:
    """What the answer is held to. Ends the program where the file is no schema."""
    from shards.grammar.constraint import MAX_CONSTRAINT_BYTES, Constraint

    if schema is not None and regex is not None:
        raise typer.BadParameter("an answer is held to one form: give --json-schema or --regex")
    try:
        if schema is not None:
            with schema.open(encoding="utf-8") as file:
                return Constraint("json_schema", file.read(MAX_CONSTRAINT_BYTES + 1), "--json-schema")
        return None if regex is None else Constraint("regex", regex, "--regex")
    except (OSError, UnicodeDecodeError, ShardError) as error:
        raise typer.BadParameter(str(error)) from error


def chat(
    peers: Peers = None,
    model: Model = None,
    system: Annotated[str | None, typer.Option("--system", help="A system message to begin with.")] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", "-n", help="Most tokens of an answer.", show_default="256, or what fits"),
    ] = None,
    temperature: Temperature = 0.7,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    seed: Seed = None,
    speculate: Speculate = Speculation.AUTO,
    digest: DigestOption = None,
    transport: TransportOption = TransportKind.HIVEMIND,
    log_level: LogLevel = "error",
) -> None:
    """Talk with a model. Ctrl-C stops an answer, Ctrl-D ends the conversation."""
    set_up_logging(log_level)
    joined = require_peers(peers)
    options: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed}
    options["speculate"] = speculate.value
    if max_tokens is not None:
        options["max_tokens"] = max_tokens
    run(_chat(_Way(joined, transport, read_digests(model, digest)), model, system, options))


@dataclass(frozen=True, slots=True)
class _Way:
    """How we get into the swarm, and what model names mean to us."""

    peers: tuple[str, ...]
    transport: TransportKind
    digests: dict[str, str]

    def client(self) -> Client:
        from mesh.client.client import Client

        return Client(
            self.peers,
            runtime_root=runtime_root(),
            transport=self.transport.value,
            digests=self.digests,
            pins=data_folder() / PINS,
        )


async def _generate(
    way: _Way,
    model: str | None,
    prompt: str,
    options: dict[str, Any],
    as_json: bool,
    show_route: bool,
) -> None:
    async with way.client() as client:
        name = await client.resolve_model(model)
        parts: list[str] = []
        async with client.stream(name, prompt, **options) as generation:
            async for delta in generation:
                parts.append(delta.text)
                if not as_json:
                    _write(delta.text)
            done = generation.completion
    if done is None:
        return
    if as_json:
        import json

        _write(json.dumps({"model": name, "text": "".join(parts), **_completion_json(done)}) + "\n")
        return
    _write("\n")
    if show_route:
        err.print(route_table((h.peer, str(h.span), h.tokens, h.tokens_per_second) for h in done.route))
        err.print(
            f"{done.completion_tokens} tokens in {done.seconds:.2f} s, the first after "
            f"{done.time_to_first_token:.2f} s ({done.finish_reason}); {done.trips} trips, which checked "
            f"{done.drafted_tokens} guesses: {done.accepted_tokens} were right"
        )


async def _chat(way: _Way, model: str | None, system: str | None, options: dict[str, Any]) -> None:
    async with way.client() as client:
        name = await client.resolve_model(model)
        out.print(f"[dim]talking with {name}: Ctrl-C stops an answer, Ctrl-D ends[/]")
        messages = [{"role": "system", "content": system}] if system else []
        lines = InputLines()
        while True:
            _write("> ")
            try:
                line = await lines.read()
                if line is None:
                    _write("\n")
                    return
                if not line.strip():
                    continue
                messages.append({"role": "user", "content": line})
                answer = await _answer(client, name, messages, options)
            except (MeshError, ShardError) as error:
                # The conversation is worth more than this answer: the next question may fit, the swarm recover.
                fail(error)
                if messages and messages[-1]["role"] == "user":
                    messages.pop()
            else:
                messages.append({"role": "assistant", "content": answer})


async def _answer(client: Client, model: str, messages: list[dict[str, str]], options: dict[str, Any]) -> str:
    """Stream one answer; Ctrl-C ends it and keeps what came."""
    parts: list[str] = []

    async def stream() -> None:
        async with client.stream_chat(model, messages, **options) as generation:
            async for delta in generation:
                parts.append(delta.text)
                _write(delta.text)

    task = asyncio.create_task(stream())
    with _on_interrupt(task):
        try:
            await asyncio.wait({task})
        finally:  # we may have been cancelled ourselves
            task.cancel()
            await asyncio.wait({task})
    if not task.cancelled():
        task.result()
    _write("\n")
    return "".join(parts)


@contextmanager
def _on_interrupt(task: asyncio.Task[None]) -> Iterator[None]:
    """Ctrl-C cancels `task` only; afterwards it means again what it did."""
    loop = asyncio.get_running_loop()
    before = signal.getsignal(signal.SIGINT)
    loop.add_signal_handler(signal.SIGINT, task.cancel)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)


def _completion_json(done: Any) -> dict[str, Any]:
    return {
        "finish_reason": done.finish_reason,
        "prompt_tokens": done.prompt_tokens,
        "completion_tokens": done.completion_tokens,
        "seconds": round(done.seconds, 4),
        "time_to_first_token": round(done.time_to_first_token, 4),
        "trips": done.trips,
        "drafted_tokens": done.drafted_tokens,
        "accepted_tokens": done.accepted_tokens,
        "route": [
            {
                "peer": hop.peer,
                "blocks": str(hop.span),
                "tokens": hop.tokens,
                "tokens_per_second": round(hop.tokens_per_second, 1),
            }
            for hop in done.route
        ],
    }


def _read_stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        err.print(f"[bold red]error:[/] the prompt on standard input is not UTF-8: {error}")
        raise typer.Exit(EXIT_ERROR) from error


def _checked(text: str) -> str:
    """Arguments that were not UTF-8 arrive with surrogates; no tokenizer can take those."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequest("the prompt is not UTF-8", param="prompt") from error
    return text


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
