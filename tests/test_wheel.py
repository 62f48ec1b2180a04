"""What is published: the wheel holds all that a command reads, and what is an extra is missed in words."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WITHOUT_LIBP2P = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "libp2p":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from mesh.cli.main import main
main()
"""


def run(*words: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=cwd,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made from what git tracks, so that what happens to lie about cannot get in."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, tracked.stdout.split("\0")):
        if not name.startswith(("tests/", "benchmarks/", "docs/", "chain/tooling/")) and (ROOT / name).is_file():
            (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "tree" / name)
    made = run(
        *["-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w"], str(folder), str(folder / "tree")
    )
    assert made.returncode == 0, made.stderr
    [path] = folder.glob("*.whl")
    return path


def test_the_wheel_says_whose_it_is_and_under_which_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        [metadata] = [archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA")]
    assert "License-Expression: Apache-2.0" in metadata
    assert "Provides-Extra: libp2p" in metadata
    assert "Requires-Dist: libp2p" not in metadata.replace('Requires-Dist: libp2p<0.9,>=0.8.1; extra == "libp2p"', "")
    licences = {name.rpartition("licenses/")[2] for name in names if "/licenses/" in name}
    assert "LICENSE" in licences
    vendored = {name for name in names if name.startswith("mesh/dashboard/static/vendor/") and name.endswith(".mjs")}
    assert len(vendored) >= 5
    assert any("preact" in name for name in licences)


def test_an_installed_wheel_plans_a_model_and_shows_its_commands(wheel: Path, tmp_path: Path) -> None:
    folder = tmp_path / "site"
    installed = run("-m", "pip", "install", "-q", "--no-deps", "--no-compile", "--target", str(folder), str(wheel))
    assert installed.returncode == 0, installed.stderr
    where = run(
        "-c",
        "import mesh, shards, chain; print(mesh.__file__, shards.__file__)",
        PYTHONPATH=str(folder),
        cwd=tmp_path,
    )
    assert where.stdout.count(str(folder)) == 2, where
    plan = run("-m", "mesh", "join", "--model", "tiny-python", "--plan", PYTHONPATH=str(folder), cwd=tmp_path)
    assert plan.returncode == 0, plan.stderr
    assert "tiny-python" in plan.stdout
    missing = {"index.html", "app.js", "style.css"} - {path.name for path in folder.glob("mesh/dashboard/static/*")}
    assert not missing
    assert list(folder.glob("shards/native/*.cpp"))
    assert list(folder.glob("chain/artifacts/*.json"))


def test_without_py_libp2p_its_transport_is_refused_with_what_to_install(tmp_path: Path) -> None:
    peer = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooW9unZ9DRPJMXEoNiNwQBfB5jWRnG9FDYw9rezqiXwEms5"
    asked = run("-c", WITHOUT_LIBP2P, "generate", "x", "--transport", "libp2p", "--peers", peer, PYTHONPATH=str(ROOT))
    assert asked.returncode == 1
    assert "pip install 'inference-mesh[libp2p]'" in asked.stderr.replace("\n", " ")
    assert "Traceback" not in asked.stderr
