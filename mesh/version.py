"""The version of this software, from its installed metadata."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("inference-mesh")
except PackageNotFoundError:  # run from a source tree that is not installed
    VERSION = "0+source"
