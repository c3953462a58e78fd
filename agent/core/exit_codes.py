"""The exit codes that a job can end with, what each means, and whether trying again can help.

The reference and the retry rules of a generated job definition are made from this table.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.core import errors


@dataclass(frozen=True)
class ExitCode:
    """One code; `again`: the same job may well succeed when it is retried."""

    code: int
    meaning: str
    what_to_do: str
    again: bool = False


OWN = (
    ExitCode(errors.USAGE, "the command line or EXEC_TYPE can't be read", "correct the arguments"),
    ExitCode(errors.BAD_ARCHIVE, "an archive is corrupt", "pack and upload it again"),
    ExitCode(errors.NO_OBJECT, "an S3 object or a file is missing",
             "upload it, or correct its name"),
    ExitCode(errors.S3_UNREACHABLE, "S3, or the Docker engine, can't be reached",
             "look at network, endpoint and credentials", again=True),
    ExitCode(errors.BUG, "a bug of architrave's own", "report it with the traceback from the log"),
    ExitCode(errors.OS_ERROR, "the operating system refused something",
             "raise the limit that the line names"),
    ExitCode(errors.CANNOT_WRITE, "results can't be written or uploaded",
             "make room, allow s3:PutObject; what stayed behind is named"),
    ExitCode(errors.TRY_AGAIN, "a node did not join, or was lost",
             "look at the log of the node that the line names", again=True),
    ExitCode(errors.NO_PERMISSION, "no permission, or a wrong password",
             "correct the password or rights"),
    ExitCode(errors.BAD_SETTINGS, "a setting can't be used",
             "correct the variable that the line names"),
)  # fmt: skip
APPLICATION = (
    ExitCode(errors.TIME_LIMIT, "the application ran into its time limit",
             "raise ARCHITRAVE_TIMEOUT_SECONDS"),
    ExitCode(errors.NOT_EXECUTABLE, "the application can't be executed",
             "look at its format and rights"),
    ExitCode(errors.NOT_FOUND, "the application, or a library of it, is not there",
             "correct APP_BIN, or add the package to deps.tar.gz"),
)  # fmt: skip
EVERY = (*OWN, *APPLICATION)
