"""A web server that says hello: HTTP/1.1 with Content-Length, and gone as soon as it is told to end."""

import signal
import sys

# Process 1 of a container has no default action for SIGTERM: without this line the Pod lives for 30 s more. It stands
# before the other imports, which take a moment.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

import os  # noqa: E402
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer  # noqa: E402

PORT = int(os.environ.get("PORT", "5000"))


class Hello(BaseHTTPRequestHandler):
    # HTTP/1.0 would end every answer by closing the connection, which a port-forward notices late.
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet

    def do_GET(self) -> None:
        body = b"Hello from pythonapp\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    request_queue_size = 128  # many clients at once


if __name__ == "__main__":
    sys.stdout.write(f"listening on port {PORT}\n")
    sys.stdout.flush()
    Server(("", PORT), Hello).serve_forever()
