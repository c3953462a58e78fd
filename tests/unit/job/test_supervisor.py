"""Which failure aborts which wait in which state, and what signals and children do."""

import math
import signal
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.deadlines import LOST_GRACE_SECONDS, MAX_GRACE_SECONDS, STOP_SECONDS
from agent.core.errors import AgentError
from agent.core.model import FailureKind, Outcome
from agent.job.states import ABORTS, NEXT, WORKING, State
from tests.unit.job.parts import events, supervise

LATER = {State.STOPPING, State.UPLOADING, State.COLLECTING, State.RECORDING, State.DONE}
CUT_OFF = {FailureKind.MAIN_LOST, FailureKind.FROZEN}


def error(code=75, what="go on"):
    return AgentError(what, "it can't", code=code)


def way_to(state):
    """Return the states on a way from the first one to this one."""
    ways = {State.STAGING: [State.STAGING]}
    for one in State:
        for after in NEXT[one]:
            ways.setdefault(after, [*ways[one], after])
    return ways[state]


def expected(state, kind):
    """Repeat the table by hand, so that an error in it is found."""
    if state in (State.STAGING, State.JOINING, State.RUNNING):
        return True
    return state in (State.STOPPING, State.COLLECTING) and kind in CUT_OFF


@pytest.mark.parametrize("kind", FailureKind)
@pytest.mark.parametrize("state", State)
def test_which_failure_ends_which_wait(tmp_path, state, kind):
    supervisor, lines = supervise(tmp_path)
    for one in way_to(state):
        supervisor.enter(one)
    failure = error()
    supervisor.loop.call_at(3, lambda: supervisor.fail(failure, kind))
    if expected(state, kind):
        with pytest.raises(AgentError) as raised:
            supervisor.wait("it", lambda: supervisor.loop.now >= 5, 60)
        assert raised.value is failure and supervisor.loop.now == 3
        assert "wait_aborted" in events(lines)
    else:
        supervisor.loop.call_at(5, lambda: None)
        assert supervisor.wait("it", lambda: supervisor.loop.now >= 5, 60)
    assert (kind in ABORTS[state]) == expected(state, kind)
    assert (state in WORKING) == (state not in LATER)


def test_states_only_go_forward(tmp_path):
    supervisor, _ = supervise(tmp_path)
    supervisor.enter(State.RUNNING)
    for state in (State.STAGING, State.JOINING, State.UPLOADING):
        with pytest.raises(AssertionError):
            supervisor.enter(state)
    assert {after for one in State for after in NEXT[one]} == set(State) - {State.STAGING}
    order = list(State)
    assert all(order.index(a) < order.index(b) for a in State for b in NEXT[a])


def test_a_wait_that_times_out_names_what_is_missing(tmp_path):
    supervisor, lines = supervise(tmp_path)
    assert not supervisor.wait("nodes", lambda: False, 7, lambda: [1, 2])
    assert supervisor.loop.now == 7
    last = lines[-1]
    assert (last["event"], last["missing"], last["seconds"]) == ("wait_timed_out", [1, 2], 7)


@given(st.lists(st.floats(0, 10), max_size=5), st.floats(0, 30))
def test_steps_share_one_deadline_and_conditions_only_look(tmp_path_factory, steps, seconds):
    """Each step is taken once, when the condition before it holds."""
    supervisor, _ = supervise(tmp_path_factory.getbasetemp())
    loop, taken = supervisor.loop, []

    def proceed():
        due = 0.0
        for length in steps:
            due += length
            loop.call_at(due, lambda: None)
            yield lambda due=due: loop.now >= due
            taken.append(due)

    assert supervisor.wait_steps("steps", proceed(), seconds) == (sum(steps) <= seconds)
    reached = [due for due in _sums(steps) if due <= seconds]
    assert taken == reached


def _sums(lengths):
    total = 0.0
    for length in lengths:
        total += length
        yield total


def test_what_a_step_raises_is_raised(tmp_path):
    supervisor, lines = supervise(tmp_path)

    def steps():
        yield lambda: True
        raise error(78)

    with pytest.raises(AgentError) as raised:
        supervisor.wait_steps("steps", steps(), 10)
    assert raised.value.code == 78
    assert events(lines) == ["wait_started", "wait_aborted"]


def test_the_platform_s_last_moment_bounds_every_wait(tmp_path):
    supervisor, _ = supervise(tmp_path, deadline=4.0)
    supervisor.loop.call_at(4.0, lambda: None)
    assert not supervisor.wait("it", lambda: False, math.inf)
    assert supervisor.loop.now == 4.0
    assert supervisor.hurried


def test_the_first_failure_stops_the_application_and_others_do_not(tmp_path):
    supervisor, lines = supervise(tmp_path)
    supervisor.fail(error(75), FailureKind.PEER)
    supervisor.fail(error(71))
    assert [grace for _, _, grace in supervisor.workload.stops] == [LOST_GRACE_SECONDS]
    assert [line["level"] for line in lines] == ["error", "warning"]
    assert supervisor.verdict.failure.code == 75


def test_a_failure_that_is_not_a_lost_node_leaves_the_whole_grace_period(tmp_path):
    supervisor, _ = supervise(tmp_path)
    supervisor.fail(error(71))
    assert supervisor.workload.stops[0][2] == MAX_GRACE_SECONDS


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_stops_the_job_and_a_second_one_is_passed_on(tmp_path, number):
    supervisor, lines = supervise(tmp_path)
    supervisor.loop.on_signal(number)
    assert supervisor.stop_signal == number and supervisor.deadline == STOP_SECONDS
    assert supervisor.verdict.failure.code == 128 + number
    assert supervisor.failed(FailureKind.SIGNAL) and supervisor.hurried
    supervisor.loop.now = 5.0
    supervisor.loop.on_signal(signal.SIGTERM)
    assert supervisor.deadline == STOP_SECONDS
    assert [stop[1] for stop in supervisor.workload.stops] == [number, signal.SIGTERM]
    assert events(lines, "error") == ["job_stopped"]


def test_a_signal_never_moves_a_deadline_back(tmp_path):
    supervisor, _ = supervise(tmp_path, deadline=10.0)
    supervisor.loop.on_signal(signal.SIGTERM)
    assert supervisor.deadline == 10.0


def test_other_signals_are_forwarded(tmp_path):
    supervisor, _ = supervise(tmp_path)
    supervisor.loop.on_signal(signal.SIGUSR1)
    assert supervisor.workload.forwarded == [signal.SIGUSR1]
    assert supervisor.verdict.failure is None


def test_each_part_sees_every_child_that_ends(tmp_path):
    supervisor, lines = supervise(tmp_path)
    seen = []
    supervisor.processes.on_child += [seen.append, seen.append]
    child = types.SimpleNamespace(pid=7, running=False, name="x")
    supervisor.processes.pids.add(7)
    supervisor.loop.on_child(child)
    assert seen == [child, child] and 7 not in supervisor.processes.pids
    stopped = types.SimpleNamespace(pid=8, running=True, name="x", stopped_by=19)
    supervisor.loop.on_child(stopped)
    assert events(lines) == ["process_stopped"] and len(seen) == 2
    supervisor.workload.stopping = True  # then the agent itself holds it
    supervisor.loop.on_child(stopped)
    assert len(lines) == 1


def test_degrade_counts_only_if_nothing_failed_before(tmp_path):
    supervisor, _ = supervise(tmp_path)
    supervisor.verdict.decide(Outcome(3))
    supervisor.degrade(error(73))
    assert supervisor.verdict.code == 3


def test_phases_follow_each_other_without_a_gap(tmp_path):
    supervisor, _ = supervise(tmp_path)
    supervisor.begin_phase("fetch")
    supervisor.loop.now = 2.0
    supervisor.begin_phase("fetch")
    supervisor.begin_phase("unpack")
    assert [(s.phase, s.start, s.end) for s in supervisor.spans] == [
        ("fetch", 0.0, 2.0),
        ("unpack", 2.0, None),
    ]


def test_cleanup_closes_all_that_was_kept(tmp_path):
    supervisor, _ = supervise(tmp_path)
    closed = []
    process = types.SimpleNamespace(
        child=types.SimpleNamespace(pid=5), close=lambda: closed.append(5)
    )
    supervisor.processes.track(process)
    supervisor.processes.on_end.append(lambda: closed.append(6))
    assert 5 in supervisor.processes.pids
    supervisor.cleanup()
    assert closed == [5, 6]
