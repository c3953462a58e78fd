"""The ranks that mpirun starts on a worker: stopped once, which is reported to the main node."""

import types

import pytest

from agent.core.errors import AgentError
from agent.core.model import FailureKind, Outcome
from agent.job import ranks as module
from agent.job.ranks import LEAVE_SECONDS, Ranks
from agent.multinode.meeting import STOPPED
from tests.unit.job.parts import events, supervise

REASON = AgentError("stop the job", "SIGTERM", code=143)
GRACE = 30


class Stopping:
    """The stop of the processes here, which the test controls."""

    def __init__(self, loop, log, own, **options):
        self.calls = []
        self.over = False
        self.elsewhere = options.get("elsewhere")
        self.on_quiet = options.get("on_quiet")
        made.append(self)

    def __getattr__(self, name):
        return lambda *given: self.calls.append((name, *given))


made = []


@pytest.fixture
def ranks(tmp_path, monkeypatch):
    made.clear()
    monkeypatch.setattr(module, "Stopping", Stopping)
    supervisor, lines = supervise(tmp_path, {"ARCHITRAVE_GRACE_SECONDS": str(GRACE)})
    meeting = types.SimpleNamespace(joined=True, released=False, outcome=None, sent=[])
    meeting.put = lambda name, message: meeting.sent.append(name)
    return types.SimpleNamespace(
        it=Ranks(supervisor, meeting), meeting=meeting, supervisor=supervisor, lines=lines
    )


@pytest.mark.parametrize(("max_grace", "grace"), [(5, 5), (600, GRACE)])
def test_they_have_the_grace_period_and_no_more(ranks, max_grace, grace):
    ranks.it.stop(REASON, 10, max_grace)
    assert made[0].calls == [("begin", 10, grace)] and ranks.it.stopping
    assert events(ranks.lines, "info") == ["application_stopping"]


def test_a_second_stop_kills(ranks):
    ranks.it.stop(REASON)
    ranks.it.stop(REASON)
    assert made[0].calls[1:] == [("kill",)] and len(made) == 1


def test_a_node_that_has_not_joined_has_none(ranks):
    ranks.meeting.joined = False
    ranks.it.stop(REASON)
    ranks.it.finish()
    assert not made


def test_the_main_node_is_notified_when_no_rank_is_left(ranks):
    ranks.it.stop(REASON)
    made[0].on_quiet()
    assert ranks.meeting.sent == [STOPPED]


def test_launchers_are_held_until_the_main_node_lets_them_go(ranks):
    ranks.it.stop(REASON)
    assert made[0].elsewhere()
    ranks.meeting.outcome = Outcome(0)
    assert not made[0].elsewhere()
    ranks.meeting.outcome = None
    ranks.supervisor.fail(AgentError("join", "lost", code=75), kind=FailureKind.MAIN_LOST)
    assert not made[0].elsewhere()


def test_the_end_waits_for_what_is_being_stopped(ranks):
    ranks.it.stop(REASON)
    ranks.it.finish()
    assert ranks.supervisor.loop.clock() == GRACE + LEAVE_SECONDS
    assert made[0].calls[-1] == ("cancel",)


def test_the_end_stops_what_still_runs(ranks):
    ranks.supervisor.loop.call_at(1, lambda: setattr(made[0], "over", True))
    ranks.it.finish()
    assert made[0].calls[0][0] == "begin" and ranks.supervisor.loop.clock() == 1
