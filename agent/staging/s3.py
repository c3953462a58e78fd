"""Read and write S3 objects. Runs in helper processes only.

There are three clients: single requests of our own, which need no library (`s3_direct`); obstore,
for large objects and many small ones (`s3_fast`); and boto3, which takes long to load, for whatever
the others can't do or fail in (`s3_boto`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from hashlib import md5, sha256
from pathlib import Path
from typing import Any, TypeVar

from agent.core.model import Emit
from agent.core.s3_uri import S3Uri
from agent.staging import s3_fast
from agent.staging.checksums import digests, expected
from agent.staging.endpoint import NotPlain, plain_endpoint
from agent.staging.progress import Progress
from agent.staging.s3_boto import BotoS3, fetched, mismatches, not_written
from agent.staging.s3_direct import PATIENCE_SECONDS, DirectS3
from agent.staging.s3_fast import LARGE, line

# A result of at most this size is uploaded in one request of obstore's, if there are many.
SMALL, MANY = 4 << 20, 32

T = TypeVar("T")


def load() -> None:
    """Import slow modules, for a process that will need them."""
    s3_fast.load()


class Storage:
    """An S3 endpoint, chosen by the AWS SDK's own environment variables. Threads may share it.

    One that is not `patient` doesn't wait for credentials that are not available now.
    """

    def __init__(self, emit: Emit, *, path_style: bool, patient: bool = True) -> None:
        self._emit = emit
        endpoint = plain_endpoint(os.environ, path_style=path_style)
        self._boto = BotoS3(emit, path_style=path_style, patient=patient, try_fast=endpoint is None)
        self._direct = DirectS3(endpoint) if endpoint else None
        self._plain_fast = s3_fast.FastS3(endpoint) if endpoint else None

    def fetch(self, uri: S3Uri, path: str) -> dict[str, Any]:
        """Fetch an object into a file and check it against S3's size and checksums.

        Returns {"object", "size", "sha256", "checked"}. Raises NotThere (66), AgentError 65 when
        the checksum stays wrong, 69 or 77.
        """
        gives_up = {"gives_up_after_seconds": self._boto.patience_seconds + PATIENCE_SECONDS}
        self._emit({"event": "fetch_started", "what": str(uri)} | gives_up)
        direct, fast = self._direct, self._plain_fast
        directly = None
        if direct and fast:
            directly = partial(_fetch, direct, fast, uri, path, self._emit)
        return self._first_of("fetch_fallback", uri, directly, partial(self._boto.fetch, uri, path))

    def fetch_small(self, uri: S3Uri, path: str) -> dict[str, Any]:
        """Fetch one of many objects: a small one by one request, checked by its ETag."""
        fast = partial(self._fast.get, uri.bucket, uri.key, SMALL) if self._fast else None
        found = self._first_of("fetch_fallback", uri, fast, lambda: None)
        # An ETag that is not an MD5 (parts, encryption): use the other checksums that S3 keeps.
        if found is None or md5(found[0], usedforsecurity=False).hexdigest() != found[1]:
            return self.fetch(uri, path)
        try:
            Path(path).write_bytes(found[0])
        except OSError as error:
            raise not_written(error, f"fetch {uri}") from error
        hashed = {"sha256": sha256(found[0]).hexdigest(), "checked": ["ETag", "size"]}
        return {"object": str(uri), "size": len(found[0]), **hashed}

    def read(self, uri: S3Uri) -> bytes:
        """Return a small object's content."""
        directly = partial(self._direct.read, uri) if self._direct else None
        return self._first_of("fetch_fallback", uri, directly, partial(self._boto.read, uri))

    def look(self, uri: S3Uri) -> tuple[int, str]:
        """Return an object's size in bytes, and S3's time as its Date header has it."""
        return self._boto.look(uri)

    def put_file(self, file: Any, uri: S3Uri, callback: Callable[[int], None]) -> None:
        """Upload a path, or what has `read` and is read once; raise AgentError (73, 69 or 77)."""
        self._boto.put_file(file, uri, callback)

    def put_small(self, data: bytes, uri: S3Uri) -> None:
        """Write one of many small objects; raise AgentError (73, 69 or 77)."""
        fast = partial(self._fast.put, uri.bucket, uri.key, data) if self._fast else None
        self._first_of("upload_fallback", uri, fast, partial(self._boto.put, data, uri))

    def put(self, data: bytes, uri: S3Uri, content_type: str | None = None) -> None:
        """Write a small object; raise AgentError (73, 69 or 77)."""
        directly = partial(self._direct.put, data, uri, content_type) if self._direct else None
        boto = partial(self._boto.put, data, uri, content_type)
        self._first_of("upload_fallback", uri, directly, boto)

    def remove(self, uri: S3Uri) -> None:
        """Delete an object; a refusal is not a failure."""
        directly = partial(self._direct.remove, uri) if self._direct else None
        self._first_of("upload_fallback", uri, directly, partial(self._boto.remove, uri))

    @property
    def _fast(self) -> s3_fast.FastS3 | None:
        return self._plain_fast if self._direct else self._boto.fast

    def _first_of(
        self, event: str, uri: S3Uri, ask: Callable[[], T] | None, boto: Callable[[], T]
    ) -> T:
        """Return what `ask` returns, or boto3's answer: boto3 finds the cause, or recovers."""
        if ask is not None:
            try:
                return ask()
            except NotPlain:
                pass
            except Exception as error:
                name = os.path.basename(uri.key)
                # Of uploads there may be thousands.
                level = "debug" if event == "upload_fallback" else "info"
                self._emit({"log": level, "event": event, "what": name, "cause": line(error)})
        return boto()


def _fetch(
    direct: DirectS3, fast: s3_fast.FastS3, uri: S3Uri, path: str, emit: Emit
) -> dict[str, Any]:
    """Fetch a small object by one request, a large one by one for each part."""
    head, body = direct.open(uri)
    size, wanted = int(head["ContentLength"]), expected(head)
    progress = Progress(emit, os.path.basename(uri.key), size)
    if size >= LARGE:
        direct.close()  # its body comes in parts
    else:
        with open(path, "wb") as file:
            while data := body.read(s3_fast.CHUNK):
                file.write(data)
                progress(len(data))
    names = {name: parts for name, (_, parts) in wanted.items()}
    part_size = direct.part_size(uri) if any(names.values()) else 0
    check = partial(digests, path, names, part_size)
    if size < LARGE:
        found = check()
    else:
        etag = head["ETag"]
        found = fast.get_file(uri.bucket, uri.key, path, size, etag, progress, check)
    if mismatches(path, size, wanted, found):
        raise NotPlain("not what S3's checksums say")
    return fetched(uri, size, wanted, found)
