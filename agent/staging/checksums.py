"""Check a file against the checksums that S3 keeps for an object."""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

_BLOCK = 1 << 20


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


# CRC32C and CRC64NVME need a library of their own; size and ETag are checked instead.
_CHECKSUMS: dict[str, Callable[[], _Hash]] = {
    "ChecksumSHA256": hashlib.sha256,
    "ChecksumSHA1": hashlib.sha1,
    "ChecksumCRC32": _Crc32,
}


def _new(name: str) -> _Hash:
    if name == "ETag":
        return hashlib.md5(usedforsecurity=False)
    return _CHECKSUMS[name]()


def expected(head: Mapping[str, Any]) -> dict[str, tuple[bytes, int]]:
    """Return what can be checked: {name: (digest, number of parts)}; 0 parts for the whole object.

    `head` is the answer of HeadObject with ChecksumMode=ENABLED. An ETag is an MD5 unless KMS or a
    customer's key encrypts the object; `-N` at its end, or at a checksum's, means the digest of N
    parts' digests (Amazon S3 user guide, "Checking object integrity").
    """
    found = {}
    etag = str(head.get("ETag", "")).strip('"')
    encrypted = (
        head.get("ServerSideEncryption", "AES256") != "AES256" or "SSECustomerAlgorithm" in head
    )
    match = re.fullmatch(r"([0-9a-f]{32})(?:-(\d+))?", etag)
    for name in _CHECKSUMS:
        text, _, parts = str(head.get(name, "")).partition("-")
        if text:
            found[name] = (base64.b64decode(text), int(parts or 0))
    # MD5 takes three times as long as SHA-256: only where S3 has nothing better.
    if match and not encrypted and not found:
        found["ETag"] = (bytes.fromhex(match[1]), int(match[2] or 0))
    return found


def digests(
    path: str,
    names: Mapping[str, int],
    part_size: int,
    wait: Callable[[int], None] = lambda end: None,
) -> dict[str, bytes]:
    """Read a file once; return its SHA-256 as `sha256` and the digest for each name.

    `names` maps to the number of parts, 0 for the whole; `part_size` is in bytes. A file that is
    still being written has its size already, and `wait` returns when it is there up to an offset.
    """
    sha = hashlib.sha256()
    whole = {name: _new(name) for name, parts in names.items() if not parts}
    outer = {name: _new(name) for name, parts in names.items() if parts}
    for part in _parts(path, part_size if outer else 0, wait):
        inner = {name: _new(name) for name in outer}
        for block in part:
            for one in (sha, *whole.values(), *inner.values()):
                one.update(block)
        for name, one in inner.items():
            outer[name].update(one.digest())
    return {"sha256": sha.digest()} | {n: one.digest() for n, one in (whole | outer).items()}


def _parts(path: str, part_size: int, wait: Callable[[int], None]) -> Iterator[Iterator[bytes]]:
    """Yield each part of a file as an iterator of blocks; with no part size the file is one."""
    # Unbuffered: nothing is read that has not been waited for.
    with open(path, "rb", buffering=0) as file:
        left = size = file.seek(0, 2)
        file.seek(0)
        while left > 0 or size == 0:
            length = min(left, part_size) if part_size else left
            yield _blocks(file, length, wait)
            left -= length
            if size == 0:
                return


def _blocks(file: Any, length: int, wait: Callable[[int], None]) -> Iterator[bytes]:
    while length > 0:
        max_bytes = min(_BLOCK, length)
        wait(file.tell() + max_bytes)
        block = file.read(max_bytes)
        if not block:
            return
        length -= len(block)
        yield block
