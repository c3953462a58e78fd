"""Read the variables of a definition, and check them as the job itself would."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from agent.core.errors import USAGE, AgentError
from agent.core.settings import Settings, read
from agent.core.variables import HIDDEN, PRIVATE_PASSWD_FILE, unknown

# AWS Batch starts up to this many nodes for one job (multi-node-parallel-jobs).
_MAX_NODES = 1000
_PROTECTED = "AWS_BATCH"
# A file's name is not a secret; its content is.
_SECRET = set(HIDDEN) - {PRIVATE_PASSWD_FILE.name}
_ARN = re.compile(
    r"arn:aws[a-z-]*:(secretsmanager:[a-z0-9-]+:\d{12}:secret:|ssm:[a-z0-9-]+:\d{12}:parameter/)"
    r"[\w/+=.@:-]+"
)


def variables(texts: Iterable[str], *, secret_hint: str) -> dict[str, str]:
    """Read NAME=VALUE texts; raise AgentError (64), with `secret_hint` for a secret."""
    found: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if name in _SECRET:
            cause = "the secret would be readable in the definition"
            raise AgentError(f"use -e {name}", cause, code=USAGE, hint=secret_hint)
        if not name or not separator:
            cause = "not NAME=VALUE"
            raise AgentError(f"use -e {text}", cause, code=USAGE, hint="-e NAME=VALUE")
        _check_name("-e", name, found)
        found[name] = value
    for name, nearest in unknown(found).items():
        hint = f"did you mean {nearest}?" if nearest else "architrave explain lists all variables"
        raise AgentError(f"use -e {name}", "no such variable", code=USAGE, hint=hint)
    return found


def secrets(texts: Iterable[str]) -> dict[str, str]:
    """Read NAME=ARN texts, of Secrets Manager or SSM parameters; raise AgentError (64)."""
    found: dict[str, str] = {}
    for text in texts:
        name, _, arn = text.partition("=")
        if not name or not _ARN.fullmatch(arn):
            cause = "it names no secret of Secrets Manager and no parameter of SSM"
            hint = "--secret PRIVATE_PASSWD=arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME"
            # Not the text: it may be the secret itself.
            raise AgentError(f"use --secret {name}", cause, code=USAGE, hint=hint)
        _check_name("--secret", name, found)
        found[name] = arn
    return found


def settings_on(env: Mapping[str, str], nodes: int = 1, main_index: int = 0) -> Settings:
    """Return the settings that the main node of a Batch job will read; raise what it would raise.

    PRIVATE_PASSWD_FILE is left out: it names a file of the container's.
    """
    if not 1 <= nodes <= _MAX_NODES:
        cause = f"AWS Batch starts from 1 to {_MAX_NODES}"
        raise AgentError(f"use --nodes {nodes}", cause, code=USAGE, hint="for example --nodes 3")
    if not 0 <= main_index < nodes:
        hint = f"from 0 to {nodes - 1}"
        what = f"use --main-index {main_index}"
        raise AgentError(what, "no such node", code=USAGE, hint=hint)
    batch = {"AWS_BATCH_JOB_ID": "job"}
    if nodes > 1:
        batch |= {
            "AWS_BATCH_JOB_NUM_NODES": str(nodes),
            "AWS_BATCH_JOB_NODE_INDEX": str(main_index),
            "AWS_BATCH_JOB_MAIN_NODE_INDEX": str(main_index),
        }
    given = {name: value for name, value in env.items() if name != PRIVATE_PASSWD_FILE.name}
    return read(given | batch)


def _check_name(option: str, name: str, found: Mapping[str, str]) -> None:
    if name.startswith(_PROTECTED):
        cause = "this prefix is reserved for AWS Batch"
        hint = "--nodes, --main-index; ENV in the image sets AWS_BATCH_EXIT_CODE_FILE"
        raise AgentError(f"use {option} {name}", cause, code=USAGE, hint=hint)
    if name in found:
        what = f"use {option} {name}"
        raise AgentError(what, "given twice", code=USAGE, hint="remove one of them")
