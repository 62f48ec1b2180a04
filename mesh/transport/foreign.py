"""The environment that a foreign program is started with: what programs in general need, and nothing of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

NEEDED: Final = frozenset({
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TMP", "TEMP", "TZ", "LANG", "LANGUAGE", "SYSTEMROOT"),
    *("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "XDG_RUNTIME_DIR"),
    *("GODEBUG", "GOGC", "GOMAXPROCS", "GOMEMLIMIT", "GOTRACEBACK"),
})  # fmt: skip
NEEDED_PREFIXES: Final = ("LC_", "GOLOG_", "LIBP2P_")


def foreign_environment(ours: Mapping[str, str], **more: str) -> dict[str, str]:
    """Of our environment what is in the two lists above, and `more`."""
    kept = {name: value for name, value in ours.items() if name in NEEDED or name.startswith(NEEDED_PREFIXES)}
    return kept | more
