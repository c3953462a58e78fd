"""A job's exit code, from its role's work and finish: no cluster, no application."""

import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import AgentError
from agent.core.model import AGENT, FailureKind, Outcome
from agent.job import lifecycle
from agent.job.states import State
from tests.unit.job.parts import events, supervise


class Role:
    """A role with the work and finish that the test gives."""

    def __init__(self, supervisor, work, finish=lambda supervisor: None):
        self.closed = False
        self._work, self._finish = work, finish
        self.parts = types.SimpleNamespace(
            supervisor=supervisor,
            output_dir=types.SimpleNamespace(close=self._close),
            run=types.SimpleNamespace(last_lines=lambda: ["the last line"]),
        )

    def _close(self):
        self.closed = True

    def work(self):
        supervisor = self.parts.supervisor
        supervisor.enter(State.RUNNING, "run")
        self._work(supervisor)

    def finish(self):
        self._finish(self.parts.supervisor)


def ends(code):
    return lambda supervisor: supervisor.verdict.decide(Outcome(code, cause=f"exited with {code}"))


def fails(code, kind=FailureKind.OTHER):
    """Return work in which a failure is noted, and aborts the current wait."""

    def work(supervisor):
        error = AgentError("go on", "it can't", code=code)
        supervisor.loop.call_at(1, lambda: supervisor.fail(error, kind))
        supervisor.wait("the application", lambda: False, 60)

    return work


def breaks(supervisor):
    raise ZeroDivisionError("a bug")


def run(root, work, finish=lambda supervisor: None, env=None, **options):
    supervisor, lines = supervise(root, env)
    role = Role(supervisor, work, finish)
    code = lifecycle.run(role, **options)
    return code, role, lines


@pytest.mark.parametrize("code", [0, 1, 127, 255])
def test_the_application_s_code_is_the_job_s(tmp_path, code):
    found, role, lines = run(tmp_path, ends(code))
    assert found == code and role.closed
    assert (tmp_path / "tmp/batch-exit-code").read_text() == f"{code}\n"
    assert events(lines)[-1] == "job_exited"
    assert ("last_lines" in lines[-1]) == bool(code)
    assert events(lines, "error") == (["application_failed", "job_exited"] if code else [])


@given(code=st.integers(1, 255), kind=st.sampled_from(list(FailureKind)))
def test_a_failure_that_ends_the_work_is_the_job_s(tmp_path_factory, code, kind):
    found, _, lines = run(tmp_path_factory.mktemp("root"), fails(code, kind))
    assert found == code
    assert events(lines, "error") == ["error", "job_exited"]


def test_an_outcome_of_the_agent_s_is_no_failure_of_the_application(tmp_path):
    """A worker learns that another node was lost: alarms must not count its application."""

    def work(supervisor):
        supervisor.verdict.decide(Outcome(75, AGENT, cause="lost worker 2"))

    code, _, lines = run(tmp_path, work)
    assert code == 75 and events(lines, "error") == ["job_failed", "job_exited"]


def test_a_failure_that_is_not_the_first_is_logged_once(tmp_path):
    def work(supervisor):
        supervisor.fail(AgentError("first", "it can't", code=143), FailureKind.SIGNAL)
        supervisor.enter(State.STOPPING)
        lost = AgentError("second", "it can't", code=75)
        supervisor.loop.call_at(1, lambda: supervisor.fail(lost, FailureKind.MAIN_LOST))
        supervisor.wait("the main node", lambda: False, 60)

    code, _, lines = run(tmp_path, work)
    assert code == 143
    assert [line["what"] for line in lines if line["event"] == "error"] == ["first", "second"]


def test_a_bug_in_the_work_is_70_and_the_rest_is_done(tmp_path):
    finished = []
    found, role, lines = run(tmp_path, breaks, finished.append)
    assert found == 70 and finished and role.closed
    assert role.parts.supervisor.workload.finished
    assert events(lines, "error") == ["internal_error", "error", "job_exited"]


@pytest.mark.parametrize(("code", "expected"), [(0, 70), (3, 3)])
def test_a_bug_at_the_end_counts_only_after_success(tmp_path, code, expected):
    assert run(tmp_path, ends(code), breaks)[0] == expected


@pytest.mark.parametrize(("code", "expected"), [(0, 73), (3, 3)])
def test_results_that_can_t_be_written_count_only_after_success(tmp_path, code, expected):
    def finish(supervisor):
        supervisor.enter(State.UPLOADING)
        supervisor.degrade(AgentError("upload", "the disk is full", code=73))

    assert run(tmp_path, ends(code), finish)[0] == expected


def test_a_signal_after_the_application_s_end_does_not_undo_its_success(tmp_path):
    def finish(supervisor):
        supervisor.enter(State.UPLOADING)
        supervisor.loop.on_signal(15)
        assert supervisor.wait("the upload", lambda: True, 60)

    assert run(tmp_path, ends(0), finish)[0] == 0


def test_a_second_agent_in_one_container_touches_nothing(tmp_path):
    """75; the exit code's file is the first one's."""
    supervisor, _ = supervise(tmp_path)
    supervisor.directory.take()
    finished = []
    found, _, _ = run(tmp_path, ends(0), finished.append)
    assert found == 75 and not finished
    assert not (tmp_path / "tmp/batch-exit-code").exists()


def test_what_is_no_job_writes_no_exit_code(tmp_path):
    assert run(tmp_path, ends(4), write_exit_code=False)[0] == 4
    assert not (tmp_path / "tmp/batch-exit-code").exists()


@pytest.mark.parametrize(("code", "held"), [(0, 0.0), (3, 50.0)])
def test_a_container_is_held_after_a_failure_only(tmp_path, code, held):
    env = {"ARCHITRAVE_HOLD_ON_FAILURE_SECONDS": "50"}
    _, role, lines = run(tmp_path, ends(code), env=env)
    assert role.parts.supervisor.loop.now == held
    assert ("container_held" in events(lines)) == bool(held)
