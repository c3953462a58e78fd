"""Read what a program needs from its first bytes: a machine, a loader, an interpreter."""

from __future__ import annotations

import os
import re
import shutil
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent.core.errors import NOT_EXECUTABLE, NOT_FOUND, AgentError

MACHINES = {
    3: "i386",
    21: "ppc64",
    22: "s390x",
    40: "arm",
    62: "x86-64",
    183: "aarch64",
    243: "riscv",
}
_I386, _X86_64 = 3, 62
_INTERPRETER = 3
_GLIBC = ("ld-linux", "ld64.so")
# glibc's and musl's messages.
_MISSING = re.compile(r"^\s*(\S+) => not found|^Error loading shared library ([^:]+):", re.M)
MISSING_HINT = "architrave pack deps --binary makes deps.tar.gz of them; or set LD_LIBRARY_PATH"
# Which glibc the distributions have.
_GLIBC_OF = (
    ((2, 31), "Debian 11, Ubuntu 20.04"),
    ((2, 35), "Ubuntu 22.04"),
    ((2, 36), "Debian 12"),
    ((2, 39), "Ubuntu 24.04"),
    ((2, 41), "Debian 13"),
)
_TOO_OLD = re.compile(r"version [`'](\S+)' not found \(required by")


@dataclass(frozen=True)
class Elf:
    """A program for a machine (ELF's number); `loader` is empty for one that needs none."""

    machine: int
    loader: str

    @property
    def machine_name(self) -> str:
        """Return the machine's usual name."""
        return MACHINES.get(self.machine, f"machine {self.machine}")


def elf(path: str) -> Elf | None:
    """Return an ELF file's header, None for another file.

    Raises AgentError (126) for one that is cut short, OSError. The layout is elf(5)'s.
    """
    with open(path, "rb") as file:
        head = file.read(64)
        if head[:4] != b"\x7fELF":
            return None
        try:
            order = ">" if head[5] == 2 else "<"
            wide = head[4] == 2
            machine = struct.unpack_from(f"{order}H", head, 18)[0]
            table = struct.unpack_from(f"{order}{'Q' if wide else 'I'}", head, 32 if wide else 28)
            size, count = struct.unpack_from(f"{order}HH", head, 54 if wide else 42)
            loader = ""
            for number in range(count):
                file.seek(table[0] + number * size)
                entry = file.read(size)
                kind = struct.unpack_from(f"{order}I", entry)[0]
                form, at = ("Q16xQ", 8) if wide else ("I8xI", 4)
                where, length = struct.unpack_from(order + form, entry, at)
                if where + length > os.fstat(file.fileno()).st_size:
                    raise IndexError
                if kind == _INTERPRETER:
                    file.seek(where)
                    loader = os.fsdecode(file.read(length).rstrip(b"\0"))
        except (struct.error, IndexError) as error:
            cause, hint = "truncated ELF file", "copy it again, and pack it again"
            raise AgentError(f"run {path}", cause, code=NOT_EXECUTABLE, hint=hint) from error
    return Elf(machine, loader)


def interpreter(path: str) -> list[str]:
    """Return what follows `#!` in a script: program and argument; none for another file."""
    with open(path, "rb") as file:
        if file.read(2) != b"#!":
            return []
        line = os.fsdecode(file.readline(256).rstrip(b"\n"))
    # As the kernel does: a carriage return belongs to the name.
    return [one for one in re.split(r"[ \t]+", line.strip(" \t"), maxsplit=1) if one]


def check(
    name: str, path: str, search: str, here: Callable[[str], str] = lambda path: path
) -> Elf | list[str]:
    """Return an executable program's ELF header, or a script's interpreter line.

    `name` is how messages name it, `search` is PATH, `here` gives where a loader is now.
    Raises AgentError 126 (another machine's, no program at all) or 127 (its loader or interpreter
    is missing), OSError.
    """
    found = elf(path)
    if found is None:
        named = interpreter(path)
        if not named:
            cause, hint = (
                "neither an ELF program nor a script with #!",
                f"check its format: file {name}",
            )
            raise AgentError(f"run {name}", cause, code=NOT_EXECUTABLE, hint=hint)
        _check_interpreter(name, named, search)
        return named
    this = elf("/proc/self/exe")
    assert this is not None
    if not runs_on(found.machine, this.machine):
        cause = f"built for {found.machine_name}, this machine is {this.machine_name}"
        hint = f"build it for {this.machine_name}, or choose instances with {found.machine_name}"
        raise AgentError(f"run {name}", cause, code=NOT_EXECUTABLE, hint=hint)
    if found.loader and not os.path.exists(here(found.loader)):
        cause, hint = f"its loader {found.loader} is missing", "apt-get install libc6"
        if "musl" in found.loader:
            hint = "build it against glibc, or statically; or apt-get install musl"
        raise AgentError(f"run {name}", cause, code=NOT_FOUND, hint=hint)
    return found


def _check_interpreter(name: str, interpreter_line: list[str], search: str) -> None:
    """See that a script's interpreter is there."""
    first, *rest = interpreter_line
    if first.endswith("\r") or (rest and rest[0].endswith("\r")):
        cause = "its lines end in CRLF (Windows), so its interpreter is not found"
        hint = f"run dos2unix {os.path.basename(name)}, and pack it again"
        raise AgentError(f"run {name}", cause, code=NOT_FOUND, hint=hint)
    if not os.path.exists(first):
        cause, hint = f"its interpreter {first} is missing", "add its package to deps.tar.gz"
        raise AgentError(f"run {name}", cause, code=NOT_FOUND, hint=hint)
    if os.path.basename(first) == "env" and rest:
        named = [one for one in rest[0].split() if not one.startswith("-")]
        # With a variable of its own before it (-S PATH=… program), only env knows.
        if named and "=" not in named[0] and not shutil.which(named[0], path=search):
            cause = f"its interpreter {named[0]} is not on PATH"
            hint = "add its package to deps.tar.gz, or set PATH"
            raise AgentError(f"run {name}", cause, code=NOT_FOUND, hint=hint)


def runs_on(machine: int, here: int) -> bool:
    """Return whether a machine runs programs of another one, or its own."""
    return machine == here or (machine, here) == (_I386, _X86_64)


def listing(loader: str, path: str, env: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Return command and environment by which a loader lists a program's libraries.

    The program is not started. Another loader than glibc's would not mind the variable.
    """
    if os.path.basename(loader).startswith(_GLIBC):
        # As ldd does (ld.so(8)); with --list it stops at the first library that is missing.
        return [loader, path], {**env, "LD_TRACE_LOADED_OBJECTS": "1", "LD_WARN": "yes"}
    return [loader, "--list", path], dict(env)


def missing(text: str) -> list[str]:
    """Return the libraries that are missing in a loader's list."""
    return list(dict.fromkeys(one[0] or one[1] for one in _MISSING.findall(text)))


def too_new(text: str) -> list[str]:
    """Return the versions of symbols that the libraries here don't have (GLIBC_2.38)."""
    return sorted(set(_TOO_OLD.findall(text)))


def advise_newer(versions: list[str]) -> str:
    """Return what to do when libraries are too old; glibc's is known by distribution."""
    needed = max((_number(one) for one in versions if one.startswith("GLIBC_")), default=())
    fitting = [names for version, names in _GLIBC_OF if needed and version >= needed]
    image = f" ({' or '.join(fitting)})" if fitting else ""
    return f"build it on an older system, or the image with a newer BASE_IMAGE{image}"


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(one) for one in re.findall(r"\d+", version))
