"""Every command: its help fits a screen and shows how it is used, and a shell completes it."""

import argparse
import subprocess
import sys

import pytest

from agent import cli
from agent.core.errors import AgentError
from agent.tools.commands import parser
from tests.support.basics import REPOSITORY


def every(parser):
    """Yield a parser and those of its commands, each with its name."""
    yield parser.prog.split(), parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from every(one)


EVERY = {" ".join(names): parser for names, parser in every(parser.parser())}


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
    assert parser.main(["completion", "bash"]) == 0
    script = tmp_path / "completion"
    script.write_text(capsys.readouterr().out)
    ask = (
        f"source {script}; COMP_WORDS=(architrave local r); COMP_CWORD=2;"
        " _shtab_architrave; echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, timeout=20)
    assert done.stdout.split() == ["run"], done.stderr


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["local"], "architrave local --help"),
        (["local", "walk"], "architrave local --help"),
        (["pack", "private", "--fast", "x"], "architrave pack private --help"),
        (["report", "a", "b", "c"], "architrave report --help"),
    ],
)
def test_what_cannot_be_read_is_64(arguments, hint):
    with pytest.raises(AgentError) as caught:
        parser.main(arguments)
    assert (caught.value.code, caught.value.hint) == (64, hint)


@pytest.mark.parametrize(
    ("env", "code"),
    [
        ({"S3_BUCKET": "s3://other"}, 64),
        ({"S3_BUCKET": ""}, 64),
        ({"ARCHITRAVE_OUTPUT": "s3://other/x"}, 64),
        ({"ARCHITRAVE_OUTPUT": "s3://architrave/x", "S3_BUCKET": "s3://architrave"}, 73),
        ({"ARCHITRAVE_OUTPUT": "<none>"}, 73),
        ({"S3_BUCKET": "s3://other", "AWS_ENDPOINT_URL_S3": "http://10.0.0.1"}, 73),
    ],
)
def test_a_bucket_that_the_local_cluster_lacks_is_refused(env, code, tmp_path):
    """A destination on S3 that no node could reach is 64 before anything starts; others go on."""
    (tmp_path / "another job's").touch()  # 73: as far as a job of this test comes
    arguments = [argument for name, value in env.items() for argument in ("-e", f"{name}={value}")]
    with pytest.raises(AgentError) as caught:
        parser.main(["local", "run", "--no-docker", "--results", str(tmp_path), *arguments])
    assert caught.value.code == code
    assert code == 73 or "--private and --deps" in caught.value.hint


def test_compose_wants_the_files_that_it_names():
    """`generate compose` with an archive that is not there is 66, as `local run` is."""
    with pytest.raises(AgentError) as caught:
        parser.main(["generate", "compose", "--private", "no-such.7z"])
    assert caught.value.code == 66 and "no-such.7z" in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "code", "named", "hint"),
    [
        (["no-such-command-at-all"], 127, "no-such-command-at-all", "architrave --help"),
        (["explain", "--json"], 64, "explain", "architrave explain"),
        (["report", "a", "b", "c"], 64, "'c'", "report --help"),
        (["report", __file__], 65, "test_commands.py", "run.json"),
    ],
)
def test_a_typing_error_is_answered_by_the_nearest_name(arguments, code, named, hint):
    """What is mistyped is named, and the hint is about the command that was meant."""
    done = subprocess.run(
        [sys.executable, "-m", "agent", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == code
    first, second = done.stderr.splitlines()[:2]
    assert named in first and hint in second and "APP_PARAMS" not in second
