"""What a node depends on, and in which ways each of that may fail: what docs/operations.md must have an answer to."""

from __future__ import annotations

from typing import Final

ROLES: Final = ("provider", "gateway", "relay", "client", "payer")

FAILURES: Final[dict[str, tuple[str, ...]]] = {
    "Chain": (
        "dead, hung, or slow (any answer that comes within 30 s)",
        "wrong answers",
        "behind, or reorganised",
        "another chain id, or begun anew",
    ),
    "Own daemon": ("dead", "hung", "does not stay"),
    "DHT": ("unreachable", "hostile", "slow"),
    "Disk": (
        "full, read-only, failing, slow",
        "full or read-only at the start",
        "damaged: cut off, bytes flipped, emptied",
    ),
    "Books": (
        "restored from an older copy, or lost",
        "the -wal file is gone",
        "of another version",
        "used by two processes",
    ),
    "Clock": ("wrong at the start", "jumps, or drifts, and is right again"),
    "Memory": ("too little at the start", "none left at a session", "killed for it by the system"),
    "Files and sockets": ("no more may be opened",),
    "Processor": ("taken away for 3 s", "taken away for 40 s", "taken away for 10 minutes"),
    "Parent and terminal": ("the terminal is closed (SIGHUP)", "stdout is closed", "the parent is killed"),
    "Network": ("the address changes", "IPv6 only", "small packets only (MTU)", "half-open: packets vanish"),
    "Peers": ("of another version", "of another dtype", "of other weights"),
}
"""By what fails: a line of issue's matrix each. Every one is to be answered for every role."""
