"""Describe a job for the local cluster, and the environment that AWS Batch would give its nodes."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.core import model
from agent.core.environ import region
from agent.core.errors import NO_OBJECT, AgentError
from agent.core.variables import MAIN_NODE_INDEX, NODE_INDEX
from agent.tools.cluster.faults import Fault

BUCKET = "architrave"
DEFAULT_IMAGE = "architrave:latest"
DEFAULT_RESULTS = Path("architrave-results")
PRIVATE_KEY, DEPS_KEY = "batch/private.7z", "batch/deps.tar.gz"
_HOLD_SECONDS = 7 * 24 * 3600
# The nodes share one machine's processors: a rank that spins while it waits makes a run of seconds
# take minutes. The arguments for mpirun stay those that AWS Batch would use.
_SHARED_MACHINE = {"ARCHITRAVE_SLOTS": "1", "OMPI_MCA_mpi_yield_when_idle": "1"}


@dataclass(frozen=True)
class Job:
    """One attempt of one job. Times are in seconds; `image` None means processes, not containers.

    `node_env` overrides `env` for single nodes; `files` are more objects for the bucket, by key;
    `linger` is how long workers may go on after the main node has exited; after SIGTERM every node
    has AWS Batch's 30 seconds. With `hold` nodes of a failed job stay until they are
    stopped.
    """

    nodes: int = 1
    main_index: int = 0
    image: str | None = DEFAULT_IMAGE
    private: Path | None = None
    deps: Path | None = None
    files: Mapping[str, Path] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    node_env: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    results: Path | None = None
    attempt: int = 1
    job_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    timeout: float | None = None
    linger: float = 60.0
    hold: bool = False
    faults: tuple[Fault, ...] = ()
    docker_args: tuple[str, ...] = ()

    @property
    def start_order(self) -> list[int]:
        """Return the main node's index first: Batch starts workers when the main node runs."""
        return [self.main_index, *(i for i in range(self.nodes) if i != self.main_index)]

    @property
    def results_dir(self) -> Path:
        """Return where the results go."""
        return self.results or DEFAULT_RESULTS / self.job_id

    @property
    def objects(self) -> dict[str, Path]:
        """Return what the bucket holds when the nodes start, by key."""
        given = {PRIVATE_KEY: self.private, DEPS_KEY: self.deps, **self.files}
        return {key: path for key, path in given.items() if path is not None}

    def check_objects(self) -> None:
        """Check that the files for the bucket are there; raise AgentError (66)."""
        for path in self.objects.values():
            if not path.is_file():
                cause, hint = "no such file", "check --private and --deps"
                raise AgentError(f"read {path}", cause, code=NO_OBJECT, hint=hint)

    @property
    def output_prefix(self) -> str:
        """Return the key prefix of this attempt's results."""
        destination = self.env.get("ARCHITRAVE_OUTPUT") or f"s3://{BUCKET}/output"
        base = destination.removeprefix("s3://").partition("/")[2].strip("/")
        return "/".join(part for part in (base, self.job_id, f"attempt-{self.attempt}", "") if part)

    def name(self, index: int) -> str:
        """Return a node's name."""
        return model.node_name(index, self.main_index)

    def environment(self, index: int, main_address: str) -> dict[str, str]:
        """Return what AWS Batch would set on a node, then what the user passes."""
        worker = index != self.main_index
        env = {
            "AWS_BATCH_CE_NAME": "architrave-local",
            "AWS_BATCH_JQ_NAME": "architrave-local",
            "AWS_BATCH_JOB_ID": f"{self.job_id}#{index}" if worker else self.job_id,
            "AWS_BATCH_JOB_ATTEMPT": str(self.attempt),
        }
        if self.nodes > 1:
            env |= {
                "AWS_BATCH_JOB_NUM_NODES": str(self.nodes),
                "AWS_BATCH_JOB_NODE_INDEX": str(index),
                "AWS_BATCH_JOB_MAIN_NODE_INDEX": str(self.main_index),
                **_SHARED_MACHINE,
            }
        if worker:
            env["AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS"] = main_address
        env |= {"ARCHITRAVE_LOG_FORMAT": "json", "S3_BUCKET": f"s3://{BUCKET}"}
        if self.hold:
            env["ARCHITRAVE_HOLD_ON_FAILURE_SECONDS"] = str(_HOLD_SECONDS)
        if self.private is None:
            env["S3_BATCH_PRIVATE_REL_PATH"] = "<none>"
        if self.deps is None:
            env["S3_BATCH_DEPS_REL_PATH"] = "<none>"
        given = {**self.env, **self.node_env.get(index, {})}
        # By either name it comes before the one of the local S3 server.
        chosen = region(given)
        return env | given | ({"AWS_REGION": chosen} if chosen else {})


def node_name(env: Mapping[str, str]) -> str:
    """Return the name of the node with this environment."""
    index, main = (env.get(one.name) or "0" for one in (NODE_INDEX, MAIN_NODE_INDEX))
    return model.node_name(int(index), int(main))


def job_of(env: Mapping[str, str]) -> str:
    """Return the id of the job that the node with this environment belongs to."""
    return env.get("AWS_BATCH_JOB_ID", "").partition("#")[0]
