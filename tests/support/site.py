"""A web server of files on this machine that reads pieces of them, and fails where it is told to."""

import base64
import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Site:
    """A running server. asked: method, path and range of each request that it has answered.

    down: it breaks every connection off. failing: how many of the next requests it answers with `status` instead.
    pieces: whether it reads ranges. version: what it tells of a file's, "ETag" or "Last-Modified". secret:
    "user:password", without which nothing is read.
    """

    port: int = 0
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    down: bool = False
    failing: int = 0
    status: int = 503
    pieces: bool = True
    version: str = "ETag"
    secret: str | None = None

    def url(self, name: str, user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self.port}/{name}"


@contextmanager
def site(folder: Path) -> Iterator[Site]:
    """Serves the files of a folder."""
    about = Site()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # connections are kept, as by servers out there

        def do_GET(self) -> None:
            if about.down:
                self.close_connection = True
                return None
            wanted = self.headers.get("Range")
            about.asked.append((self.command, self.path, wanted))
            if about.failing > 0:
                about.failing -= 1
                return self.answer(about.status, b"")
            token = base64.b64encode((about.secret or "").encode()).decode()
            if about.secret is not None and self.headers.get("Authorization") != f"Basic {token}":
                return self.answer(401, b"")
            file = folder / self.path.partition("?")[0].strip("/")
            if not file.is_file():
                return self.answer(404, b"")
            body = file.read_bytes()
            tag = hashlib.sha1(body).hexdigest()
            version = {"ETag": f'"{tag}"', "Last-Modified": formatdate(file.stat().st_mtime, usegmt=True)}
            told = {about.version: version[about.version]}
            if wanted is None or not about.pieces:
                return self.answer(200, body, told)
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted)
            assert found is not None, wanted
            start, end = int(found[1]), min(int(found[2]) + 1, len(body))
            self.answer(206, body[start:end], told | {"Content-Range": f"bytes {start}-{end - 1}/{len(body)}"})

        def answer(self, status: int, body: bytes, told: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (told or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *args) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        about.port = server.server_port
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield about
        server.shutdown()
