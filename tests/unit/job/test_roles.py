"""How the main node and a worker end a job, from what their peers do."""

import types

import pytest

from agent.core.errors import AgentError
from agent.core.model import FailureKind, NodeFiles, Outcome
from agent.job.main_node import MainNode
from agent.job.states import State
from agent.job.worker import Worker
from tests.unit.job.parts import NODES, events, supervise

UPLOADED = {"count": 1, "files": [], "lost": 0, "failed": []}
WORKER = NODES | {
    "AWS_BATCH_JOB_NODE_INDEX": "1",
    "AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS": "10.0.0.1",
}


class Upload:
    """An upload that succeeds; it records its calls."""

    stored_list = "stored"

    def __init__(self):
        self.calls = []

    def begin(self):
        self.calls.append("begin")

    def finish(self):
        self.calls.append("finish")
        return UPLOADED

    def skip(self):
        self.calls.append("skip")


class Meeting:
    """Both sides of a meeting, as far as the end of a job needs them."""

    joined = True
    announcing = False

    def __init__(self):
        self.outcome = self.final = None
        self.records, self.lost, self.announced, self.put_files = {}, set(), [], []
        self.arrives = True
        self.closed = False
        self.left = [1, 2]

    def put(self, directory, message):
        self.put_files.append((directory, message))
        return lambda: self.arrives

    def put_file(self, directory, end, path):
        self.put_files.append((directory, path))
        return lambda: self.arrives

    def announce_end(self, name, outcome):
        self.announced.append((name, outcome.code))

    def announce_again(self):
        pass

    def awaited(self):
        return self.left

    def close(self):
        self.closed = True


def role(root, kind, env, code=0):
    """Return a role whose application has exited with `code`, its meeting, and its parts."""
    supervisor, lines = supervise(root, env)
    monitor = types.SimpleNamespace(stopped=False)
    monitor.stop = lambda: setattr(monitor, "stopped", True)
    record = types.SimpleNamespace(
        written=[],
        begin_page=lambda: None,
        of_node=lambda uploaded: {"files": []},
        write_node=lambda uploaded: NodeFiles("", "", True),
    )
    record.write = record.written.append
    parts = types.SimpleNamespace(
        supervisor=supervisor, monitor=monitor, upload=Upload(), record=record
    )
    made = kind(parts)
    made._meeting = Meeting()
    for state in (State.JOINING, State.RUNNING, State.STOPPING):
        supervisor.enter(state)
    supervisor.verdict.decide(Outcome(code))
    return made, made._meeting, parts, supervisor, lines


def fails(supervisor, kind, code=75):
    error = AgentError("go on", "it can't", code=code)
    supervisor.loop.call_at(supervisor.loop.now + 1, lambda: supervisor.fail(error, kind))


# -- a worker


@pytest.mark.parametrize("code", [0, 7])
def test_a_worker_ends_with_the_code_that_the_main_node_sends(tmp_path, code):
    made, meeting, parts, supervisor, _ = role(tmp_path, Worker, WORKER)
    meeting.outcome = Outcome(0)
    supervisor.loop.call_at(9, lambda: setattr(meeting, "final", Outcome(code)))
    made.finish()
    assert supervisor.verdict.code == code and meeting.closed and parts.monitor.stopped
    assert [directory for directory, _ in meeting.put_files] == ["workers_done"] * 2


@pytest.mark.parametrize(("code", "expected"), [(0, 75), (7, 7)])
def test_a_worker_that_loses_the_main_node_at_the_end(tmp_path, code, expected):
    """75 after success; its results are on S3."""
    made, meeting, parts, supervisor, _ = role(tmp_path, Worker, WORKER, code)
    meeting.outcome = Outcome(code)
    fails(supervisor, FailureKind.MAIN_LOST)
    made.finish()
    assert supervisor.verdict.code == expected and parts.upload.calls == ["begin", "finish"]


def test_the_first_failure_decides_also_when_the_main_node_is_lost(tmp_path):
    made, meeting, _, supervisor, _ = role(tmp_path, Worker, WORKER)
    meeting.outcome = Outcome(0)
    supervisor.fail(AgentError("job stopped", "received SIGTERM", code=143), FailureKind.SIGNAL)
    fails(supervisor, FailureKind.MAIN_LOST)
    made.finish()
    assert supervisor.verdict.code == 143


@pytest.mark.parametrize("code", [0, 7])
def test_a_worker_that_was_frozen_while_it_waited_is_75(tmp_path, code):
    made, meeting, _, supervisor, _ = role(tmp_path, Worker, WORKER, code)
    meeting.outcome = Outcome(code)
    fails(supervisor, FailureKind.FROZEN)
    made.finish()
    assert supervisor.verdict.code == 75


def test_a_worker_that_was_declared_lost_uploads_nothing(tmp_path):
    made, meeting, parts, supervisor, _ = role(tmp_path, Worker, WORKER)
    supervisor.fail(AgentError("frozen", "for 12 s", code=75), FailureKind.FROZEN)
    made.finish()
    assert parts.upload.calls == ["skip"] and not meeting.put_files


def test_a_worker_that_never_joined_uploads_and_waits_for_nobody(tmp_path):
    made, meeting, parts, supervisor, _ = role(tmp_path, Worker, WORKER, 75)
    meeting.joined = False
    made.finish()
    assert parts.upload.calls == ["begin", "finish"] and not meeting.put_files
    assert supervisor.loop.now == 0


def test_a_record_that_never_arrives_does_not_hold_a_worker(tmp_path):
    made, meeting, _, supervisor, _ = role(tmp_path, Worker, WORKER)
    supervisor.fail(AgentError("start sshd", "no", code=71))
    meeting.arrives = False
    meeting.outcome = None
    fails(supervisor, FailureKind.MAIN_LOST)
    made.finish()
    assert supervisor.loop.now <= 60


# -- the main node


def test_the_main_node_waits_for_every_record_and_sends_the_code_last(tmp_path):
    made, meeting, parts, supervisor, _ = role(tmp_path, MainNode, NODES)
    meeting.records = {i: {"files": NodeFiles("", "", True)} for i in (1, 2)}
    supervisor.loop.call_at(30, meeting.left.clear)
    made.finish()
    assert supervisor.verdict.code == 0 and meeting.closed
    assert meeting.announced == [("done", 0), ("final", 0)]
    assert [sorted(nodes) for nodes in parts.record.written] == [[0, 1, 2]]


def test_a_worker_that_is_lost_in_the_end_is_the_job_s_75(tmp_path):
    made, meeting, _, supervisor, _ = role(tmp_path, MainNode, NODES)
    meeting.records = {1: {"files": NodeFiles("", "", True)}}
    supervisor.loop.call_at(30, lambda: (meeting.lost.add(2), meeting.left.clear()))
    made.finish()
    assert supervisor.verdict.code == 75
    assert meeting.announced == [("done", 0), ("final", 75)]


def test_a_main_node_that_was_frozen_writes_no_record(tmp_path):
    made, meeting, parts, supervisor, _ = role(tmp_path, MainNode, NODES)
    fails(supervisor, FailureKind.FROZEN)
    made.finish()
    assert parts.upload.calls == ["begin", "finish", "skip"] and not parts.record.written
    assert [name for name, _ in meeting.announced] == ["done"]


def test_a_main_node_that_met_nobody_uploads_what_there_is(tmp_path):
    made, _, parts, _, lines = role(tmp_path, MainNode, NODES, 75)
    made._meeting = None
    made.finish()
    assert parts.upload.calls == ["begin", "finish"]
    assert [sorted(nodes) for nodes in parts.record.written] == [[0]]
    assert "wait_started" not in events(lines)
