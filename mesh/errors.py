"""What can go wrong in the mesh, as one tree. Our bug and a peer's misbehaviour are different types.

MeshError
├── ConfigError             what the operator asked for cannot be done (bad option, port in use, bad key file)
│   └── WrongClock          this machine's clock, or its neighbours', is so wrong that they refuse each other
├── InvalidRequest          what the developer asked for cannot be served
│   ├── UnknownModel        no provider serves a model of this name
│   ├── ModelChanged        a model of this name is served, but it is another one than before
│   └── ContextLengthExceeded
├── ModelFault              what the model brings, its tokenizer or template, cannot be used
├── NoRoute                 the model's blocks are not all covered right now
├── Refused                 a hop had no room for the session; says when to try again
├── Cancelled               the session was cancelled on our side
├── StorageUnavailable      a file that must be written cannot be: the disk is full, read-only or broken
├── DescriptorsExhausted    this process may open no more files and sockets
├── PaymentRefused          a gateway refused our voucher, our API key, or to give us one
├── AccountDisputed         a gateway's account of our payments contradicts our own books
├── PeerError               a peer failed or misbehaved; names it
│   ├── PeerUnreachable     no connection could be made, or it broke
│   │   └── DaemonDown      our own daemon is away, and with it every peer; says when to try again
│   ├── PeerTimeout         it did not answer by the deadline
│   ├── PeerFailed          it reported that it could not go on
│   └── ProtocolViolation   it sent something that the protocol forbids
│       ├── FrameTooLarge
│       ├── FrameTruncated
│       ├── BadTensor       wrong size or shape, or non-finite values
│       └── BadRecord       a record that is unsigned, stale, expired or forged
└── InternalError           a bug of ours
"""

from __future__ import annotations


class MeshError(Exception):
    """Base of everything that `mesh` raises on purpose."""


class ConfigError(MeshError):
    """What the operator asked for cannot be done; the message says what to change."""


class WrongClock(ConfigError):
    """Our clock and our neighbours' are too far apart. `ahead`: seconds that theirs is ahead of ours."""

    def __init__(self, message: str, *, ahead: float) -> None:
        super().__init__(message)
        self.ahead = ahead


class InvalidRequest(MeshError):
    """What the developer asked for cannot be served; `param` names the offending parameter."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class UnknownModel(InvalidRequest):
    """No provider serves a model of this name."""


class ModelChanged(InvalidRequest):
    """A model of this name is served, but not the one that the name meant to us before."""


class ContextLengthExceeded(InvalidRequest):
    """Prompt and `max_tokens` together do not fit the model's context."""


class ModelFault(MeshError):
    """What the model brings cannot be used: its tokenizer, its chat template, or the numbers that it computes."""


class NoRoute(MeshError):
    """The model's blocks are not all covered right now; the message names the gap. `retry_after`: seconds."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Refused(MeshError):
    """A hop had no room for the session."""

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Cancelled(MeshError):
    """The session was cancelled on our side."""


class StorageUnavailable(MeshError):
    """A file that must be written (or read) cannot be: the disk is full, read-only or broken. Nothing was written.

    It may work again in a moment; the message names the file.
    """


class DescriptorsExhausted(MeshError):
    """This process may open no more files and sockets (`ulimit -n`); what needs one waits until others are closed."""


class PaymentRefused(MeshError):
    """A gateway refused our voucher, our API key, or our request for one; `code` is the gateway's word for why."""

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


class AccountDisputed(MeshError):
    """A gateway's account of our payments contradicts our own books: nothing more is signed. `field` says which figure.

    The message says what to do.
    """

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field


class PeerError(MeshError):
    """A peer failed or misbehaved. `peer` is its peer id, or None where it is not known."""

    def __init__(self, message: str, *, peer: str | None = None) -> None:
        super().__init__(message)
        self.peer = peer


class PeerUnreachable(PeerError):
    """No connection to the peer could be made, or the one that there was broke."""


class DaemonDown(PeerUnreachable):
    """Our own daemon is away, and is being started again: no peer can be reached. `retry_after`: seconds."""

    def __init__(
        self, message: str = "this node's own daemon is being started again", *, retry_after: float = 5.0
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PeerTimeout(PeerError):
    """The peer did not answer by the deadline."""


class PeerFailed(PeerError):
    """The peer reported that it could not go on with our session."""


class ProtocolViolation(PeerError):
    """The peer sent something that the protocol forbids."""


class FrameTooLarge(ProtocolViolation):
    """A frame's header or payload is over the limit; refused before any allocation."""


class FrameTruncated(ProtocolViolation):
    """The stream ended inside a frame."""


class BadTensor(ProtocolViolation):
    """A tensor of the wrong size or with non-finite values."""


class BadRecord(ProtocolViolation):
    """A discovery record that is unsigned, stale, expired or forged."""


class InternalError(MeshError):
    """A bug of ours: please report it."""
