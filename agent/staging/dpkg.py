"""Install packages from files with apt-get, or only with dpkg, without any network.

apt-get knows the order: pre-dependencies (python3 needs python3-minimal configured before it is
unpacked), conflicts, upgrades. If it is missing, or can't find a plan (an image with inconsistent
packages), dpkg repeatedly unpacks and configures what it can until nothing is left.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence

from agent.core.errors import BAD_ARCHIVE, AgentError
from agent.engine import capture

HINT = (
    "see dpkg.log in the results;"
    " or install the same files by hand: docker run … shell, then apt-get install /tmp/deps/*.deb"
)
_DPKG = (
    # The container is temporary: what a power cut would do to its disk doesn't matter.
    "--force-unsafe-io",
    "--force-confold",
    # One that can't be unpacked yet doesn't hold up the rest, however many fail.
    "--abort-after=1000000",
)
_APT = (
    "apt-get",
    "--yes",
    "--quiet",
    "--no-install-recommends",
    "--allow-downgrades",
    "--allow-change-held-packages",
    # Nothing is downloaded: no source is known, and no list of one.
    *("-o", "Dir::Etc::sourcelist=/dev/null", "-o", "Dir::Etc::sourceparts=/dev/null"),
    *("-o", "APT::Sandbox::User=root", "-o", "Dpkg::Use-Pty=0"),
)
# Slim images have no manual pages, nor the directories: there update-alternatives fails to make the
# links to those of a JRE, which are elsewhere.
_MANUALS = tuple(f"/usr/share/man/man{section}" for section in range(1, 10))
# Run by dpkg before its own work. Of a package's directories dpkg makes none that the image
# excludes (path-exclude in dpkg.cfg), which its scripts expect nevertheless. A line of a .list that
# begins the next one is a directory.
_HOOK = r"""
: >{work}/started
[ "$DPKG_HOOK_ACTION" = configure ] || exit 0
umask 022
find "${{DPKG_ADMINDIR:-/var/lib/dpkg}}/info" -name '*.list' -newer {work}/lists -exec awk '
    FNR > 1 && index($0, last "/") == 1 {{ print last }} {{ last = $0 }}' {{}} + |
    xargs -r -d '\n' mkdir -p -- 2>/dev/null
exit 0
"""
_PROGRESS = re.compile(
    r"\(Reading database|Selecting previously|Preparing to unpack|Unpacking |Setting up "
    r"|Processing triggers|Removing |Purging |De-configuring |Get:|Fetched |Need to get"
)
_WRONG = re.compile(r"dpkg(-deb)?: (error|dependency problems|regarding )|E: ")
_SCRIPT_LINES, _MAX_BYTES = 20, 4 << 20


def install(files: Sequence[str], log: str) -> None:
    """Install packages; what apt-get and dpkg write goes to the file `log`. Raise AgentError 65."""
    for path in _MANUALS:
        with contextlib.suppress(OSError):
            os.makedirs(path, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="dpkg-", dir=os.path.dirname(log)) as work:
        for name in ("lists/partial", "cache/archives/partial"):
            os.makedirs(os.path.join(work, name))
        hook = os.path.join(work, "hook")
        with open(hook, "w", encoding="utf-8") as file:
            file.write(_HOOK.format(work=shlex.quote(work)))
        options = (*_DPKG, f"--pre-invoke=sh {shlex.quote(hook)}")
        if shutil.which("apt-get"):
            text = _apt(files, options, work, log)
            if text is None:
                return
            if os.path.exists(os.path.join(work, "started")):
                raise _failed(text)
        _dpkg(files, options, log)


def _apt(files: Sequence[str], options: Iterable[str], work: str, log: str) -> str | None:
    """Install with apt-get; return None, or what it wrote if it failed."""
    dirs = ("-o", f"Dir::State::lists={work}/lists", "-o", f"Dir::Cache={work}/cache")
    dpkg = [word for option in options for word in ("-o", f"Dpkg::Options::={option}")]
    code, text = _run([*_APT, *dirs, *dpkg, "install", *files], log)
    return text if code else None


def _dpkg(files: Sequence[str], options: Sequence[str], log: str) -> None:
    """Unpack and configure what can be, as long as there is progress."""
    before = ""
    for _ in range(len(files) + 1):
        # Those that are installed by now are skipped.
        unpack = ("--auto-deconfigure", "--skip-same-version", "--unpack", *files)
        unpacked, first = _run(["dpkg", *options, *unpack], log)
        configured, second = _run(["dpkg", *options, "--configure", "--pending"], log)
        if not unpacked and not configured:
            return
        status = capture.run(["dpkg-query", "-W", "-f", "${Package} ${Status}\n"]).out
        if status == before:
            break
        before = status
    raise _failed(first + second)


def _run(argv: Sequence[str], log: str) -> tuple[int, str]:
    """Run a program with its output at the end of the log; return its code and the output.

    Only its own exit is waited for: a background process could hold a pipe open, but not a file.
    """
    env = os.environ | {
        "DEBIAN_FRONTEND": "noninteractive",
        "DEBCONF_NONINTERACTIVE_SEEN": "true",
        "LC_ALL": "C.UTF-8",  # `_cause` reads it
    }
    with open(log, "a+b") as file:
        file.write(f"$ {shlex.join(argv)}\n".encode(errors="replace"))
        file.flush()
        start = file.tell()
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=env, check=False
        )
        file.seek(max(start, file.seek(0, os.SEEK_END) - _MAX_BYTES))
        return done.returncode, file.read().decode("utf-8", "replace")


def _failed(text: str) -> AgentError:
    return AgentError("install the dependencies", _cause(text), code=BAD_ARCHIVE, hint=HINT)


def _cause(text: str) -> str:
    """Return what went wrong first, in one line: dpkg's message, and before it the script's own.

    That a package depends on another one is reported only if there is nothing else; so is apt-get's
    summary.
    """
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    found: list[str] = []
    at = 0
    while at < len(lines):
        if not _WRONG.match(lines[at]):
            at += 1
            continue
        start = end = at
        while start and at - start < _SCRIPT_LINES and not _ends_before(lines[start - 1]):
            start -= 1
        end += 1
        while end < len(lines) and (lines[end].startswith(" ") or _WRONG.match(lines[end])):
            end += 1
        found.append(_joined(lines[start:end]))
        at = end
    found.sort(key=lambda argv: (argv.startswith("E: "), "dependency problem" in argv))
    return found[0] if found else "; ".join(lines[-3:]) or "dpkg wrote nothing"


def _ends_before(line: str) -> bool:
    return bool(_PROGRESS.match(line)) or line.startswith(" ")


def _joined(lines: Sequence[str]) -> str:
    """Join lines into one; an indented one continues the line before."""
    text = ""
    for line in lines:
        text += f" {line.strip()}" if line.startswith(" ") else f"; {line}"
    return text.removeprefix("; ")
