"""Arguments that are refused on this side, before anything is sent: ids, metadata, ranges of epochs. Pure."""

from __future__ import annotations

from chain.errors import InvalidArgument


def check_id(identifier: str, argument: str = "id") -> str:
    """An id of 1 to 64 bytes of UTF-8. Raises `InvalidArgument`."""
    try:
        length = len(identifier.encode())
    except UnicodeEncodeError:
        raise InvalidArgument("an id is text", argument=argument) from None
    if not 1 <= length <= 64:
        raise InvalidArgument(f"an id has 1 to 64 bytes, this one {length}", argument=argument)
    return identifier


def check_metadata(metadata: str, argument: str = "metadata") -> str:
    """At most 1024 bytes of UTF-8. Raises `InvalidArgument`."""
    try:
        length = len(metadata.encode())
    except UnicodeEncodeError:
        raise InvalidArgument("metadata is text", argument=argument) from None
    if length > 1024:
        raise InvalidArgument(f"metadata has at most 1024 bytes, this {length}", argument=argument)
    return metadata


def check_range(first: int, last: int) -> None:
    """Epochs `first … last`, both included: from 1, ascending, at most 512. Raises `InvalidArgument`."""
    if not 1 <= first <= last or last - first >= 512 or last >= 2**64:
        raise InvalidArgument(
            f"epochs {first} … {last} are no range: from 1, ascending, at most 512 epochs", argument="epochs"
        )
