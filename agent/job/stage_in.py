"""Fetch and unpack the archives of a job, install its dependencies."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from agent.core import model
from agent.core.environ import with_directories
from agent.core.errors import S3_UNREACHABLE
from agent.core.s3_uri import fields, has_own_endpoint
from agent.job.directories import make_directory
from agent.job.helper_calls import HelperCalls
from agent.job.supervisor import Supervisor

if TYPE_CHECKING:
    from agent.job.ssh_access import SshAccess

_SECONDS = 3600.0


def stage_in(
    supervisor: Supervisor, helpers: HelperCalls, ssh: SshAccess | None = None
) -> list[dict[str, Any]]:
    """Do all of it in a helper; return what was fetched. `ssh` only where there are other nodes.

    Raises AgentError with the code of what failed.
    """
    settings = supervisor.settings
    deps_dir = settings.path("/tmp/deps")
    if not (settings.private or settings.deps or settings.probe or ssh):
        return []
    supervisor.begin_phase(model.FETCH)
    make_directory(deps_dir)
    request = {
        "identity": ssh.identity() if ssh else None,
        "private": fields(settings.private),
        "deps": fields(settings.deps),
        "probe": fields(settings.probe),
        "path_style": has_own_endpoint(settings.helper_env),
        "runtime_dir": settings.runtime_dir,
        "opt": settings.path("/opt"),
        "deps_dir": deps_dir,
        "password": settings.password,
        "system": os.geteuid() == 0 and settings.root == "/",
    }
    answer = helpers.call("stage_in", "stage in", request, _SECONDS, code=S3_UNREACHABLE)
    path, library_path = answer["path"], answer["library_path"]
    supervisor.app_env = with_directories(settings.app_env, path, library_path)
    fetched: list[dict[str, Any]] = answer["fetched"]
    return fetched
