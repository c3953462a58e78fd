"""Run the job on a node that is alone or the main one, and what a worker does alike."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import traceback
from dataclasses import asdict
from typing import Any

from agent import __version__, cgroup, model, network, outputs, plan, report
from agent.console import Outlet
from agent.errors import BAD_SETTINGS, BUG, CANNOT_WRITE, NO_PERMISSION, AgentError, why
from agent.launch import Application, resolve
from agent.model import Node, Outcome
from agent.output import Output
from agent.settings import BATCH, LAMBDA, S3Place
from agent.sshd import Sshd
from agent.supervisor import Supervisor

_STAGE_SECONDS, _UPLOAD_SECONDS = 3600.0, 3600.0
_SMALL_STEP_SECONDS = 60.0


class Job(Supervisor):
    """A job on a single node; `main_node` and `worker` add what several nodes need."""

    output_dir = ""
    node = Node(0, "", 1)
    command: tuple[str, ...] = ()
    _output: Output | None = None
    _before: dict[str, outputs.Stamp] | None = None
    _path: list[str]
    _library_path: list[str]
    _fetched: list[dict[str, Any]]

    def run(self) -> int:
        """Walk all phases; return the job's exit code."""
        self._path, self._library_path, self._fetched = [], [], []
        self.output_dir = self.settings.output_dir
        self.command = self.settings.command
        outcome = self._guarded(self.work)
        outcome = self._guarded(lambda: self.end(outcome), outcome)
        self.write_exit_code(outcome.code)
        if outcome.code and self.settings.hold and not self.ending:
            self.log.warning(
                "holding this container for a debugger",
                seconds=self.settings.hold,
                hint="docker exec -it CONTAINER architrave shell; SIGTERM ends it",
            )
            self.loop.wait(lambda: self.ending, self.loop.clock() + self.settings.hold)
        self.log.open()
        self.cleanup()
        if self.spans:
            self.spans[-1].end = self.loop.clock()
        level = "error" if outcome.code else "info"
        self.log.at(
            level, "exit", {"code": outcome.code, "spoke": outcome.spoke, "cause": outcome.cause}
        )
        return outcome.code

    def _guarded(self, step: Any, before: Outcome | None = None) -> Outcome:
        """Return a step's outcome; whatever it raises becomes one, and the first failure stays."""
        try:
            outcome: Outcome = step()
            return outcome
        except AgentError as error:
            if error is not self.failure:
                self.fail(error)
        except Exception as error:
            trace = traceback.format_exc()
            self.log.error("bug", traceback=trace)
            hint = "report it with the traceback from the log"
            self.fail(AgentError("go on", f"{type(error).__name__}: {error}", code=BUG, hint=hint))
        if before is not None and before.code:
            return before
        assert self.failure is not None
        return self.outcome_of(self.failure)

    # -- the phases of a node that is alone

    def work(self) -> Outcome:
        """Do everything until the application has ended."""
        if self.settings.mode == BATCH:
            self.log.open()
        self.prepare()
        if self.settings.mode == BATCH:
            self.stage_in()
        return self.launch()

    def end(self, outcome: Outcome) -> Outcome:
        """Upload what there is, and write the record."""
        self.shielded = True
        self.enter(model.UPLOAD)
        place = self.place
        uploaded = self.upload(place)
        outcome = self.judged(outcome, uploaded)
        self.write_record(outcome, {self.node.index: self.record(uploaded)}, place)
        return outcome

    @property
    def place(self) -> S3Place | None:
        """Return where this attempt's results go on S3."""
        topology = self.settings.topology
        output = self.settings.output
        return output / f"{topology.job}/attempt-{topology.attempt}" if output else None

    def stage_in(self) -> None:
        """Fetch and unpack the archives, install the dependencies."""
        self.enter(model.FETCH)
        settings = self.settings
        deps_dir = settings.path("/tmp/deps")
        place = self.place
        probe = place / f"node-{settings.topology.index}/.write-probe" if place else None
        if not (settings.private or settings.deps or probe):
            return
        _make_directory(deps_dir, "S3_BATCH_DEPS_REL_PATH")
        request = {
            "private": _fields(settings.private),
            "deps": _fields(settings.deps),
            "probe": _fields(probe),
            "path_style": self._path_style,
            "runtime_dir": settings.runtime_dir,
            "opt": settings.path("/opt"),
            "deps_dir": deps_dir,
            "password": settings.password,
            "system": os.geteuid() == 0 and settings.root == "/",
        }
        answer = self.call("stage_in", "stage in", request, _STAGE_SECONDS)
        self._fetched = answer["fetched"]
        self._path, self._library_path = answer["path"], answer["library_path"]

    @property
    def _path_style(self) -> bool:
        env = self.settings.helper_env
        return bool(env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL"))

    def app_env(self) -> dict[str, str]:
        """Return the application's environment, with what deps.tar.gz has brought."""
        env = dict(self.settings.app_env)
        if self._path:
            env["PATH"] = ":".join([*self._path, env.get("PATH", os.defpath)])
        if self._library_path:
            given = env.get("LD_LIBRARY_PATH")
            env["LD_LIBRARY_PATH"] = ":".join([*self._library_path, *([given] if given else [])])
        return env

    # -- run

    def launch(self) -> Outcome:
        """Run the application on this node and return how it ended."""
        settings = self.settings
        self.enter(model.RUN)
        env = self.app_env()
        self.node = self.node if self.node.address else Node(0, "", self.slots, __version__)
        program = resolve(settings.command[0], env.get("PATH", os.defpath))
        launcher = self.launcher(env)
        self.command = (program, *settings.command[1:])
        argv = list(self.command)
        if launcher == "mpirun":
            options = self.mpirun_options(env)
            names = [name for name in plan.PASSED_ON if env.get(name)]
            argv = plan.mpirun(options, argv, names)
            self.command = tuple(argv)
        if launcher == "each":
            env |= self.each_env()
        self.open_output()
        assert self._output is not None
        application = Application(self.loop, self.log, self._output, grace=settings.grace)
        self.application = application
        self.log.info("launch", command=argv, launcher=launcher, output_dir=self.output_dir)
        application.start(argv, env, settings.workdir, settings.timeout)
        if self.failure is not None:
            application.stop(self.failure)
        self.log.open()
        application.sample(self.own_pids)
        self.loop.wait(lambda: application.ended)
        application.finish(self.loop.wait)
        outcome = application.outcome(launcher_aborts=launcher == "mpirun")
        self.log.info(
            "application ended",
            code=outcome.code,
            real_seconds=round(application.real_seconds, 3),
            out_of_memory=outcome.out_of_memory,
        )
        if outcome.code:
            self.log.error(outcome.cause, hint=outcome.hint)
        return outcome

    def launcher(self, env: dict[str, str]) -> str:
        """Return which launcher is used: what is set, or what the image has."""
        chosen = self.settings.launcher
        found = shutil.which("mpirun", path=env.get("PATH", os.defpath))
        if chosen == "mpirun" and not found:
            hint = "build the image with Open MPI, or set ARCHITRAVE_LAUNCHER=direct"
            raise AgentError("use mpirun", "it is not on PATH", code=BAD_SETTINGS, hint=hint)
        if chosen == "auto":
            return "mpirun" if found else "direct"
        return chosen

    def each_env(self) -> dict[str, str]:
        """Return what every copy of the application is told in the launcher `each`."""
        topology = self.settings.topology
        return {
            "NODE_RANK": str(topology.index),
            "NODE_COUNT": str(topology.count),
            "MAIN_ADDR": topology.main_address or self.node.address or "127.0.0.1",
            "HOSTFILE": self.settings.path("/tmp/hostfile"),
        }

    @property
    def slots(self) -> int:
        """Return the processes for this node; lambda mode has always had one."""
        if self.settings.slots:
            return self.settings.slots
        return 1 if self.settings.mode == LAMBDA else cgroup.default_slots()

    def mpirun_options(self, env: dict[str, str]) -> plan.MpiRun:
        """Return what mpirun needs on this node alone."""
        program = shutil.which("mpirun", path=env.get("PATH", os.defpath)) or "mpirun"
        return plan.MpiRun(
            program,
            major=4,
            slots=self.node.slots,
            as_root=os.geteuid() == 0,
            more=self.settings.mpirun_args,
        )

    def open_output(self) -> None:
        """Make the directories of the run, look at what is there, open time.log."""
        _make_directory(self.output_dir, "TMP_OUTPUT_DIR")
        if self.settings.workdir:
            _make_directory(self.settings.workdir, "ARCHITRAVE_WORKDIR")
        self._before = outputs.snapshot(self.output_dir)
        path = os.path.join(self.output_dir, "time.log")
        self._before.pop(path, None)
        try:
            self._output = Output(self.loop, path, Outlet(1))
        except OSError as error:
            raise AgentError(
                f"write {path}",
                why(error),
                code=CANNOT_WRITE,
                hint="set TMP_OUTPUT_DIR to a directory that this user may write",
            ) from error

    # -- stage out

    def results(self) -> list[str]:
        """Return the result files of this node, relative to the output directory."""
        path = self.settings.path
        own = [
            self.settings.runtime_dir,
            f"{self.settings.runtime_dir}.lock",
            self.settings.exit_code_file,
            os.path.join(self.output_dir, "run.json"),
            *(
                path(p)
                for p in ("/tmp/deps", "/tmp/batch", "/tmp/hostfile", "/tmp/hostfile-deduped")
            ),
            *(path(p) for p in ("/tmp/private.7z", "/tmp/deps.tar.gz")),
        ]
        if self._before is None:
            return []  # nothing ran here, so nothing is this job's
        return outputs.results(self.output_dir, self._before, own, self.settings.exclude)

    def upload(self, place: S3Place | None) -> dict[str, Any]:
        """Upload this node's results; return {"files", "failed"}."""
        files = self.results() if os.path.isdir(self.output_dir) else []
        if place is None or not files:
            return {"files": [], "failed": []}
        request = {
            "place": _fields(place / f"node-{self.settings.topology.index}"),
            "path_style": self._path_style,
            "directory": self.output_dir,
            "files": files,
        }
        try:
            answer = self.call("stage_out", "upload the results", request, _UPLOAD_SECONDS)
        except AgentError as error:
            answer = {"files": [], "failed": [{"name": name, **error.to_json()} for name in files]}
        for failed in answer["failed"]:
            self.log.error(
                f"cannot {failed['what']}: {failed['cause']}",
                hint=failed["hint"] or f"it stays in {self.output_dir}",
            )
        self.log.info(
            "uploaded", files=len(answer["files"]), failed=len(answer["failed"]), place=str(place)
        )
        return answer

    def judged(self, outcome: Outcome, uploaded: dict[str, Any]) -> Outcome:
        """Return the outcome with what uploading says of it: 73 if nothing failed before."""
        failed = uploaded["failed"]
        if not failed or outcome.code:
            return outcome
        names = ", ".join(str(one["name"]) for one in failed[:5])
        error = AgentError(
            f"upload {len(failed)} results ({names})",
            str(failed[0]["cause"]),
            code=CANNOT_WRITE,
            hint=str(failed[0]["hint"]),
        )
        self.fail(error)
        return self.outcome_of(error)

    def record(self, uploaded: dict[str, Any]) -> dict[str, Any]:
        """Return what this node tells about itself."""
        sampler = self.application.sampler if self.application else None
        return report.node_record(
            self.node,
            self.spans,
            fetched=self._fetched,
            files=uploaded["files"],
            failed=[one["name"] for one in uploaded["failed"]],
            peaks=sampler.peaks() if sampler else {},
            samples=sampler.curves() if sampler else {},
            memory_limit_bytes=cgroup.memory_limit(),
        )

    def write_record(
        self, outcome: Outcome, nodes: dict[int, dict[str, Any]], place: S3Place | None
    ) -> None:
        """Write run.json here and on S3, and the manifest last, if nothing is missing."""
        child = self.application.child if self.application else None
        times = {
            "real": round(self.application.real_seconds, 3) if self.application else 0.0,
            "user": round(child.user_seconds, 3) if child else 0.0,
            "sys": round(child.system_seconds, 3) if child else 0.0,
        }
        topology = self.settings.topology
        run = report.run_json(
            topology, outcome, self.log.scrub(self.command), nodes.values(), times
        )
        with contextlib.suppress(OSError):
            if os.path.isdir(self.output_dir):
                with open(os.path.join(self.output_dir, "run.json"), "w", encoding="utf-8") as file:
                    file.write(run)
        if place is None:
            return
        documents = [("run.json", run)]
        complete = len(nodes) == topology.count and not any(n.get("failed") for n in nodes.values())
        if complete:
            parts = {index: node["files"] for index, node in nodes.items()}
            documents.append(("manifest.json", report.manifest_json(topology, parts)))
        request = {"place": _fields(place), "path_style": self._path_style, "documents": documents}
        self.call("finish", "write the record", request, _SMALL_STEP_SECONDS)

    # -- what several nodes have in common

    def open_sshd(self) -> dict[str, Any]:
        """Make this attempt's keys, start sshd; return what requests to other nodes need."""
        settings = self.settings
        user = _user_name()
        address = network.own_address(
            settings.address, settings.interface, settings.topology.main_address
        )
        self.node = Node(settings.topology.index, address, self.slots, __version__)
        env = self.app_env()
        directory = os.path.join(settings.runtime_dir, "ssh")
        request = {
            "key_file": settings.path(f"/opt/{settings.key_name}"),
            "directory": directory,
            "batch": settings.path("/tmp/batch"),
            "job": settings.topology.job,
            "attempt": settings.topology.attempt,
            "address": address,
            "port": settings.ssh_port,
            "user": user,
            "nodes": settings.topology.count,
            "heartbeat": settings.heartbeat,
            "path": env.get("PATH", ""),
            "library_path": env.get("LD_LIBRARY_PATH", ""),
        }
        self.call("identity", "make this job's SSH keys", request, _SMALL_STEP_SECONDS)
        self.sshd = Sshd(self.loop, self.log, f"{directory}/sshd_config", settings.app_env)
        if self.sshd.child is not None:
            self.own_pids.add(self.sshd.child.pid)
        return {
            "port": settings.ssh_port,
            "user": user,
            "directory": directory,
            "timeout": max(2.0, 2 * settings.heartbeat),
        }

    def wait_for_sshd(self) -> None:
        """Wait until sshd listens; raise what it failed with."""
        sshd = self.sshd
        assert sshd is not None
        self.wait("sshd listens", lambda: sshd.listening, _SMALL_STEP_SECONDS)


def _fields(place: S3Place | None) -> dict[str, str] | None:
    return asdict(place) if place else None


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError as error:
        raise AgentError(
            "start sshd",
            f"user id {os.geteuid()} has no passwd entry",
            code=NO_PERMISSION,
            hint="run several nodes as a user that the image knows",
        ) from error


def _make_directory(path: str, name: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise AgentError(
            f"make the directory {path}",
            why(error),
            code=CANNOT_WRITE,
            hint=f"set {name} to something that this user may make",
        ) from error
