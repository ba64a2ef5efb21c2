"""Servers that models travel through: a web server, and what the Hugging Face hub answers."""

import base64
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, unquote, urlsplit

from tests.httpserver import Handler, web_server

BLOCK = bytes(2**16)
REPOSITORY = "org/name"


class Files:
    """What a server holds, by path, and what it was asked."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}
        self.endless: set[str] = set()  # paths whose content never ends
        self.asked: list[str] = []


class _Handler(Handler):
    files: Files

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length") or 0))


class WebHandler(_Handler):
    """GET, HEAD and PUT of files."""

    def do_GET(self) -> None:
        path = self.path
        self.files.asked.append(f"{self.command} {path}")
        if path in self.files.endless:
            self.send_response(200)
            self.end_headers()
            try:
                for _ in itertools.repeat(None):
                    self.wfile.write(BLOCK)
            except OSError:
                return
        elif path in self.files.held:
            self.answer(self.files.held[path])
        else:
            self.answer(b"", 404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.files.asked.append(f"PUT {self.path}")
        if self.path.startswith("/read-only/"):
            self.answer(b"", 403)
            return
        self.files.held[self.path] = self.body()
        self.answer(b"", 201)


class HubHandler(_Handler):
    """One model repository of the hub: its tree, its files, and commits of small files."""

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        api = f"/api/models/{REPOSITORY}"
        if path in (api, f"{api}/revision/main"):
            self.json({"id": REPOSITORY, "sha": "0" * 40, "siblings": [], "tags": []})
        elif path.startswith(f"{api}/tree/main"):
            self.tree(path.removeprefix(f"{api}/tree/main").strip("/"))
        elif path.startswith(f"/{REPOSITORY}/resolve/main/"):
            self.content(path.removeprefix(f"/{REPOSITORY}/resolve/main/"))
        else:
            self.missing()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body, held = self.body(), self.files.held
        if self.path.endswith("/paths-info/main"):
            paths = parse_qs(body.decode())["paths"]
            self.json([file(path, held[path]) for path in paths if path in held])
        elif self.path.endswith("/preupload/main"):
            modes = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            self.json({"files": [each | modes for each in json.loads(body)["files"]]})
        elif self.path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files.asked.append(f"commit {line['value']['path']}")
                    held[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"http://{self.headers['host']}/{REPOSITORY}/commit/0"
            self.json({"commitUrl": url, "commitOid": "0" * 40, "success": True})
        else:
            self.missing()

    def tree(self, folder: str) -> None:
        start = f"{folder}/" if folder else ""
        below = {k.removeprefix(start): k for k in self.files.held if k.startswith(start)}
        folders = {start + name.partition("/")[0] for name in below if "/" in name}
        found = [
            file(path, self.files.held[path]) for name, path in below.items() if "/" not in name
        ]
        found += [{"type": "directory", "path": each, "oid": "0" * 40} for each in folders]
        self.json(found) if found else self.missing()

    def content(self, path: str) -> None:
        content = self.files.held.get(path)
        if content is None:
            self.missing()
            return
        start, end = 0, len(content)
        if wanted := self.headers.get("range"):
            first, last = wanted.removeprefix("bytes=").split("-")
            start, end = int(first), int(last) + 1
        self.answer(content[start:end], 206 if wanted else 200)

    def json(self, value: object) -> None:
        self.answer(json.dumps(value).encode(), content_type="application/json")

    def missing(self) -> None:
        self.answer(b"{}", 404, x_error_code="EntryNotFound")


def file(path: str, content: bytes) -> dict[str, object]:
    return {"type": "file", "path": path, "size": len(content), "oid": "0" * 40}


@contextmanager
def serving(handler: type[_Handler]) -> Iterator[tuple[str, Files]]:
    """A server on a free port: its URL, and what it holds."""
    files = Files()
    with web_server(type("Handler", (handler,), {"files": files})) as port:
        yield f"http://127.0.0.1:{port}", files
