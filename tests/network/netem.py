"""The same conditions by the kernel's own netem: the `tc` commands for them (where a kernel has the module)."""

from __future__ import annotations

from collections.abc import Sequence

from tests.network.conditions import Conditions

NO_RATE = "100gbit"
QUEUE_PACKETS = 20_000
"""What may be on its way on one line."""


def prepare(device: str, targets: Sequence[str]) -> list[str]:
    """`tc` arguments that give each destination behind a device a class of its own, whose netem `shape` changes."""
    commands = [f"qdisc replace dev {device} root handle 1: htb default 0"]
    for number, address in enumerate(targets, start=1):
        commands += [
            f"class add dev {device} parent 1: classid 1:{number:x} htb rate {NO_RATE}",
            f"filter add dev {device} parent 1: protocol ip u32 match ip dst {address}/32 flowid 1:{number:x}",
            *shape(device, number, Conditions(), cut=False),
        ]
    return commands


def shape(device: str, number: int, conditions: Conditions, *, cut: bool) -> list[str]:
    """`tc` arguments that set what the line to the `number`th destination (from 1) does."""
    words = [f"qdisc replace dev {device} parent 1:{number:x} handle {number + 1:x}: netem limit {QUEUE_PACKETS}"]
    if conditions.delay or conditions.jitter:
        words.append(f"delay {conditions.delay * 1e6:.0f}us {conditions.jitter * 1e6:.0f}us")
    loss = 1.0 if cut else conditions.loss
    if loss:
        words.append(f"loss random {loss:.4%}")
    if conditions.rate is not None:
        words.append(f"rate {conditions.rate * 8:.0f}bit")
    # netem sorts by time what it delays, so packets overtake each other; under a plain queue they cannot.
    commands = [" ".join(words)]
    if not conditions.reorder:
        commands.append(f"qdisc replace dev {device} parent {number + 1:x}: pfifo limit {QUEUE_PACKETS}")
    return commands
