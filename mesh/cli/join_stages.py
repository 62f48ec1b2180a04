"""`mesh join` for several models or devices: plans the stages, then runs each as a `mesh join` of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape
from rich.table import Table

from mesh.cli.console import ProgressBars, emit, err, out, run, settled_on
from mesh.cli.environment import PASSWORD_VARIABLE, environment
from mesh.cli.identities import claim_key, runtime_root
from mesh.cli.join_events import lines, read_event
from mesh.cli.paying import show_settlement
from mesh.cli.processes import Children, children
from mesh.cli.stages import Supervisor, why_it_ended
from mesh.errors import MeshError
from mesh.provider.planner.stages import key_file, own_port, port_of, read_places
from shards.model.precision import Precision

if TYPE_CHECKING:
    from mesh.provider.planner.capacity import Planned

PLAN_SECONDS = 600.0
"""For looking at devices, models (downloading their small files) and the swarm."""
PORTS = {"host_maddrs", "announce_maddrs", "direct_port", "metrics_port"}
PLACE = {"model", "device", "peers", "identity", "provider_id"} | PORTS
OWN_OPTIONS = PLACE | {"blocks", "threads", "kv_cache", "plan", "start_at", "device_share", "as_json"}
"""Parameters of `mesh join` that each stage gets in its own way, or not at all."""


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """What the stages of a node have from its command line."""

    models: tuple[str, ...]
    devices: tuple[str, ...]
    peers: tuple[str, ...]
    shared: tuple[str, ...]
    """What is the same for all, as arguments."""
    host_maddrs: tuple[str, ...]
    announce_maddrs: tuple[str, ...] = ()
    direct_port: int = 0
    threads: int | None = None
    kv_cache: str | None = None
    provider_id: str | None = None
    wallet: Path | None = None
    password_file: Path | None = None
    metrics_port: int | None = None


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What `mesh join --plan` was asked; see `mesh.provider.planner.capacity.Wanted`."""

    models: tuple[str, ...]
    devices: tuple[str, ...]
    peers: tuple[str, ...]
    name: str | None
    dtype: str
    quantize: Precision | None
    max_blocks: int | None
    kv_bytes: int | None
    cache: Path | None
    key: Path | None


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage as `mesh join --plan --json` tells it."""

    label: str
    model: str
    device: str
    blocks: str | None
    share: float
    threads: int | None
    kv_bytes: int
    n_blocks: int
    """Of the model."""
    fits: int
    """How many of them the stage has room for."""
    stages_needed: int
    """Stages with as much room that hold the whole model."""


def several_stages(models: Sequence[str], devices: Sequence[str]) -> bool:
    """Whether this makes more than the one stage that a process serves by itself."""
    return len(models) > 1 or len(devices) > 1 or any(device == "all" or "=" in device for device in devices)


def given(context: typer.Context) -> tuple[str, ...]:
    """What was said on the command line, as arguments, except for what differs from stage to stage."""
    arguments: list[str] = []
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name in OWN_OPTIONS or source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[name]
        if isinstance(value, bool):
            arguments.append(parameter.opts[0] if value else parameter.secondary_opts[0])
        else:
            for each in value if isinstance(value, list | tuple) else (value,):
                arguments += [parameter.opts[0], str(each)]
    return tuple(arguments)


def check_node(*, blocks: str, name: str | None, models: Sequence[str], paid: bool, yes: bool) -> None:
    """Raises `typer.BadParameter` for what cannot be said of several stages at once."""
    if blocks != "auto":
        raise typer.BadParameter(
            "several stages choose their blocks together: leave it out, or start every stage by itself",
            param_hint="--blocks",
        )
    if name is not None and len(set(models)) > 1:
        raise typer.BadParameter("one name does not fit several models", param_hint="--name")
    if paid and not yes:
        raise typer.BadParameter(
            "every stage registers as a provider of its own and stakes: add --yes to let them, "
            "or start every stage by itself to be asked for each",
            param_hint="--wallet",
        )


def show_plan(options: PlanOptions, *, as_json: bool) -> None:
    """Look at devices, models and swarm, and say what `mesh join` would serve."""
    from mesh.provider.planner.capacity import Wanted, survey

    places = settled_on(lambda: read_places(options.devices, options.models))
    wanted = Wanted(
        models=options.models,
        places=tuple(places),
        peers=options.peers,
        name=options.name,
        dtype=options.dtype,
        quantize=options.quantize,
        max_blocks=options.max_blocks,
        kv_bytes=options.kv_bytes,
        cache=options.cache,
        key=options.key,
        runtime_root=runtime_root(),
    )
    with ProgressBars(enabled=not as_json) as progress:
        planned = run(survey(wanted, progress))
    rows = _rows(planned or [])
    if as_json:
        emit("planned", stages=[asdict(row) for row in rows])
    else:
        out.print(_table(rows))


def _rows(planned: Sequence[Planned]) -> list[StagePlan]:
    return [
        StagePlan(
            label=each.stage.label,
            model=each.stage.model,
            device=each.stage.place.device,
            blocks=None if each.span is None else str(each.span),
            share=each.stage.share,
            threads=each.stage.threads,
            kv_bytes=each.kv_bytes,
            n_blocks=each.room.n_blocks,
            fits=each.room.fits,
            stages_needed=each.room.stages,
        )
        for each in planned
    ]


def _table(rows: Sequence[StagePlan]) -> Table:
    table = Table("stage", "model", "device", "blocks", "room", "cache", title="stages", title_justify="left")
    for row in rows:
        where = row.device if row.share == 1 else f"{row.device} (1/{round(1 / row.share)})"
        room = f"{row.fits} of {row.n_blocks} blocks"
        if row.stages_needed > 1:
            room += f"; {row.stages_needed} such stages hold all"
        table.add_row(row.label, row.model, where, row.blocks or "as needed", room, f"{row.kv_bytes >> 20} MiB")
    return table


def serve_stages(options: NodeOptions, identity: Path | None, *, as_json: bool) -> None:
    """Run the stages until Ctrl-C."""
    secrets = settled_on(lambda: ask_password(options.wallet, options.password_file, environment()))
    with claim_key(identity, "provider") as held:
        stages = StagesOfNode(options, held.key, secrets, as_json=as_json)
        run(stages.run(), ends_on_signal=True, ask=held.noting(stages.ask))
    if not as_json:
        err.print("left the swarm")


class StagesOfNode:
    """A node's stages from the plan to the end of the last one."""

    def __init__(self, options: NodeOptions, key: Path, environment: Mapping[str, str], *, as_json: bool) -> None:
        """`key` is the node's key file: those of its stages are beside it. `environment` is for them."""
        self._options = options
        self._environment = environment
        self._key = key
        self._as_json = as_json
        self._supervisor: Supervisor | None = None
        self._first_address = True

    def ask(self) -> bool:
        """See `Supervisor.ask`; while we still plan there is nothing to wait for."""
        return self._supervisor is not None and self._supervisor.ask()

    async def run(self) -> None:
        """Serve until asked to leave. Raises `MeshError` when a stage cannot even join."""
        async with children() as family:
            plans = await self._plan(family)
            if self._as_json:
                emit("planned", stages=[asdict(row) for row in plans])
            else:
                out.print(_table(plans))
            numbered = {row.label: (number, row) for number, row in enumerate(plans)}
            self._supervisor = Supervisor(
                family,
                list(numbered),
                lambda label, peers, span: self._arguments(*numbered[label], peers, span),
                self._tell,
                self._log,
                peers=self._options.peers,
                one_by_one=self._options.wallet is not None,
                environment=lambda label: self._environment,
            )
            await self._supervisor.run()

    async def _plan(self, family: Children) -> list[StagePlan]:
        """In a process of its own: what measures a GPU keeps some of its memory until it ends."""
        options = self._options
        arguments = ["join", "--plan", "--json", "--identity", str(self._key), *options.shared]
        arguments += ["--kv-cache", options.kv_cache] if options.kv_cache else []
        for flag, values in (("--model", options.models), ("--device", options.devices), ("--peers", options.peers)):
            arguments += [part for value in values for part in (flag, value)]
        said: list[dict[str, Any]] = []
        child = await family.start("the plan", *arguments, hear=said.append)
        try:
            async with asyncio.timeout(PLAN_SECONDS):
                code = await family.ended(child)
        except TimeoutError:
            raise MeshError(f"there was no plan within {PLAN_SECONDS:g} s\n{child.last_words}") from None
        found = next((event for event in said if event["event"] == "planned"), None)
        if found is None:
            raise MeshError(why_it_ended(child, code))
        return [StagePlan(**row) for row in found["stages"]]

    def _arguments(self, number: int, row: StagePlan, peers: Sequence[str], span: str | None) -> list[str]:
        options = self._options
        threads, metrics = options.threads or row.threads, options.metrics_port
        start_at = (span or row.blocks) if row.blocks else None
        return [
            *("join", "--json", "--model", row.model, "--device", row.device, *options.shared),
            *("--identity", str(key_file(self._key, row.label))),
            *("--device-share", repr(row.share), "--kv-cache", options.kv_cache or str(row.kv_bytes)),
            *(part for maddr in options.host_maddrs for part in ("--host-maddrs", own_port(maddr, number))),
            *(part for maddr in options.announce_maddrs for part in ("--announce-maddrs", own_port(maddr, number))),
            *("--direct-port", str(port_of(options.direct_port, number))),
            *(("--metrics-port", str(port_of(metrics, number))) if metrics is not None else ()),
            *(("--threads", str(threads)) if threads else ()),
            *(("--start-at", start_at) if start_at else ()),
            *(("--provider-id", f"{options.provider_id}-{row.label}") if options.provider_id else ()),
            *(part for peer in peers for part in ("--peers", peer)),
        ]

    def _tell(self, label: str, event: dict[str, Any]) -> None:
        if self._as_json:
            emit(**{**event, "stage": label})
            return
        match event:
            case {"event": "settlement"}:
                known = read_event(event)
                if known is not None:
                    show_settlement(known.event, as_json=False)  # type: ignore[union-attr]
            case {"event": "stage_ended", "reason": reason, "restart_in": pause}:
                err.print(f"[yellow]{label}:[/] {escape(reason)}; starts again in {pause:g} s")
            case {"event": "stage_started"}:
                out.print(f"[dim]{label}: started[/]")
            case _:
                known = read_event(event)
                for line in lines(known) if known is not None else []:
                    if line.startswith("others join with"):
                        if not self._first_address:
                            continue
                        self._first_address = False
                    out.print(f"[dim]{label}:[/] {line}")

    def _log(self, label: str, line: str) -> None:
        err.print(f"[dim]{label}:[/] {escape(line)}")


def ask_password(wallet: Path | None, password_file: Path | None, environment: Mapping[str, str]) -> dict[str, str]:
    """What the stages need in their environment to open the wallet: you are asked once. Raises `WalletError`."""
    from chain.wallet import find_password, keystore_address

    if wallet is None or password_file is not None:
        return {}
    password = find_password(environment=environment, what=f"wallet {keystore_address(wallet)}")
    return {PASSWORD_VARIABLE: password}
