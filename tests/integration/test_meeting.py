"""Both sides of the meeting: real files and inotify, and a clock that the test turns."""

import json
import os
import shutil
import tempfile

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.core import settings as agent_settings
from agent.core.model import FailureKind, Node
from agent.engine.helpers import Retry
from agent.engine.log import Log
from agent.multinode.main_side import MainMeeting
from agent.multinode.worker_side import WorkerMeeting
from tests.support.fakes import FakeHeartbeatLink, FakeHelper, FakeLoop

HEARTBEAT, SILENCE = 1.0, 5.0
INDEXES = st.sampled_from([0, 2, 3])


def settings_of(directory, index):
    """Return the settings of one of four nodes, of which the second is the main one."""
    return agent_settings.read(
        {
            "EXEC_TYPE": "batch",
            "ARCHITRAVE_ROOT": directory,
            "ARCHITRAVE_HEARTBEAT_SECONDS": str(HEARTBEAT),
            "AWS_BATCH_JOB_ID": "job",
            "AWS_BATCH_JOB_ATTEMPT": "2",
            "AWS_BATCH_JOB_NUM_NODES": "4",
            "AWS_BATCH_JOB_NODE_INDEX": str(index),
            "AWS_BATCH_JOB_MAIN_NODE_INDEX": "1",
            "AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS": "10.0.0.2",
        }
    )


class Side(RuleBasedStateMachine):
    """What both sides have: time that passes, stops of the process, files that come."""

    def __init__(self):
        super().__init__()
        self.directory = tempfile.mkdtemp()
        self.settings = settings_of(self.directory, self.index)
        self.batch = self.settings.batch_dir
        os.makedirs(self.settings.runtime_dir)
        self.loop = FakeLoop()
        self.failures, self.expected = [], []
        self.last_tick = 0.0
        self.frozen = False
        self.meeting = self.meet()
        self.meeting.watch()

    def arguments(self, start_helper):
        """Return what a meeting is made of."""
        log = Log(lambda line: None)
        log.open()
        return (self.loop, log, self.settings, {"timeout": 2.0}, start_helper, self.fail)

    def fail(self, error, kind):
        self.failures.append((kind, error))

    def teardown(self):
        self.meeting.close()
        shutil.rmtree(self.directory)

    def put(self, kind, name, text):
        """Write a file as other nodes do: under another name first."""
        directory = f"{self.batch}/{kind}"
        with open(f"{directory}/.new", "w") as file:
            file.write(text)
        os.rename(f"{directory}/.new", f"{directory}/{name}")
        self.loop.deliver()

    @rule(seconds=st.floats(0, 12))
    def time_passes(self, seconds):
        end = self.loop.now + seconds
        while self.last_tick + HEARTBEAT <= end:
            self.last_tick += HEARTBEAT
            self.beat(self.last_tick)
        self.loop.turn(seconds)

    @rule(seconds=st.floats(0, 12))
    def this_node_is_stopped(self, seconds):
        now = self.loop.now + seconds
        if self.last_tick + HEARTBEAT <= now:
            gap, self.last_tick = now - self.last_tick, now
            if gap > SILENCE and self.missed() and not self.frozen:
                self.frozen = True
                self.expected.append((FailureKind.FROZEN, 75, ""))
            else:
                self.beat(now)
        self.loop.stop(seconds)

    @invariant()
    def every_failure_is_reported_once_and_named(self):
        assert len(self.failures) == len(self.expected)
        for (kind, error), (expected, code, name) in zip(self.failures, self.expected, strict=True):
            assert (kind, error.code) == (expected, code) and name in str(error)


class MainSide(Side):
    """Joins, duplicates, strangers, beats, losses and records, in any order."""

    index = 1

    def meet(self):
        self.seen_at, self.joined = {}, {}
        self.lost, self.released = set(), set()
        return MainMeeting(*self.arguments(None))

    def missed(self):
        return bool(self.joined)

    def readiness(self, index, **change):
        node = {"index": index, "address": f"10.0.0.{index + 1}", "slots": 2, "version": "1"}
        return json.dumps(node | {"job": "job", "attempt": 2} | change)

    @property
    def present(self):
        return self.joined.keys() - self.lost - self.released

    @rule(index=INDEXES)
    def joins_or_joins_again(self, index):
        self.put("workers_ready", f"{index}.json", self.readiness(index))
        if index not in self.lost | self.released:
            self.joined.setdefault(index, f"10.0.0.{index + 1}")
            self.seen_at[index] = self.loop.now

    @rule(
        name=st.sampled_from(["0.json", "2.json", "3.json", "1.json", "7.json", "03.json", "x"]),
        change=st.sampled_from(
            [
                {"attempt": 1},
                {"job": "another"},
                {"address": "nowhere"},
                {"slots": 0},
                {"slots": "many"},
                {"index": 1},
                {"index": 99},
            ]
        ),
    )
    def a_stranger_comes(self, name, change):
        self.put("workers_ready", name, self.readiness(**{"index": 2} | change))

    @rule(index=INDEXES, text=st.text(max_size=30))
    def a_file_that_is_cut_short(self, index, text):
        self.put("workers_ready", f"{index}.json", self.readiness(index)[: len(text)])

    @precondition(lambda self: self.joined)
    @rule(index=INDEXES)
    def a_second_node_with_the_index(self, index):
        if index in self.joined:
            self.put("workers_ready", f"{index}.json", self.readiness(index, address="10.0.9.9"))

    @rule(index=INDEXES)
    def beats(self, index):
        self.joins_or_joins_again(index)
        os.utime(f"{self.batch}/workers_ready/{index}.json")
        self.loop.deliver()

    @rule(index=INDEXES, failed=st.booleans())
    def parts(self, index, failed):
        failure = {"what": "go on", "cause": "the disk is full", "code": 73} if failed else None
        record = {"index": index, "record": {"index": index, "files": []}, "failure": failure}
        self.put("workers_done", f"{index}.json", json.dumps(record))
        if index in self.joined:
            self.released.add(index)
            if failed:
                self.expected.append((FailureKind.PEER, 73, f"worker {index}"))

    @rule(index=INDEXES, record=st.sampled_from(["[]", "{}", "null", '{"record": 3}', ""]))
    def an_invalid_record(self, index, record):
        self.put("workers_done", f"{index}.json", record)

    @rule(index=INDEXES)
    def gets_sigterm(self, index):
        failure = {"what": "finish the job", "cause": "SIGTERM", "code": 143}
        self.put("workers_leaving", f"{index}.json", json.dumps(failure))
        if index in self.joined:
            self.expected.append((FailureKind.PEER, 143, f"worker {index}"))

    def beat(self, now):
        """Work out which workers are missed at a heartbeat of main's."""
        if self.frozen:
            return
        for index in sorted(self.present):
            if now - self.seen_at[index] > SILENCE:
                self.lost.add(index)
                self.expected.append((FailureKind.PEER, 75, f"worker {index}"))

    @invariant()
    def main_knows_which_workers_joined(self):
        meeting = self.meeting
        assert meeting.roster.missing == [i for i in (0, 2, 3) if i not in self.joined]
        assert {node.index: node.address for node in meeting.nodes} == self.joined
        assert meeting.lost == self.lost
        assert meeting.awaited() == sorted(self.present)
        assert set(meeting.records) == self.released


class WorkerSide(Side):
    """A worker whose link answers, falls silent or dies, and a main node that ends the job."""

    index = 2

    def meet(self):
        self.helpers, self.lines = [], []
        self.refuses = False
        self.joined = self.main_lost = False
        self.outcome = self.final = None
        self.count, self.seen_at, self.arrived = 0, 0.0, set()
        meeting = WorkerMeeting(
            *self.arguments(self.start),
            node=Node(2, "", 1),
            start_link=self.start_link,
        )
        retry = Retry(Log(lambda line: None), "join")
        self.steps = meeting.join(1000, retry)
        self.waits_for = next(self.steps)
        return meeting

    def proceed(self):
        """Take the steps whose conditions hold."""
        while self.waits_for and self.waits_for():
            self.waits_for = next(self.steps, None)

    def start(self, task, request, on_message):
        assert (task, request["address"]) == ("join", "10.0.0.2")
        self.helpers.append(FakeHelper(on_message))
        return self.helpers[-1]

    def start_link(self, on_message):
        """Start a new line, which is asked for only when the old one is gone."""
        assert not self.open
        if self.refuses:
            raise OSError(24, "Too many open files")
        self.lines.append(FakeHeartbeatLink(self.loop, on_message))
        return self.lines[-1]

    @property
    def open(self):
        return bool(self.lines) and not self.lines[-1].done

    def missed(self):
        left = "workers_done/2.json" in self.arrived
        return self.joined and self.final is None and not self.main_lost and not left

    @precondition(lambda self: not self.joined)
    @rule()
    def the_helper_reaches_main(self):
        self.helpers[-1].on_message({"connected": "10.0.0.2", "token": "t"})
        self.proceed()

    @precondition(lambda self: self.open and not self.lines[-1].open)
    @rule()
    def the_link_opens(self):
        self.lines[-1].open = True
        self.proceed()

    @precondition(lambda self: not self.joined and self.helpers[-1].asked)
    @rule()
    def joins(self):
        """Only when it can beat at once."""
        self.helpers[-1].result = {"own_address": "10.0.0.3"}
        self.joined, self.seen_at = True, self.loop.now
        self.proceed()

    @precondition(lambda self: not self.joined and len(self.helpers) == 1)
    @rule()
    def the_helper_is_killed(self):
        self.helpers[-1].done = True
        self.proceed()
        assert len(self.helpers) == 2  # one more try

    @precondition(lambda self: self.open and self.lines[-1].open and self.lines[-1].asked)
    @rule(alive=st.booleans())
    def the_link_answers(self, alive):
        """Main's count goes on while it lives; what was put has arrived."""
        order = self.lines[-1].asked.pop()
        self.count += alive
        if order["do"] == "put":
            self.lines[-1].on_message({"put": order["path"]})
            self.arrived.add(order["path"])
            self.seen_at = self.loop.now
        else:
            assert order["path"] == "workers_ready/2.json"
            self.lines[-1].on_message({"beat": self.count})
            if self.count != getattr(self, "seen", None):
                self.seen_at, self.seen = self.loop.now, self.count

    @precondition(lambda self: self.open)
    @rule()
    def the_link_breaks(self):
        self.lines[-1].close("reset")

    @rule(refuses=st.booleans())
    def no_link_can_be_started(self, refuses):
        self.refuses = refuses

    @precondition(lambda self: self.joined)
    @rule()
    def this_node_sends_its_record(self):
        self.meeting.put("workers_done", {"index": 2})

    @rule(
        name=st.sampled_from(["done", "final"]),
        code=st.integers(0, 255),
        change=st.sampled_from([{}, {}, {"job": "another"}, {"attempt": 1}, {"outcome": None}]),
    )
    def main_announces_the_outcome(self, name, code, change):
        message = {"job": "job", "attempt": 2, "outcome": {"code": code, "source": "application"}}
        self.put("master_done", name, json.dumps(message | change))
        if not change:
            self.outcome = code if name == "done" else self.outcome
            self.final = code if name == "final" else self.final

    def beat(self, now):
        """Work out whether main is missed at a beat of this node's."""
        if self.frozen or self.main_lost or not self.joined:
            return
        if now - self.seen_at > SILENCE:
            self.main_lost = True
            self.expected.append((FailureKind.MAIN_LOST, 75, "10.0.0.2"))

    @invariant()
    def the_worker_knows_how_it_stands(self):
        meeting = self.meeting
        assert meeting.joined == self.joined
        if self.open and self.lines[-1].open and self.lines[-1].busy:
            late = self.loop.now - self.lines[-1].seen > 2.0 + HEARTBEAT
            assert not late or self.frozen or not self.missed()
        for found, wanted in ((meeting.outcome, self.outcome), (meeting.final, self.final)):
            assert (found.code if found else None) == wanted


BOUNDS = settings(max_examples=60, stateful_step_count=40, deadline=None)
MainSide.TestCase.settings = WorkerSide.TestCase.settings = BOUNDS
TestMainSide = pytest.mark.cell("chance.meeting")(MainSide.TestCase)
TestWorkerSide = pytest.mark.cell("chance.meeting")(WorkerSide.TestCase)
