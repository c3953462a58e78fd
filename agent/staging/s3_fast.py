"""Move objects with obstore, where this succeeds. Runs in helper processes only, behind `s3`.

Measured against boto3 (benchmarks/transfers.py): a large object is downloaded in half of the time
and a quarter of the processor seconds, many small ones are uploaded in a tenth of them. What fails
here is repeated by boto3, which finds the cause: no error of obstore's is ever shown.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

from agent.staging.endpoint import Endpoint

Wait = Callable[[int], None]
Digests = dict[str, bytes]

_MIB = 1 << 20
# From this size on obstore is faster; below, a single request suffices.
LARGE = 16 * _MIB
# Of a large object. Written as they come, by small chunks: whole parts in memory take twice the
# time, most of it the kernel's, for pages that are given back and asked for again.
_PART_SIZE, _PARTS_AT_ONCE, CHUNK = 16 * _MIB, 4, _MIB
_RETRY_SECONDS, _REQUEST_SECONDS = 60, 60
_RETRIES: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=_RETRY_SECONDS)}
_TIMES: Any = {
    "connect_timeout": timedelta(seconds=10),
    "timeout": timedelta(seconds=_REQUEST_SECONDS),
}
# The longest time that a request takes to fail finally.
PATIENCE_SECONDS = _RETRY_SECONDS + _REQUEST_SECONDS
# Credentials are fetched again so often; botocore refreshes those that expire.
_CREDENTIALS_LAST = timedelta(minutes=5)


class _Arriving:
    """How much of a file has arrived without a gap, while its parts arrive in any order."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._ahead: dict[int, int] = {}
        self._there = 0
        self._failed = False

    def add(self, start: int, end: int) -> None:
        """Note that the bytes from `start` to `end` are in the file."""
        with self._changed:
            self._ahead[start] = end
            while self._there in self._ahead:
                self._there = self._ahead.pop(self._there)
            self._changed.notify_all()

    def fail(self) -> None:
        """Release every waiter."""
        with self._changed:
            self._failed = True
            self._changed.notify_all()

    def wait(self, end: int) -> None:
        """Wait until all before `end` has arrived; raise EOFError if it never will."""
        with self._changed:
            self._changed.wait_for(lambda: self._there >= end or self._failed)
            if self._there < end:
                raise EOFError(f"{self._there} bytes of {end}")


def load() -> None:
    """Import obstore."""
    import obstore.store  # noqa: F401


class FastS3:
    """One endpoint; threads may share it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._stores: dict[str, Any] = {}

    def get_file(
        self,
        bucket: str,
        key: str,
        path: str,
        size: int,
        etag: str,
        progress: Callable[[int], None],
        check: Callable[[Wait], Digests],
    ) -> Digests:
        """Fetch an object of a known size and ETag into a file; raise any error.

        `check` reads the file meanwhile, as far as it has waited for; its answer is returned.
        """
        import obstore

        store = self._store(bucket)
        arriving = _Arriving()
        with open(path, "wb", buffering=0) as file:
            file.truncate(size)

            def get(start: int) -> None:
                end = min(start + _PART_SIZE, size)
                # Parts of two versions are never put together.
                part: Any = {"range": (start, end), "if_match": etag}
                at = start
                for data in obstore.get(store, key, options=part).stream(min_chunk_size=CHUNK):
                    view = memoryview(data)
                    while view:
                        written = os.pwrite(file.fileno(), view, at)
                        view, at = view[written:], at + written
                        progress(written)
                if at != end:
                    raise EOFError(f"{at - start} bytes of {end - start}")
                arriving.add(start, end)

            with ThreadPoolExecutor(_PARTS_AT_ONCE + 1) as pool:
                checked = pool.submit(check, arriving.wait)
                try:
                    for _ in pool.map(get, range(0, size, _PART_SIZE)):
                        pass
                except BaseException:
                    arriving.fail()
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
                return checked.result()

    def get(self, bucket: str, key: str, max_bytes: int) -> tuple[bytes, str] | None:
        """Fetch an object of at most so many bytes, with its ETag; None if it is larger."""
        import obstore

        found = obstore.get(self._store(bucket), key)
        if found.meta["size"] > max_bytes:
            return None
        return bytes(found.bytes()), str(found.meta["e_tag"]).strip('"')

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Write a small object with its SHA-256, which S3 checks; raise any error."""
        import obstore

        obstore.put(self._store(bucket), key, data, use_multipart=False)

    def _store(self, bucket: str) -> Any:
        from obstore.store import S3Store

        if bucket not in self._stores:
            url, where, _, path_style, _ = self._endpoint
            self._stores[bucket] = S3Store(
                bucket,
                endpoint=url if path_style else _host_of(url, bucket),
                region=where,
                virtual_hosted_style_request=not path_style,
                checksum_algorithm="SHA256",
                credential_provider=self._frozen,
                retry_config=_RETRIES,
                client_options=self._options(url),
            )
        return self._stores[bucket]

    def _options(self, url: str) -> Any:
        if url.startswith("http://"):
            return _TIMES | {"allow_http": True}
        with open(self._endpoint.authorities, "rb") as file:
            return _TIMES | {"root_certificate": file.read()}

    def _frozen(self) -> Any:
        """Return the credentials of this moment, as obstore asks for them."""
        found = self._endpoint.credentials()
        return {
            "access_key_id": found.access_key,
            "secret_access_key": found.secret_key,
            "token": found.token or None,
            "expires_at": datetime.now(UTC) + _CREDENTIALS_LAST,
        }


def _host_of(endpoint: str, bucket: str) -> str:
    """Return the endpoint with the bucket in its host name, as AWS has it."""
    scheme, _, host = endpoint.partition("://")
    return f"{scheme}://{bucket}.{host}"


def line(error: Exception) -> str:
    """Return the first line of an error: obstore's have a page of debug output below it."""
    return next(iter(str(error).splitlines()), type(error).__name__)
