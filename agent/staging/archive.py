"""Unpack private.7z with 7-Zip and deps.tar.gz, only into their target directories."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import zlib

from agent.core.errors import BAD_ARCHIVE, NO_PERMISSION, OS_ERROR, AgentError, os_reason

_PROGRAMS = ("7zz", "7z", "7za")
# What the image keeps in /opt and no archive may replace.
OWN_NAMES = {"architrave", "run.sh", "run_batch.sh"}


def seven_zip() -> str:
    """Return the 7-Zip program's path; raise AgentError (71) when there is none."""
    # The agent's own comes first: it needs no library of the image.
    for directory in (os.path.join(sys.prefix, "libexec"), None):
        for name in _PROGRAMS:
            path = shutil.which(name, path=directory)
            if path:
                return path
    cause = f"none of {', '.join(_PROGRAMS)} is on PATH"
    raise AgentError("unpack private.7z", cause, code=OS_ERROR, hint="apt-get install 7zip")


def unpack_7z(path: str, target: str, password: str, forbidden: set[str]) -> None:
    """Unpack a 7z archive into the empty directory `target`.

    The password goes through standard input: never an argument, never an environment. Raises
    AgentError 65 (corrupt, a name that leads out or is in `forbidden`), 77 (password), 71 (disk).
    """
    size, has_modes = _list(path, password, forbidden)
    _check_space(size, target, path)
    _run(seven_zip(), ["x", "-y", "-bso0", "-bsp0", f"-o{target}", path], path, password)
    _check_tree(target, path)
    # Check the result too: 7-Zip may follow a link of the archive's own.
    for name in forbidden & set(os.listdir(target)):
        raise _own_name(path, name)
    if not has_modes:
        _make_executable(target)


def unpacked_size(path: str, password: str, forbidden: set[str]) -> int:
    """Return how many bytes a 7z archive unpacks to; raise as `unpack_7z` does for its names."""
    return _list(path, password, forbidden)[0]


def _list(path: str, password: str, forbidden: set[str]) -> tuple[int, bool]:
    """Return the size in bytes of what an archive holds, and whether it has Unix modes."""
    listing = _run(seven_zip(), ["l", "-slt", "-ba", "-sccUTF-8", path], path, password)
    modes = re.search(r"^Attributes = .*[-dl](?:[r-][w-][-xsStT]){3}$", listing, re.M)
    return _check_listing(listing, path, forbidden), bool(modes)


def _make_executable(target: str) -> None:
    """Make programs and scripts executable: an archive from Windows can't say which are."""
    for folder, _, names in os.walk(target):
        for name in names:
            full = os.path.join(folder, name)
            if os.path.islink(full):
                continue
            with open(full, "rb") as file:
                head = file.read(4)
            if head == b"\x7fELF" or head[:2] == b"#!":
                os.chmod(full, stat.S_IMODE(os.stat(full).st_mode) | 0o111)


def _run(program: str, arguments: list[str], path: str, password: str) -> str:
    """Run 7-Zip in a session of its own, without which it asks a terminal for the password."""
    name = os.path.basename(path)
    done = subprocess.run(
        [program, *arguments],
        input=f"{password}\n".encode() if password else b"",
        capture_output=True,
        start_new_session=True,
        check=False,
    )
    if done.returncode == 0:
        return done.stdout.decode("utf-8", "surrogateescape")
    output = (done.stdout + done.stderr).decode("utf-8", "replace")
    if (
        "Wrong password" in output
        or "encrypted archive" in output
        or (done.returncode == 255 and not password)
    ):
        cause = "wrong password" if password else "encrypted, and no password is given"
        hint = "check PRIVATE_PASSWD; if it is correct, the archive is damaged: upload it again"
        raise AgentError(f"unpack {name}", cause, code=NO_PERMISSION, hint=hint)
    if "No space left" in output:
        raise _no_space(name, "no space left on the device")
    lines = [line.strip() for line in output.splitlines() if "ERROR" in line or "Error" in line]
    cause = lines[0] if lines else f"7-Zip exited with {done.returncode}"
    raise AgentError(
        f"unpack {name}", cause, code=BAD_ARCHIVE, hint="pack and upload it again (7z t checks it)"
    )


def _check_listing(listing: str, path: str, forbidden: set[str]) -> int:
    """Check the names that `7z l -slt` lists; return the sum of sizes in bytes."""
    size = 0
    for line in listing.splitlines():
        key, _, value = line.partition(" = ")
        if key == "Path":
            check_name(value, path)
            if os.path.normpath(value).partition("/")[0] in forbidden:
                raise _own_name(path, value)
        elif key == "Size" and value.isdigit():
            size += int(value)
    return size


def _own_name(path: str, name: str) -> AgentError:
    return _bad(path, f"member {name!r} is reserved for the agent", "leave it out of the archive")


def check_name(name: str, path: str) -> None:
    """Raise AgentError (65) for a name that leads out of the directory it is unpacked in."""
    if name.startswith("/") or ".." in name.split("/") or "\0" in name:
        raise _bad(
            path,
            f"member {name!r} would be extracted outside the target directory",
            "pack it with relative names",
        )


def _check_tree(target: str, path: str) -> None:
    """Raise AgentError (65) for a symbolic link that leads out of `target`, or a special file."""
    inside = os.path.realpath(target)
    for folder, directories, files in os.walk(target):
        for name in (*directories, *files):
            full = os.path.join(folder, name)
            mode = os.lstat(full).st_mode
            if stat.S_ISLNK(mode):
                # 7-Zip turns an absolute one into one that holds for its target only.
                absolute = os.path.isabs(os.readlink(full))
                points_to = os.path.normpath(
                    os.path.join(os.path.realpath(folder), os.readlink(full))
                )
                if absolute or os.path.commonpath([inside, points_to]) != inside:
                    raise _bad(
                        path,
                        f"link {name} points outside the target directory",
                        "pack the file itself",
                    )
            elif not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise _bad(path, f"{name} is not a file", "leave it out")


def unpack_tar(path: str, target: str) -> list[str]:
    """Unpack the files of a tar archive into `target`; return their names.

    Only files and directories count: a link or a device in an archive of packages is refused.
    """
    names = []
    try:
        with tarfile.open(path, "r:*") as tar:
            for member in tar:
                name = os.path.normpath(member.name)
                check_name(member.name, path)
                full = os.path.join(target, name)
                if member.isdir():
                    os.makedirs(full, exist_ok=True)
                elif member.isfile():
                    _check_space(member.size, target, path)
                    os.makedirs(os.path.dirname(full), exist_ok=True)
                    _copy_out(tar, member, full)
                    names.append(name)
                else:
                    raise _bad(path, f"{member.name} is not a file", "leave it out")
            # A tar ends before the checksum of what it is compressed with.
            while tar.fileobj is not None and tar.fileobj.read(1 << 20):
                pass
    except (tarfile.TarError, EOFError, ValueError, zlib.error) as error:
        raise _bad(
            path, str(error) or "unexpected end of file", "pack and upload it again"
        ) from error
    except OSError as error:
        if error.errno is None or "gzip" in str(error).lower():
            raise _bad(path, str(error), "pack and upload it again") from error
        raise AgentError(
            f"unpack {os.path.basename(path)}",
            str(error),
            code=OS_ERROR,
            hint="check the disk: df -h",
        ) from error
    return names


def _copy_out(tar: tarfile.TarFile, member: tarfile.TarInfo, full: str) -> None:
    source = tar.extractfile(member)
    assert source is not None
    with source, open(full, "wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
    if os.path.getsize(full) != member.size:
        raise EOFError("unexpected end of file")
    os.chmod(full, 0o755 if member.mode & 0o100 else 0o644)


def move_into(source: str, target: str, journal: str) -> None:
    """Move a tree into another one, over existing files; `journal` lists what is moved.

    A name is in the journal before its file is moved: an interrupted move can still be
    cleaned up after. Raises AgentError: 65 before anything is moved if a name conflicts there,
    77 if the target can't be written.
    """
    folders, files = _entries(source)
    for name in (*folders, *files):
        _check_room(target, name, is_folder=name in folders)
    try:
        for name in folders:
            os.makedirs(os.path.join(target, name), exist_ok=True)
        with open(journal, "wb", buffering=0) as list_:
            for name in files:
                full = os.path.join(target, name)
                written = list_.tell()
                list_.write(os.fsencode(full) + b"\0")
                try:
                    _move(os.path.join(source, name), full)
                except OSError:
                    list_.truncate(written)  # an existing file isn't ours
                    raise
    except OSError as error:
        cause = f"{error.filename2 or error.filename}: {os_reason(error)}"
        hint = f"make {target} writable for this user"
        raise AgentError(f"unpack into {target}", cause, code=NO_PERMISSION, hint=hint) from error


def _entries(source: str) -> tuple[set[str], list[str]]:
    """Return the folders of a tree, and its files and links, by their relative names."""
    folders, files = set(), []
    for folder, directories, names in os.walk(source):
        inside = os.path.relpath(folder, source)
        files += [os.path.normpath(os.path.join(inside, name)) for name in names]
        for name in directories:
            relative = os.path.normpath(os.path.join(inside, name))
            if os.path.islink(os.path.join(folder, name)):
                files.append(relative)
            else:
                folders.add(relative)
    return folders, sorted(files)


def _check_room(target: str, name: str, *, is_folder: bool) -> None:
    """Raise AgentError (65) where a folder is to replace a file, or a file a folder."""
    full = os.path.join(target, name)
    if not os.path.lexists(full) or os.path.isdir(full) == is_folder:
        return
    if os.path.islink(full) and not is_folder:
        return  # a link is replaced like a file
    kinds = ("a file", "a directory")
    cause = (
        f"{kinds[is_folder]} conflicts with {full}, which is {kinds[not is_folder]} of the image"
    )
    hint = "give it another name in private.7z"
    raise AgentError(f"unpack into {target}", cause, code=BAD_ARCHIVE, hint=hint)


def _move(source: str, full: str) -> None:
    """Move a file or a link, also to a mounted volume."""
    try:
        os.replace(source, full)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = f"{full}.architrave-incoming"
        shutil.copy2(source, beside, follow_symlinks=False)
        os.replace(beside, full)


def _check_space(size: int, target: str, path: str) -> None:
    free = shutil.disk_usage(target).free
    if size > free:
        raise _no_space(os.path.basename(path), f"needs {size} bytes, {free} are free")


def _no_space(name: str, cause: str) -> AgentError:
    return AgentError(
        f"unpack {name}", cause, code=OS_ERROR, hint="give the container a larger disk"
    )


def _bad(path: str, cause: str, hint: str) -> AgentError:
    return AgentError(f"unpack {os.path.basename(path)}", cause, code=BAD_ARCHIVE, hint=hint)
