"""The page's files: pinned, served with the right headers, and nothing else is."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request

import mesh.dashboard
from mesh.dashboard.feed import Feed
from mesh.dashboard.routes import Events, Page, routes
from mesh.dashboard.snapshot import Snapshot
from tests.mesh.dashboard.sample_swarm import seen

STATIC = Path(mesh.dashboard.__file__).parent / "static"
VENDOR = STATIC / "vendor"
# From `npm pack NAME@VERSION`: the file inside of it, unchanged.
PINNED = {
    "htm-3.1.1.mjs": "ab33dd3f38059b9be4d5f5350128eefb2356639c4e0bbe9d9e8b3ba75847e9e4",
    "preact-11.2.0.mjs": "bdcbd9abdf2c77c5c45326eab42191e949222d479d0d5f69467387a77040cb55",
    "preact-hooks-11.2.0.mjs": "e862ab2973aa6455eaa0f77c5d832d2157d6be59a17c8ba546550a575b58c6b4",
    "preact-signals-2.11.4.mjs": "ba8177597f45acaca4d05dcf3966b527d0a8264cfa2b0a87ace92dff324217f8",
    "preact-signals-core-1.14.5.mjs": "0c80bc127d72ecb1496ef116ffddae75079829a3af01e7f417c8e5a6474c68b6",
    "uplot-1.6.32.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    "uplot-1.6.32.mjs": "5dd9b3281aa64b461b42d9945f6adb2649d346502b12281a9ae0d46599a80eba",
}


def test_what_is_vendored_is_what_was_published() -> None:
    files = {path.name: path for path in VENDOR.iterdir() if path.suffix != ".LICENSE"}
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()} == PINNED


def test_every_vendored_package_has_its_licence_beside_it() -> None:
    packages = {re.sub(r"-hooks", "", path.stem) for path in VENDOR.iterdir() if path.suffix in (".mjs", ".css")}
    assert {path.stem for path in VENDOR.glob("*.LICENSE")} == packages


def test_the_page_names_files_that_are_there_and_no_other_host() -> None:
    text = (STATIC / "index.html").read_text()
    named = re.findall(r'"/dashboard/([^"]+)"', text)
    assert named
    assert all((STATIC / name).is_file() for name in named)
    for path in (STATIC / "index.html", *STATIC.glob("*.js"), *STATIC.glob("*.css")):
        assert not re.search(r"https?://", path.read_text()), path


def test_our_scripts_write_no_html() -> None:
    """What strangers announce is text: there is no way from it to markup."""
    for path in STATIC.glob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function", path.read_text()
        )


async def _look() -> Snapshot:
    return seen()


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    def may_look(request: Request) -> bool | None:
        return {"": False, "Bearer ours": True}.get(request.headers.get("authorization", ""))

    feed = Feed(_look)
    app = Starlette(routes=routes(Page(), Events(feed, may_look, most=1)))
    app.state.feed = feed
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://page") as http:
        yield http


async def test_the_page_lets_in_nothing_but_its_own_files(client: httpx.AsyncClient) -> None:
    answer = await client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    (inline,) = re.findall(r"<script type=\"importmap\">(.*?)</script>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == f"'self' 'sha256-{digest}'"
    assert policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("name", "kind", "cached"),
    [
        ("app.js", "text/javascript; charset=utf-8", "no-cache"),
        ("style.css", "text/css; charset=utf-8", "no-cache"),
        ("icon.svg", "image/svg+xml", "no-cache"),
        ("vendor/preact-11.2.0.mjs", "text/javascript; charset=utf-8", "public, max-age=31536000, immutable"),
    ],
)
async def test_files_have_their_type_and_are_sent_once(
    client: httpx.AsyncClient, name: str, kind: str, cached: str
) -> None:
    answer = await client.get(f"/dashboard/{name}")
    assert (answer.status_code, answer.headers["content-type"], answer.headers["cache-control"]) == (200, kind, cached)
    again = await client.get(f"/dashboard/{name}", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "name", ["", "nothing.js", "../routes.py", "%2e%2e/routes.py", "vendor/", "vendor/SHA256SUMS", "/etc/passwd"]
)
async def test_nothing_else_is_served(client: httpx.AsyncClient, name: str) -> None:
    assert (await client.get(f"/dashboard/{name}")).status_code == 404


async def test_a_key_that_is_none_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.get("/mesh/events", headers={"authorization": "Bearer theirs"})
    assert answer.status_code == 401
