"""What the `tokenizers` library raises becomes a `TokenizerError`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from shards.errors import TokenizerError


@contextmanager
def rust_failures(what: str) -> Iterator[None]:
    """Turn what `tokenizers` raises into `TokenizerError`; a panic there is no ordinary exception."""
    try:
        yield
    except (ValueError, TypeError, OverflowError) as error:
        raise TokenizerError(f"{what}: {str(error)[:300]}") from error
    except BaseException as error:
        if type(error) is Exception or type(error).__name__ == "PanicException":
            raise TokenizerError(f"{what}: {str(error)[:300]}") from error
        raise
