"""A worker's link to the main node while the job runs.

OpenSSH's client carries it and the agent uses SFTP through its pipes: a helper with paramiko
would hold 30 MiB on every node for as long as the application runs.
"""

from __future__ import annotations

import os
import posixpath
import struct
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

from agent.engine.loop import Loop
from agent.engine.pipe import read, spawn

# SFTP version 3, which OpenSSH's server implements (draft-ietf-secsh-filexfer-02).
_INIT, _VERSION = 1, 2
_OPEN, _CLOSE, _WRITE, _SETSTAT, _STAT, _EXTENDED = 3, 4, 6, 9, 17, 200
_STATUS, _HANDLE, _ATTRS = 101, 102, 105
_CREATE = 0x02 | 0x08 | 0x10  # write, create, truncate
_HAS_SIZE, _HAS_OWNER, _HAS_MODE, _HAS_TIMES = 1, 2, 4, 8
# Every server takes packets of 34000 bytes (section 3 of the draft).
_PIECE = 32 << 10
_LONGEST = 1 << 18
_STDERR_TAIL = 500

# A request: a packet's type and its body; an answer: the same.
_Steps = Generator[tuple[int, bytes], tuple[int, bytes], dict[str, Any]]


class HeartbeatLink:
    """An SFTP session with the main node that executes one request after the other.

    Its messages are {"beat": n} and {"put": path}, one for each request. When one fails the session
    is over, `done`, and `cause` says why.
    """

    def __init__(
        self,
        loop: Loop,
        command: Sequence[str],
        env: Mapping[str, str],
        on_message: Callable[[dict[str, Any]], None],
    ) -> None:
        self.open = False
        self.cause = ""
        self.seen = loop.clock()
        self._loop = loop
        self._on_message = on_message
        self._received = b""
        self._number = 0
        self._steps: _Steps | None = None
        self._next: tuple[int, bytes] | None = None
        self.child, self._sender, self._answers, self._stderr = spawn(loop, command, env)
        loop.watch(self._answers, self._on_output)
        self._send(_INIT, struct.pack(">I", 3), numbered=False)

    @property
    def done(self) -> bool:
        """Return whether the session is over."""
        return self._answers < 0

    @property
    def busy(self) -> bool:
        """Return whether a request is being executed; `seen` is when the last answer arrived."""
        return not self.done and self._steps is not None

    def ask(self, order: Mapping[str, Any]) -> bool:
        """Execute one request; return whether it could be started.

        {"do": "beat", "path"} touches a file and reads main's count; {"do": "put", "path", "data"}
        writes a file atomically.
        """
        if self.done or self._steps is not None:
            return False
        self.seen = self._loop.clock()
        if order["do"] == "beat":
            self._steps = _beat(order["path"])
        elif order["do"] == "put":
            data = order["data"].encode()
            pieces: Iterator[bytes] = (data[at : at + _PIECE] for at in range(0, len(data), _PIECE))
            self._steps = _put(order["path"], pieces)
        else:
            pieces = self._pieces(order["file"])
            self._steps = _put(order["path"], pieces, self._beats(order["ready"], order["every"]))
        self._next = next(self._steps)
        self._go_on()
        return True

    def _pieces(self, path: str) -> Iterator[bytes]:
        with open(path, "rb") as file:
            while piece := file.read(_PIECE):
                yield piece

    def _beats(self, ready: str, every: float) -> Callable[[], _Steps | None]:
        """Return what gives the steps of a beat when one is due, during a long request."""
        due = self._loop.clock()

        def beat() -> _Steps | None:
            nonlocal due
            if self._loop.clock() < due:
                return None
            due = self._loop.clock() + every
            return self._seen_beat(ready)

        return beat

    def _seen_beat(self, ready: str) -> _Steps:
        message = yield from _beat(ready)
        self._on_message(message)
        return message

    def _go_on(self) -> None:
        if self.open and self._next is not None:
            self._send(*self._next)
            self._next = None

    def _send(self, kind: int, body: bytes, *, numbered: bool = True) -> None:
        if numbered:
            self._number += 1
            body = struct.pack(">I", self._number) + body
        self._sender.send(struct.pack(">IB", len(body) + 1, kind) + body)

    def _on_output(self) -> None:
        data = read(self._answers)
        if data is None:
            return
        if not data:
            self.close(self._stderr_tail() or "connection lost")
            return
        self.seen = self._loop.clock()
        self._received += data
        while len(self._received) >= 5 and not self.done:
            length, kind = struct.unpack_from(">IB", self._received)
            if length > _LONGEST:
                self.close(f"the main node's sshd sent a packet of {length} bytes")
                return
            if len(self._received) < 4 + length:
                return
            body, self._received = self._received[5 : 4 + length], self._received[4 + length :]
            try:
                self._take(kind, body)
            except (OSError, struct.error) as error:
                self.close(str(error))

    def _take(self, kind: int, body: bytes) -> None:
        """Handle one packet: the request that waits for it continues."""
        if kind == _VERSION:
            self.open = True
        elif self._steps is not None:
            if kind == _STATUS and (code := struct.unpack_from(">I", body, 4)[0]):
                raise OSError(f"the main node's sshd answers with status {code}")
            try:
                self._next = self._steps.send((kind, body[4:]))
            except StopIteration as end:
                self._steps = None
                self._on_message(end.value)
                return
        self._go_on()

    def _stderr_tail(self) -> str:
        """Return the last line that ssh has written."""
        output = read(self._stderr) or b""
        lines = output.decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:_STDERR_TAIL] if lines else ""

    def close(self, cause: str = "") -> None:
        """Close the session; `cause` says why."""
        self.cause = self.cause or cause
        if self.child.running:
            self.child.kill_group(9)
        self._sender.close()
        if self._answers >= 0:
            self._loop.unwatch(self._answers)
            os.close(self._answers)
            os.close(self._stderr)
            self._answers = -1


def _beat(path: str) -> _Steps:
    """Touch a file; return the time of the main node's file, which is its count of beats."""
    now = int(time.time())
    yield _SETSTAT, _string(path) + struct.pack(">III", _HAS_TIMES, now, now)
    kind, body = yield _STAT, _string("main.json")
    if kind != _ATTRS:
        raise OSError(f"the main node's sshd sent {kind} in place of attributes")
    (flags,) = struct.unpack_from(">I", body)
    sizes = {_HAS_SIZE: 8, _HAS_OWNER: 8, _HAS_MODE: 4}
    offset = 4 + sum(size for flag, size in sizes.items() if flags & flag)
    return {"beat": struct.unpack_from(">II", body, offset)[1]}


def _put(
    path: str, pieces: Iterator[bytes], beats: Callable[[], _Steps | None] = lambda: None
) -> _Steps:
    """Write a file under a temporary name and rename it. Send a heartbeat when one is due."""
    folder, name = posixpath.split(path)
    temporary = _string(posixpath.join(folder, f".{name}.{os.urandom(8).hex()}"))
    kind, handle = yield _OPEN, temporary + struct.pack(">II", _CREATE, 0)
    if kind != _HANDLE:
        raise OSError(f"the main node's sshd sent {kind} in place of a handle")
    offset = 0
    for piece in pieces:
        if (beat := beats()) is not None:
            yield from beat
        yield _WRITE, handle + struct.pack(">QI", offset, len(piece)) + piece
        offset += len(piece)
    yield _CLOSE, handle
    yield _EXTENDED, _string("posix-rename@openssh.com") + temporary + _string(path)
    return {"put": path}


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">I", len(data)) + data
