"""An S3 server that fails on demand: a small proxy in front of a real one.

Rules are by method, key and count; what no rule takes goes through unchanged. General proxies for
faults (of TCP connections) know neither keys nor S3's error answers.
"""

from __future__ import annotations

import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect"}
_CHUNK = 1 << 16


@dataclass
class Rule:
    """What happens to the next `times` requests of a method whose path ends in `key` (a pattern).

    `status` with S3's `code` answers at once; `stall` waits so many seconds before the answer;
    `reset` breaks the connection; `truncate` sends half of the body; `change` turns its last byte;
    `before` is called first.
    """

    method: str
    key: str
    times: float = float("inf")
    status: int = 0
    code: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    stall: float = 0.0
    reset: bool = False
    truncate: bool = False
    change: bool = False
    before: Callable[[], object] = lambda: None


class FailingS3:
    """The proxy on an address of this machine; `requests` are those that arrived, as "METHOD path".

    `regions` are those that requests were signed for. `upstream` is the endpoint of the real
    server, which may be known later than this one's; with a `certificate`, the path of one with its
    key, this one uses TLS.
    """

    def __init__(
        self, upstream: str = "", address: str = "127.0.0.1", certificate: str = ""
    ) -> None:
        self.upstream = upstream
        self.requests: list[str] = []
        self.regions: set[str] = set()
        self.rules: list[Rule] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._server = ThreadingHTTPServer((address, 0), self._handler())
        self._server.daemon_threads = True
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        scheme = "https" if certificate else "http"
        self.endpoint = f"{scheme}://{address}:{self._server.server_address[1]}"

    def __enter__(self) -> FailingS3:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()

    def rule(self, method: str, key: str, **what: object) -> Rule:
        """Add a rule and return it."""
        made = Rule(method, key, **what)  # type: ignore[arg-type]
        self.rules.append(made)
        return made

    def _take(self, method: str, path: str) -> Rule | None:
        with self._lock:
            self.requests.append(f"{method} {path}")
            for rule in self.rules:
                if rule.times > 0 and rule.method == method and re.search(f"{rule.key}$", path):
                    rule.times -= 1
                    return rule
        return None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                body = self._body()
                # Credential=KEY/DATE/REGION/s3/aws4_request
                if scope := re.search("Credential=[^,]*", self.headers.get("Authorization", "")):
                    proxy.regions.add(scope[0].split("/")[-3])
                rule = proxy._take(self.command, urlsplit(self.path).path)
                if rule is not None:
                    rule.before()
                    proxy._stopping.wait(rule.stall)
                    if rule.reset:
                        return self._break()
                    if rule.status:
                        return self._refuse(rule)
                self._pass(body, rule)
                return None

            do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

            def _body(self) -> bytes:
                """Return what arrived, by its length or in chunks, as boto3 sends it over TLS."""
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def _pass(self, body: bytes, rule: Rule | None) -> None:
                connection = HTTPConnection(urlsplit(proxy.upstream).netloc, timeout=60)
                connection.putrequest(
                    self.command, self.path, skip_host=True, skip_accept_encoding=True
                )
                for name, value in self.headers.items():
                    if name.lower() not in _HOP_BY_HOP:
                        connection.putheader(name, value)
                if self.headers.get("Transfer-Encoding") == "chunked":
                    connection.putheader("Content-Length", str(len(body)))
                connection.endheaders(body or None)
                answer = connection.getresponse()
                content = answer.read()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in _HOP_BY_HOP | {"content-length"}:
                        self.send_header(name, value)
                length = answer.getheader("Content-Length") or str(len(content))
                self.send_header("Content-Length", length)
                self.end_headers()
                if rule is not None and rule.truncate:
                    self.wfile.write(content[: len(content) // 2])
                    return self._break()
                if rule is not None and rule.change and content:
                    content = content[:-1] + bytes([content[-1] ^ 1])
                self.wfile.write(content)
                connection.close()
                return None

            def _refuse(self, rule: Rule) -> None:
                text = f"<Error><Code>{rule.code}</Code><Message>as configured</Message></Error>"
                content = b"" if self.command == "HEAD" else text.encode()
                self.send_response(rule.status)
                for name, value in rule.headers:
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/xml")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def _break(self) -> None:
                """End the connection without a FIN: what is on its way is lost."""
                self.wfile.flush()
                no_linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_linger)
                self.close_connection = True
                self.connection.close()

        return Handler
