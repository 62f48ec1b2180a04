"""What a model's name means to us where no chain says it: the digest that was asked for, or the first that was used.

Anybody may announce any name. Trust on first use, as SSH does for host keys: the first digest that a name was used with
is kept, and another one is refused until the user accepts it.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from chain import safe_json
from mesh.client.catalog import Offer
from mesh.errors import ConfigError, ModelChanged

logger = logging.getLogger(__name__)

MAX_FILE = 4 << 20
MAX_NAMES = 10_000
DIGEST_CHARACTERS = 64


class ModelPins:
    """Digests by name. Kept in `path` where one is given; `chosen` are the user's own and come before what is kept."""

    def __init__(self, path: Path | None = None, chosen: Mapping[str, str] | None = None) -> None:
        """Raises `ConfigError` for a file that does not read, or a digest that is none."""
        self._path = path
        self._kept: dict[str, str] = {} if path is None else _read(path)
        for name, digest in (chosen or {}).items():
            if not _is_digest(digest):
                raise ConfigError(f"the digest of {name} has 64 hexadecimal characters, got {digest!r:.80}")
            self._kept[name] = digest.lower()
        if path is not None and chosen:
            _write(path, self._kept)

    def digest_of(self, name: str) -> str | None:
        return self._kept.get(name)

    def known(self, name: str, offers: Sequence[Offer]) -> list[Offer]:
        """The offers that are what the name means to us; all of them where we have not used it yet."""
        digest = self._kept.get(name)
        return [offer for offer in offers if digest is None or offer.digest == digest]

    def choose(self, name: str, offers: Sequence[Offer]) -> Offer | None:
        """The offer to use, from offers with the best first; what is chosen first is kept. None where there is none.

        Raises `ModelChanged` where only others than the known one are offered.
        """
        digest = self._kept.get(name)
        if digest is None:
            return self._keep(name, offers[0]) if offers else None
        match = self.known(name, offers)
        if offers and not match:
            found = ", ".join(sorted({offer.digest for offer in offers}))
            raise ModelChanged(
                f"{name!r} has digest {digest} as you used it before, and is now offered with {found}: another model, "
                "or a new version of it. If you trust it, say so: --digest, in Python Client(digests={{name: …}})",
                param="model",
            )
        return match[0] if match else None

    def _keep(self, name: str, offer: Offer) -> Offer:
        if len(self._kept) >= MAX_NAMES:
            logger.warning("%d model names are kept already: what %s means is not", MAX_NAMES, name)
            return offer
        self._kept[name] = offer.digest
        if self._path is not None:
            logger.info("%s is %s from now on", name, offer.digest)
            try:
                _write(self._path, {**_read(self._path), name: offer.digest})
            except ConfigError as error:
                logger.warning("what %s means is kept only while this runs: %s", name, error)
        return offer


def _read(path: Path) -> dict[str, str]:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE + 1)
        value = safe_json.parse(raw) if len(raw) <= MAX_FILE else None
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): mend it, or remove it to forget all digests") from error
    if not isinstance(value, dict) or not all(_is_digest(digest) for digest in value.values()):
        raise ConfigError(f"{path} does not hold digests by model name: mend it, or remove it to forget them")
    return dict(value)


def _write(path: Path, pins: Mapping[str, str]) -> None:
    """Atomic, so that two processes at once lose at most a name that is found again. Raises `ConfigError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(dict(sorted(pins.items())), file, indent=1)
        Path(part).replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error


def _is_digest(value: object) -> bool:
    return (
        isinstance(value, str)
        and len(value) == DIGEST_CHARACTERS
        and all(character in "0123456789abcdefABCDEF" for character in value)
    )
