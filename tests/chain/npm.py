"""Tools that only tests need, from npm on demand: solc, forge, and anvil, an independent node to run against."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

TOOLING = Path(__file__).parents[2] / "chain" / "tooling"


def install() -> Path:
    """The folder of the npm packages, installed from the lock file if that has not been done; skips without npm."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed; only these tests need them")
    lock = hashlib.sha256((TOOLING / "package-lock.json").read_bytes()).hexdigest()
    with (TOOLING / ".install.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        stamp = TOOLING / "node_modules" / ".installed"
        if not stamp.exists() or stamp.read_text() != lock:
            command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(command, cwd=TOOLING, check=False, capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, f"npm ci failed in {TOOLING}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
            stamp.write_text(lock)
    return TOOLING


def forge() -> Path:
    """forge's executable; skips where npm has none for this platform."""
    found = install() / "node_modules" / ".bin" / "forge"
    if not found.exists():
        pytest.skip("npm has no forge for this platform")
    return found


def anvil() -> Path:
    """anvil's executable; skips where npm has none for this platform."""
    chosen = os.environ.get("MESH_ANVIL")
    if chosen:
        return Path(chosen)
    found = sorted((install() / "node_modules" / "@foundry-rs").glob("anvil-*/bin/anvil"))
    if not found:
        pytest.skip("npm has no anvil for this platform")
    return found[0]
