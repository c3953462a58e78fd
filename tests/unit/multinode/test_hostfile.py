"""Hostfiles: what is written can be read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.model import Node
from agent.multinode import hostfile

NODES = st.builds(
    Node,
    index=st.integers(0, 1000),
    address=st.ip_addresses(v=4).map(str),
    slots=st.integers(1, 512),
)


@given(st.lists(NODES, max_size=20))
@pytest.mark.cell("chance.parsers")
def test_hostfile_comes_back(nodes):
    assert hostfile.parse(hostfile.write(nodes)) == [(n.address, n.slots) for n in nodes]
    rows = hostfile.parse(hostfile.deduped(nodes))
    assert sum(slots for _, slots in rows) == sum(n.slots for n in nodes)
    assert len({address for address, _ in rows}) == len(rows)


def test_hostfile_refuses_another_form():
    with pytest.raises(ValueError, match="hostfile"):
        hostfile.parse("10.0.0.1 slots=two")
