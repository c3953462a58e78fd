"""Every command: its help fits a screen and shows how it is used, and a shell completes it."""

import argparse
import subprocess

import pytest

from agent import cli
from agent.errors import AgentError
from agent.local import commands


def every(parser):
    """Yield a parser and those of its commands, each with its words."""
    yield parser.prog.split(), parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from every(one)


EVERY = {" ".join(words): parser for words, parser in every(commands.parser())}


@pytest.mark.parametrize("name", EVERY)
def test_help_fits_a_screen(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = EVERY[name].format_help().splitlines()
    assert len(lines) <= 24, len(lines)
    assert max(map(len, lines)) <= 80
    if name != "architrave":
        examples = [line.strip() for line in lines[lines.index("examples:") :]]
        assert any(line.startswith((name, "docker")) or name in line for line in examples)


@pytest.mark.parametrize("name", EVERY)
def test_every_argument_is_explained(name):
    for action in EVERY[name]._actions:
        if not isinstance(action, argparse._SubParsersAction):
            assert action.help, action


def test_the_first_help_names_every_command():
    names = {name.split()[1] for name in EVERY if " " in name}
    assert names == {*cli._WAYS, *cli._TOOLS}
    assert all(f"architrave {name} " in cli.HELP for name in names)
    assert len(cli.HELP.splitlines()) <= 24 and max(map(len, cli.HELP.splitlines())) <= 80


def test_bash_completes(capsys, tmp_path):
    assert commands.main(["completion", "bash"]) == 0
    script = tmp_path / "completion"
    script.write_text(capsys.readouterr().out)
    ask = (
        f"source {script}; COMP_WORDS=(architrave local r); COMP_CWORD=2;"
        " _shtab_architrave; echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, timeout=20)
    assert done.stdout.split() == ["run"], done.stderr


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["local"], "architrave local --help"),
        (["local", "walk"], "architrave local --help"),
        (["pack", "private", "--fast", "x"], "architrave pack private --help"),
    ],
)
def test_what_cannot_be_read_is_64(words, hint):
    with pytest.raises(AgentError) as caught:
        commands.main(words)
    assert (caught.value.code, caught.value.hint) == (64, hint)
