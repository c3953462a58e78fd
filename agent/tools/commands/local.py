"""The command `architrave local`: run a job on this machine, and report how it went."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from pathlib import Path

from agent.core.errors import USAGE, AgentError
from agent.tools.cluster import attach, faults, node_log
from agent.tools.cluster.cluster import Cluster, Result
from agent.tools.cluster.containers import UNAVAILABLE, engine_answers
from agent.tools.cluster.interrupts import interrupts
from agent.tools.cluster.job import DEFAULT_IMAGE, DEFAULT_RESULTS, Job
from agent.tools.cluster.states import NodeState
from agent.tools.cluster.view import Plain, View, end_of, summary
from agent.tools.commands.options import Commands, command, group

_EXAMPLES = """\
  architrave local run --nodes 3 --private private.7z -e PRIVATE_PASSWD \\
      -e APP_BIN=/opt/app -e APP_PARAMS=input.txt
NODE: main, worker:N, N. PHASE: fetch, unpack, join, run, release, upload.
"""
_SHELL_EXAMPLES = """\
  architrave local shell            # on the main node of the job that runs
  architrave local shell worker:2
"""
_LOGS_EXAMPLES = """\
  architrave local logs             # every node of the latest job, lines marked
  architrave local logs worker:2 --follow
  architrave local logs --results architrave-results/JOB-ID
"""


def add(commands: Commands) -> None:
    """Add `local` with its commands."""
    local = group(commands, "local", "run a job on local nodes", _EXAMPLES)
    _add_run(local)
    shell = command(local, "shell", "open a shell on a node of a job that runs or is held",
                    _SHELL_EXAMPLES, _shell)  # fmt: skip
    shell.add_argument("node", nargs="?", default="main", metavar="NODE",
                       help="main, worker:INDEX or INDEX (main)")  # fmt: skip
    shell.add_argument(
        "--job", default="", metavar="ID", help="job id or its beginning (default: the latest)"
    )
    logs = command(local, "logs", "show what the nodes of a job have logged",
                   _LOGS_EXAMPLES, _logs)  # fmt: skip
    logs.add_argument("node", nargs="*", metavar="NODE", help="nodes to show (default: all)")
    logs.add_argument(
        "--results", type=Path, metavar="DIR", help="results directory (default: the latest job's)"
    )
    logs.add_argument("-f", "--follow", action="store_true", help="follow until the job ends")


def _add_run(local: Commands) -> None:
    run = command(local, "run", "run a job as AWS Batch would", _EXAMPLES, _run)
    run.usage = "architrave local run [OPTION]…"
    run.add_argument("--nodes", type=int, default=1, metavar="N", help="number of nodes (1)")
    run.add_argument(
        "--main-index", type=int, default=0, metavar="K", help="index of the main node (0)"
    )
    where = run.add_mutually_exclusive_group()
    where.add_argument("--image", metavar="TAG", help=f"image ({DEFAULT_IMAGE})")
    where.add_argument("--no-docker", action="store_true", help="processes, not containers")
    run.add_argument("--private", type=Path, metavar="FILE", help="private.7z, if the job has one")
    run.add_argument("--deps", type=Path, metavar="FILE", help="deps.tar.gz, if the job has one")
    run.add_argument(
        "-e",
        "--env",
        action="append",
        default=[],
        metavar="K[=V]",
        help="variable of the job; only K: its value here",
    )
    run.add_argument(
        "--results", type=Path, metavar="DIR", help="for results (architrave-results/<job id>)"
    )
    run.add_argument("--timeout", type=float, metavar="SECONDS", help="time limit of the job")
    run.add_argument(
        "--hold", action="store_true", help="keep a failed job's nodes until Ctrl-C, a day at most"
    )
    for kind, does in (
        (faults.KILL, "kill a node when it enters a phase"),
        (faults.CUT, "disconnect a node when it enters a phase"),
    ):
        run.add_argument(f"--{kind}", action="append", default=[], metavar="NODE@PHASE", help=does)
    run.add_argument("--delay", action="append", default=[], metavar="NODE=SECONDS",
                     help="start a node so much later")  # fmt: skip


def _run(options: argparse.Namespace) -> int:
    job = _job(options)
    with interrupts() as signals, Cluster(job, _view()) as cluster:
        try:
            signals.on_first = lambda name: _end(cluster, name)
            if job.image is None and not options.no_docker:
                cluster.view.note("no Docker engine answers: running the nodes as processes")
            result = cluster.wait()
        finally:
            signals.ignore()
    _print_end(result, cluster.states[job.main_index])
    return result.code


def _end(cluster: Cluster, name: str) -> None:
    cluster.view.note(f"{name}: every node gets SIGTERM; press Ctrl-C again to kill them")
    cluster.stop()


def _job(options: argparse.Namespace) -> Job:
    if options.nodes < 1:
        hint = "for example --nodes 3"
        raise AgentError(
            f"run {options.nodes} nodes", "at least one node is needed", code=USAGE, hint=hint
        )
    return Job(
        nodes=options.nodes,
        main_index=options.main_index,
        image=_image(options),
        private=options.private,
        deps=options.deps,
        env=dict(_variable(text) for text in options.env),
        results=options.results,
        timeout=options.timeout,
        hold=options.hold,
        faults=tuple(
            faults.parse(kind, text, options.nodes, options.main_index)
            for kind in (faults.KILL, faults.CUT, faults.DELAY)
            for text in getattr(options, kind)
        ),
    )


def _image(options: argparse.Namespace) -> str | None:
    """Return the image to use, None for processes."""
    if options.no_docker:
        return None
    if engine_answers():
        return options.image or DEFAULT_IMAGE
    if options.image:
        cause, hint = (
            "no Docker engine answers",
            "check the engine: docker info; or use --no-docker",
        )
        raise AgentError(f"start {options.image}", cause, code=UNAVAILABLE, hint=hint)
    return None


def _variable(text: str) -> tuple[str, str]:
    """Read `K=V`, or `K` whose value is this program's own, as docker run -e does."""
    name, separator, value = text.partition("=")
    if not name:
        raise AgentError(f"use -e {text}", "no name is given", code=USAGE, hint="-e NAME=VALUE")
    if name.startswith("AWS_BATCH"):
        cause = "AWS Batch sets it, and it is reserved"
        raise AgentError(f"use -e {name}", cause, code=USAGE, hint="--nodes, --main-index")
    if not separator:
        if name == "PRIVATE_PASSWD" and name not in os.environ and sys.stdin.isatty():
            return name, getpass.getpass("password of private.7z: ")
        if name not in os.environ:
            hint = f"export {name}=… or -e {name}=…"
            raise AgentError(f"use -e {name}", "not set in this environment", code=USAGE, hint=hint)
        value = os.environ[name]
    return name, value


def _view() -> View:
    if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        try:
            from agent.tools.cluster.live import LiveTable
        except ImportError:
            return Plain()
        return LiveTable()
    return Plain()


def _print_end(result: Result, main: NodeState) -> None:
    """Print how each node exited; for a failure the cause and the application's last lines."""
    print()
    print(summary(result.nodes))
    print(f"results: {result.results}")
    if (page := result.results / "report.html") in result.files:
        print(f"report:  {page}")
    if result.timed_out:
        print("the job exceeded its time limit", file=sys.stderr)
    if result.code:
        for line in main.exit_record.get("last_lines") or main.tail:
            print(f"  | {line}", file=sys.stderr)
        print(main.exit_record.get("cause") or f"main: {end_of(main)}", file=sys.stderr)
        hint = main.exit_record.get("hint") or f"architrave local logs --results {result.results}"
        print(f"hint: {hint}", file=sys.stderr)


def _shell(options: argparse.Namespace) -> int:
    attach.shell(attach.called(options.node), options.job)


def _logs(options: argparse.Namespace) -> int:
    results = options.results or node_log.latest(DEFAULT_RESULTS)
    nodes = [attach.called(text) for text in options.node]
    node_log.show(results, nodes, follow=options.follow)
    return 0
