"""How a node finds its own address and interface."""

import pytest

from agent.core.errors import AgentError
from agent.multinode import network


@pytest.mark.parametrize(
    ("interface", "named"),
    [("", "find this node's address"), ("eth7", "ARCHITRAVE_INTERFACE='eth7'")],
)
def test_no_address(monkeypatch, interface, named):
    """The error names a variable only if the user has set it."""
    monkeypatch.setattr(network, "interface_address", lambda name: "")
    with pytest.raises(AgentError) as error:
        network.own_address("", interface, "")
    assert error.value.code == 78 and named in str(error.value)
    assert ("ARCHITRAVE_INTERFACE" in str(error.value)) == bool(interface)
