"""Run the application on this node, by the launcher that was chosen."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace

from agent import __version__
from agent.core import model
from agent.core.environ import with_directories
from agent.core.errors import CANNOT_WRITE, NOT_EXECUTABLE, NOT_FOUND, AgentError, os_reason
from agent.core.model import AGENT, Node, Outcome
from agent.core.result_files import NODE_LOG
from agent.core.settings import EXAMPLE
from agent.engine.console import Outlet
from agent.engine.files import replace as replace_file
from agent.job.ask import ask
from agent.job.directories import make_directory
from agent.job.record import Delivery
from agent.job.upload import LOG
from agent.launch import cgroup, mpirun
from agent.launch.application import Application, resolve
from agent.launch.output import Output
from agent.multinode import hostfile
from agent.multinode.output_claim import release

_LOG_SECONDS = 0.2
_LAST_LINES = 50
_MASTER_PORT = "29500"
ARGUMENTS = ("APP_PARAMS", "APP_IN_FILE", "APP_PARAMS1", "APP_PARAMS2")


class Runner(Delivery):
    """The run phase of every role. `_path` and `_library_path` are what deps.tar.gz has brought."""

    limit_hint = "raise ARCHITRAVE_TIMEOUT_SECONDS"
    _chosen: mpirun.Launcher | None = None
    _output: Output | None = None
    _hostfiles: dict[str, str]
    _path: Sequence[str] = ()
    _library_path: Sequence[str] = ()

    def app_env(self) -> dict[str, str]:
        """Return the application's environment, with what deps.tar.gz has brought."""
        return with_directories(self.settings.app_env, self._path, self._library_path)

    # -- run

    def launch(self) -> Outcome:
        """Run the application on this node and return how it ended."""
        settings = self.settings
        self.enter(model.RUN)
        env = self.app_env()
        self.node = self.node if self.node.address else Node(0, "", self.slots, __version__)
        command = self.command_here
        program = resolve(command[0], env.get("PATH", os.defpath))
        self.command = (program, *command[1:])
        launcher = self.launcher(env)
        self.check_launcher(env)
        argv = self.argv(launcher, self.command)
        if launcher == "mpirun":
            self.command = tuple(argv)
        if launcher == "each":
            env |= self.each_env()
            if self.settings.topology.count == 1:
                self.write_hostfiles([])
        self.open_output()
        assert self._output is not None
        application = Application(
            self.loop,
            self.log,
            self._output,
            grace=settings.grace,
            own=self.own_pids,
            on_stop=self.on_stop,
            elsewhere=self.stopping_elsewhere,
            on_release=self.on_release,
        )
        self.application = application
        self.log.info(
            "application_starting",
            command=argv,
            launcher=launcher,
            why=self._chosen.why if self._chosen else None,
            output_dir=self.output_dir,
        )
        try:
            application.start(argv, env, settings.workdir, settings.timeout, self.limit_hint)
        except BaseException:
            self._output.close()
            raise
        if self.failure is not None:
            application.stop(self.failure)
        self.on_started()
        # A short application must not wait to be reaped while structlog is imported.
        self.loop.call_at(self.loop.clock() + _LOG_SECONDS, self.log.open)
        self.sample(by_mpirun=launcher == "mpirun")
        self.loop.wait(lambda: application.ended)
        self.stop_sampling()
        application.finish(self.wait_for_output)
        if self._output.taken:
            self.log.warning(
                "time_log_renamed",
                its=os.path.join(self.output_dir, LOG),
                agents=self._output.path,
                hint="the agent's log of its output goes to S3 under the second name",
            )
        outcome = application.outcome(launcher_aborts=launcher == "mpirun")
        outcome = self._explained(outcome, program, env, by_mpirun=launcher == "mpirun")
        self.log.info(
            "application_exited",
            code=outcome.code,
            real_seconds=round(application.real_seconds, 3),
            out_of_memory=outcome.out_of_memory,
        )
        return outcome

    def argv(self, launcher: str, command: Sequence[str]) -> list[str]:
        """Return the words that start the application on this node."""
        if launcher != "mpirun":
            return list(command)
        return mpirun.mpirun(self.mpirun_options(), command)

    def ask(self, what: str, argv: list[str], env: dict[str, str]) -> str:
        """Run a small program and return what it says; raise AgentError (75) without an answer."""
        return ask(self, what, argv, env)

    def _explained(
        self, outcome: Outcome, program: str, env: dict[str, str], *, by_mpirun: bool
    ) -> Outcome:
        """Return the outcome with what is known of its cause besides the code."""
        if not outcome.code or outcome.source == AGENT or self.failure:
            return outcome
        if error := self._not_executed(outcome.code, program, env, by_mpirun=by_mpirun):
            return self.outcome_of(error)
        if self.settings.topology.count > 1 and mpirun.daemons_failed(self.stderr_tail()):
            cause = "mpirun could not start its daemon on every node, or has lost one"
            hint = "let the nodes reach each other on all ports (security group); see time.log"
            return replace(outcome, cause=cause, hint=hint)
        ldd = shutil.which("ldd", path=env.get("PATH", os.defpath))
        if outcome.code != NOT_FOUND or ldd is None:
            return outcome
        from agent.launch import elf  # for a failure only

        try:
            missing = elf.missing(self.ask("ldd tells what is missing", [ldd, program], env))
        except AgentError:  # a signal, say: the application has ended with its code all the same
            return outcome
        if not missing:
            return outcome
        cause = f"{program} needs libraries that are not here: {', '.join(missing)}"
        return replace(outcome, cause=cause, hint=elf.MISSING_HINT)

    def _not_executed(
        self, code: int, program: str, env: dict[str, str], *, by_mpirun: bool
    ) -> AgentError | None:
        """Return why the program could not be executed on some node, None if it could.

        What mpirun says decides, since a machine may have more ways to execute files than the usual
        ones (binfmt_misc).
        """
        said, node = mpirun.not_executed(self.stderr_tail()) if by_mpirun else (False, "")
        # env ends with 127 when it does not find the interpreter that a script wants.
        if not said and code not in (NOT_FOUND, *(mpirun.NEVER_EXECUTED if by_mpirun else ())):
            return None
        from agent.launch import elf  # for a failure only

        try:
            elf.check(program, program, env.get("PATH", os.defpath))
        except AgentError as error:
            return error
        except OSError:
            pass
        if not said:
            return None
        cause = (
            f"mpirun could not execute it on node {node}" if node else "mpirun could not execute it"
        )
        hint = f"see the end of time.log; is {program} the same file on every node?"
        return AgentError(f"run {program}", cause, code=NOT_EXECUTABLE, hint=hint)

    def stderr_tail(self) -> str:
        """Return the end of the application's output."""
        assert self._output is not None
        return self._output.tail().decode("utf-8", "replace")

    def logs(self) -> dict[str, str]:
        """Return the name and the source of the log of this node's application, if it ran here."""
        output = self._output
        if output is None:
            return {}
        taken = output.taken and not self.shares
        return {os.path.basename(output.path) if taken else LOG: output.source}

    def own_paths(self) -> list[str]:
        """Return the agent's own files and directories, which are no results."""
        return super().own_paths() + ([self._output.path] if self._output else [])

    def cleanup(self) -> None:
        """Leave nothing behind; the log has been uploaded by now."""
        super().cleanup()
        if self.token:
            release(self.output_dir, self.token, self.settings.topology.index)
        if self._output is not None:
            self._output.release()

    def last_lines(self) -> list[str]:
        """Return the last 50 lines of the application's output, none if it never ran here."""
        words = self.stderr_tail() if self._output is not None else ""
        return words.splitlines()[-_LAST_LINES:]

    def on_started(self) -> None:
        """Be told that the application runs; the end may have been told before it began."""

    def on_stop(self, reason: AgentError, number: int, grace: float) -> None:
        """Be told that the application is about to be stopped here; `grace` is in seconds."""

    def stopping_elsewhere(self) -> bool:
        """Tell whether the application still computes on other nodes, after it was stopped."""
        return False

    def on_release(self) -> None:
        """Be told that nothing of the stopped application computes any more, on any node."""

    def launcher(self, env: dict[str, str]) -> str:
        """Return which launcher is used: what is set, or what suits the program."""
        if self._chosen is None:
            settings = self.settings
            self._chosen = mpirun.launcher(
                settings.launcher,
                shutil.which("mpirun", path=env.get("PATH", os.defpath)),
                settings.topology.count,
                bool(settings.slots),
                lambda: self.uses_mpi(env),
            )
        return self._chosen.name

    def uses_mpi(self, env: dict[str, str]) -> str:
        """Return what shows that the program uses MPI, "" where nothing does."""
        from agent.launch import mpi_use  # where nothing else decides

        def ask(argv: list[str], env: dict[str, str]) -> str:
            return self.ask("the loader lists the program's libraries", argv, env)

        return mpi_use.uses_mpi(self.command_here, env, ask, self.poll_events)

    def check_launcher(self, env: dict[str, str]) -> None:
        """Be asked whether the launcher suits the program, before it is started."""

    @property
    def command_here(self) -> tuple[str, ...]:
        """Return the command; without arguments that nobody has named, where they name no file."""
        command, given = self.settings.command, self.settings.app_env
        if any(name in given for name in ARGUMENTS) or os.path.exists(self.settings.path(EXAMPLE)):
            return command
        return command[:1]

    def write_hostfiles(self, workers: list[Node]) -> None:
        """Write the hostfile, and the one with each address once; this node comes first."""
        own = self.node if self.node.address else replace(self.node, address="127.0.0.1")
        for name, text in (
            ("/tmp/hostfile", hostfile.write([own, *workers])),
            ("/tmp/hostfile-deduped", hostfile.deduped([own, *workers])),
        ):
            self.write_hostfile(name, text)

    def write_hostfile(self, name: str, text: str) -> None:
        """Write one of them; it is written again where a program cleans /tmp."""
        path = self.settings.path(name)
        self._hostfiles[path] = text
        os.makedirs(os.path.dirname(path), exist_ok=True)
        replace_file(path, text.encode())

    def restore_hostfiles(self) -> None:
        """Write those again that are gone."""
        for path, text in self._hostfiles.items():
            if not os.path.exists(path):
                replace_file(path, text.encode())

    def each_env(self) -> dict[str, str]:
        """Return what every copy of the application is told in the launcher `each`."""
        topology = self.settings.topology
        main, count = topology.main_address or self.node.address or "127.0.0.1", str(topology.count)
        return {
            "NODE_RANK": str(topology.index),
            "NODE_COUNT": count,
            "MAIN_ADDR": main,
            "HOSTFILE": self.settings.path("/tmp/hostfile"),
            # As PyTorch names them (torch.distributed, "Environment variable initialization").
            "MASTER_ADDR": main,
            "MASTER_PORT": self.settings.app_env.get("MASTER_PORT") or _MASTER_PORT,
            "NNODES": count,
        }

    @property
    def slots(self) -> int:
        """Return the processes for this node."""
        return cgroup.slots(self.settings)

    def mpirun_options(self) -> mpirun.MpiRun:
        """Return what mpirun needs on this node alone."""
        more, env = self.settings.mpirun_args, self.settings.app_env
        return mpirun.MpiRun(
            major=4,
            slots=self.node.slots,
            as_root=os.geteuid() == 0,
            # mpirun binds each rank to a core, with all its threads.
            unbound=self.node.slots < cgroup.processors() and not mpirun.binds(more, env),
            more=more,
        )

    def open_output(self) -> None:
        """Make the directories of the run, look at what is there, open time.log."""
        make_directory(self.output_dir, "TMP_OUTPUT_DIR")
        if self.settings.workdir:
            make_directory(self.settings.workdir, "ARCHITRAVE_WORKDIR")
        self.look_before()
        name = f"{NODE_LOG}{self.settings.topology.index}.log" if self.shares else LOG
        path = os.path.join(self.output_dir, name)
        try:
            self._output = Output(self.loop, path, Outlet(1))
        except OSError as error:
            raise AgentError(
                f"write {path}",
                os_reason(error),
                code=CANNOT_WRITE,
                hint="set TMP_OUTPUT_DIR to a directory that this user may write",
            ) from error
