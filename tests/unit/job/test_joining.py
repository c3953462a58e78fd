"""A worker joins when its sshd listens, and then knows its address and which node uploads."""

import types

import pytest

from agent.core.errors import TRY_AGAIN, AgentError
from agent.job.joining import join_main
from tests.unit.job.parts import NODES, events, supervise

WORKER = NODES | {
    "AWS_BATCH_JOB_NODE_INDEX": "1",
    "AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS": "10.0.0.1",
    "ARCHITRAVE_JOIN_TIMEOUT_SECONDS": "20",
}


class Joining:
    """The parts of a worker that is about to join, and what they did, in order."""

    def __init__(self, root, steps, **env):
        self.did = []
        self.supervisor, self.lines = supervise(root, WORKER | env)
        self.steps = steps
        self.owner, self.address = 0, "10.0.0.2"
        self.output_dir = types.SimpleNamespace(
            snapshot=lambda: self.did.append("snapshot"), owner=None, is_shared=True
        )
        hostfiles = types.SimpleNamespace(maintain=lambda loop: self.did.append("hostfiles"))
        self.parts = types.SimpleNamespace(
            supervisor=self.supervisor,
            output_dir=self.output_dir,
            hostfiles=hostfiles,
            helpers=types.SimpleNamespace(retry=lambda what: what),
        )

    def wait_until_listening(self):
        self.did.append("sshd listens")

    def watch(self):
        self.did.append("watch")

    def join(self, seconds, retry):
        self.did.append((seconds, retry))
        yield from self.steps

    def go(self):
        join_main(self.parts, self, self)


def test_it_can_be_reached_before_it_joins(tmp_path):
    made = Joining(tmp_path, [lambda: True])
    made.go()
    assert made.did == ["hostfiles", "watch", "snapshot", "sshd listens", (20, "join 10.0.0.1")]
    assert (made.output_dir.owner, made.supervisor.node.address) == (0, "10.0.0.2")
    assert "output_directory_shared" in events(made.lines)


def test_the_working_directory_is_there_before_a_rank_begins_in_it(tmp_path):
    made = Joining(tmp_path, [lambda: True], ARCHITRAVE_WORKDIR=str(tmp_path / "work"))
    made.go()
    assert (tmp_path / "work").is_dir()


def test_no_answer_is_75_a_second_after_the_helper_s_own_deadline(tmp_path):
    made = Joining(tmp_path, [lambda: False])
    with pytest.raises(AgentError) as raised:
        made.go()
    assert raised.value.code == TRY_AGAIN and "10.0.0.1" in raised.value.what
    assert made.supervisor.loop.clock() == 21
    assert made.output_dir.owner is None
