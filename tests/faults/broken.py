"""Run the agent with one of its functions broken: `broken.py MODULE NAME VALUE WORD…`.

VALUE is a literal that replaces a constant, or `raise`: then calling NAME is a bug. A bug
can't be had otherwise on demand; all around it is real.
"""

import importlib
import sys
from ast import literal_eval
from operator import attrgetter


def broken(*arguments, **named):
    raise ZeroDivisionError("a bug")


def main():
    _, module, name, value, *arguments = sys.argv
    *path, last = name.split(".")
    owner = importlib.import_module(module)
    owner = attrgetter(".".join(path))(owner) if path else owner
    assert hasattr(owner, last), name
    setattr(owner, last, broken if value == "raise" else literal_eval(value))
    from agent import cli

    sys.argv = ["architrave", *arguments]
    return cli.main()


if __name__ == "__main__":
    raise SystemExit(main())
