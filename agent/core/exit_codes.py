"""The exit codes of a job, what each means, and whether a retry can help.

The reference and the retry rules of a generated job definition are made from this table.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.core import errors


@dataclass(frozen=True)
class ExitCode:
    """One code; `again`: the same job may succeed when it is retried."""

    code: int
    meaning: str
    what_to_do: str
    again: bool = False


OWN = (
    ExitCode(errors.USAGE, "the command line or EXEC_TYPE is invalid", "correct the arguments"),
    ExitCode(errors.BAD_ARCHIVE, "an archive is corrupt", "pack and upload it again"),
    ExitCode(errors.NO_OBJECT, "an S3 object or a file is missing",
             "upload it, or correct its name"),
    ExitCode(errors.S3_UNREACHABLE, "S3, or the Docker engine, is unreachable",
             "check network, endpoint and credentials", again=True),
    ExitCode(errors.BUG, "a bug in architrave", "report it with the traceback from the log"),
    ExitCode(errors.OS_ERROR, "the operating system refused something, or a tool is missing",
             "follow the hint: a limit, disk space, or a package to install"),
    ExitCode(errors.CANNOT_WRITE, "results can't be written or uploaded",
             "free disk space, allow s3:PutObject; the log names what is missing"),
    ExitCode(errors.TRY_AGAIN, "a node did not join, or was lost",
             "see the log of the node that the error names", again=True),
    ExitCode(errors.NO_PERMISSION, "no permission, or a wrong password",
             "correct the password or the permissions"),
    ExitCode(errors.BAD_SETTINGS, "a setting is invalid",
             "correct the variable that the error names"),
)  # fmt: skip
APPLICATION = (
    ExitCode(errors.TIME_LIMIT, "the application exceeded its time limit",
             "raise ARCHITRAVE_TIMEOUT_SECONDS"),
    ExitCode(errors.NOT_EXECUTABLE, "the application can't be executed",
             "check its format and permissions"),
    ExitCode(errors.NOT_FOUND, "the application, or one of its libraries, is missing",
             "correct APP_BIN, or add the package to deps.tar.gz"),
)  # fmt: skip
EVERY = (*OWN, *APPLICATION)
