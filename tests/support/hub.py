"""A hub of models on this machine: folders served as huggingface_hub asks for them, and its ways to say no."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REFUSALS = {"gated": (403, "GatedRepo"), "private": (401, "RepoNotFound"), "broken": (400, "")}


def commit(revision: str) -> str:
    return hashlib.sha1(revision.encode()).hexdigest()


@contextmanager
def hub(root: Path) -> Iterator[str]:
    """Serves `root/user/model/revision/…`; the address. Names of `REFUSALS` are refused."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int, code: str = "", body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            found = re.fullmatch(r"/api/models/(\w+/[\w-]+)(?:/(?:revision|tree)/([^/]+))?(/.*)?", path)
            asked = found or re.fullmatch(r"/(\w+/[\w-]+)/resolve/([^/]+)/(.+)", path)
            if asked is None:
                return self.answer(404, "RepoNotFound")
            model, revision = asked[1], asked[2] or "main"
            if refusal := REFUSALS.get(model.partition("/")[2]):
                return self.answer(*refusal)
            if not (root / model).is_dir():
                return self.answer(404, "RepoNotFound")
            names = {commit(one.name): one for one in (root / model).iterdir()}
            folder = names.get(revision, root / model / revision)
            if not folder.is_dir():
                return self.answer(404, "RevisionNotFound")
            if found:
                files = [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]
                told: object = {"id": model, "sha": commit(folder.name), "siblings": [{"rfilename": f} for f in files]}
                if "/tree/" in path:
                    files = [file for file in files if file.startswith((found[3] or "/")[1:])]
                    told = [{"type": "file", "path": f, "size": (folder / f).stat().st_size, "oid": f} for f in files]
                body = json.dumps(told).encode()
                return self.answer(200, "", body, Content_Type="application/json")
            if not (folder / asked[3]).is_file():
                return self.answer(404, "EntryNotFound", X_Repo_Commit=commit(folder.name))
            body = (folder / asked[3]).read_bytes()
            tag = f'"{hashlib.sha1(body).hexdigest()}"'
            self.answer(200, "", body, ETag=tag, X_Repo_Commit=commit(folder.name))

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *args) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
