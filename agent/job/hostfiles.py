"""Write the hostfiles of a job, and restore them: programs clean /tmp."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace

from agent.core.errors import AgentError
from agent.core.model import Node
from agent.core.settings import Settings
from agent.engine.files import replace as replace_file
from agent.engine.loop import Loop
from agent.job.directories import point
from agent.multinode import hostfile


class Hostfiles:
    """/tmp/hostfile, /tmp/hostfile-deduped, and the link /tmp/batch."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._texts: dict[str, str] = {}

    def write(self, own: Node, workers: list[Node]) -> None:
        """Write the hostfile, and the one with each address once; this node comes first."""
        own = own if own.address else replace(own, address="127.0.0.1")
        self.write_text("/tmp/hostfile", hostfile.write([own, *workers]))
        self.write_text("/tmp/hostfile-deduped", hostfile.deduped([own, *workers]))

    def write_text(self, name: str, text: str) -> None:
        """Write one of them."""
        path = self._settings.path(name)
        self._texts[path] = text
        os.makedirs(os.path.dirname(path), exist_ok=True)
        replace_file(path, text.encode())

    def maintain(self, loop: Loop) -> None:
        """Make the link, and from now on restore what is missing at every heartbeat."""
        link, target = self._settings.path("/tmp/batch"), self._settings.batch_dir
        point(link, target)

        def restore() -> None:
            with contextlib.suppress(AgentError, OSError):  # the next time, maybe
                point(link, target)
                for path, text in self._texts.items():
                    if not os.path.exists(path):
                        replace_file(path, text.encode())

        loop.every(self._settings.network.heartbeat, restore)
