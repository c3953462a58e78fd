"""What the doctor knows about the job; each check may add to it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.core.environ import with_directories
from agent.core.s3_uri import has_own_endpoint
from agent.core.settings import Settings
from agent.launch import cgroup

if TYPE_CHECKING:
    from agent.staging.s3 import Storage


@dataclass
class Context:
    """One node's job. Sizes are in bytes; `scratch` is the doctor's directory (0700).

    `scratch` replaces `/`: what the job would unpack into /opt is in its `opt`.
    """

    settings: Settings
    scratch: str
    private_size: int = 0
    unpacked_size: int = 0
    deps_size: int = 0
    deps_unpacked_size: int = 0
    private_there: bool = False
    deps_there: bool = False
    unpacked: bool = False
    date: str = ""
    received: float = 0.0
    mpirun: str = ""
    ssh_ready: bool = False
    path: Sequence[str] = ()
    library_path: Sequence[str] = ()
    _storage: list[Storage] = field(default_factory=list)

    @property
    def storage(self) -> Storage:
        """Return the S3 client; raise AgentError (77) when its settings are invalid."""
        if not self._storage:
            from agent.staging.s3 import Storage

            path_style = has_own_endpoint(self.settings.helper_env)
            self._storage.append(Storage(lambda message: None, path_style=path_style))
        return self._storage[0]

    @property
    def needs(self) -> dict[str, int]:
        """Return how many bytes the archives take, by the directory that they go to."""
        packed = self.private_size + self.deps_size + self.deps_unpacked_size
        return {self.settings.path("/tmp"): packed, self.settings.path("/opt"): self.unpacked_size}

    @property
    def opt(self) -> str:
        """Return where this doctor has unpacked private.7z."""
        return os.path.join(self.scratch, "opt")

    def here(self, path: str) -> str:
        """Return where a file of the job's is now: unpacked for the doctor, or at its own path."""
        opt = self.settings.path("/opt")
        unpacked = os.path.join(self.opt, os.path.relpath(path, opt))
        inside = path.startswith(f"{opt}/") and os.path.lexists(unpacked)
        return unpacked if inside else path

    @property
    def app_env(self) -> dict[str, str]:
        """Return the application's environment, with what deps.tar.gz has brought."""
        env = with_directories(self.settings.app_env, self.path, self.library_path)
        if libraries := env.get("LD_LIBRARY_PATH"):
            env["LD_LIBRARY_PATH"] = ":".join(self.here(one) for one in libraries.split(":"))
        return env

    @property
    def slots(self) -> int:
        """Return the processes for this node."""
        return cgroup.slots(self.settings)
