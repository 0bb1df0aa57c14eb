"""A stand-in for the Hugging Face hub: a server on this machine that answers huggingface_hub as the hub does."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

COMMIT = "c0ffee" * 6 + "c0ff"


class Hub:
    """Repositories as folders: `<root>/datasets/<owner>/<name>` and `<root>/models/<owner>/<name>`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[str] = []  # files whose content was sent

    def add(self, kind: str, name: str, files: dict[str, bytes]) -> None:
        for file, content in files.items():
            path = self.root / kind / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def folder(self, kind: str, name: str) -> Path:
        return self.root / kind / name


class Handler(BaseHTTPRequestHandler):
    """Answers for the hub of a subclass."""

    hub: Hub

    def do_GET(self) -> None:
        kind, name, rest = self._split()
        folder = self.hub.folder(kind, name)
        if not folder.is_dir():
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif rest.startswith("tree/"):
            files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            self._json([_entry(path, folder) for path in files])
        elif rest.startswith("resolve/"):
            self._file(folder / rest.split("/", 2)[2])
        else:
            self._json({"id": name, "sha": COMMIT, "siblings": []})

    do_HEAD = do_GET

    def _split(self) -> tuple[str, str, str]:
        parts = self.path.split("?")[0].lstrip("/").removeprefix("api/").split("/")
        kind = parts.pop(0) if parts[0] in ("datasets", "models") else "models"
        return kind, "/".join(parts[:2]), "/".join(parts[2:])

    def _json(self, content: Any) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _file(self, path: Path) -> None:
        if not path.is_file():
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        if self.command == "GET":
            self.hub.asked.append(path.name)
        content = path.read_bytes()
        return self._send(200, content, {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *unused: Any) -> None:
        pass


def _entry(path: Path, folder: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {
        "type": "file",
        "path": path.relative_to(folder).as_posix(),
        "size": len(content),
        "oid": hashlib.sha1(content).hexdigest(),
    }


@contextmanager
def serving(hub: Hub, cache: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """The hub while it can be reached, with an own cache; afterwards it is gone, and its cache still there."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    use(f"http://127.0.0.1:{server.server_port}", cache, patch)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def use(endpoint: str, cache: Path, patch: pytest.MonkeyPatch, offline: bool = False) -> None:
    """What HF_ENDPOINT, HF_HUB_CACHE and HF_HUB_OFFLINE do when they are set before Python starts."""
    patch.setattr(constants, "ENDPOINT", endpoint)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "HF_HUB_OFFLINE", offline)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
