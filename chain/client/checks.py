"""Arguments that are refused on this side, before anything is sent: ids, metadata, ranges of epochs. Pure."""

from __future__ import annotations

from chain.errors import InvalidArgument
from chain.text import Unreadable, is_metadata, is_plain


def check_id(identifier: str, argument: str = "id") -> str:
    """An id of 1 to 64 bytes of UTF-8 that can be shown. Raises `InvalidArgument`."""
    try:
        length = len(identifier.encode())
    except UnicodeEncodeError:
        raise InvalidArgument("an id is text", argument=argument) from None
    if not 1 <= length <= 64:
        raise InvalidArgument(f"an id has 1 to 64 bytes, this one {length}", argument=argument)
    if isinstance(identifier, Unreadable) or not is_plain(identifier):
        raise InvalidArgument("an id has no control or invisible characters", argument=argument)
    return identifier


def check_metadata(metadata: str, argument: str = "metadata") -> str:
    """At most 1024 bytes of UTF-8. Raises `InvalidArgument`."""
    try:
        length = len(metadata.encode())
    except UnicodeEncodeError:
        raise InvalidArgument("metadata is text", argument=argument) from None
    if length > 1024:
        raise InvalidArgument(f"metadata has at most 1024 bytes, this {length}", argument=argument)
    if isinstance(metadata, Unreadable) or not is_plain(metadata, lines=True):
        raise InvalidArgument("metadata has no control or invisible characters", argument=argument)
    return metadata


def check_provider_metadata(metadata: str) -> str:
    """Nothing, JSON with a `url` and perhaps a `name`, or a bare address, at most 1024 bytes. Raises `InvalidArgument`.

    Peers find a provider by its url only: `chain.text.metadata_hint` says where that is missing.
    """
    check_metadata(metadata)
    if not is_metadata(metadata):
        raise InvalidArgument(
            'a provider\'s metadata is JSON with a url, and perhaps a name: {"url": "https://…"}', argument="metadata"
        )
    return metadata


def check_range(first: int, last: int) -> None:
    """Epochs `first … last`, both included: from 1, ascending, at most 512. Raises `InvalidArgument`."""
    if not 1 <= first <= last or last - first >= 512 or last >= 2**64:
        raise InvalidArgument(
            f"epochs {first} … {last} are no range: from 1, ascending, at most 512 epochs", argument="epochs"
        )
