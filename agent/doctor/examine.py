"""Pre-flight check of what a job needs: run the checks, print, return the job's exit code.

Nothing is changed: what is fetched and unpacked is in a directory of the doctor's own (0700),
which is removed at the end, also after Ctrl-C. On several nodes the doctors then meet (`meeting`).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NoReturn

from agent.core.environ import runtime_dir
from agent.core.errors import NO_PERMISSION, AgentError
from agent.core.settings import BATCH, Settings, read, read_for_doctor, secrets_of
from agent.core.variables import OFF, SECRET
from agent.doctor import check_data, check_nodes, check_program, check_system
from agent.doctor.context import Context
from agent.doctor.finding import FAIL, PASS, SKIP, WARN, Check, Finding, Subject, first_code
from agent.engine.log import Log
from agent.job.directories import RuntimeDirectory, make_directory

SCHEMA = "architrave-doctor/1"
# Each check may use what earlier ones have found.
_CHECKS = (
    *check_data.CHECKS,
    *check_program.CHECKS,
    *check_system.CHECKS,
    *check_nodes.CHECKS,
)
# What can be checked without knowing the job.
_WITHOUT_SETTINGS = (*check_program.CHECKS[1:], *check_system.CHECKS)
# The password may be in a file, and the file on a dead file system.
_READ_SECONDS = 5.0
_READ_LATE = (
    "read the settings",
    NO_PERMISSION,
    "check the file system of PRIVATE_PASSWD_FILE: mount",
)
_WIDTH, _NAME = 100, 13
_COLOURS = {PASS: "32", WARN: "33", FAIL: "31", SKIP: "2"}
# S3 has the time of one check, not that of a job.
_ATTEMPTS = "2"


def run(env: Mapping[str, str], *, as_json: bool) -> int:
    """Check this node, and on several nodes every pair; print what is found.

    Returns 0 when nothing failed, else the code with which the first FAIL would end a job.
    """
    os.environ.setdefault("AWS_MAX_ATTEMPTS", _ATTEMPTS)
    signal.signal(signal.SIGTERM, _terminated)
    root = env.get("ARCHITRAVE_ROOT", "")
    root = root if os.path.isabs(root) else "/"
    directory = RuntimeDirectory(f"{runtime_dir(root)}-doctor")
    report = Report(env, as_json=as_json)
    try:
        directory.take()
        _examine(env, directory.path, report)
    except AgentError as error:
        report.add([replace(Finding.of(error), name="doctor")])
    finally:
        _kill_children()
        directory.remove(())
    return report.end()


def _terminated(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _kill_children() -> None:
    """Kill what an abandoned check, or Ctrl-C, has left behind."""
    import psutil

    with suppress(psutil.Error):
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                child.kill()


def _examine(env: Mapping[str, str], scratch: str, report: Report) -> None:
    _walk([check_system.NAMES], env, report)
    settings = _read(env, report)
    if settings is None:
        bare = read({"EXEC_TYPE": BATCH, "PATH": env.get("PATH", os.defpath)})
        _walk(_WITHOUT_SETTINGS, Context(bare, scratch), report)
        return
    context = Context(settings, scratch)
    for path in (context.opt, os.path.join(scratch, "tmp")):
        make_directory(path, "ARCHITRAVE_ROOT")
    _walk(_CHECKS, context, report)
    others = settings.topology.count - 1
    if not others:
        return
    if not context.ssh_ready or _failed(report.findings, "sshd", "port", "interface"):
        what = "without keys and sshd this node can't meet the others"
        report.add([Finding(SKIP, what, name="nodes")])
        return
    from agent.doctor import meeting

    report.note(f"meeting {others} nodes, at most {settings.network.join_timeout:g} s …")
    logging = "ARCHITRAVE_LOG_LEVEL" in env
    report.add(meeting.meet(context, tuple(report.findings), logging=logging))


def _read(env: Mapping[str, str], report: Report) -> Settings | None:
    """Read the settings as the job does; None when they are invalid."""
    found: list[Settings] = []

    def settings(env: Mapping[str, str]) -> Finding:
        known = read_for_doctor(env)
        report.hide(secrets_of(known))
        found.append(known)
        topology = known.topology
        report.node = topology.index
        role = "single" if topology.count == 1 else topology.name(topology.index)
        return Finding(PASS, f"mode {known.mode}, job {topology.job}, {role}")

    _walk([Check("settings", settings, _READ_SECONDS, _READ_LATE)], env, report)
    return found[0] if found else None


def _walk(checks: Sequence[Check[Subject]], subject: Subject, report: Report) -> None:
    """Run the checks; skip those that depend on something that hung."""
    silent = set()
    for check in checks:
        if check.late in silent:
            report.add(
                [Finding(SKIP, "a check that it depends on did not answer", name=check.name)]
            )
        elif (found := check.on(subject)) is None:
            silent.add(check.late)
            report.add([check.hanging])
        else:
            report.add(found)


def _failed(findings: list[Finding], *names: str) -> bool:
    return any(one.verdict == FAIL and one.name in names for one in findings)


class Report:
    """The findings, printed one by one, or as one line of JSON at the end."""

    def __init__(self, env: Mapping[str, str], *, as_json: bool) -> None:
        self.findings: list[Finding] = []
        self.node = 0
        self._as_json = as_json
        self._colours = sys.stdout.isatty() and not env.get("NO_COLOR")
        # Hidden also when the settings can't be read.
        values = [env.get(name, "") for name in SECRET]
        self._secrets = tuple(value for value in values if value not in OFF)

    def hide(self, secrets: tuple[str, ...]) -> None:
        """Hide these values from now on."""
        self._secrets += secrets

    def add(self, findings: list[Finding]) -> None:
        """Add findings, and print them unless JSON is wanted."""
        scrub = Log(_discard, secrets=self._secrets).scrub
        for one in findings:
            clean = Finding(**scrub(one.to_json()))
            self.findings.append(clean)
            if not self._as_json:
                _print(self._lines(clean))

    def note(self, text: str) -> None:
        """Show what is being waited for."""
        if not self._as_json:
            _print(f"{'':{6 + _NAME + 2}}{text}")

    def end(self) -> int:
        """Print the summary; return the exit code."""
        code = first_code(self.findings)
        if self._as_json:
            checks = [one.to_json() for one in self.findings]
            whole = {"schema": SCHEMA, "node": self.node, "checks": checks, "code": code}
            _print(json.dumps(whole))
            return code
        count = dict.fromkeys(_COLOURS, 0)
        for one in self.findings:
            count[one.verdict] += 1
        warnings = f"{count[WARN]} warning{'' if count[WARN] == 1 else 's'}"
        _print(f"{count[PASS]} passed, {warnings}, {count[FAIL]} failed")
        return code

    def _lines(self, finding: Finding) -> str:
        indent = " " * (6 + _NAME + 2)
        verdict = finding.verdict
        if self._colours:
            verdict = f"\x1b[{_COLOURS[verdict]}m{verdict}\x1b[0m"
        lines = [
            line
            for text in (finding.what, f"hint: {finding.hint}" if finding.hint else "")
            for line in textwrap.wrap(text, _WIDTH - len(indent), break_on_hyphens=False)
        ]
        return f"{verdict}  {finding.name:{_NAME}}  " + f"\n{indent}".join(lines)


def _discard(data: bytes) -> None:
    pass


def _print(text: str) -> None:
    with suppress(BrokenPipeError):  # without a reader there is still the exit code
        sys.stdout.buffer.write(f"{text}\n".encode("utf-8", "backslashreplace"))
        sys.stdout.buffer.flush()
