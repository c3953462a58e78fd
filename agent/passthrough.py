"""Run a foreign command as it stands: signals forwarded, orphans reaped, exit code passed on."""

from __future__ import annotations

import os

from agent.environ import environment
from agent.loop import Loop
from agent.process import Child, Children, has_terminal, pin_no_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Sequence
else:
    import _signal as signal  # the public one imports enum, a fifth of a start


def run(argv: Sequence[str]) -> int:
    """Run `argv` and return its exit code; raise AgentError 126 or 127 if it can't be started."""
    loop = Loop(Children())
    child = start(loop, argv, environment())
    loop.wait(lambda: not child.running)
    if has_terminal():
        give_terminal(os.getpgrp())
    return child.code


def start(loop: Loop, argv: Sequence[str], env: dict[str, str]) -> Child:
    """Start `argv`, in the foreground where there is a terminal, and forward every signal to it."""
    terminal = has_terminal()
    child = loop.children.spawn(argv, env, foreground=terminal)
    pin_no_directory()

    def stopped(one: Child) -> None:
        # The shell that started us waits for us to stop as the command did (job control).
        if one is child and one.running and terminal and not loop.children.is_init:
            give_terminal(os.getpgrp())
            os.kill(os.getpid(), signal.SIGSTOP)
            give_terminal(child.pid)
            child.kill_group(signal.SIGCONT)

    loop.on_child = stopped
    loop.on_signal = child.kill_group
    return child


def give_terminal(group: int) -> None:
    """Make a process group the terminal's foreground; from behind that needs SIGTTOU held."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        os.tcsetpgrp(0, group)
    except OSError:
        pass
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTTOU})
