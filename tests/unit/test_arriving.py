"""A file that is read while its parts arrive in any order."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.fastlane import _Arriving
from agent.integrity import digests


@given(st.permutations(range(8)))
def test_what_is_there_has_no_gap(order):
    arriving = _Arriving()
    for count, part in enumerate(order, 1):
        arriving.add(10 * part, 10 * part + 10)
        came = set(order[:count])
        whole = next((n for n in range(8) if n not in came), 8)
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

    def write():
        with path.open("r+b") as file:
            for start in (2_000_000, 4_000_000, 0):
                end = min(start + 2_000_000, len(content))
                file.seek(start)
                file.write(content[start:end])
                file.flush()
                arriving.add(start, end)

    threading.Thread(target=write).start()
    assert digests(str(path), {"ETag": 2}, 3_000_000, arriving.wait) == whole
