"""A web server that says hello: HTTP/1.1 with Content-Length, and gone as soon as it is told to end."""

import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = int(os.environ.get("PORT", "5000"))


class Hello(BaseHTTPRequestHandler):
    # HTTP/1.0 would end every answer by closing the connection, which a port-forward notices late.
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b"Hello from pythonapp\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    # Process 1 of a container has no default action for SIGTERM: without this line the Pod lives for 30 s more.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    sys.stdout.write(f"listening on port {PORT}\n")
    sys.stdout.flush()
    ThreadingHTTPServer(("", PORT), Hello).serve_forever()
