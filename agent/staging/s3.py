"""Read and write S3 objects. Runs in helper processes only.

Three ways lead to S3: single requests of our own, which need no library (`s3_direct`); obstore, for
large objects and many small ones (`s3_fast`); and boto3, which takes long to load, for whatever
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
from agent.core.s3place import S3Place
from agent.staging import s3_fast
from agent.staging.checksums import digests, expected
from agent.staging.endpoint import NotPlain, plain_endpoint
from agent.staging.progress import Progress
from agent.staging.s3_boto import BotoS3, fetched, mismatches, not_written
from agent.staging.s3_direct import PATIENCE_SECONDS, DirectS3
from agent.staging.s3_fast import LARGE, line

# A result of at most so much goes up in one request of obstore's, if there are many.
SMALL, MANY = 4 << 20, 32

T = TypeVar("T")


def load() -> None:
    """Import what takes long, for a process that will need it."""
    s3_fast.load()


class Storage:
    """An S3 endpoint, chosen by the AWS SDK's own environment variables. Threads may share it.

    One that is not `patient` doesn't wait for credentials that are not to be had now.
    """

    def __init__(self, emit: Emit, *, path_style: bool, patient: bool = True) -> None:
        self._emit = emit
        endpoint = plain_endpoint(os.environ, path_style=path_style)
        self._boto = BotoS3(emit, path_style=path_style, patient=patient, alone=endpoint is None)
        self._direct = DirectS3(endpoint) if endpoint else None
        self._plain_fast = s3_fast.FastS3(endpoint) if endpoint else None

    def fetch(self, place: S3Place, path: str) -> dict[str, Any]:
        """Fetch an object into a file and check it against S3's size and checksums.

        Returns {"object", "size", "sha256", "checked"}. Raises NotThere (66), AgentError 65 when
        the checksum stays wrong, 69 or 77.
        """
        gives_up = {"gives_up_after_seconds": self._boto.patience_seconds + PATIENCE_SECONDS}
        self._emit({"event": "fetch_started", "what": str(place)} | gives_up)
        direct, fast = self._direct, self._plain_fast
        directly = None
        if direct and fast:
            directly = partial(_fetch, direct, fast, place, path, self._emit)
        return self._first_of(
            "fetch_fallback", place, directly, partial(self._boto.fetch, place, path)
        )

    def fetch_small(self, place: S3Place, path: str) -> dict[str, Any]:
        """Fetch one of many objects: a small one by one request, checked by its ETag."""
        fast = partial(self._fast.get, place.bucket, place.key, SMALL) if self._fast else None
        found = self._first_of("fetch_fallback", place, fast, lambda: None)
        # An ETag that is not an MD5 (parts, encryption): use the other checksums that S3 keeps.
        if found is None or md5(found[0], usedforsecurity=False).hexdigest() != found[1]:
            return self.fetch(place, path)
        try:
            Path(path).write_bytes(found[0])
        except OSError as error:
            raise not_written(error, f"fetch {place}") from error
        hashed = {"sha256": sha256(found[0]).hexdigest(), "checked": ["ETag", "size"]}
        return {"object": str(place), "size": len(found[0]), **hashed}

    def read(self, place: S3Place) -> bytes:
        """Return a small object's content."""
        directly = partial(self._direct.read, place) if self._direct else None
        return self._first_of("fetch_fallback", place, directly, partial(self._boto.read, place))

    def look(self, place: S3Place) -> tuple[int, str]:
        """Return an object's size in bytes, and S3's time as its Date header has it."""
        return self._boto.look(place)

    def put_file(self, file: Any, place: S3Place, callback: Callable[[int], None]) -> None:
        """Upload a path, or what has `read` and is read once; raise AgentError (73, 69 or 77)."""
        self._boto.put_file(file, place, callback)

    def put_small(self, data: bytes, place: S3Place) -> None:
        """Write one of many small objects; raise AgentError (73, 69 or 77)."""
        fast = partial(self._fast.put, place.bucket, place.key, data) if self._fast else None
        self._first_of("upload_fallback", place, fast, partial(self._boto.put, data, place))

    def put(self, data: bytes, place: S3Place, content_type: str | None = None) -> None:
        """Write a small object; raise AgentError (73, 69 or 77)."""
        directly = partial(self._direct.put, data, place, content_type) if self._direct else None
        boto = partial(self._boto.put, data, place, content_type)
        self._first_of("upload_fallback", place, directly, boto)

    def remove(self, place: S3Place) -> None:
        """Delete an object; a refusal is not a failure."""
        directly = partial(self._direct.remove, place) if self._direct else None
        self._first_of("upload_fallback", place, directly, partial(self._boto.remove, place))

    @property
    def _fast(self) -> s3_fast.FastS3 | None:
        return self._plain_fast if self._direct else self._boto.fast

    def _first_of(
        self, event: str, place: S3Place, ask: Callable[[], T] | None, boto: Callable[[], T]
    ) -> T:
        """Return what `ask` returns, or boto3's answer: it finds a cause out, or gets over it."""
        if ask is not None:
            try:
                return ask()
            except NotPlain:
                pass
            except Exception as error:
                name = os.path.basename(place.key)
                self._emit({"event": event, "what": name, "cause": line(error)})
        return boto()


def _fetch(
    direct: DirectS3, fast: s3_fast.FastS3, place: S3Place, path: str, emit: Emit
) -> dict[str, Any]:
    """Fetch a small object by one request, a large one by one for each part."""
    head, body = direct.open(place)
    size, wanted = int(head["ContentLength"]), expected(head)
    progress = Progress(emit, os.path.basename(place.key), size)
    if size >= LARGE:
        direct.close()  # its body comes in parts
    else:
        with open(path, "wb") as file:
            while data := body.read(s3_fast.CHUNK):
                file.write(data)
                progress(len(data))
    names = {name: parts for name, (_, parts) in wanted.items()}
    part_size = direct.part_size(place) if any(names.values()) else 0
    check = partial(digests, path, names, part_size)
    if size < LARGE:
        found = check()
    else:
        etag = head["ETag"]
        found = fast.get_file(place.bucket, place.key, path, size, etag, progress, check)
    if mismatches(path, size, wanted, found):
        raise NotPlain("not what S3's checksums say")
    return fetched(place, size, wanted, found)
