"""A file that is read while its parts arrive in any order."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.staging.checksums import digests
from agent.staging.s3_fast import _Arriving


@given(st.permutations(range(8)))
def test_what_is_there_has_no_gap(order):
    arriving = _Arriving()
    for count, part in enumerate(order, 1):
        arriving.add(10 * part, 10 * part + 10)
        arrived = set(order[:count])
        whole = next((n for n in range(8) if n not in arrived), 8)
        arriving.wait(10 * whole)
        assert arriving._there == 10 * whole


def test_a_transfer_that_fails_lets_nobody_wait():
    arriving = _Arriving()
    arriving.add(10, 20)
    threading.Timer(0.05, arriving.fail).start()
    with pytest.raises(EOFError, match="0 bytes of 20"):
        arriving.wait(20)


def test_digests_follow_what_arrives(tmp_path):
    content = bytes(range(256)) * 20_000
    path = tmp_path / "file"
    path.write_bytes(content)
    whole = digests(str(path), {"ETag": 2}, 3_000_000)
    path.write_bytes(bytes(len(content)))
    arriving = _Arriving()

    asked = threading.Semaphore(0)
    step = 1_100_003  # no block size, and larger than one that is read

    def write():
        with path.open("r+b", buffering=0) as file:
            later = ((start,) for start in range(3 * step, len(content), step))
            for starts in ((0,), (2 * step, step), *later):
                for start in starts:
                    end = min(start + step, len(content))
                    file.seek(start)
                    file.write(content[start:end])
                    arriving.add(start, end)
                # The next ones arrive when the reader needs what is missing.
                asked.acquire(timeout=10)

    def wait(end):
        if arriving._there < end:
            asked.release()
        arriving.wait(end)

    threading.Thread(target=write, daemon=True).start()
    assert digests(str(path), {"ETag": 2}, 3_000_000, wait) == whole
