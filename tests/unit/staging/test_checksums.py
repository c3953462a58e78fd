"""Checksums as S3 keeps them."""

import base64
import hashlib
import os
import zlib

from hypothesis import given
from hypothesis import strategies as st

from agent.staging import checksums


@given(st.binary(max_size=5000), st.integers(1, 700), st.booleans())
def test_checksums(content, part_size, plain):
    """Whole and part-wise digests are those of S3; an ETag counts if there is no other."""
    parts = [content[i : i + part_size] for i in range(0, len(content), part_size)] or [b""]
    crcs = b"".join(zlib.crc32(part).to_bytes(4, "big") for part in parts)
    md5s = b"".join(hashlib.md5(part).digest() for part in parts)
    head = {
        "ETag": f'"{hashlib.md5(md5s).hexdigest()}-{len(parts)}"',
        "ChecksumCRC32": f"{encoded(zlib.crc32(crcs).to_bytes(4, 'big'))}-{len(parts)}",
        "ChecksumSHA256": encoded(hashlib.sha256(content).digest()),
    }
    if plain:
        head = {"ETag": head["ETag"]}
    path = f"/tmp/architrave-test-{os.getpid()}"
    with open(path, "wb") as file:
        file.write(content)
    try:
        wanted = checksums.expected(head)
        found = checksums.digests(path, {n: p for n, (_, p) in wanted.items()}, part_size)
    finally:
        os.unlink(path)
    assert set(wanted) == ({"ETag"} if plain else head.keys() - {"ETag"})
    assert {name: found[name] for name in wanted} == {
        n: digest for n, (digest, _) in wanted.items()
    }
    assert found["sha256"] == hashlib.sha256(content).digest()


def encoded(digest):
    return base64.b64encode(digest).decode()


def test_etag_of_an_encrypted_object_is_no_checksum():
    head = {"ETag": '"0123456789abcdef0123456789abcdef"', "ServerSideEncryption": "aws:kms"}
    assert checksums.expected(head) == {}
    assert checksums.expected({"ETag": '"opaque"'}) == {}
