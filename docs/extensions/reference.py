"""Write the reference from the objects that the program runs on.

A line `<!-- made from the code: NAME -->` of a page is replaced by what the function NAME yields.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

from agent.core import exit_codes, variables
from agent.core.events import EVENTS
from agent.core.exit_codes import ExitCode
from agent.report.schema import SCHEMA
from agent.tools.commands import parser

_MARK = re.compile(r"^<!-- made from the code: (\w+) -->$", re.MULTILINE)
_KNOWN = sorted(
    (name.name for name in variables.EVERY),
    key=len,
    reverse=True,
)
_CODE = re.compile(rf"`[^`]+`|<none>|s3://[\w/.-]+|\b(?:{'|'.join(_KNOWN)})\b(?:\*|/\w+)?")
Rows = Iterable[tuple[str, ...]]


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the extension."""
    # argparse folds its lines by the terminal's width, and colours them for it.
    os.environ.update(COLUMNS="80", NO_COLOR="1")
    makers = {
        maker.__name__: maker
        for maker in (command_line, environment, exit_codes_of, events, run_json)
    }

    def source_read(app: Sphinx, docname: str, content: list[str]) -> None:
        def made(mark: re.Match[str]) -> str:
            if mark[1] not in makers:
                raise ExtensionError(f"{docname}: unknown maker {mark[1]}")
            return "\n".join(makers[mark[1]](man=app.tags.has("man")))

        content[0] = _MARK.sub(made, content[0])

    app.connect("source-read", source_read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def command_line(*, man: bool) -> Iterator[str]:
    """Yield each command: what it does, its usage, its options, its examples."""
    for command, summary in _leaves(parser.parser()):
        yield from (f"{'###' if man else '##'} {command.prog}", "")
        yield from (_text(command.description or f"{summary[0].upper()}{summary[1:]}."), "")
        yield from _command(command)


def environment(*, man: bool) -> Iterator[str]:
    """Yield each variable, in the groups of `agent.core.variables`."""
    groups = {
        "The program": variables.APPLICATION,
        "Its data": variables.DATA,
        "Several nodes": variables.SEVERAL_NODES,
        "Running": variables.RUNNING,
    }
    for title, group in groups.items():
        yield from (f"{'###' if man else '##'} {title}", "")
        rows = []
        for name in group:
            meaning = _text(name.help) + (" (secret)" if name.secret else "")
            default = _text(name.default_text)
            if man and default:
                default = f"(default: {default})"
            rows.append((f"`{name.name}`", meaning, default))
        yield from _list(rows) if man else _table(("name", "meaning", "default"), rows)


def exit_codes_of(*, man: bool) -> Iterator[str]:
    """Yield each exit code, the agent's own and a shell's codes for the application."""
    for title, table in (
        ("The agent's own", exit_codes.OWN),
        ("The application's", exit_codes.APPLICATION),
    ):
        yield from (f"{'###' if man else '##'} {title}", "")
        rows = [(f"`{row.code}`", _text(row.meaning), _what_to_do(row)) for row in table]
        head = ("code", "meaning", "what to do")
        yield from _list(rows, "; ") if man else _table(head, rows)


def events(*, man: bool) -> Iterator[str]:
    """Yield each log event: its id and its message, with the names of the fields in it."""
    rows = [(f"`{event}`", f"`{template}`") for event, template in EVENTS.items()]
    yield from _list(rows) if man else _table(("event", "message"), rows)


def run_json(*, man: bool) -> Iterator[str]:
    """Yield the fields of run.json, a table for each object, and the schema itself."""
    yield from _fields("", SCHEMA)
    yield from ("## The schema", "", "```json", json.dumps(SCHEMA, indent=2), "```", "")


def _leaves(
    parser: argparse.ArgumentParser, summary: str = ""
) -> Iterator[tuple[argparse.ArgumentParser, str]]:
    """Yield the commands that do something and their summaries, in the order of the help."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for listed in action._choices_actions:
                yield from _leaves(action.choices[listed.dest], listed.help or "")
            return
    yield parser, summary


def _command(parser: argparse.ArgumentParser) -> Iterator[str]:
    # The first line loses its word, and the lines below it as many blanks.
    usage = parser.format_usage().rstrip().replace("\n" + " " * len("usage: "), "\n")
    yield from ("```text", usage.removeprefix("usage: "), "```", "")
    formatter = parser._get_formatter()
    options = [
        (f"`{formatter._format_action_invocation(action)}`", _text(action.help or ""))
        for action in parser._actions
        if not isinstance(action, argparse._HelpAction)
    ]
    yield from _list(options)
    yield from _epilog(parser.epilog or "")


def _epilog(text: str) -> Iterator[str]:
    """Yield the examples, which are indented below their word, and what follows them."""
    lines = text.splitlines()
    examples = [line for line in lines if line.startswith(" ")]
    if examples:
        yield from ("```sh", textwrap.dedent("\n".join(examples)), "```", "")
    said = [line for line in lines if line and not line.startswith(" ") and line != "examples:"]
    for line in said:
        yield from (_text(line), "")


def _what_to_do(row: ExitCode) -> str:
    return _text(row.what_to_do) + (" (another attempt may well succeed)" if row.again else "")


def _fields(path: str, schema: dict[str, Any]) -> Iterator[str]:
    """Yield an object's table, then those of the objects in it."""
    yield from (_text(schema["description"]), "")
    rows, below = [], []
    for name, field in schema["properties"].items():
        many = field["type"] == "array"
        of = field["items"] if many else field
        where = f"{path}{name}{'[]' if many else ''}."
        if "properties" in of:
            below.append((where, of))
        meaning = _text(field["description"].removesuffix("."))
        values = of.get("enum") or ([of["const"]] if "const" in of else [])
        if values:
            meaning += f": {', '.join(f'`{value}`' for value in values)}"
        if name not in schema["required"]:
            meaning += " (may be missing)"
        rows.append((f"`{name}`", _kind(of) + (" list" if many else ""), meaning))
    yield from _table(("field", "type", "meaning"), rows)
    for where, of in below:
        yield from (f"## `{where.removesuffix('.')}`", "")
        yield from _fields(where, of)


def _kind(field: dict[str, Any]) -> str:
    kinds = field["type"]
    return " or ".join(kinds) if isinstance(kinds, list) else str(kinds)


def _table(head: tuple[str, ...], rows: Rows) -> Iterator[str]:
    for row in (head, ("---",) * len(head), *rows):
        cells = " | ".join(cell.replace("|", r"\|") for cell in row)
        yield f"| {cells} |"
    yield ""


def _list(rows: Rows, between: str = " ") -> Iterator[str]:
    """Yield a list of definitions; `between` is put before what else a row has, if it has."""
    for term, meaning, *more in rows:
        yield from (term, f": {between.join(part for part in (meaning, *more) if part)}", "")


def _text(plain: str) -> str:
    """Return text as Markdown: our names are code, and so is what is in backticks."""

    def escaped(text: str) -> str:
        return re.sub(r"([\\`*_\[\]<>])", r"\\\1", text)

    out, end = "", 0
    for found in _CODE.finditer(plain):
        out += escaped(plain[end : found.start()]) + f"`{found[0].strip('`')}`"
        end = found.end()
    return out + escaped(plain[end:])
