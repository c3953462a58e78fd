"""Run the agent, and write what it has imported when it starts its first process to a file.

imports.py FILE PATH ARG…: PATH is where libraries lie. Run with -I -S: nothing else counts.
"""

import sys

before = set(sys.modules)
_, file, path, *arguments = sys.argv
sys.path += [__file__.rpartition("/tests/")[0], path]

from agent.engine import process  # noqa: E402
from agent.engine.lazy import _Lazy  # noqa: E402

spawn = process.Children.spawn


def noted(self, *arguments, **named):
    with open(file, "x") as out:
        there = {name for name, module in sys.modules.items() if type(module) is not _Lazy}
        out.write("\n".join(there - before))
    process.Children.spawn = spawn
    return spawn(self, *arguments, **named)


process.Children.spawn = noted

from agent.cli import main  # noqa: E402

sys.exit(main(arguments))
