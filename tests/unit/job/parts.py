"""A supervisor with a clock that only the test advances."""

import json

from agent.core import settings
from agent.engine.log import Log
from agent.job.supervisor import Supervisor
from tests.support.fakes import FakeLoop, FakeWorkload

NODES = {
    "AWS_BATCH_JOB_ID": "job",
    "AWS_BATCH_JOB_NUM_NODES": "3",
    "AWS_BATCH_JOB_NODE_INDEX": "0",
}


def supervise(root, env=None, **options):
    """Return a supervisor, and the list to which its log's lines go as dicts."""
    lines = []
    log = Log(lambda line: lines.append(json.loads(line)), level="debug")
    log.open()
    found = settings.read({"EXEC_TYPE": "batch", "ARCHITRAVE_ROOT": str(root), **(env or {})})
    supervisor = Supervisor(found, FakeLoop(), log, **options)
    supervisor.workload = FakeWorkload()
    return supervisor, lines


def events(lines, *levels):
    """Return the ids of what was logged, at some levels or at all."""
    return [line["event"] for line in lines if not levels or line["level"] in levels]
