"""The command `architrave doctor`."""

from __future__ import annotations

import argparse

from agent.core.environ import environment
from agent.tools.commands.options import Commands, command

_EXAMPLES = """\
  docker run --rm -e EXEC_TYPE=batch -e S3_BUCKET=s3://bucket \\
      -e PRIVATE_PASSWD -e APP_BIN=/opt/app architrave doctor
  EXEC_TYPE=lambda APP_BIN=./app architrave doctor --json
On several nodes: the job's own definition, with the command ["doctor"].
The exit code is 0 without a FAIL, else the one that the job would end with.
"""


def add(commands: Commands) -> None:
    """Add `doctor`."""
    summary = "pre-flight check of everything a job needs"
    doctor = command(commands, "doctor", summary, _EXAMPLES, _doctor)
    doctor.add_argument("--json", action="store_true", help="print one line of JSON only")


def _doctor(options: argparse.Namespace) -> int:
    from agent.doctor import examine

    return examine.run(environment(), as_json=options.json)
