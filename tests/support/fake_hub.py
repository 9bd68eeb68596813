"""A hub on loopback: as much of its interface as its own client library asks for to fetch one model."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves `repository` with these files. refusal: status and the hub's word for it, of every answer."""

    def __init__(
        self, repository: str, files: Mapping[str, bytes], refusal: tuple[int, str] | None = None
    ) -> None:
        self.repository, self.files, self.refusal = repository, files, refusal
        self.fetched: list[str] = []  # files whose bytes were sent
        self.address = ""


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(send=False)

        def do_GET(self) -> None:
            self._answer(send=True)

        def _answer(self, *, send: bool) -> None:
            path = self.path.partition("?")[0]
            files = f"/{hub.repository}/resolve/"
            if hub.refusal is not None:
                status, word = hub.refusal
                self._say(status, b"", send=send, **{"X-Error-Code": word})
            elif path.startswith(f"/api/models/{hub.repository}"):
                self._say(200, json.dumps(_about(hub)).encode(), send=send)
            elif path.startswith(files) and (name := path.rpartition("/")[2]) in hub.files:
                if send:
                    hub.fetched.append(name)
                etag = hashlib.sha256(hub.files[name]).hexdigest()
                head = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'}
                self._say(200, hub.files[name], send=send, **head)
            else:
                self._say(404, b"", send=send, **{"X-Error-Code": "EntryNotFound"})

        def _say(self, status: int, body: bytes, *, send: bool, **head: str) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | head).items():
                self.send_header(name, value)
            self.end_headers()
            if send:
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _about(hub: Hub) -> dict[str, object]:
    siblings = [{"rfilename": name, "size": len(content)} for name, content in hub.files.items()]
    return {"_id": "1", "id": hub.repository, "sha": COMMIT, "siblings": siblings}
