"""Run a job on simulated nodes, with an S3 server of its own, and always clean up."""

from __future__ import annotations

import signal
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from agent.core.errors import CANNOT_WRITE, USAGE, AgentError
from agent.core.s3_uri import S3Uri, has_own_endpoint
from agent.core.variables import OFF
from agent.tools.cluster import leftovers
from agent.tools.cluster.backend import Backend, RunningNode
from agent.tools.cluster.containers import Containers
from agent.tools.cluster.faults import CUT, DELAY, KILL, Fault
from agent.tools.cluster.follow import Follower
from agent.tools.cluster.job import BUCKET, Job
from agent.tools.cluster.node_log import NAME, NodeLog
from agent.tools.cluster.processes import Processes
from agent.tools.cluster.s3 import EmbeddedS3
from agent.tools.cluster.states import NodeState
from agent.tools.cluster.view import View, Views

# AWS Batch gives a container this long between SIGTERM and SIGKILL.
STOP_SECONDS = 30.0
_JOIN_SECONDS = 10.0
_TICK_SECONDS = 0.5


@dataclass(frozen=True)
class Result:
    """How the job ended; `code` is the main node's, as on Batch. `files` are from S3."""

    job_id: str
    attempt: int
    code: int
    nodes: list[NodeState]
    results: Path
    files: list[Path] = field(default_factory=list)
    timed_out: bool = False
    interrupted: bool = False


class Cluster:
    """The nodes of one job, running inside the `with` block; use it from one thread.

    `nodes` are handles for tests that inject a fault by hand, `states` their states.
    """

    def __init__(self, job: Job, view: View | None = None) -> None:
        _check(job)
        self.job = job
        self.view = view or View()
        self.nodes: dict[int, RunningNode] = {}
        logs = job.results_dir / "logs"
        self.states = [NodeState(i, job.name(i), logs) for i in range(job.nodes)]
        self.s3: EmbeddedS3
        self._changed = threading.Condition()
        self._followers: list[Follower] = []
        self._faults = [fault for fault in job.faults if fault.kind != DELAY]
        self._scheduled: list[tuple[float, Callable[[], object]]] = []
        self._stack = ExitStack()
        self._stop_asked = False
        self._timed_out = False

    def __enter__(self) -> Self:
        """Start S3, upload what the job needs, start the nodes; raise AgentError."""
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove everything but the results."""
        self.close()

    def close(self) -> None:
        """Stop nodes, S3 and network, and remove the temporary directory."""
        self._stack.close()
        for follower in self._followers:
            follower.join(_JOIN_SECONDS)
        self.view.close()

    def stop(self) -> None:
        """Stop every node as Batch stops a job: SIGTERM, 30 s, SIGKILL.

        Safe in a signal handler: the waiting thread does it.
        """
        self._stop_asked = True

    def wait_phase(self, index: int, phase: str, seconds: float = 120.0) -> None:
        """Wait until a node has begun a phase; raise TimeoutError, also if it exits before."""
        state = self.states[index]
        self._until(lambda: phase in state.reached or state.code is not None, seconds)
        if phase not in state.reached:
            raise TimeoutError(f"{state.name} did not reach {phase}; it reached {state.reached}")

    def wait_end(self, index: int, seconds: float = 120.0) -> int:
        """Wait until a node has exited and return its code; raise TimeoutError."""
        state = self.states[index]
        self._until(lambda: state.code is not None, seconds)
        if state.code is None:
            raise TimeoutError(f"{state.name} did not exit; it reached {state.reached}")
        return state.code

    def wait(self) -> Result:
        """Wait for the job's end, fetch its results, and report how it went."""
        main = self.states[self.job.main_index]
        self._until(lambda: main.code is not None or self._stop_asked, self.job.timeout)
        if main.code is None and not self._stop_asked:
            self._timed_out = True
            self.view.note(f"time limit of {self.job.timeout:g} s: every node gets SIGTERM")
        elif not self._stop_asked:
            linger = None if self.job.hold else self.job.linger
            self._until(lambda: self._all_exited() or self._stop_asked, linger)
        self._stop_nodes()
        code = main.code if main.code is not None else 128 + signal.SIGKILL
        return Result(
            self.job.job_id,
            self.job.attempt,
            code,
            self.states,
            self.job.results_dir,
            self._fetch_results(),
            self._timed_out,
            self._stop_asked,
        )

    def _open(self) -> None:
        job = self.job
        _prepare_results(job.results_dir)
        self.view = Views(NodeLog(job.results_dir / "logs" / NAME), self.view)
        leftovers.remove_directories()
        directory = self._stack.enter_context(
            tempfile.TemporaryDirectory(
                prefix=leftovers.DIRECTORY_PREFIX, ignore_cleanup_errors=True
            )
        )
        leftovers.mark(Path(directory))
        self.s3 = EmbeddedS3(Path(directory) / "s3")
        backend = self._backend(Path(directory))
        # The nodes exit before S3 is stopped: an agent that gets SIGTERM still uploads.
        self._stack.callback(self.s3.stop)
        self._stack.callback(backend.close)
        backend.open()
        self.s3.address = backend.host_address
        self.s3.start()
        self.s3.create_bucket(BUCKET)
        for key, path in job.objects.items():
            self.s3.put_file(BUCKET, key, path)
        self.view.opened(self.states, backend.description)
        delays = {fault.index: fault.seconds for fault in job.faults if fault.kind == DELAY}
        self._launch(backend, [index for index in job.start_order if index not in delays])
        for index, delay in delays.items():
            self._after(delay, partial(self._launch, backend, [index]))

    def _backend(self, directory: Path) -> Backend:
        if self.job.image is None:
            return Processes(directory, self.job.nodes)
        # A job id may be chosen by the user; the names of containers are restricted by Docker.
        short = directory.name.removeprefix(leftovers.DIRECTORY_PREFIX).replace("_", "0")
        return Containers(f"architrave-{short}", self.job.image, self.job.docker_args)

    def _launch(self, backend: Backend, indexes: list[int]) -> None:
        address = backend.address_of(self.job.main_index)
        s3 = self.s3.environment()
        envs = {index: s3 | self.job.environment(index, address) for index in indexes}
        for index, node in backend.start(envs).items():
            self.nodes[index] = node
            state = self.states[index]
            state.address, state.started = node.address, node.started
            self.view.started(state)
            self._followers.append(Follower(node, state, self.view, self._changed))

    def _after(self, delay: float, action: Callable[[], object]) -> None:
        self._scheduled.append((time.monotonic() + delay, action))

    def _until(self, reached: Callable[[], bool], seconds: float | None) -> bool:
        """Wait, and meanwhile do what is due; return whether the condition was reached."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while not reached():
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                return False
            moments = [now + _TICK_SECONDS, *(when for when, _ in self._scheduled)]
            if deadline is not None:
                moments.append(deadline)
            with self._changed:
                # The tick is for `stop`: a signal handler can't notify.
                self._changed.wait_for(lambda: reached() or self._due_faults(), min(moments) - now)
            self._do_what_is_due()
        return True

    def _do_what_is_due(self) -> None:
        now = time.monotonic()
        due = [action for when, action in self._scheduled if when <= now]
        self._scheduled = [entry for entry in self._scheduled if entry[0] > now]
        for action in due:
            action()
        for fault in self._due_faults():
            self._faults.remove(fault)
            self._inflict(fault)

    def _due_faults(self) -> list[Fault]:
        return [fault for fault in self._faults if fault.phase in self.states[fault.index].reached]

    def _inflict(self, fault: Fault) -> None:
        state, node = self.states[fault.index], self.nodes[fault.index]
        if state.code is not None:
            return
        state.fault = "killed" if fault.kind == KILL else "cut off"
        self.view.note(f"{state.name} is {state.fault} in {fault.phase}")
        if fault.kind == KILL:
            node.kill()
        elif fault.kind == CUT:
            node.cut()

    def _all_exited(self) -> bool:
        return all(self.states[index].code is not None for index in self.nodes)

    def _stop_nodes(self) -> None:
        """Stop the nodes that still run: SIGTERM, Batch's 30 seconds, SIGKILL."""
        self._scheduled.clear()
        left = [i for i in self.nodes if self.states[i].code is None]
        for index in left:
            self.states[index].stopped = True
            self.nodes[index].thaw()
            self.nodes[index].signal(signal.SIGTERM)
        if not self._until(self._all_exited, STOP_SECONDS):
            for index in left:
                self.nodes[index].kill()
            self._until(self._all_exited, _JOIN_SECONDS)

    def _fetch_results(self) -> list[Path]:
        job = self.job
        return self.s3.download(BUCKET, job.output_prefix, job.results_dir)


def _check(job: Job) -> None:
    """Refuse a job that can't be run; raise AgentError (64 or 66)."""
    if not 0 <= job.main_index < job.nodes:
        raise AgentError(
            f"run {job.nodes} nodes with main index {job.main_index}",
            "no such node",
            code=USAGE,
            hint=f"--main-index from 0 to {job.nodes - 1}",
        )
    if job.image is None and any(fault.kind == CUT for fault in job.faults):
        raise AgentError(
            "cut a node off the network",
            "without Docker all nodes share the loopback interface",
            code=USAGE,
            hint="leave out --no-docker, or --kill the node",
        )
    for env in (job.env, *job.node_env.values()):
        _check_buckets(env)
    job.check_objects()


def _check_buckets(env: Mapping[str, str]) -> None:
    """Refuse a bucket that is not there; raise AgentError (64, or 78 for what is not an S3 URI)."""
    if has_own_endpoint(env):
        return  # an S3 of the user's own: its buckets are the user's business
    for name in ("S3_BUCKET", "ARCHITRAVE_OUTPUT"):
        value = env.get(name, "")
        if name not in env or (name == "ARCHITRAVE_OUTPUT" and value in OFF):
            continue
        if not value or S3Uri.parse(value, name).bucket != BUCKET:
            cause = f"the only bucket here is {BUCKET}"
            hint = "leave it out: the local cluster has its own S3, filled by --private and --deps"
            raise AgentError(f"use {name}={value!r}", cause, code=USAGE, hint=hint)


def _prepare_results(directory: Path) -> None:
    """Make the results directory; raise AgentError (73) if it holds another job's."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise OSError("not empty")
        (directory / "logs").mkdir()
    except OSError as error:
        cause = error.strerror or str(error)
        hint = "use --results with another directory"
        raise AgentError(
            f"write results to {directory}", cause, code=CANNOT_WRITE, hint=hint
        ) from error
