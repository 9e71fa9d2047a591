"""What takes an export as the panel does, at the address hosts know the panel by, so that one ends in good order."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from nspawnpanel.sandbox import Sandbox


class _Taker(BaseHTTPRequestHandler):
    """Keeps nothing but the sum of what came in order. A new export begins at 0."""

    have, digest = 0, hashlib.sha256()

    def do_POST(self) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        at, size = int(asked["offset"][0]), int(asked["size"][0])
        part = self.rfile.read(int(self.headers["Content-Length"] or 0))
        taker = type(self)
        if at == 0 and part:
            taker.have, taker.digest = 0, hashlib.sha256()
        follows = at == taker.have
        if follows and part:
            taker.digest.update(part)
            taker.have += len(part)
        whole = taker.digest.hexdigest() if taker.have == size else ""
        body = json.dumps({"received": taker.have, "sha256": whole}).encode()
        self.send_response(200 if follows else 409)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@contextlib.contextmanager
def listening(host: Sandbox) -> Iterator[str]:
    """The address that an Export order to this host names."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Taker", (_Taker,), {}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://{host.gateway}:{server.server_port}/transfer/x/"
    finally:
        server.shutdown()
        server.server_close()
