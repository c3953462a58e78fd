"""Upload result files to S3, and report the size and the SHA-256 of each as uploaded.

A file may change while it is read. Then it is sent again, and finally as a stream whose digest is
computed from what is sent. Runs in helper processes only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from hashlib import sha256
from typing import IO, Any

from agent.core.errors import CANNOT_WRITE, AgentError, os_reason
from agent.core.model import Emit
from agent.core.s3_uri import S3Uri
from agent.staging.checksums import digests
from agent.staging.progress import Progress
from agent.staging.s3 import SMALL, Storage

_UPLOADS_AT_ONCE = 8
# How many are given to the threads ahead: a million results must not be in memory as tasks.
_IN_FLIGHT = 32
# From here on a file is hashed during its upload; a thread for each smaller one gains nothing.
_LARGE = 64 << 20
# A file that has changed meanwhile is sent again, after so long.
_PAUSES = (0.2, 0.5, 1.0)
# Two changes in the same tick of the kernel's clock can't be distinguished.
_TICK_SECONDS = 0.02

File = dict[str, Any]


class Sender:
    """Sends files below one prefix, several at once; one that fails doesn't hold up the rest.

    `many` small ones are sent by obstore. `stored` is called for each file with what
    S3 has, {"name", "size", "sha256"}, and "final": False where it kept changing;
    `failed` with what could not be uploaded.
    """

    def __init__(
        self,
        storage: Storage,
        uri: S3Uri,
        path_of: Callable[[str], str],
        *,
        many: bool,
        size: int,
        emit: Emit,
        stored: Callable[[File], None],
        failed: Callable[[File], None],
    ) -> None:
        self._storage = storage
        self._uri = uri
        self._path_of = path_of
        self._many = many
        self._emit = emit
        self._stored = stored
        self._failed = failed
        self._progress = Progress(emit, "results", size)

    def send(self, names: Iterable[str]) -> None:
        """Send them all."""
        running: dict[Future[File], str] = {}
        with ThreadPoolExecutor(_UPLOADS_AT_ONCE) as pool:
            for name in names:
                running[pool.submit(self._send_one, name)] = name
                if len(running) >= _IN_FLIGHT:
                    self._take(running, wait(running, return_when=FIRST_COMPLETED).done)
            self._take(running, wait(running).done)

    def _take(self, running: dict[Future[File], str], done: Iterable[Future[File]]) -> None:
        for future in done:
            name = running.pop(future)
            try:
                file = future.result()
            except AgentError as error:
                self._failed({"name": name, **error.to_json()})
            except FileNotFoundError:
                # A temporary file that its program removed: not a result.
                self._emit({"log": "warning", "event": "file_vanished", "file": name})
            except Exception as error:
                cause = os_reason(error) if isinstance(error, OSError) else str(error)
                wrong = AgentError(f"upload {name!r}", cause, code=CANNOT_WRITE)
                self._failed({"name": name, **wrong.to_json()})
            else:
                if not file.get("final", True):
                    hint = "stop what still writes to it before the program exits"
                    line = {"log": "warning", "event": "file_not_final", "file": name, "hint": hint}
                    self._emit(line)
                self._stored(file)

    def _send_one(self, name: str) -> File:
        path = self._path_of(name)
        for pause in (*_PAUSES, None):
            before = _state(path)
            try:
                size, digest = self._send_as_it_is(path, name, before[1])
                if _state(path) == before:
                    return {"name": name, "size": size, "sha256": digest}
            except AgentError:
                # A file that has become shorter breaks the request that sends it.
                if _state(path) == before:
                    raise
            if pause is not None:
                time.sleep(pause)
        size, digest = self._send_as_a_stream(path, name)
        return {"name": name, "size": size, "sha256": digest, "final": False}

    def _send_as_it_is(self, path: str, name: str, size: int) -> tuple[int, str]:
        """Send a file that probably doesn't change; return its size and digest."""
        if size <= SMALL:
            with open(path, "rb") as file:
                data = file.read(size)
            put = self._storage.put_small if self._many else self._storage.put
            put(data, self._uri / name)
            self._progress(len(data))
            return len(data), sha256(data).hexdigest()
        _let_a_tick_pass(path)
        if size < _LARGE:
            hashed = digests(path, {}, 0)
            self._storage.put_file(path, self._uri / name, self._progress)
        else:
            with ThreadPoolExecutor(1) as hashing:
                hash_ = hashing.submit(digests, path, {}, 0)
                self._storage.put_file(path, self._uri / name, self._progress)
                hashed = hash_.result()
        return size, hashed["sha256"].hex()

    def _send_as_a_stream(self, path: str, name: str) -> tuple[int, str]:
        with open(path, "rb") as file:
            # No more than there is now: it may grow faster than it is sent.
            stream = _Stream(file, os.fstat(file.fileno()).st_size)
            self._storage.put_file(stream, self._uri / name, lambda count: None)
        return stream.size, stream.digest


class _Stream:
    """A file that is read once, from its beginning to its end at that time; without a rewind."""

    def __init__(self, file: IO[bytes], max_bytes: int) -> None:
        self.size = 0
        self._file = file
        self._left = max_bytes
        self._hash = sha256()

    @property
    def digest(self) -> str:
        """Return the digest of what has been read."""
        return self._hash.hexdigest()

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        data = self._file.read(self._left if size < 0 else min(size, self._left))
        self.size += len(data)
        self._left -= len(data)
        self._hash.update(data)
        return data


def _state(path: str) -> tuple[int, int, int, int]:
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _let_a_tick_pass(path: str) -> None:
    age = time.time() - os.stat(path).st_mtime
    if 0 <= age < _TICK_SECONDS:
        time.sleep(_TICK_SECONDS - age)
