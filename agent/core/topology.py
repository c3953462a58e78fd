"""Read where this node is in its job, from the variables that AWS Batch sets."""

from __future__ import annotations

import os
from collections.abc import Mapping

from agent.core import variables as v
from agent.core.errors import bad
from agent.core.model import Topology


def read(env: Mapping[str, str], *, several: bool) -> Topology:
    """Read Batch's node variables; absent ones mean a single node, as without `several`.

    Raises AgentError (78).
    """
    job = v.JOB_ID.read(env).partition("#")[0]
    if {"/", ".."} & {job, *job} or job.startswith("."):
        raise bad(v.JOB_ID.name, job, "not a job id", "leave it to AWS Batch")
    attempt, count = v.JOB_ATTEMPT.read(env), v.NUM_NODES.read(env)
    if count == 1 or not several:
        return Topology(job or f"local-{os.urandom(6).hex()}", attempt)
    if not job:
        hint = "give all nodes the same id"
        raise bad(v.JOB_ID.name, "", "required on several nodes", hint)
    main, index = (_index(env, one, count) for one in (v.MAIN_NODE_INDEX, v.NODE_INDEX))
    address = v.MAIN_NODE_ADDRESS.read(env)
    if index != main and not address:
        raise bad(v.MAIN_NODE_ADDRESS.name, "", "required on a worker", "leave it to AWS Batch")
    return Topology(job, attempt, index, count, main, "" if index == main else address)


def _index(env: Mapping[str, str], variable: v.Variable, count: int) -> int:
    """Return the index of one of `count` nodes."""
    index = variable.read(env)
    if index == "" or index >= count:
        cause = f"not a whole number from 0 to {count - 1}"
        raise bad(variable.name, env.get(variable.name, ""), cause, f"correct {variable.name}")
    return int(index)
