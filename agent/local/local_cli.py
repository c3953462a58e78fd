"""Read the words after `architrave local`, run the job, and say how it went."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from agent.errors import USAGE, AgentError
from agent.local import hurts
from agent.local.cluster import Cluster, Result
from agent.local.containers import UNAVAILABLE, engine_answers
from agent.local.interrupts import interrupts
from agent.local.job import DEFAULT_IMAGE, Job
from agent.local.view import Plain, View, summary

_EXAMPLES = """\
examples:
  architrave local run --nodes 3 --private private.7z --deps deps.tar.gz \\
      -e PRIVATE_PASSWD -e APP_BIN=/opt/app -e "APP_PARAMS=input.txt"
  architrave local run --nodes 3 --no-docker --private private.7z -e APP_BIN=/opt/app
  architrave local run --nodes 3 --kill worker:2@run -e APP_BIN=/bin/sleep -e APP_PARAMS=60

NODE is main, worker:INDEX or an index; PHASE is fetch, unpack, join, run, part
or upload. The exit code is the main node's.
"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are the agent's own."""

    def error(self, message: str) -> NoReturn:
        """Raise AgentError (64) for words that can't be read."""
        raise AgentError("read the command line", message, code=USAGE, hint=f"{self.prog} --help")


def main(argv: list[str]) -> int:
    """Run the words after `local`; return the exit code."""
    # The agent's entry point blocks every signal, for its PID 1; here Ctrl-C must work.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
    try:
        return _run(_parser().parse_args(argv))
    except AgentError as error:
        print(error, file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.code


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="architrave local", description="Run a job on simulated nodes on this machine."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    run = commands.add_parser(
        "run",
        help="run a job as AWS Batch would",
        description="Run a job on N nodes: containers on a private network, or processes.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("--nodes", type=int, default=1, metavar="N", help="number of nodes (1)")
    run.add_argument("--main-index", type=int, default=0, metavar="K", help="the main node (0)")
    where = run.add_mutually_exclusive_group()
    where.add_argument("--image", metavar="TAG", help=f"image ({DEFAULT_IMAGE})")
    where.add_argument("--no-docker", action="store_true", help="processes, not containers")
    run.add_argument("--private", type=Path, metavar="FILE", help="private.7z")
    run.add_argument("--deps", type=Path, metavar="FILE", help="deps.tar.gz")
    run.add_argument("-e", "--env", action="append", default=[], metavar="K[=V]", help="variable")
    run.add_argument("--results", type=Path, metavar="DIR", help="architrave-results/<job id>")
    run.add_argument("--timeout", type=float, metavar="SECONDS", help="end the job after this")
    for kind, form in ((hurts.KILL, "NODE@PHASE"), (hurts.CUT, "NODE@PHASE")):
        run.add_argument(f"--{kind}", action="append", default=[], metavar=form)
    run.add_argument("--delay", action="append", default=[], metavar="NODE=SECONDS")
    return parser


def _run(options: argparse.Namespace) -> int:
    job = _job(options)
    with interrupts() as signals, Cluster(job, _view(job)) as cluster:
        try:
            signals.on_first = lambda name: _end(cluster, name)
            if job.image is None and not options.no_docker:
                cluster.view.note("no Docker engine answers: the nodes are processes")
            result = cluster.wait()
        finally:
            signals.ignore()
    _tell(result)
    return result.code


def _end(cluster: Cluster, name: str) -> None:
    cluster.view.note(f"{name}: every node gets SIGTERM; once more ends them at once")
    cluster.stop()


def _job(options: argparse.Namespace) -> Job:
    if options.nodes < 1:
        hint = "for example --nodes 3"
        raise AgentError(f"run {options.nodes} nodes", "there is no node", code=USAGE, hint=hint)
    return Job(
        nodes=options.nodes,
        main_index=options.main_index,
        image=_image(options),
        private=options.private,
        deps=options.deps,
        env=dict(_variable(text) for text in options.env),
        results=options.results,
        timeout=options.timeout,
        hurts=tuple(
            hurts.parse(kind, text, options.nodes, options.main_index)
            for kind in (hurts.KILL, hurts.CUT, hurts.DELAY)
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
        cause, hint = "no Docker engine answers", "docker info; or --no-docker"
        raise AgentError(f"start {options.image}", cause, code=UNAVAILABLE, hint=hint)
    return None


def _variable(text: str) -> tuple[str, str]:
    """Read `K=V`, or `K` whose value is this program's own, as docker run -e does."""
    name, separator, value = text.partition("=")
    if not name:
        raise AgentError(f"use -e {text}", "it has no name", code=USAGE, hint="-e NAME=VALUE")
    if name.startswith("AWS_BATCH"):
        cause = "AWS Batch sets it, and lets nobody else set it"
        raise AgentError(f"use -e {name}", cause, code=USAGE, hint="--nodes, --main-index")
    if not separator:
        if name not in os.environ:
            hint = f"export {name}=… or -e {name}=…"
            raise AgentError(f"use -e {name}", "it is not set here", code=USAGE, hint=hint)
        value = os.environ[name]
    return name, value


def _view(job: Job) -> View:
    if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        try:
            from agent.local.live import LiveTable
        except ImportError:
            return Plain()
        return LiveTable(job.main_index)
    return Plain()


def _tell(result: Result) -> None:
    print()
    print(summary(result.nodes))
    print(f"results: {result.results}")
    if result.timed_out:
        print("the job ran into its time limit", file=sys.stderr)
