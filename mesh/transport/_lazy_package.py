"""Imports parts of a package without the rest: its own `__init__` runs once anybody asks for what that defines."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any


class _LazyPackage(ModuleType):
    def __getattr__(self, name: str) -> Any:
        """Called for what is not there yet; submodules are, but for one that is being imported."""
        if (part := sys.modules.get(f"{self.__name__}.{name}")) is not None:
            return part
        spec = self.__spec__
        if name.startswith("__") or spec is None or spec.loader is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self.__class__ = ModuleType  # type: ignore[assignment]
        spec.loader.exec_module(self)
        return getattr(self, name)


def defer(name: str) -> None:
    """From now on `import name.part` runs `part` alone. Does nothing where `name` is imported, or not installed."""
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        return
    package = importlib.util.module_from_spec(spec)
    package.__class__ = _LazyPackage
    sys.modules[name] = package
