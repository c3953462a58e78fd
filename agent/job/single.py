"""Run the job on a node that is alone or the main one, and what a worker does alike."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from agent import __version__
from agent.core import model
from agent.core.errors import S3_UNREACHABLE, TRY_AGAIN, AgentError
from agent.core.model import Node, Outcome
from agent.core.s3place import fields
from agent.core.settings import BATCH
from agent.job.directories import make_directory, point
from agent.job.run import Runner
from agent.multinode.sshd import Sshd, find_ssh, user_name

_STAGE_SECONDS = 3600.0
_SMALL_STEP_SECONDS = 60.0


class Job(Runner):
    """A job on a single node; `main_node` and `worker` add what several nodes need.

    `outcome` is how it ended, once it has been run.
    """

    outcome: Outcome

    def run(self) -> int:
        """Walk all phases; return the job's exit code."""
        self.fetched = []
        self._hostfiles = {}
        self.output_dir = self.settings.output_dir
        self.command = self.settings.command
        self.log.info(
            "job_started", mode=self.settings.mode, version=__version__, built=_build_date()
        )
        outcome = self._guarded(self.work)
        if outcome.code and self.failure is None:
            # Not before: on several nodes a lost one may be the cause, and one line shall name it.
            fields = {"cause": outcome.cause, "code": outcome.code, "hint": outcome.hint or None}
            self.log_failure("application_failed", **fields)
        if self.is_only_agent:
            outcome = self._guarded(lambda: self.end(outcome), outcome)
            self.write_exit_code(outcome.code)
        if outcome.code and self.settings.hold and not self.ending:
            self._hold()
        self.outcome = outcome
        self.log.open()
        self.cleanup()
        if self.spans:
            self.spans[-1].end = self.loop.clock()
        self._log_exit(outcome)
        return outcome.code

    def _hold(self) -> None:
        """Keep the container, and what was unpacked into it, for a person."""
        from agent.job.attach import attach_command

        hint = f"{attach_command(self.settings.helper_env)}; SIGTERM ends it"
        self.log.warning("container_held", seconds=self.settings.hold, hint=hint)
        self.loop.wait(lambda: self.ending, self.loop.clock() + self.settings.hold)

    def _log_exit(self, outcome: Outcome) -> None:
        """Log the last line of all; for a failure with its cause and the application's end."""
        told = {"code": outcome.code, "source": outcome.source, "cause": outcome.cause or None}
        if outcome.code:
            told |= {"hint": outcome.hint or None, "last_lines": self.last_lines() or None}
        self.log.at("error" if outcome.code else "info", "job_exited", told)

    def _guarded(self, step: Any, before: Outcome | None = None) -> Outcome:
        """Return a step's outcome; whatever it raises becomes one, and the first failure stays."""
        try:
            outcome: Outcome = step()
            return outcome
        except AgentError as error:
            if error is not self.failure:
                self.fail(error)
        except Exception as error:
            self.bug(error)
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
        self.stage_in()
        return self.launch()

    def end(self, outcome: Outcome) -> Outcome:
        """Upload what there is, and write the record."""
        self.shielded = True
        self.stop_application()
        self.enter(model.UPLOAD)
        self.begin_upload()
        uploaded = self.finish_upload()
        outcome = self.judged(outcome, uploaded)
        return self.write_record(outcome, {self.node.index: self.recorded(uploaded)})

    def stage_in(self) -> None:
        """Fetch and unpack the archives, install the dependencies."""
        settings = self.settings
        deps_dir = settings.path("/tmp/deps")
        probe = settings.probe
        several = settings.topology.count > 1
        if not (settings.private or settings.deps or probe or several):
            return
        self.enter(model.FETCH)
        make_directory(deps_dir, "S3_BATCH_DEPS_REL_PATH")
        request = {
            "identity": self._identity() if several else None,
            "private": fields(settings.private),
            "deps": fields(settings.deps),
            "probe": fields(probe),
            "path_style": self.path_style,
            "runtime_dir": settings.runtime_dir,
            "opt": settings.path("/opt"),
            "deps_dir": deps_dir,
            "password": settings.password,
            "system": os.geteuid() == 0 and settings.root == "/",
        }
        answer = self.call("stage_in", "stage in", request, _STAGE_SECONDS, code=S3_UNREACHABLE)
        self.fetched = answer["fetched"]
        self._path, self._library_path = answer["path"], answer["library_path"]

    # -- what several nodes have in common

    def _identity(self) -> dict[str, Any]:
        """Return what this attempt's keys and the configurations of sshd and ssh are made from.

        They are made by the helper that unpacks the archive with the key: one start less.
        """
        from agent.multinode import network  # a node that is alone doesn't need it

        settings = self.settings
        address = network.own_address(
            settings.address, settings.interface, settings.topology.main_address
        )
        self.node = Node(settings.topology.index, address, self.slots, __version__)
        return {
            "key_file": settings.path(f"/opt/{settings.key_name}"),
            "directory": self._ssh_directory,
            "batch": self.batch,
            "job": settings.topology.job,
            "attempt": settings.topology.attempt,
            "address": address,
            "port": settings.ssh_port,
            "user": user_name(),
            "nodes": settings.topology.count,
            "heartbeat": settings.heartbeat,
        }

    @property
    def batch(self) -> str:
        """Return where the readiness files are; /tmp/batch is a link to it."""
        return os.path.join(self.settings.runtime_dir, "batch")

    def keep_paths(self) -> None:
        """Make what has to be in /tmp, now and again with every heartbeat: programs clean it."""
        point(self.settings.path("/tmp/batch"), self.batch)

        def again() -> None:
            with contextlib.suppress(AgentError, OSError):  # the next time, maybe
                point(self.settings.path("/tmp/batch"), self.batch)
                self.restore_hostfiles()

        self.loop.every(self.settings.heartbeat, again)

    @property
    def _ssh_directory(self) -> str:
        return os.path.join(self.settings.runtime_dir, "ssh")

    @property
    def ssh(self) -> tuple[str, ...]:
        """Return the command that reaches another node; raise AgentError (127) without one."""
        return (
            find_ssh(self.app_env().get("PATH", os.defpath)),
            "-F",
            f"{self._ssh_directory}/ssh_config",
        )

    @property
    def sftp(self) -> tuple[str, ...]:
        """Return the beginning of the command that opens an SFTP session with another node."""
        from agent.multinode import ssh_keys  # several nodes only, as below

        return (*self.ssh, "-i", os.path.join(self._ssh_directory, ssh_keys.FILES_KEY))

    def open_sshd(self) -> dict[str, Any]:
        """Start sshd; return what requests to other nodes need."""
        from agent.multinode import ssh_keys

        settings = self.settings
        ssh_keys.write_environment(self._ssh_directory, self.app_env())
        config = f"{self._ssh_directory}/sshd_config"
        self.sshd = Sshd(
            self.loop, self.log, config, settings.app_env, self.own_pids, self.sshd_failed
        )
        return {
            "port": settings.ssh_port,
            "user": user_name(),
            "directory": self._ssh_directory,
            "timeout": max(2.0, 2 * settings.heartbeat),
        }

    def wait_for_sshd(self) -> None:
        """Wait until sshd listens; raise what it failed with."""
        sshd = self.sshd
        assert sshd is not None
        if not self.wait("sshd listens", lambda: sshd.listening, _SMALL_STEP_SECONDS):
            cause = f"it does not listen after {_SMALL_STEP_SECONDS:g} s"
            hint = "look at the log with ARCHITRAVE_LOG_LEVEL=debug"
            raise AgentError("start sshd", cause, code=TRY_AGAIN, hint=hint)


def _build_date() -> str | None:
    """Return the first line of /build_date, if the image has one."""
    try:
        with open("/build_date", encoding="utf-8", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return None
