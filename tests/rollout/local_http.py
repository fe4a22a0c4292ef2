"""A server of this process on a free port, for tests of what goes over HTTP."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    """Answers with a status and JSON values, or a text as it is; logs nothing."""

    def do_GET(self) -> None:
        self.send(*self.get())

    def do_POST(self) -> None:
        self.send(*self.post(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

    def get(self) -> tuple[int, Any]:
        raise NotImplementedError

    def post(self, body: Any) -> tuple[int, Any]:
        raise NotImplementedError

    def send(self, status: int, value: Any) -> None:
        """Bytes are sent as they are, as if they were JSON."""
        data = value.encode() if isinstance(value, str) else value
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        if not isinstance(value, str):
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def start(handler: type[Handler]) -> tuple[ThreadingHTTPServer, str]:
    """The server and its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"
