"""A folder behind HTTP on this machine, and connections that break where a test wants them to."""

import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread


class Server(ThreadingHTTPServer):
    """Serves the files of a folder.

    Attributes:
        ranges: whether it can send a part.
        cuts: after how many bytes of a body the connection breaks, for each of the next shards asked for; None: never.
        kept: so many bytes of each shard is all the server has of it.
        status: what it answers instead of a shard, for each of the next ones asked for.
        asked: path and range of every request.
    """

    daemon_threads = True

    def __init__(self, folder: Path, ranges: bool) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.ranges = ranges
        self.cuts: list[int | None] = []
        self.status: list[int] = []
        self.kept: int | None = None
        self.asked: list[tuple[str, str | None]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients may go."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers["Range"]))
        file, is_shard = self.server.folder / self.path[1:], self.path.endswith(".tar")
        if is_shard and self.server.status:
            return self.send_error(self.server.status.pop(0))
        if not file.is_file():
            return self.send_error(404)
        body = file.read_bytes()[: self.server.kept if is_shard else None]
        if self.server.ranges and (asked := re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")):
            first = int(asked[1])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
            body = body[first:]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = self.server.cuts.pop(0) if is_shard and self.server.cuts else None
        self.wfile.write(body[:cut])
        if cut is not None:
            time.sleep(0.02)  # what a client has not read when a connection breaks is lost to it
        return None

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serve(folder: Path, ranges: bool = True) -> Iterator[Server]:
    with Server(folder, ranges) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@contextmanager
def breaking_proxy(port: int, cuts: list[int]) -> Iterator[int]:
    """A port that leads to another, where each of the first connections breaks after so many bytes of answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        Thread(target=_accept, args=(listener, port, cuts), daemon=True).start()
        yield listener.getsockname()[1]


def _accept(listener: socket.socket, port: int, cuts: list[int]) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        server = socket.create_connection(("127.0.0.1", port))
        Thread(target=partial(_pump, client, server, [], False), daemon=True).start()
        Thread(target=partial(_pump, server, client, cuts, True), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket, cuts: list[int], may_cut: bool) -> None:
    sent = 0
    with suppress(OSError):
        while data := source.recv(4096):
            sent += len(data)
            if may_cut and cuts and sent > cuts[0]:
                cuts.pop(0)
                break
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
