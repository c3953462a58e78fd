"""The run phase of one node: what is launched, what stops it, and which failure is reported."""

import math
import signal
import types

import pytest

from agent.core.errors import BUG, NOT_FOUND, AgentError
from agent.core.model import APPLICATION, Node, Outcome
from agent.job import run as module
from agent.job.parts import Parts
from agent.job.run import Peers
from tests.unit.job.parts import NODES, events, supervise

REASON = AgentError("stop the job", "SIGTERM", code=143)
SECONDS = 7.0
# No program is looked into for the use of MPI.
DIRECT = {"ARCHITRAVE_LAUNCHER": "direct"}


class FakeApplication:
    """The application's processes: it runs for some seconds, or until it is stopped."""

    error = None
    result = Outcome(0)

    def __init__(self, loop, log, output, **options):
        self.loop, self.output, self.options = loop, output, options
        self.child = self.stopped_for = None
        self.exited = self.finished = False
        self.real_seconds = 0.0
        self.calls = []
        made.append(self)

    def start(self, argv, env, cwd, time_limit, limit_hint, *, stdin, rlimits):
        self.argv, self.env, self.time_limit = list(argv), env, time_limit
        if self.error:
            raise self.error
        self.child = types.SimpleNamespace(user_seconds=2.0, system_seconds=0.5)
        self.loop.call_at(self.loop.now + SECONDS, self.end)

    def end(self):
        self.exited = True

    def stop(self, reason, number=signal.SIGTERM, max_grace=math.inf):
        self.stopped_for = self.stopped_for or reason
        self.calls.append(("stop", reason, number, max_grace))
        self.exited = True

    def forward(self, number):
        self.calls.append(("forward", number))

    def finish(self, wait):
        self.finished = True
        self.real_seconds = self.loop.now
        self.output.close()

    def outcome(self, *, launcher_aborts):
        self.launcher_aborts = launcher_aborts
        return self.result


class FakeOutput:
    """The output that the application writes; nothing does."""

    taken = closed = False

    def close(self):
        self.closed = True


class RecordingPeers(Peers):
    def __init__(self):
        self.calls = []

    def started(self):
        self.calls.append("started")

    def forward(self, number):
        self.calls.append(number)


made = []


@pytest.fixture
def phase(tmp_path, monkeypatch):
    """Return what makes the run phase of a node, with its supervisor, its log and its peers."""
    monkeypatch.setattr(module, "Application", FakeApplication)
    monkeypatch.setattr(FakeApplication, "error", None)
    monkeypatch.setattr(FakeApplication, "result", Outcome(0))
    made.clear()

    def make(env=None, program="/bin/true"):
        supervisor, lines = supervise(tmp_path, {**DIRECT, "APP_BIN": program, **(env or {})})
        supervisor.node = Node(supervisor.settings.topology.index, "", 1)
        supervisor.directory.take()
        parts = Parts(supervisor)
        parts.output_dir.open_log = FakeOutput
        parts.run.peers = RecordingPeers()
        return types.SimpleNamespace(
            it=parts.run, supervisor=supervisor, lines=lines, peers=parts.run.peers
        )

    return make


def test_the_application_runs_to_its_end(phase):
    made_phase = phase({"APP_PARAMS": "a b"})
    assert made_phase.it.launch(60) == Outcome(0)
    assert made[0].argv == ["/bin/true", "a", "b"] and made[0].time_limit == 60
    assert made[0].finished and made_phase.peers.calls == ["started"]
    assert made_phase.it.times == {"real": SECONDS, "user": 2.0, "sys": 0.5}
    assert events(made_phase.lines, "info") == ["application_starting", "application_exited"]


def test_a_program_that_is_not_there_is_never_started(phase):
    made_phase = phase(program="/nowhere/program")
    with pytest.raises(AgentError) as caught:
        made_phase.it.launch(0)
    assert caught.value.code == NOT_FOUND and not made
    assert made_phase.it.times == {"real": 0.0, "user": 0.0, "sys": 0.0}
    assert made_phase.it.last_lines() == []


def test_one_that_cannot_be_started_leaves_no_log_open(phase, monkeypatch):
    monkeypatch.setattr(FakeApplication, "error", AgentError("run it", "too long", code=71))
    made_phase = phase()
    with pytest.raises(AgentError):
        made_phase.it.launch(0)
    assert made[0].output.closed and made_phase.peers.calls == []


def test_a_failure_before_the_start_stops_it(phase):
    """A peer's failure may arrive while the program is looked for; the peers are told once."""
    made_phase = phase()
    made_phase.supervisor.fail(REASON)
    made_phase.it.launch(0)
    assert made[0].calls[0][:2] == ("stop", REASON)


def test_a_failure_of_the_job_is_not_explained_as_the_applications(phase, monkeypatch):
    monkeypatch.setattr(FakeApplication, "result", Outcome(1, APPLICATION))
    asked = []
    monkeypatch.setattr(module, "explain_failure", lambda outcome, *a, **k: asked.append(outcome))
    made_phase = phase()
    made_phase.supervisor.fail(REASON)
    assert made_phase.it.launch(0).code == 1 and not asked


def test_a_failure_of_its_own_is_explained(phase, monkeypatch):
    monkeypatch.setattr(FakeApplication, "result", Outcome(NOT_FOUND, APPLICATION))
    better = Outcome(NOT_FOUND, APPLICATION, cause="needs libx.so")
    monkeypatch.setattr(module, "explain_failure", lambda outcome, *a, **k: better)
    assert phase().it.launch(0) == better


def test_a_copy_for_each_node_knows_which_it_is(phase):
    made_phase = phase({**NODES, "ARCHITRAVE_LAUNCHER": "each"})
    made_phase.it.launch(0)
    env = made[0].env
    assert (env["NODE_RANK"], env["NODE_COUNT"]) == ("0", "3")


def test_stop_and_signals_before_the_launch_do_nothing(phase):
    made_phase = phase()
    made_phase.it.stop(REASON)
    made_phase.it.forward(signal.SIGUSR1)
    made_phase.it.finish()
    assert not made and not made_phase.it.stopping and made_phase.peers.calls == []


def test_signals_reach_the_peers_until_it_is_stopped(phase):
    made_phase = phase()
    loop = made_phase.supervisor.loop
    loop.call_at(1, lambda: made_phase.it.forward(signal.SIGUSR1))
    loop.call_at(2, lambda: made_phase.it.stop(REASON, signal.SIGTERM, 5))
    loop.call_at(2, lambda: made_phase.it.forward(signal.SIGUSR2))
    made_phase.it.launch(0)
    assert made_phase.peers.calls == ["started", signal.SIGUSR1]
    assert ("stop", REASON, signal.SIGTERM, 5) in made[0].calls


def interrupted(made_phase):
    """Let the launch be left by an error while the application still runs."""

    def fail():
        raise RuntimeError("a bug")

    made_phase.supervisor.loop.call_at(3, fail)
    with pytest.raises(RuntimeError):
        made_phase.it.launch(0)


def test_what_still_runs_is_stopped_at_the_end(phase):
    made_phase = phase()
    interrupted(made_phase)
    made_phase.supervisor.fail(REASON)
    made_phase.it.finish()
    assert made[0].calls[-1][:2] == ("stop", REASON) and made[0].finished
    made_phase.it.finish()
    assert len(made[0].calls) == 1


def test_results_are_kept_although_the_end_goes_wrong(phase, monkeypatch):
    made_phase = phase()
    interrupted(made_phase)

    def broken(self, wait):
        raise RuntimeError("another bug")

    monkeypatch.setattr(FakeApplication, "finish", broken)
    made_phase.it.finish()
    assert made_phase.supervisor.verdict.code == BUG
