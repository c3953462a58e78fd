"""Results that can't be uploaded, and what is retried."""

import json
import os

import pytest

from agent.core.errors import CANNOT_WRITE, S3_UNREACHABLE, AgentError
from agent.core.model import CREDENTIALS, Outcome
from agent.job.helper_calls import HelperCalls
from agent.job.output_dir import OutputDirectory
from agent.job.states import State
from agent.job.upload import Upload
from tests.support.fakes import FakeTask
from tests.unit.job.parts import events, supervise

STORED = {"count": 2, "files": [], "lost": 0, "failed": []}
OUTPUT = {"ARCHITRAVE_OUTPUT": "s3://bucket/out"}


class Uploader(FakeTask):
    """The helper that uploads: it reports `uploaded` and stays, or ends as `FakeTask` does."""

    uploaded = None

    def _end(self):
        if self.uploaded is None:
            super()._end()
        else:
            self.on_message({"uploaded": self.uploaded})


def upload(root, *answers, env=OUTPUT, names=("a", "b")):
    """Begin an upload whose helpers answer one after the other as given."""
    supervisor, lines = supervise(root, env)
    remaining, started = list(answers), []

    def start(loop, env, task):
        answer = remaining.pop(0)
        helper = Uploader(loop, answer, task)
        if isinstance(answer, dict):
            helper.uploaded = answer
        started.append(helper)
        return helper

    supervisor.directory.take()
    output_dir = OutputDirectory(supervisor.settings, supervisor.loop, supervisor.log, None)
    os.makedirs(output_dir.path)
    output_dir.snapshot()
    for name in names:
        (root / "tmp/output" / name).write_text(name)
    for state in (State.RUNNING, State.STOPPING, State.UPLOADING):
        supervisor.enter(state)
    supervisor.verdict.decide(Outcome(0))
    return (
        Upload(supervisor, HelperCalls(supervisor, start), output_dir),
        supervisor,
        started,
        lines,
    )


def finish(made):
    made.begin()
    return made.finish()


def test_all_results_are_uploaded(tmp_path):
    made, supervisor, started, _ = upload(tmp_path, STORED)
    assert finish(made)["count"] == 2
    assert supervisor.verdict.code == 0
    with open(started[0].request["list"], "rb") as file:
        assert file.read() == b"a\0b\0"


def test_without_a_destination_nothing_is_started(tmp_path):
    made, supervisor, started, _ = upload(tmp_path, env={"ARCHITRAVE_OUTPUT": "<none>"})
    assert finish(made) == {"count": 0, "files": [], "lost": 0, "failed": []}
    assert not started and supervisor.verdict.code == 0


@pytest.mark.parametrize(("code", "expected"), [(0, CANNOT_WRITE), (9, 9)])
def test_a_result_that_is_lost_is_73_unless_something_failed_before(tmp_path, code, expected):
    failed = [{"name": "b", "what": "upload b", "cause": "denied", "hint": "x", "code": 77}]
    made, supervisor, _, lines = upload(tmp_path, STORED | {"lost": 1, "failed": failed})
    supervisor.verdict.decide(Outcome(code))
    finish(made)
    assert supervisor.verdict.code == expected
    assert "result_not_uploaded" in events(lines, "warning")


def test_credentials_that_never_arrived_are_69(tmp_path):
    """Nothing was refused or half written: the same job may do all of it later."""
    failed = [{"name": "b", "what": CREDENTIALS, "cause": "no", "hint": "", "code": S3_UNREACHABLE}]
    made, supervisor, _, _ = upload(tmp_path, STORED | {"lost": 1, "failed": failed})
    finish(made)
    assert supervisor.verdict.code == S3_UNREACHABLE


def test_a_helper_that_died_is_started_again(tmp_path):
    made, supervisor, started, lines = upload(tmp_path, None, STORED)
    assert finish(made)["count"] == 2
    assert supervisor.verdict.code == 0 and len(started) == 2
    assert events(lines, "warning") == ["helper_retried"]


def test_two_helpers_that_died_lose_what_s3_has_not_got(tmp_path):
    made, supervisor, _, _ = upload(tmp_path, None, None)
    made.begin()
    with open(made.stored_list, "w") as file:
        file.write(json.dumps({"name": "a", "size": 1, "sha256": "0" * 64}) + "\n")
    found = made.finish()
    assert (found["count"], found["lost"]) == (1, 1)
    assert [one["name"] for one in found["failed"]] == ["b"]
    assert supervisor.verdict.code == CANNOT_WRITE


def test_an_upload_that_stands_still_is_given_up(tmp_path):
    made, supervisor, _, _ = upload(tmp_path, STORED)
    made.begin()
    supervisor.deadline = 0.5
    assert made.finish()["lost"] == 2
    assert supervisor.verdict.code == CANNOT_WRITE


def test_results_of_a_node_that_was_declared_lost_stay(tmp_path):
    made, supervisor, started, lines = upload(tmp_path)
    supervisor.fail(AgentError("this node was frozen", "for 12 s", code=75))
    made.skip()
    assert supervisor.verdict.code == 75 and not started
    assert lines[-1]["files"] == ["a", "b"] and lines[-1]["event"] == "results_not_uploaded"
