"""Answers held to JSON Schemas: how many are valid, and what it costs beside free text of the same length.

    python -m benchmarks.structured [--model FOLDER|FILE.gguf] [--schemas 300] [--stages 2] [--at-once 4]
                                    [--temperature 0] [--threads 1] [--seed 1] [--speculate auto|off] [--json FILE]
                                    [--smoke]

The schemas are 70 written by hand in the manner of public API descriptions (`benchmarks.schema_set`) and as many more
as are asked for, made by chance (`benchmarks.schema_maker`). Stages are processes of their own on one machine. For
each schema the model is asked for JSON, in its chat template where it has one, so many sessions at once. Like is
compared with like: every prompt is run once before anything is timed, and every form built, which is timed apart (how
much later the first token of the first answer comes); then JSON and free text of the same prompts and of just as many
tokens are timed, half of the time the one first and half the other. Both may be guessed at (free text that repeats
itself much, JSON much as well): how many guesses were right is counted for both, and `--speculate off` has none on
either side. An answer is valid when it ended by itself and the package jsonschema, formats included, finds nothing
wrong with it. A schema that is refused counts as no answer. Tokens a second are of whole answers, but for what was
done before.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from jsonschema import Draft202012Validator

from benchmarks.report import machine, paired_ratio, print_report, spread
from benchmarks.schema_maker import made
from benchmarks.schema_set import SCHEMAS
from mesh.cli.processes import Children, children
from mesh.client.client import Answer, Client
from mesh.errors import InvalidRequest
from shards.checkpoint.opening import open_checkpoint
from shards.checkpoint.source import resolve
from shards.grammar.constraint import Constraint, json_schema
from shards.text.conversation import chat_tokens
from shards.text.tokenizer import Tokenizer

START_SECONDS: Final = 180.0
MOST_TOKENS: Final = 1536
CHECKER: Final = Draft202012Validator.FORMAT_CHECKER

Asked = tuple[str, dict[str, Any], list[int]]
"""A schema's name, the schema, the prompt."""


@dataclass(slots=True)
class Found:
    """What was measured."""

    answers: int = 0
    valid: int = 0
    not_ended: int = 0
    against_schema: int = 0
    wrong: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    held: list[float] = field(default_factory=list)
    free: list[float] = field(default_factory=list)
    first_held: list[float] = field(default_factory=list)
    first_free: list[float] = field(default_factory=list)
    tokens: int = 0
    guessed_right_held: int = 0
    guessed_right_free: int = 0
    build: list[float] = field(default_factory=list)
    """Seconds by which first tokens came later while the group's forms were built."""


def main() -> None:
    """Parse options and run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.structured",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="tiny-python", help="a checkpoint's folder, a GGUF file, or one that ships")
    parser.add_argument("--schemas", type=int, default=300)
    parser.add_argument("--stages", type=int, default=2)
    parser.add_argument("--at-once", type=int, default=4, help="sessions")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--threads", type=int, default=1, help="of each stage")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--speculate", choices=("auto", "off"), default="auto", help="guesses, on both sides")
    parser.add_argument("--json", type=Path, help="write the JSON here instead of standard output")
    parser.add_argument(
        "--smoke", action="store_true", help="few schemas, one stage: does it run, is what ended valid?"
    )
    options = parser.parse_args()
    if options.smoke:
        options.schemas, options.stages = 6, 1
    sys.exit(0 if asyncio.run(_measure(options)) else 1)


def schemas(count: int, seed: int) -> list[tuple[str, dict[str, Any]]]:
    """So many: those written by hand first, or a few of both where there are to be few."""
    written = [*SCHEMAS.items()]
    if count < 2 * len(written):
        written = random.Random(seed).sample(written, (count + 1) // 2)
    return [*written, *made(count - len(written), seed)]


def prompt(tokenizer: Tokenizer, name: str, schema: dict[str, Any], context: int) -> list[int]:
    """What the model is asked; one of a small context is not told the schema."""
    told = json.dumps(schema, separators=(",", ":"))
    if not tokenizer.has_chat_template or context < 2 * MOST_TOKENS:
        return tokenizer.encode(f"# an example of {name}\nexample = ")
    ask = f"Make up one realistic {name.replace('_', ' ')}. Answer with JSON of this schema only:\n{told}"
    return chat_tokens(tokenizer, [{"role": "user", "content": ask}])


async def _measure(options: argparse.Namespace) -> bool:
    facts = machine("torch", "llguidance", "jsonschema")
    folder = resolve(options.model)
    found = Found()
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as scratch:
        async with AsyncExitStack() as stack:
            family = await stack.enter_async_context(children())
            address = await _start(family, Path(scratch), folder, options)
            client = await stack.enter_async_context(Client([address]))
            (info,) = await client.models()
            tokenizer = await client.backend.tokenizer(info.name)
            asked = [
                (name, each, prompt(tokenizer, name, each, info.context_length))
                for name, each in schemas(options.schemas, options.seed)
            ]
            options.context = info.context_length
            await _pass(client, info.name, asked[:1], options, Found(), random.Random(0))  # what is done once is done
            chance = random.Random(options.seed)
            for group in _groups(asked, options):
                await _pass(client, info.name, group, options, found, chance)
    return _report(options, facts, found)


def _groups(asked: Sequence[Asked], options: argparse.Namespace) -> list[Sequence[Asked]]:
    return [asked[at : at + options.at_once] for at in range(0, len(asked), options.at_once)]


async def _start(family: Children, scratch: Path, folder: Path, options: argparse.Namespace) -> str:
    """Start the stages; the address to join through."""
    n_blocks = open_checkpoint(folder).spec.n_blocks
    bounds = [round(index * n_blocks / options.stages) for index in range(options.stages + 1)]
    address = ""
    nodes = []
    for index in range(options.stages):
        arguments = ["join", "--model", str(folder), "--json", "--host-maddrs", "/ip4/127.0.0.1/tcp/0"]
        arguments += ["--threads", str(options.threads), "--blocks", f"{bounds[index]}:{bounds[index + 1]}"]
        arguments += ["--identity", str(scratch / f"{index}.key")]
        arguments += ["--peers", address] if address else []
        nodes.append(await family.start(f"stage {index + 1} of {options.stages}", *arguments))
        if not address:
            address = (await nodes[0].wait_for("joined", START_SECONDS))["maddrs"][0]
    for node in nodes:
        await node.wait_for("serving", START_SECONDS)
    return address


async def _pass(
    client: Client, model: str, asked: Sequence[Asked], options: argparse.Namespace, found: Found, chance: random.Random
) -> None:
    """Some schemas at once: held, then free and as long; half of the time held once more after that, which counts."""
    asked, constraints = await _made_ready(client, model, asked, options, found)
    if not asked:
        return
    lengths = [min(MOST_TOKENS, options.context - len(tokens)) for _, _, tokens in asked]
    held, seconds = await _ask(client, model, asked, constraints, lengths, options)
    lengths = [max(2, answer.completion.completion_tokens) for answer in held]
    free, free_seconds = await _ask(client, model, asked, [None] * len(asked), lengths, options)
    if chance.random() < 0.5:  # once more, the other way round: what the first has warmed up helps the second
        held, seconds = await _ask(client, model, asked, constraints, lengths, options)
    tokens = sum(answer.completion.completion_tokens for answer in held)
    found.held.append(tokens / seconds)
    found.free.append(sum(answer.completion.completion_tokens for answer in free) / free_seconds)
    found.first_held.append(statistics.median(answer.completion.time_to_first_token for answer in held))
    found.first_free.append(statistics.median(answer.completion.time_to_first_token for answer in free))
    found.tokens += tokens
    found.guessed_right_held += sum(answer.completion.accepted_tokens for answer in held)
    found.guessed_right_free += sum(answer.completion.accepted_tokens for answer in free)
    for (name, schema, _), answer in zip(asked, held, strict=True):
        found.answers += 1
        found.ends[answer.completion.finish_reason] += 1
        wrong = what_is_wrong(schema, answer)
        found.valid += wrong is None
        if wrong is not None:
            ended = answer.completion.finish_reason == "stop"
            found.against_schema += ended
            found.not_ended += not ended
            found.wrong.append(f"{name}: {wrong}")


async def _made_ready(
    client: Client, model: str, asked: Sequence[Asked], options: argparse.Namespace, found: Found
) -> tuple[list[Asked], list[Constraint]]:
    """Have the prompts run and the forms built; those schemas that are not refused."""
    kept: list[Asked] = []
    constraints: list[Constraint] = []
    late: list[float] = []
    for each in asked:
        alone = [each]
        await _ask(client, model, alone, [None], [2], options)  # its prompt is known from now on
        refused = len(found.refused)
        try:
            constraint = json_schema(each[1])
            (first,), _ = await _ask(client, model, alone, [constraint], [2], options)
            (again,), _ = await _ask(client, model, alone, [constraint], [2], options)
        except* InvalidRequest as error:
            found.refused.append(f"{each[0]}: {error.exceptions[0]}")
        if refused == len(found.refused):
            late.append(first.completion.time_to_first_token - again.completion.time_to_first_token)
            kept.append(each)
            constraints.append(constraint)
    if late:
        found.build.append(statistics.median(late))
    return kept, constraints


def what_is_wrong(schema: dict[str, Any], answer: Answer) -> str | None:
    """None for a valid answer."""
    if answer.completion.finish_reason != "stop":
        return f"it had not ended after {answer.completion.completion_tokens} tokens: …{answer.text[-60:]!r}"
    try:
        value = json.loads(answer.text)
    except ValueError as error:
        return f"{error}: {answer.text[:80]!r}"
    errors = [each.message for each in Draft202012Validator(schema, format_checker=CHECKER).iter_errors(value)]
    return errors[0][:160] if errors else None


async def _ask(
    client: Client,
    model: str,
    asked: Sequence[Asked],
    constraints: Sequence[Constraint | None],
    lengths: Sequence[int],
    options: argparse.Namespace,
) -> tuple[list[Answer], float]:
    """Answers to all at once, and how long they took together."""
    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(
                client.generate(
                    model,
                    tokens,
                    max_tokens=length,
                    temperature=options.temperature,
                    seed=options.seed,
                    constraint=constraint,
                    speculate=options.speculate,
                    ignore_eos=constraint is None,
                )
            )
            for (_, _, tokens), constraint, length in zip(asked, constraints, lengths, strict=True)
        ]
    return [task.result() for task in running], time.perf_counter() - began


def _report(options: argparse.Namespace, facts: dict[str, Any], found: Found) -> bool:
    ratio = paired_ratio(found.held, found.free)
    results = {
        "answers": found.answers,
        "valid": found.valid,
        "ended": dict(found.ends),
        "not_ended": found.not_ended,
        "against_schema": found.against_schema,
        "refused": found.refused,
        "wrong": found.wrong,
        "tokens": found.tokens,
        "guessed_right_held": found.guessed_right_held,
        "guessed_right_free": found.guessed_right_free,
        "tokens_per_second_held": spread(found.held),
        "tokens_per_second_free": spread(found.free),
        "ratio": ratio,
        "seconds_to_build": spread(found.build),
        "first_token_held": spread(found.first_held),
        "first_token_free": spread(found.first_free),
    }
    report = {
        "title": f"answers held to JSON Schemas, {Path(options.model).name}, {options.stages} stage(s)",
        "method": (
            f"{found.answers} schemas, {options.at_once} at once, temperature {options.temperature:g}, "
            f"{options.threads} thread(s) a stage, guesses {options.speculate}; free text of the same prompts and "
            "lengths; prompts known and forms built before; medians over groups, the ratio a median of per-group ratios"
        ),
        "machine": facts,
        "results": results,
    }
    columns = ["answers", "valid", "not ended", "refused", "tokens/s held", "free", "ratio"]
    columns += ["guessed held", "free ", "to build", "first token held", "free  "]
    row = [
        str(found.answers),
        str(found.valid),
        str(found.not_ended),
        str(len(found.refused)),
        f"{statistics.median(found.held):.1f}",
        f"{statistics.median(found.free):.1f}",
        f"{ratio:.2f}",
        f"{found.guessed_right_held / found.tokens:.0%}",
        f"{found.guessed_right_free / found.tokens:.0%}",
        f"{statistics.median(found.build) * 1000:.0f} ms",
        f"{statistics.median(found.first_held):.2f} s",
        f"{statistics.median(found.first_free):.2f} s",
    ]
    print_report(report, columns, [row], options.json)
    return found.valid == (found.ends["stop"] if options.smoke else found.answers)


if __name__ == "__main__":
    main()
