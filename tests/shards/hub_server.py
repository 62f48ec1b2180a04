"""A small Hugging Face hub on loopback that serves folders as models and logs every request."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

_RESOLVE = re.compile(r"/(?P<repo>[\w.-]+/[\w.-]+)/resolve/(?P<revision>[\w.-]+)/(?P<file>[\w.-]+)")
_TREE = re.compile(r"/api/models/(?P<repo>[\w.-]+/[\w.-]+)/tree/[\w.-]+\?.*")
_RANGE = re.compile(r"bytes=(\d+)-")


@dataclass(slots=True)
class Hub:
    """Where the hub listens, what it serves (repo to folder), and what was asked of it."""

    endpoint: str
    models: dict[str, Path]
    gated: set[str] = field(default_factory=set)
    requests: list[tuple[str, str]] = field(default_factory=list)
    """(method, path), in order."""
    cut_after: int | None = None
    """Close the connection once, after this many bytes of a weight file."""

    def fetched(self) -> set[str]:
        """Names of the files that were sent."""
        return set(self.asked("GET"))

    def asked(self, method: str) -> list[str]:
        """Names of the files that were asked for with `method`, in order."""
        found = [(how, _RESOLVE.fullmatch(path)) for how, path in self.requests]
        return [match["file"] for how, match in found if match is not None and how == method]


def commit_of(repo: str) -> str:
    """The one commit that each repo has."""
    return hashlib.sha1(repo.encode()).hexdigest()


@contextmanager
def serve(models: dict[str, Path]) -> Iterator[Hub]:
    """Serve `models` (owner/name to folder) on a free loopback port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _answer(self, *, body: bool) -> None:
            hub.requests.append((self.command, self.path))
            listing = _TREE.fullmatch(self.path)
            if listing is not None and listing["repo"] in hub.models:
                return self._list(hub.models[listing["repo"]])
            match = _RESOLVE.fullmatch(self.path)
            if match is None:
                return self._refuse(HTTPStatus.NOT_FOUND, "EntryNotFound")
            repo = match["repo"]
            if repo in hub.gated:
                return self._refuse(HTTPStatus.FORBIDDEN, "GatedRepo")
            if repo not in hub.models:
                return self._refuse(HTTPStatus.UNAUTHORIZED, "RepoNotFound")
            commit = commit_of(repo)
            if match["revision"] not in ("main", commit):
                return self._refuse(HTTPStatus.NOT_FOUND, "RevisionNotFound")
            path = hub.models[repo] / match["file"]
            if not path.is_file():
                return self._refuse(HTTPStatus.NOT_FOUND, "EntryNotFound", commit)
            return self._send(path.read_bytes(), commit, body=body)

        def _list(self, folder: Path) -> None:
            files = [{"type": "file", "path": path.name, "size": 1, "oid": "0"} for path in folder.iterdir()]
            data = json.dumps(files).encode()
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _send(self, data: bytes, commit: str, *, body: bool) -> None:
            asked = _RANGE.match(self.headers.get("Range", ""))
            begin = int(asked[1]) if asked else 0
            self.send_response(HTTPStatus.PARTIAL_CONTENT if asked else HTTPStatus.OK)
            self.send_header("X-Repo-Commit", commit)
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("Content-Length", str(len(data) - begin))
            self.send_header("Accept-Ranges", "bytes")
            if asked:
                self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            if not body:
                return
            cut, hub_cut = len(data), hub.cut_after
            if hub_cut is not None and self.path.endswith(".safetensors"):
                cut, hub.cut_after = begin + hub_cut, None
            self.wfile.write(data[begin:cut])
            if cut < len(data):
                self.close_connection = True

        def _refuse(self, status: HTTPStatus, code: str, commit: str | None = None) -> None:
            data = json.dumps({"error": code}).encode()
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
            if commit is not None:
                self.send_header("X-Repo-Commit", commit)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub = Hub(f"http://127.0.0.1:{server.server_port}", models)
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
