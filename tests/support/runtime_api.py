"""A server of the Lambda Runtime API: what AWS Lambda is to a function's container.

GET  /2018-06-01/runtime/invocation/next           blocks until there is an invocation
POST /2018-06-01/runtime/invocation/ID/response    its answer
POST /2018-06-01/runtime/invocation/ID/error       its failure
POST /2018-06-01/runtime/init/error                the environment can't serve
"""

import json
import queue
import threading
import time
import uuid
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

PREFIX = "/2018-06-01/runtime/"


@dataclass
class Answer:
    """What a function sent; `kind` is response, error or init."""

    id: str
    kind: str
    body: dict
    seconds: float


class RuntimeApi:
    """Serves one environment; a context manager."""

    def __init__(self):
        self.address = ""
        self.answers = queue.Queue()
        self.asked = queue.Queue()
        self._events = queue.Queue()
        self._began = {}

    def __enter__(self):
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                assert self.path == f"{PREFIX}invocation/next", self.path
                api.asked.put(time.monotonic())
                event = api._next()
                if event is None:
                    self.close_connection = True
                else:
                    self._reply(200, *event)

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                segments = self.path.removeprefix(PREFIX).split("/")
                api._take(segments, json.loads(body))
                self._reply(202, {}, b'{"status":"OK"}')

            def _reply(self, status, headers, body):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        """Hang up on clients that wait for an invocation, and answer no more."""
        self._events.put(None)
        self._server.shutdown()
        self._server.server_close()

    def invoke(self, event, seconds=30.0, patience=60):
        """Invoke the function with a time limit; return its answer."""
        self.begin(event, seconds)
        return self.answers.get(timeout=patience)

    def begin(self, event, seconds=30.0):
        """Invoke the function without waiting for its answer."""
        text = event if isinstance(event, str) else json.dumps(event)
        self._events.put((str(uuid.uuid4()), text, seconds))

    def _next(self):
        event = self._events.get()
        if event is None:
            return None
        name, text, seconds = event
        self._began[name] = time.monotonic()
        headers = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": name,
            "Lambda-Runtime-Deadline-Ms": str(int(1000 * (time.time() + seconds))),
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:us-east-1:1:function:f",
            "Lambda-Runtime-Trace-Id": "Root=1-0-0",
        }
        return headers, text.encode()

    def _take(self, segments, body):
        if segments[0] == "init":
            self.answers.put(Answer("", "init", body, 0.0))
        else:
            _, name, kind = segments
            self.answers.put(Answer(name, kind, body, time.monotonic() - self._began[name]))


@pytest.fixture
def api():
    """Start a server of the Runtime API."""
    with RuntimeApi() as server:
        yield server
