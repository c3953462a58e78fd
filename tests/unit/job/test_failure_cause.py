"""Causes that an exit code alone doesn't name."""

from functools import partial

import pytest

from agent.core.model import APPLICATION, Outcome
from agent.job.failure_cause import explain_failure

explain = partial(
    explain_failure,
    program="/opt/app",
    env={"PATH": "/nowhere"},
    last_output="",
    by_mpirun=False,
    nodes=1,
    stack=8 << 20,
    ask=lambda *arguments: "",
)
CRASHED = Outcome(139, APPLICATION, 11, cause="application was killed by signal 11")


@pytest.mark.parametrize("outcome", [CRASHED, Outcome(139, APPLICATION)])
def test_a_segmentation_fault_names_the_stack_limit(outcome):
    """Also a rank's, whose code is all that mpirun gives."""
    found = explain(outcome)
    assert "8192 KiB" in found.cause and "ARCHITRAVE_ULIMITS=stack=unlimited" in found.hint
    assert (found.code, found.signal, found.source) == (139, outcome.signal, APPLICATION)
    assert explain(outcome, stack=-1) == outcome


def test_libraries_that_are_too_old():
    """The loader's own message, and the distributions that have what it wants."""
    line = "/lib/libc.so.6: version `GLIBC_%s' not found (required by /opt/app)"
    outcome = Outcome(1, APPLICATION, cause="application exited with 1")
    found = explain(outcome, last_output=f"{line % '2.38'}\n{line % '2.34'}\n")
    assert "GLIBC_2.38" in found.cause and found.code == 1
    assert "Debian 13" in found.hint and "Debian 12" not in found.hint
    newest = explain(outcome, last_output=line % "2.99")
    assert "GLIBC_2.99" in newest.cause and "Debian" not in newest.hint
    assert explain(outcome, last_output="version 2 not found") == outcome
