"""TCP options of a direct connection, and whether its peer has gone silent.

Keepalive notices within 7 s that an idle peer vanished. It is not sent while data is on its way, and
`TCP_USER_TIMEOUT`, which is made for that, also ends a connection whose receiver merely does not read for that long
(Linux 5.11 and later; measured: 4.6 s), which is what back-pressure looks like. So we read the kernel's own account of
unacknowledged data: a receiver with a closed window has none.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Final, Protocol

KEEPALIVE_IDLE: Final = 2
KEEPALIVE_INTERVAL: Final = 1
KEEPALIVE_PROBES: Final = 5
"""At 5 % loss each way a tenth of the questions has no answer: three in a row every 40 minutes, five in three days."""
SILENCE_SECONDS: Final = 6.0
"""How long data may wait for any sign of the peer: at 300 ms there and back TCP has tried five times by then."""

# struct tcp_info of <linux/tcp.h>: eight bytes, then 32-bit counters; times are in milliseconds.
_COUNTERS: Final = struct.Struct("8x13I")
_UNACKED, _LAST_DATA_RECEIVED, _LAST_ACK_RECEIVED = 4, 11, 12


class Socket(Protocol):
    """What a `socket.socket` and asyncio's `TransportSocket` have in common here."""

    def setsockopt(self, level: int, option: int, value: int | bytes, /) -> None: ...

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes: ...


def tune(sock: Socket) -> None:
    """Set the options; before `connect` or `listen`, since the congestion control is chosen there."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ("TCP_CONGESTION", b"cubic"),  # measured at 50 ms: 52 ms for a 16 KiB echo, where the default took 86
    ):
        with contextlib.suppress(AttributeError, OSError):  # not every system has every option
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def silent(sock: Socket) -> bool:
    """True when sent data is unacknowledged and nothing at all has come for `SILENCE_SECONDS`."""
    option = getattr(socket, "TCP_INFO", None)
    if option is None:
        return False
    try:
        counters = _COUNTERS.unpack(sock.getsockopt(socket.IPPROTO_TCP, option, _COUNTERS.size))
    except (OSError, struct.error):
        return False
    heard: float = min(counters[_LAST_DATA_RECEIVED], counters[_LAST_ACK_RECEIVED]) / 1000
    return bool(counters[_UNACKED] > 0 and heard > SILENCE_SECONDS)
