"""The checked-in artifacts are what the sources compile to, and forge passes; its tools come from npm on demand."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.chain import npm

CHAIN = Path(__file__).parents[2] / "chain"
TOOLING = npm.TOOLING
MAX_CODE = 24_576


def run(command: list[str], folder: Path, **extra: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **extra}, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def artifacts() -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in sorted((CHAIN / "artifacts").glob("*.json"))]


def test_the_artifacts_were_built_from_these_sources() -> None:
    """Needs no compiler: each artifact carries the hash of every file that went into it."""
    for artifact in artifacts():
        sources = artifact["sources"]
        assert isinstance(sources, dict)
        own = {name: digest for name, digest in sources.items() if name.startswith("contracts/")}
        assert own or str(artifact["sourceName"]).startswith("@openzeppelin/"), artifact["contractName"]
        for name, digest in own.items():
            assert hashlib.sha256((CHAIN / name).read_bytes()).hexdigest() == digest, f"{name} changed; npm run build"


def test_no_contract_is_larger_than_a_chain_accepts() -> None:
    sizes = {str(artifact["contractName"]): artifact["deployedSize"] for artifact in artifacts()}
    assert len(sizes) == 18
    assert all(isinstance(size, int) and size <= MAX_CODE for size in sizes.values()), sizes


def test_versions_are_pinned_exactly() -> None:
    package = json.loads((TOOLING / "package.json").read_text())
    locked = json.loads((TOOLING / "package-lock.json").read_text())["packages"]
    for name, version in {**package["dependencies"], **package["optionalDependencies"]}.items():
        assert version[0].isdigit(), f"{name} {version}"
        assert locked[f"node_modules/{name}"]["version"] == version
    for path in (CHAIN / "contracts").rglob("*.sol"):
        assert "pragma solidity 0.8.37;" in path.read_text(), path


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compiling_again_gives_the_same_bytes() -> None:
    run(["node", "build.mjs", "--check"], npm.install())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_contracts_pass_forge() -> None:
    """Unit, fuzz and invariant tests with the small profile, then the gas of transactions against the snapshot."""
    forge = str(npm.forge())
    run([forge, "fmt", "--check", "contracts", "tooling/test"], CHAIN)
    out = run([forge, "test", "--offline"], CHAIN, FOUNDRY_PROFILE="default")
    assert "0 failed" in out
    out = run([forge, "test", "--offline"], CHAIN, FOUNDRY_PROFILE="gas", FORGE_SNAPSHOT_CHECK="true")
    assert "0 failed" in out
