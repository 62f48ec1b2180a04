"""Building the native extension: once per machine, source and compiler, kept in the user's cache folder."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

logger = logging.getLogger(__name__)

SOURCES: Final = Path(__file__).parent
MAIN: Final = "stage.cpp"
FLAGS: Final = (
    "-O3", "-march=native", "-std=c++17", "-ffp-contract=fast", "-fno-math-errno", "-fPIC", "-shared", "-pthread",
)  # fmt: skip
_COMPILERS = ("c++", "g++", "clang++")
_BUILD_SECONDS = 180.0


class NativeUnavailable(Exception):
    """The extension cannot be built or loaded here; says why."""


def built_library(cache: Path | None = None) -> Path:
    """The shared object for this machine, built now if it is not there. Raises `NativeUnavailable`."""
    compiler = find_compiler()
    folder = cache or cache_folder()
    target = folder / f"stage-{_key(compiler)}.so"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _refuse_strangers_folder(folder)
        with _lock(folder):
            if target.exists():
                return target
            with tempfile.TemporaryDirectory(prefix=".build-", dir=folder) as scratch:
                made = Path(scratch) / "stage.so"
                _compile(compiler, made)
                made.replace(target)  # whole or not at all
    except OSError as error:
        raise NativeUnavailable(f"cannot write {folder}: {error}") from error
    logger.info("built the native kernels: %s", target)
    return target


def find_compiler() -> str:
    """The C++ compiler: $CXX, or the first of the usual names. Raises `NativeUnavailable`."""
    named = os.environ.get("CXX")
    for name in (named,) if named else _COMPILERS:
        if found := shutil.which(name):
            return found
    raise NativeUnavailable(f"no C++ compiler ({named or ', '.join(_COMPILERS)})")


def cache_folder() -> Path:
    """Where built extensions are kept (XDG base directories)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "inference-mesh" / "native"


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Several providers that start together build once: the others wait. Falls when its holder dies."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _refuse_strangers_folder(folder: Path) -> None:
    """Code is loaded from here, so nobody else may be able to put it there."""
    status = folder.stat()
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
        raise NativeUnavailable(f"{folder} can be written by other users")


def _compile(compiler: str, target: Path) -> None:
    command = [compiler, *FLAGS, str(SOURCES / MAIN), "-o", str(target)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NativeUnavailable(f"{compiler} did not finish: {error}") from error
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
        raise NativeUnavailable(f"{compiler} failed: {next((line for line in lines if 'error' in line), lines[0])}")


def _key(compiler: str) -> str:
    """Changes with the source, the flags, the compiler and the processor's features."""
    digest = hashlib.sha256()
    for path in sorted([*SOURCES.glob("*.h"), *SOURCES.glob("*.cpp")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    try:
        compiler_file = Path(compiler).resolve().stat()
    except OSError as error:
        raise NativeUnavailable(f"{compiler}: {error}") from error
    facts = (FLAGS, compiler, compiler_file.st_size, compiler_file.st_mtime_ns, platform.machine(), _features())
    digest.update(repr(facts).encode())
    return digest.hexdigest()[:24]


def _features() -> str:
    """What the processor can do, so that a cache shared by several machines never runs what one does not know."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = ("flags", "Features", "model name", "CPU part")
    return "\n".join(sorted({line for line in lines if line.split(":")[0].strip() in names}))
