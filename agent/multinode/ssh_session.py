"""Run what a launcher sends over SSH, in the environment of this node's application.

sshd starts this file on its own, as the forced command of the job's key, so nothing of `agent` is
imported. SetEnv and AcceptEnv can't carry an environment: sshd drops values that contain a quote,
and versions before 7.8 have no SetEnv (sshd_config(5)).

    ssh_session.py FILE [RESOURCE:SOFT:HARD…]

FILE holds NAME=VALUE, each terminated by a NUL byte; the rest are limits for setrlimit(2).
"""

import os
import resource
import sys


def main() -> None:
    """Become the shell that runs the command, as sshd would have started it."""
    with open(sys.argv[1], "rb") as file:
        pairs = file.read().split(b"\0")
    env = dict(pair.split(b"=", 1) for pair in pairs if pair)
    for limit in sys.argv[2:]:
        number, soft, hard = map(int, limit.split(":"))
        resource.setrlimit(number, (soft, hard))
    command = os.environb.get(b"SSH_ORIGINAL_COMMAND")
    argv = [b"sh", b"-c", command] if command else [b"sh"]
    os.execve(b"/bin/sh", argv, env)


main()
