"""What a launch will probably not do as its user means it."""

import pytest

from agent.job.launch_warnings import only_in, shell_syntax


@pytest.mark.parametrize(
    "literal",
    [
        *("<", ">", ">>", "2>", "2>&1", "|", "||", "&&", "&", ";", "<in.txt", ">out.txt", "2>err"),
        *("$HOME", "${HOME}/x", "--dir=$TMP_OUTPUT_DIR", "*.dat", "data/*", "run*/in", "run*.dat"),
    ],
)
def test_words_for_a_shell(literal):
    assert shell_syntax(["/opt/app", "a", literal]) == [literal]


@pytest.mark.parametrize(
    "argument",
    [
        "a>b",
        "x=1",
        "<none>",
        "5*3",
        "$",
        "$1",
        "{print $NF}",
        "s/a b*/c/",
        "100%",
        "a&b",
        "-",
        "--",
    ],
)
def test_words_of_a_programs_own(argument):
    assert shell_syntax(["/opt/app", argument]) == []


@pytest.mark.parametrize("program", ["/bin/sh", "/usr/bin/env", "/bin/bash", "busybox"])
def test_a_shell_is_asked_for(program):
    assert shell_syntax([program, "-c", "a<b>c|d", "|"]) == []
    assert shell_syntax(["/usr/bin/timeout", "5", program, "-c", "$X"]) == []


def test_arguments_that_are_only_in_opt(tmp_path):
    opt, here = tmp_path / "opt", tmp_path / "work"
    for directory in (opt, here, opt / "data"):
        directory.mkdir()
    for path in (opt / "in.lj", opt / "both", here / "both", opt / "data/x", here / "own"):
        path.touch()
    arguments = ["-in", "in.lj", "both", "own", "data/x", "--input=in.lj", "other", str(opt), "."]
    assert only_in(str(opt), arguments, str(here)) == ["in.lj", "data/x", "in.lj"]
    assert only_in(str(opt), ["x" * 5000, "a\0b", ""], str(here)) == []
