"""Find out whether a program uses MPI: it, or what it loads, names MPI's symbols or messages."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from agent.core.errors import AgentError
from agent.launch import elf

_CHUNK, _OVERLAP = 1 << 20, 64
# How much of a file, and of a script, is read.
_MAX_BYTES, _MAX_SCRIPT_BYTES = 1 << 30, 1 << 20
_MAX_DEPTH = 3
# C's names, Fortran's (a compiler adds an underscore), and what a program opens by itself.
_NAMES = re.compile(
    rb"(?<![A-Za-z0-9_])P?MPI_(?:Init|Comm_|COMM_|ERR_|Abort|Finalize)"
    rb"|(?<![A-Za-z0-9_])p?mpi_init_|libmpi(?:ch|_|fort|cxx|\.so|-)"
)
_PACKAGES = re.compile(
    rb"\b(?:mpi4py|petsc4py|slepc4py|dolfinx?|firedrake|horovod|Rmpi|pbdMPI|Parallel::MPI)\b"
    rb"|\busing\s+MPI\b"
)
# A script that starts its ranks itself is started once.
_STARTS = re.compile(
    rb"(?m)^[^#\n]*?(?:^|[\s;&|(`/'\"])(?:mpirun|mpiexec|orterun|prterun|srun)(?:\.\w+)?[\s'\"]"
)
_COMMAND = re.compile(rb"(?m)^[ \t]*(?:(?:exec|time|nohup)[ \t]+)?([A-Za-z][\w.+-]*)")
_WORD = re.compile(rb"[\w./+-]+")
# Programs whose parameters name what runs.
_INTERPRETERS = re.compile(
    r"(?:python|pypy|perl|ruby|julia|Rscript|R|octave|sh|bash|dash|ksh|zsh"
    r"|env|timeout|nice|time|stdbuf|setsid|nohup|numactl|taskset|chrt|ionice)(?:[\d.]*)$"
)
# The C library and what comes with compilers names MPI nowhere.
_PLAIN = re.compile(
    r"(?:libc|libm|libdl|libpthread|librt|libstdc\+\+|libgcc_s|libgfortran)[.-]|ld-"
)

Ask = Callable[[list[str], dict[str, str]], str]


def uses_mpi(
    command: Sequence[str],
    env: Mapping[str, str],
    ask: Ask,
    poll_events: Callable[[], None] = lambda: None,
) -> str:
    """Return what shows that a command uses MPI, "" where nothing does.

    `ask` runs a program (arguments, environment) and returns its output; `poll_events` is called
    between pieces of long files. A program that isn't there yet shows nothing.
    """
    return _Look(env, ask, poll_events).at(list(command))


@dataclass
class _Look:
    env: Mapping[str, str]
    ask: Ask
    poll_events: Callable[[], None]
    seen: set[str] = field(default_factory=set)

    def at(self, command: list[str], depth: int = 0) -> str:
        """Look at a program and, where these name what runs, at its parameters."""
        path = shutil.which(command[0], path=self.env.get("PATH", os.defpath)) or command[0]
        real = os.path.realpath(path)
        found = ""
        if depth <= _MAX_DEPTH and real not in self.seen and os.path.isfile(real):
            self.seen.add(real)
            found = self._file(real, depth)
        if found or not _INTERPRETERS.match(os.path.basename(command[0])):
            return found
        arguments = command[1:]
        if _starts_ranks(text := os.fsencode(" ".join(arguments)) + b" "):
            return ""
        if match := _PACKAGES.search(text):
            return f"its parameters name {match[0].decode()}"
        return self._first(arguments, depth)

    def _first(self, arguments: Sequence[str], depth: int) -> str:
        """Look at each argument that is a file, or a program on PATH."""
        path = self.env.get("PATH", os.defpath)
        programs = (one for one in arguments if os.path.isfile(one) or shutil.which(one, path=path))
        return next((found for one in programs if (found := self.at([one], depth + 1))), "")

    def _file(self, path: str, depth: int) -> str:
        try:
            found = elf.elf(path)
            if found is None:
                return self._script(path, depth)
            if name := self._name_in(path):
                return f"{path} names {name}"
            for library in self._libraries(path, found):
                if name := self._name_in(library):
                    return f"{library}, which {path} loads, names {name}"
        except (AgentError, OSError):
            pass  # its launcher reports what is wrong with it
        return ""

    def _script(self, path: str, depth: int) -> str:
        with open(path, "rb") as file:
            text = file.read(_MAX_SCRIPT_BYTES)
        if _starts_ranks(text):
            return ""
        if match := _PACKAGES.search(text) or _NAMES.search(text):
            return f"{path} names {match[0].decode()}"
        named = elf.interpreter(path)
        if named and (found := self.at([named[0], *" ".join(named[1:]).split()], depth + 1)):
            return found
        if not named or os.path.basename(named[0]) not in ("sh", "bash", "dash", "ksh", "zsh"):
            return ""
        return self._first(list(_programs(text, os.path.dirname(path))), depth)

    def _libraries(self, path: str, program: elf.Elf) -> list[str]:
        """Return the libraries that the loader would load, but those that come with the system."""
        if not program.loader or not os.path.exists(program.loader):
            return []
        command, env = elf.listing(program.loader, path, self.env)
        found = re.findall(r"=> (/\S.*) \(0x", self.ask(command, env))
        return [one for one in found if not _PLAIN.match(os.path.basename(one))]

    def _name_in(self, path: str) -> str:
        """Return MPI's name that a file holds, "" for none."""
        rest, read = b"", 0
        with open(path, "rb") as file:
            while read < _MAX_BYTES and (chunk := file.read(_CHUNK)):
                if match := _NAMES.search(rest + chunk):
                    return match[0].decode()
                rest, read = chunk[-_OVERLAP:], read + len(chunk)
                self.poll_events()
        return ""


def _starts_ranks(text: bytes) -> bool:
    return bool(_STARTS.search(text))


def _programs(text: bytes, directory: str) -> Iterator[str]:
    """Yield the programs that a shell script names: first on a line, by a path, beside it."""
    yield from map(os.fsdecode, dict.fromkeys(_COMMAND.findall(text)))
    for word in dict.fromkeys(_WORD.findall(text)):
        if b"/" in word:
            name = os.fsdecode(word)
            beside = os.path.join(directory, os.path.basename(name))
            for path in (name, beside):
                if os.path.isfile(path) and os.access(path, os.X_OK):
                    yield path
