"""A helper that died is retried once, if there is time; a failure that it reports is an answer."""

import pytest

from agent.core.errors import OS_ERROR, AgentError
from agent.job.helper_calls import HelperCalls
from tests.support.fakes import FakeTask
from tests.unit.job.parts import events, supervise

GONE = None


def calls(root, *ends, env=None):
    """Return helper calls whose helpers exit one after the other as given, and what they are."""
    supervisor, lines = supervise(root, env)
    remaining, started = list(ends), []

    def start(loop, env, task):
        helper = FakeTask(loop, remaining.pop(0), task)
        helper.env = env
        started.append(helper)
        return helper

    return HelperCalls(supervisor, start), supervisor, started, lines


def call(helpers, seconds=60):
    return helpers.call("stage_in", "stage in", {"x": 1}, seconds, code=69)


def test_a_result_is_returned(tmp_path):
    helpers, supervisor, started, _ = calls(tmp_path, {"fetched": []})
    assert call(helpers) == {"fetched": []}
    assert started[0].request == {"x": 1} and started[0].closed
    assert started[0].child.pid in supervisor.processes.pids


def test_one_that_died_is_tried_once_more(tmp_path):
    helpers, _, started, lines = calls(tmp_path, GONE, {"ok": 1})
    assert call(helpers) == {"ok": 1}
    assert len(started) == 2 and started[0].closed
    assert events(lines, "warning") == ["helper_retried"]


def test_two_that_died_are_the_phase_s_failure(tmp_path):
    helpers, _, started, _ = calls(tmp_path, GONE, GONE)
    with pytest.raises(AgentError) as raised:
        call(helpers)
    assert (raised.value.code, raised.value.what, len(started)) == (69, "stage in", 2)


def test_one_that_hangs_is_tried_once_more(tmp_path):
    helpers, supervisor, started, _ = calls(tmp_path, {"late": 1}, {"late": 2})
    with pytest.raises(AgentError) as raised:
        call(helpers, seconds=0.5)
    assert raised.value.code == 69 and len(started) == 2
    assert supervisor.loop.now == 1.0


def test_an_error_that_a_helper_reports_is_an_answer(tmp_path):
    refused = AgentError("fetch x", "no such object", code=66)
    helpers, _, started, _ = calls(tmp_path, refused)
    with pytest.raises(AgentError) as raised:
        call(helpers)
    assert raised.value is refused and len(started) == 1


def test_there_is_no_second_try_when_the_node_is_stopped(tmp_path):
    helpers, supervisor, started, _ = calls(tmp_path, GONE, {"ok": 1})
    supervisor.stop_signal = 15
    with pytest.raises(AgentError):
        call(helpers)
    assert len(started) == 1


def test_only_what_reaches_s3_has_its_credentials(tmp_path):
    env = {"AWS_SECRET_ACCESS_KEY": "s3cret", "PLAIN": "1"}
    helpers, _, started, _ = calls(tmp_path, {}, {}, env=env)
    helpers.call("stage_out", "upload", {}, 10, code=73)
    helpers.call("report", "make the page", {}, 10, code=73)
    assert [("AWS_SECRET_ACCESS_KEY" in one.env, one.env["PLAIN"]) for one in started] == [
        (True, "1"),
        (False, "1"),
    ]


def test_a_process_limit_is_an_error_of_the_system(tmp_path):
    supervisor, _ = supervise(tmp_path)

    def start(loop, env, task):
        raise OSError(24, "Too many open files")

    with pytest.raises(AgentError) as raised:
        call(HelperCalls(supervisor, start))
    assert raised.value.code == OS_ERROR


def test_what_a_helper_logs_is_logged_and_its_phases_begin(tmp_path):
    helpers, supervisor, _, lines = calls(tmp_path)
    helpers.log_message({"phase": "unpack"})
    helpers.log_message({"log": "warning", "event": "file_vanished", "file": "x"})
    assert supervisor.spans[-1].phase == "unpack"
    assert (lines[-1]["event"], lines[-1]["level"], lines[-1]["file"]) == (
        "file_vanished",
        "warning",
        "x",
    )
