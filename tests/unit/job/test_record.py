"""The records written at the end of a job, and the exit code when that fails."""

import json
import types

import pytest

from agent.core.errors import CANNOT_WRITE
from agent.core.model import NodeFiles, Outcome
from agent.job.helper_calls import HelperCalls
from agent.job.output_dir import OutputDirectory
from agent.job.record import Record
from agent.job.upload import Upload
from tests.support.fakes import FakeTask
from tests.unit.job.parts import events, supervise

UPLOADED = {"count": 0, "files": [], "lost": 0, "failed": []}
RUN = {"command": ("/bin/true",), "times": {}, "last_lines": lambda: ["its last line"]}


@pytest.fixture
def made(tmp_path):
    """Return what makes the record of one node; `answers` are those of its helpers, in turn."""

    def make(output, *answers, code=0):
        env = {"ARCHITRAVE_OUTPUT": output, "EXEC_TYPE": "batch"}
        supervisor, lines = supervise(tmp_path, env)
        supervisor.directory.take()
        remaining = list(answers)
        helpers = HelperCalls(
            supervisor, lambda loop, env, task: FakeTask(loop, remaining.pop(0), task)
        )
        output_dir = OutputDirectory(supervisor.settings, supervisor.loop, supervisor.log, None)
        (tmp_path / "tmp/output").mkdir(parents=True)
        upload = Upload(supervisor, helpers, output_dir)
        open(upload.stored_list, "w").close()
        supervisor.verdict.decide(Outcome(code))
        monitor = types.SimpleNamespace(sampler=None)
        record = Record(
            supervisor, helpers, output_dir, monitor, types.SimpleNamespace(**RUN), upload
        )
        return record, upload, supervisor, lines

    return make


def write(record):
    record.write({0: record.write_node(UPLOADED)})


@pytest.mark.parametrize("code", [0, 3])
def test_without_a_destination_it_lies_beside_the_results(made, tmp_path, code):
    record, _, supervisor, _ = made("<none>", code=code)
    write(record)
    run = json.loads((tmp_path / "tmp/output/run.json").read_text())
    assert run["exit"]["code"] == code == supervisor.verdict.code
    assert run.get("last_lines", run["exit"].get("last_lines")) == (
        ["its last line"] if code else None
    )


@pytest.mark.parametrize(("code", "expected"), [(0, CANNOT_WRITE), (9, 9)])
def test_one_that_can_not_be_written_is_73_unless_something_failed_before(
    made, tmp_path, code, expected
):
    record, _, supervisor, lines = made("<none>", code=code)
    node = NodeFiles(str(tmp_path / "missing"), str(tmp_path / "missing"), True)
    record.write({0: node})
    assert supervisor.verdict.code == expected
    assert "error" in events(lines)


@pytest.mark.parametrize(("code", "expected"), [(0, CANNOT_WRITE), (9, 9)])
def test_the_helper_that_uploads_has_died(made, tmp_path, code, expected):
    """The record stays beside the results, and the log says that the manifest is missing."""
    record, upload, supervisor, lines = made("s3://bucket/out", code=code)
    upload.helper = None
    write(record)
    assert supervisor.verdict.code == expected
    assert "manifest.json" in lines[-1]["hint"]
    assert (tmp_path / "tmp/output/run.json").exists()


def test_a_page_that_can_not_be_made_is_a_warning(made, tmp_path):
    record, _, supervisor, lines = made("<none>", None)
    record.begin_page()
    write(record)
    assert supervisor.verdict.code == 0
    assert events(lines, "warning") == ["report_failed"]
    assert (tmp_path / "tmp/output/run.json").exists()
