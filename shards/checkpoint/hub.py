"""Fetching single files of a model from a Hugging Face hub, with errors that say what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import huggingface_hub
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from shards.checkpoint.forms import check_form
from shards.checkpoint.manifest import FileDigest
from shards.errors import CheckpointError
from shards.progress import Progress

_SHA256 = re.compile(r"[0-9a-f]{64}")
"""What a hub names large files by."""
_PINS_AT_ONCE = 8
# First comes the base error of the HTTP library, which is another one in another version of huggingface_hub.
_TRANSPORT_ERRORS: tuple[type[Exception], ...] = (*HfHubHTTPError.__bases__, FileMetadataError)


class HubModel:
    """One commit of one model on the hub that HF_ENDPOINT names, pinned by its config.json.

    Files come from huggingface_hub's cache where they are there already. Every method raises
    `CheckpointError`.
    """

    def __init__(self, name: str, *, cache: Path | None, progress: Progress) -> None:
        self._name = name
        self._cache = cache
        self._progress = progress
        self._revision = "main"
        config = self._fetch("config.json")
        if config is None:
            check_form(name, self.names())
            raise CheckpointError(f"{name} has no config.json: it is not a model that transformers can read")
        self.folder = config.parent
        self._revision = self.folder.name  # snapshots/<commit>: later files come from the same commit

    def fetch(self, filename: str) -> bool:
        """Have `filename` in `folder`; False where the model has no such file."""
        known = huggingface_hub.try_to_load_from_cache(
            self._name, filename, cache_dir=self._cache, revision=self._revision
        )
        if known is huggingface_hub._CACHED_NO_EXIST:
            return False
        return self._fetch(filename) is not None

    def pin(self, filename: str) -> FileDigest | None:
        """What the hub says that a weight file is; None where the model has none, or the hub does not tell."""
        with _explained(self._name, filename):
            try:
                url = huggingface_hub.hf_hub_url(self._name, filename, revision=self._revision)
                facts = huggingface_hub.get_hf_file_metadata(url)
            except (EntryNotFoundError, OfflineModeIsEnabled):
                return None
        if facts.etag is None or facts.size is None or not _SHA256.fullmatch(facts.etag):
            return None
        return FileDigest(facts.etag, facts.size)

    def pins(self, filenames: Iterable[str]) -> dict[str, FileDigest] | None:
        """`pin` for several files at a time; None where one of them is not known."""
        names = list(filenames)
        with ThreadPoolExecutor(_PINS_AT_ONCE) as threads:
            found = dict(zip(names, threads.map(self.pin, names), strict=True))
        known = {name: pin for name, pin in found.items() if pin is not None}
        return known if len(known) == len(names) else None

    def has(self, filename: str) -> bool:
        """Whether the model has such a file, without fetching it."""
        known = huggingface_hub.try_to_load_from_cache(
            self._name, filename, cache_dir=self._cache, revision=self._revision
        )
        if known is not None:
            return isinstance(known, str)
        with _explained(self._name, filename):
            found: bool = huggingface_hub.file_exists(self._name, filename, revision=self._revision)
        return found

    def names(self) -> set[str]:
        """The names of all files, for messages: none where the hub does not tell."""
        try:
            return set(huggingface_hub.list_repo_files(self._name, revision=self._revision))
        except _TRANSPORT_ERRORS:
            return set()

    def _fetch(self, filename: str) -> Path | None:
        with _explained(self._name, filename):
            try:
                path = huggingface_hub.hf_hub_download(
                    self._name,
                    filename,
                    revision=self._revision,
                    cache_dir=self._cache,
                    tqdm_class=_meter(self._progress, f"downloading {filename}"),
                )
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError:
                return None
        return Path(path)


@contextmanager
def _explained(name: str, filename: str) -> Iterator[None]:
    try:
        yield
    except HFValidationError as error:
        raise CheckpointError(
            f"{name!r} is neither a folder, a model that comes with the mesh, nor a hub name (owner/model)"
        ) from error
    except GatedRepoError as error:
        raise CheckpointError(
            f"{name} is gated: accept its terms on the hub, then log in with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"the hub has no model {name}: check the spelling, or `hf auth login` if it is private"
        ) from error
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{filename} of {name} is not in the local cache and the hub cannot be reached: connect to the "
            "internet (and unset HF_HUB_OFFLINE), or give the path of a local checkpoint folder"
        ) from error
    except _TRANSPORT_ERRORS as error:
        raise CheckpointError(f"downloading {filename} of {name} failed: {error}; try again") from error


def _meter(progress: Progress, what: str) -> Callable[..., Any]:
    """What huggingface_hub calls a tqdm class: it reports to `progress` instead of drawing a bar."""

    class Meter:
        def __init__(self, *_: object, total: float | None = None, initial: float = 0, **__: object) -> None:
            self.total, self.n = total, initial

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            self.close()

        def update(self, count: float | None = 1) -> None:
            self.n += count or 0
            progress(int(self.n), int(self.total or self.n), what)

        def close(self) -> None: ...

        def refresh(self, *_: object, **__: object) -> None: ...

        def set_description(self, *_: object, **__: object) -> None: ...

    return Meter
