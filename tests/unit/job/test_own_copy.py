"""A worker's own copy of the application: launched on request, stopped with the job."""

import types

import pytest

from agent.core.errors import AgentError
from agent.core.model import Outcome
from agent.job.own_copy import OwnCopy, stop_as_main_does
from agent.multinode.meeting import ENDED
from tests.support.fakes import FakeWorkload
from tests.unit.job.parts import supervise

STOP = {
    "error": AgentError("stop the job", "SIGTERM", code=143).to_json(),
    "signal": 10,
    "grace": 7.5,
}


class Run(FakeWorkload):
    """The run phase; the application exits with a code at once."""

    peers = None

    def __init__(self, code):
        super().__init__()
        self.code = code
        self.limits = []

    def launch(self, time_limit):
        self.limits.append(time_limit)
        self.peers.started()
        return Outcome(self.code)


class Meeting:
    stop = outcome = None
    on_outcome = None

    def __init__(self):
        self.sent = []

    def put(self, name, message):
        self.sent.append((name, message["code"]))
        return lambda: True


@pytest.fixture
def copy(tmp_path):
    supervisor, _ = supervise(tmp_path, {"ARCHITRAVE_TIMEOUT_SECONDS": "60"})
    supervisor.workload = run = Run(9)
    hostfiles = types.SimpleNamespace(texts=[])
    hostfiles.write_text = lambda path, text: hostfiles.texts.append((path, text))
    parts = types.SimpleNamespace(supervisor=supervisor, run=run, hostfiles=hostfiles)
    meeting = Meeting()
    return types.SimpleNamespace(
        it=OwnCopy(parts, meeting), run=run, meeting=meeting, hostfiles=hostfiles
    )


def test_it_runs_within_the_job_s_limit_and_reports_its_code(copy):
    copy.it.launch({"hostfile": "10.0.0.1 slots=2\n"})
    assert copy.run.limits == [60]
    assert copy.hostfiles.texts == [("/tmp/hostfile", "10.0.0.1 slots=2\n")]
    assert copy.meeting.sent == [(ENDED, 9)]
    assert copy.run.stops == []


@pytest.mark.parametrize(("code", "expected"), [(0, 143), (7, 7)])
def test_it_ends_when_the_job_ends(copy, code, expected):
    copy.meeting.on_outcome(Outcome(code))
    copy.meeting.on_outcome(Outcome(code))
    assert [reason.code for reason, _, _ in copy.run.stops] == [expected]


def test_what_was_sent_before_it_ran(copy):
    """A stop, and the outcome, that arrived while the node was on its way."""
    copy.meeting.stop, copy.meeting.outcome = STOP, Outcome(5)
    copy.it.launch({"hostfile": ""})
    ((reason, number, grace),) = copy.run.stops
    assert (reason.code, number, grace) == (143, 10, 7.5)


def test_a_second_stop_changes_nothing(tmp_path):
    supervisor, _ = supervise(tmp_path)
    for _ in range(2):
        stop_as_main_does(supervisor, STOP)
    assert len(supervisor.workload.stops) == 1
