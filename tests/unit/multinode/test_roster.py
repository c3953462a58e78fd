"""The roster of the workers."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.core.model import Topology
from agent.multinode.roster import Refused, Roster, index_of, parse

TOPOLOGY = Topology("job", 2, index=1, count=4, main_index=1)
GOOD = {"index": 2, "address": "10.0.0.2", "slots": 4, "job": "job", "attempt": 2, "version": "1"}


def data(**change):
    return json.dumps(GOOD | change).encode()


def test_good_file():
    node = parse("2.json", data(), TOPOLOGY)
    assert (node.index, node.address, node.slots, node.version) == (2, "10.0.0.2", 4, "1")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("2.json", data(attempt=1)),
        ("2.json", data(job="other")),
        ("2.json", data(index=3)),
        ("2.json", data(index="2")),
        ("2.json", data(index=True)),
        ("2.json", data(slots=0)),
        ("2.json", data(slots=10**9)),
        ("2.json", data(address="worker; rm -rf /")),
        ("2.json", data(address="10.0.0.2 slots=9")),
        ("2.json", data()[:-5]),
        ("2.json", b""),
        ("2.json", b"[" * 50_000),
        ("2.json", b"x" * 70_000),
        ("2.json", b"null"),
        ("1.json", data(index=1)),
        ("9.json", data(index=9)),
        ("02.json", data()),
        ("2.txt", data()),
    ],
)
@pytest.mark.cell("security.readiness")
def test_refused(name, content):
    """Another attempt, index or form is refused, and the file is named."""
    with pytest.raises(Refused, match=name.replace(".", r"\.")):
        parse(name, content, TOPOLOGY)


@given(st.text(max_size=20), st.binary(max_size=200))
@pytest.mark.cell("chance.parsers", "security.readiness")
def test_any_bytes(name, content):
    """Anything that a stranger writes is refused, and nothing else happens."""
    with pytest.raises(Refused):
        parse(name, content, TOPOLOGY)


def test_index_of():
    assert index_of("12.json") == 12
    assert index_of("0.json") == 0
    assert index_of("-1.json") is None
    assert index_of("１.json") is None


class Meeting(RuleBasedStateMachine):
    """Joins, duplicates, strangers, heartbeats, losses, records, in any order, on a given clock."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.roster = Roster(TOPOLOGY, silence=10)
        self.seen_at = {}
        self.joined = {}

    @rule(index=st.sampled_from([0, 2, 3]))
    def joins(self, index):
        file = data(index=index, address=f"10.0.0.{index + 1}")
        node = self.roster.offer(f"{index}.json", file, self.now)
        assert (node is None) == (index in self.joined)
        self.joined.setdefault(index, f"10.0.0.{index + 1}")
        self.seen_at[index] = self.now

    @rule(index=st.sampled_from([0, 2, 3]), host=st.integers(100, 200))
    def a_second_one_comes(self, index, host):
        if index not in self.joined:
            return
        with pytest.raises(Refused):
            file = data(index=index, address=f"10.0.0.{host}")
            self.roster.offer(f"{index}.json", file, self.now)

    @rule(index=st.integers(4, 9), attempt=st.integers(0, 5))
    def a_stranger_comes(self, index, attempt):
        with pytest.raises(Refused):
            self.roster.offer(f"{index}.json", data(index=index, attempt=attempt), self.now)

    @rule(index=st.sampled_from([0, 2, 3]))
    def parts(self, index):
        self.roster.leave(index)
        self.seen_at.pop(index, None)

    @rule(seconds=st.floats(0, 15))
    def time_passes(self, seconds):
        self.now += seconds

    @invariant()
    def the_roll_is_right(self):
        assert self.roster.missing == [i for i in (0, 2, 3) if i not in self.joined]
        assert {i: n.address for i, n in self.roster.nodes.items()} == self.joined
        silent = [i for i, seen_at in sorted(self.seen_at.items()) if self.now - seen_at > 10]
        assert self.roster.silent(self.now) == silent


TestMeeting = Meeting.TestCase
