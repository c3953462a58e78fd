"""How the main node treats its workers: their copies, their records, their losses."""

import pytest

from agent.core.errors import TIME_LIMIT, TRY_AGAIN, AgentError
from agent.core.model import AGENT, FailureKind, Outcome
from agent.job.states import State
from agent.job.workers import Workers, judge_records
from tests.support.fakes import FakeWorkload
from tests.unit.job.parts import NODES, events, supervise


class Meeting:
    """The main node's side of a meeting, as far as its workers are asked for."""

    def __init__(self):
        self.exited, self.records, self.lost = {}, {}, set()
        self.ending = False
        self.sent = []
        self.silent = set()
        self.busy = set()

    def announce(self, directory, name, message, seconds=20.0):
        self.sent.append((name, message))

    def awaited(self):
        return sorted({1, 2} - self.records.keys() - self.lost)

    def seen_since(self, when):
        return not self.silent

    def computing(self):
        return self.busy


def workers(root, **env):
    supervisor, lines = supervise(root, NODES | env)
    meeting, run = Meeting(), FakeWorkload()
    supervisor.enter(State.RUNNING)
    return Workers(supervisor, run, meeting), supervisor, meeting, run, lines


def error(code=75):
    return AgentError("go on", "it can't", code=code)


def test_a_stop_is_sent_to_every_worker(tmp_path):
    made, supervisor, meeting, _, _ = workers(tmp_path)
    made.stop(error(), 15, 5.0)
    assert meeting.sent[0][0] == "stop.json"
    assert (meeting.sent[0][1]["signal"], meeting.sent[0][1]["grace"]) == (15, 5.0)
    meeting.busy = {2}
    assert made.computing()
    supervisor.loop.now = 60.0  # a worker that never reports is not waited for
    assert not made.computing()


@pytest.mark.parametrize("change", ["leaving", "direct"])
def test_a_stop_is_not_sent_where_nothing_runs(tmp_path, change):
    env = {"ARCHITRAVE_LAUNCHER": "direct"} if change == "direct" else {}
    made, _, meeting, _, _ = workers(tmp_path, **env)
    meeting.ending = change == "leaving"
    made.stop(error(), 15, 5.0)
    made.release_launchers()
    assert not meeting.sent


def test_a_copy_that_failed_stops_this_node_s(tmp_path):
    made, _, meeting, run, _ = workers(tmp_path, ARCHITRAVE_LAUNCHER="each")
    meeting.exited = {1: Outcome(0), 2: Outcome(9)}
    made.started()
    assert [stop[0].code for stop in run.stops] == [9]


def test_with_each_the_first_copy_that_failed_decides(tmp_path):
    made, supervisor, meeting, _, _ = workers(tmp_path, ARCHITRAVE_LAUNCHER="each")
    supervisor.loop.call_at(2, lambda: meeting.exited.update({2: Outcome(9, cause="it failed")}))
    found = made.outcome_with(Outcome(0))
    assert found.code == 9 and supervisor.loop.now == 2


def test_with_each_all_copies_are_waited_for(tmp_path):
    made, supervisor, meeting, _, _ = workers(tmp_path, ARCHITRAVE_LAUNCHER="each")
    supervisor.loop.call_at(2, lambda: meeting.exited.update({1: Outcome(0)}))
    supervisor.loop.call_at(7, lambda: meeting.exited.update({2: Outcome(0)}))
    assert made.outcome_with(Outcome(0)).code == 0 and supervisor.loop.now == 7


def test_with_each_a_copy_that_never_ends_is_a_time_limit(tmp_path):
    env = {"ARCHITRAVE_LAUNCHER": "each", "ARCHITRAVE_TIMEOUT_SECONDS": "10"}
    made, _, _, _, _ = workers(tmp_path, **env)
    with pytest.raises(AgentError) as raised:
        made.outcome_with(Outcome(0))
    assert raised.value.code == TIME_LIMIT and "1, 2" in raised.value.cause


def test_a_lost_worker_is_the_cause_of_mpirun_s_failure(tmp_path):
    """Mpirun's own code means nothing then: 75, which a retry strategy acts on."""
    made, supervisor, meeting, _, _ = workers(tmp_path)
    meeting.silent = {2}
    supervisor.loop.call_at(8, lambda: supervisor.fail(error(), FailureKind.PEER))
    with pytest.raises(AgentError) as raised:
        made.outcome_with(Outcome(1))
    assert raised.value.code == TRY_AGAIN


@pytest.mark.parametrize("outcome", [Outcome(0), Outcome(124, AGENT)])
def test_nobody_waits_for_a_heartbeat_where_mpirun_did_not_fail(tmp_path, outcome):
    made, supervisor, meeting, _, _ = workers(tmp_path)
    meeting.silent = {2}
    assert made.outcome_with(outcome) is outcome and supervisor.loop.now == 0


# -- records


def judge(root, outcome, records, lost=()):
    _, supervisor, meeting, _, lines = workers(root)
    supervisor.verdict.decide(outcome)
    meeting.records, meeting.lost = records, set(lost)
    judge_records(supervisor, meeting)
    return supervisor.verdict, lines


def test_records_of_all_change_nothing(tmp_path):
    verdict, lines = judge(tmp_path, Outcome(0), {1: {}, 2: {}})
    assert verdict.code == 0 and not events(lines, "error", "warning")


@pytest.mark.parametrize(("code", "expected"), [(0, TRY_AGAIN), (3, 3)])
def test_a_record_that_is_missing_is_75_after_success(tmp_path, code, expected):
    assert judge(tmp_path, Outcome(code), {1: {}})[0].code == expected
    assert judge(tmp_path / "lost", Outcome(code), {1: {}}, lost=[2])[0].code == expected


def test_a_worker_s_failure_is_the_job_s_after_success(tmp_path):
    failed = {"failure": error(73).to_json()}
    assert judge(tmp_path, Outcome(0), {1: {}, 2: failed})[0].code == 73


def test_a_rank_without_memory_is_named(tmp_path):
    records = {1: {}, 2: {"out_of_memory": "out of memory"}}
    verdict, lines = judge(tmp_path, Outcome(137), records)
    assert verdict.outcome.out_of_memory and verdict.code == 137
    assert events(lines, "error") == ["worker_out_of_memory"]
    assert lines[-1]["worker"] == 2
