"""A server of files on 127.0.0.1 that fails as a test tells it; no other network is touched."""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from utils import download
from utils.errors import WeightsError

DATA = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


class Server(ThreadingHTTPServer):
    """What it gives and how it fails is set by the test; ``asked`` holds (path, Range) of each request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/a.pdparams": DATA}
        self.redirects: dict[str, str] = {}
        self.headers: dict[str, str] = {"ETag": '"1"'}  # None: not sent
        self.status: int | None = None
        self.ranges = True
        self.cuts: list[int] = []  # of the coming requests: the bytes sent before the connection breaks
        self.go_on = threading.Event()  # cleared: the answer stops half-way until it is set
        self.go_on.set()
        self.asked: list[tuple[str, str | None]] = []

    def url(self, path: str = "/a.pdparams") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, given = self.server, self.headers["Range"]
        server.asked.append((self.path, given))
        if self.path in server.redirects:
            return self.head(302, {"Location": server.redirects[self.path], "Content-Length": "0"})
        if self.path not in server.files:
            return self.head(404, {"Content-Length": "0"})
        data = server.files[self.path]
        start = int(given.removeprefix("bytes=").removesuffix("-")) if given and server.ranges else 0
        if start and start >= len(data):
            return self.head(416, {"Content-Range": f"bytes */{len(data)}", "Content-Length": "0"})
        about = {"Content-Length": str(len(data) - start), **server.headers}
        if start:
            about = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}", **about}
        self.head(server.status or (206 if start else 200), about)
        body = data[start:]
        if server.cuts:
            body = body[: server.cuts.pop(0)]
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        server.go_on.wait(20)
        with contextlib.suppress(ConnectionError):  # a client that was killed, or would not wait
            self.wfile.write(body[len(body) // 2 :])  # HTTP/1.0: then the connection is closed

    def head(self, status: int, headers: dict[str, str | None]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def left(folder: Path) -> list[str]:
    """Names in ``folder``, without the lock, which stays."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def fails(*args, **kwargs) -> str:
    with pytest.raises(WeightsError) as caught:
        download.fetch(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)
