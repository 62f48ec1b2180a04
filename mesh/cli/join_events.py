"""What a provider tells of itself, for people: from its own events, or from those of a child as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from mesh.cli.console import emit, out
from mesh.cli.paying import show_settlement
from mesh.cli.tables import short

if TYPE_CHECKING:
    from mesh.provider.events import JoinEvent


def show(event: JoinEvent, *, as_json: bool) -> None:
    """One line of JSON, or what a person wants to know of it."""
    from mesh.provider.events import Settlement

    if isinstance(event, Settlement):
        show_settlement(event.event, as_json=as_json)
    elif as_json:
        values = {k: str(v) if k == "span" else v for k, v in asdict_shallow(event).items()}
        emit(type(event).__name__.lower(), **values)
    else:
        for line in lines(event):
            out.print(line)


def lines(event: JoinEvent) -> list[str]:
    """What a person wants to know of it, with rich's markup; nothing of settlement, which has its own way."""
    from mesh.provider.events import Chose, Differs, Drained, Draining, Joined, Reached, Serving, Staked

    match event:
        case Joined(peer=peer, maddrs=maddrs):
            others = [f"others join with: [bold]--peers {maddrs[0]}[/]"] if maddrs else []
            return [f"joined as [bold]{peer}[/]", *others]
        case Reached(relays=relays):
            return [reach(relays)]
        case Chose(model=served, span=chosen, n_blocks=total):
            return [f"loading blocks [bold]{chosen}[/] of {total} of {served}"]
        case Staked(what=what, tx=tx):
            return [f"{what} [dim]({tx})[/]"]
        case Serving(span=served_span, tokens_per_second=speed, dtype=used, device=where, quantize=precision):
            weights = f" with weights in {precision}" if precision else ""
            return [
                f"serving blocks [bold]{served_span}[/] in {used}{weights} on {where}: "
                f"{speed:,.0f} tokens/s. Ctrl-C leaves the swarm."
            ]
        case Differs(model=named, peer=other, files=files):
            what = escape(", ".join(files)) or "nothing that can be seen"
            return [
                f"[yellow]{short(other)} serves another model that is called {escape(named)}, and the two share no "
                f"route.[/] Not alike: {what}. If they should be one, make the files alike; else join with --name."
            ]
        case Draining(sessions=sessions) if sessions:
            return [f"leaving: {sessions} sessions run still. Ctrl-C again goes at once."]
        case Drained(handed_over=handed_over) if handed_over:
            return [f"{handed_over} sessions did not end in time: others take them over"]
        case _:
            return []


def read_event(values: dict[str, Any]) -> JoinEvent | None:
    """The event that a child emitted; None for one of another kind."""
    from mesh.provider import events
    from shards.model.span import Span

    if values.get("event") == "settlement":
        from mesh.payment.settlement.loop import SettlementEvent

        known = {field.name for field in fields(SettlementEvent)}
        return events.Settlement(SettlementEvent(**{name: value for name, value in values.items() if name in known}))
    for kind in (
        events.Joined,
        events.Reached,
        events.Chose,
        events.Staked,
        events.Serving,
        events.Differs,
        events.Draining,
        events.Drained,
    ):
        if values.get("event") == kind.__name__.lower():
            given = {field.name: values[field.name] for field in fields(kind)}
            return kind(**given | ({"span": Span.parse(given["span"])} if "span" in given else {}))
    return None


def reach(relays: Sequence[str]) -> str:
    """What an operator behind a NAT wants to know, or has to do."""
    if relays:
        return f"behind a NAT, reached through relay {', '.join(map(short, relays))}"
    return (
        "[yellow]behind a NAT, and no relay takes us: nobody can reach this node.[/] Name one with --relay "
        "(`mesh relay` on a public machine starts one), or forward a port here and name it with --announce-maddrs."
    )


def asdict_shallow(event: object) -> dict[str, object]:
    """A dataclass' fields by name, not descending into them."""
    return {name: getattr(event, name) for name in asdict(event)}  # type: ignore[call-overload]
