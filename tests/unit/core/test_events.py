"""The table of log events agrees with the sources."""

import ast
import string

import pytest

from agent.core.errors import AgentError
from agent.core.events import EVENTS, message
from tests.support.basics import REPOSITORY

LEVELS = {"debug", "info", "warning", "error"}
# What every line has.
CONTEXT = {"job", "attempt", "node", "phase"}
OF_ERRORS = {"what", "cause", "code", "hint"}


def sources():
    """Yield the syntax tree of each module of the agent."""
    for path in sorted((REPOSITORY / "agent").rglob("*.py")):
        yield path, ast.parse(path.read_text())


def strings(node):
    """Yield the strings that an expression can be, as far as they are written there."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from (*strings(node.body), *strings(node.orelse))


def name_of(node):
    """Return the last component of a dotted name."""
    return getattr(node, "attr", getattr(node, "id", ""))


def names_of(keywords):
    """Return the names of a call's fields; None if not all of them are written there."""
    names = {keyword.arg for keyword in keywords}
    return None if None in names else names


def used():
    """Yield (where, id, names of fields or None) for each event that a source logs."""
    for path, tree in sources():
        for node in ast.walk(tree):
            where = f"{path.name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Call):
                function = node.func
                name = function.attr if isinstance(function, ast.Attribute) else ""
                owner = function.value if isinstance(function, ast.Attribute) else None
                owner = name_of(owner)
                if name in LEVELS and owner in ("log", "_log"):
                    for event in strings(node.args[0]) if node.args else ():
                        yield where, event, names_of(node.keywords)
                elif name in ("report", "_log_wait", "_first_of"):
                    for event in strings(node.args[0]):
                        yield where, event, None
                elif name == "pop" and "event" in strings(node.args[0]):
                    yield where, node.args[1].value, None
                elif name == "at" and owner in ("log", "_log"):
                    for event in strings(node.args[1]):
                        yield where, event, None
                for keyword in node.keywords:
                    if keyword.arg == "event":
                        for event in strings(keyword.value):
                            yield where, event, OF_ERRORS
            elif isinstance(node, ast.Dict):
                keys = [getattr(key, "value", None) for key in node.keys]
                for key, value in zip(keys, node.values, strict=True):
                    if key == "event":
                        for event in strings(value):
                            yield where, event, None
            elif isinstance(node, ast.Assign) and "event" in map(name_of, node.targets):
                for event in strings(node.value):
                    yield where, event, None


def fields_of(template):
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


def test_each_event_that_is_logged_is_in_the_table():
    unknown = [(where, event) for where, event, _ in used() if event not in EVENTS]
    assert not unknown


def test_each_event_of_the_table_is_logged():
    assert not EVENTS.keys() - {event for _, event, _ in used()} - {"error"}


def test_each_field_of_a_message_is_given():
    missing = [
        (where, event, fields_of(EVENTS[event]) - fields - CONTEXT)
        for where, event, fields in used()
        if event in EVENTS and fields is not None
    ]
    assert not [one for one in missing if one[2]]


@pytest.mark.parametrize("event", EVENTS)
def test_messages_have_one_form(event):
    """An id in snake case; a message that begins in lower case and has no full stop."""
    template = EVENTS[event]
    assert event.isidentifier() and event == event.lower()
    first = template.split()[0]
    assert not template.endswith(".") and (first.islower() or first.isupper() or "{" in first)


def test_message():
    text, shown = message("stragglers_ended", {"processes": ["a", "b"], "hint": "x"})
    assert text.endswith("a, b") and shown == {"processes"}


@pytest.mark.parametrize(("event", "fields"), [("no_such_event", {}), ("worker_joined", {})])
def test_what_is_unknown_or_missing_is_logged_by_its_id(event, fields):
    assert message(event, fields) == (event, set())


def test_events_of_errors():
    """With an event of its own an error says what happened, else what cannot be done."""
    plain = AgentError("fetch x", "no such object", code=66)
    lost = AgentError("lost worker 2", "no heartbeat for 10 s", code=75, event="worker_lost")
    assert (str(plain), plain.event) == ("cannot fetch x: no such object", "error")
    assert str(lost) == "lost worker 2: no heartbeat for 10 s"
    assert AgentError.from_json(lost.to_json()).event == "worker_lost"
    for error in (plain, lost):
        assert message(error.event, error.fields())[0] == str(error)
