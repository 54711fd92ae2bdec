"""A stand-in for the Hugging Face Hub: one model, served over HTTP from a folder."""

import hashlib
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

REVISION = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def served(folder: Path, model: str):
    """Serve `folder` as the newest revision of `model`; yields the address and the paths that were asked for."""
    asked = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self._answer(with_body=False)

        def do_GET(self):
            self._answer(with_body=True)

        def log_message(self, *args):
            pass

        def _answer(self, with_body):
            path = self.path.partition("?")[0].replace("%2F", "/")
            asked.append(path)
            if path.startswith("/api/models/gated/"):
                return self._refuse(403, "GatedRepo")
            if not path.removeprefix("/api/models").startswith(f"/{model}/"):
                return self._refuse(401, "RepoNotFound")
            kind, _, rest = path.removeprefix("/api/models").removeprefix(f"/{model}/").partition("/")
            if kind == "revision" and rest not in ("main", "v1"):
                return self._refuse(404, "RevisionNotFound")
            if kind == "revision":
                return self._json({"id": model, "sha": REVISION}, with_body)
            if kind == "tree":
                return self._json([_entry(file, folder) for file in _files(folder)], with_body)
            return self._send((folder / rest.partition("/")[2]).read_bytes(), with_body)

        def _json(self, value, with_body):
            self._send(json.dumps(value).encode(), with_body)

        def _send(self, body, with_body):
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", REVISION)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def _refuse(self, status, reason):
            self.send_response(status)
            self.send_header("X-Error-Code", reason)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _entry(file, folder):
    body = file.read_bytes()
    return {
        "type": "file",
        "path": file.relative_to(folder).as_posix(),
        "size": len(body),
        "oid": hashlib.sha1(body).hexdigest(),
    }
