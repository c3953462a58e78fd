"""The commands on the pages can be parsed, and their links have targets."""

import ast
import configparser
import re
import shlex

import pytest

from agent.core.errors import AgentError
from agent.core.model import PHASES, FailureKind
from agent.job.states import ABORTS, NEXT, State
from agent.tools.commands import parser
from tests.support.basics import REPOSITORY

PAGES = sorted(
    path.relative_to(REPOSITORY)
    for path in (
        *REPOSITORY.glob("*.md"),
        *(REPOSITORY / "docs").rglob("*.md"),
        *(REPOSITORY / "examples").rglob("*.md"),
    )
)
BLOCK = re.compile(r"^```(?:sh|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?![a-z]+:)([^)#\s]*)#?([^)\s]*)\)")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def typed(text):
    """Yield the arguments of each of our commands on a page, as a shell splits them."""
    for block in BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip().startswith("architrave "):
                arguments = shlex.split(line, comments=True)[1:]
                yield [one for one in arguments if not one.startswith(">")]


def anchors(text):
    """Return the anchors of a page's headings, on GitHub and with MyST."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_command_on_a_page_can_be_parsed(page):
    for arguments in typed((REPOSITORY / page).read_text()):
        try:
            parser.parser().parse_args(arguments)
        except SystemExit as end:  # --help and --version
            assert end.code == 0
        except AgentError as error:
            pytest.fail(f"{shlex.join(arguments)}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_between_files_has_a_target(page):
    for name, fragment in LINK.findall((REPOSITORY / page).read_text()):
        there = (REPOSITORY / page).parent / name if name else REPOSITORY / page
        assert there.exists(), name
        if fragment:
            assert fragment in anchors(there.read_text()), f"{name}#{fragment}"


def test_commands_are_found_on_the_pages():
    shown = [arguments for page in PAGES for arguments in typed((REPOSITORY / page).read_text())]
    assert {arguments[0] for arguments in shown} >= {"pack", "local", "report", "generate"}


def test_each_page_that_is_made_of_the_code_has_its_maker():
    """The reference's pages, the log events among them, name functions of the extension."""
    source = ast.parse((REPOSITORY / "docs/extensions/reference.py").read_text())
    makers = {node.name for node in source.body if isinstance(node, ast.FunctionDef)}
    texts = [(REPOSITORY / page).read_text() for page in PAGES]
    marks = {mark for text in texts for mark in re.findall(r"<!-- made from the code: (\w+)", text)}
    assert marks <= makers and marks >= {"command_line", "environment", "events", "run_json"}


def test_the_diagram_has_the_phases_of_both_kinds_of_node():
    text = (REPOSITORY / "docs/explanation/phases.svg").read_text()
    assert tuple(re.findall(r'font-weight="600">(\w+)<', text)) == (
        "main",
        *PHASES,
        "worker",
        *PHASES,
    )


def test_the_plan_shows_the_layers_and_names_every_module():
    """The picture of the packages is what import-linter checks; the table has each module."""
    plan = (REPOSITORY / "docs/explanation/architecture.md").read_text()
    section = plan.partition("## Packages")[2].partition("\n## ")[0]
    picture = section.split("```")[1].split("\n")
    drawn = [sorted(re.findall(r"\w+", line)) for line in picture if line.strip()]
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    layers = setup["importlinter:contract:layers"]["layers"].split("\n")
    assert drawn == [sorted(re.findall(r"\w+", line)) for line in layers if line.strip()]
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)", section, re.MULTILINE))
    for package, row in rows.items():
        names = {
            path.stem
            for path in (REPOSITORY / "agent" / package).glob("*.py")
            if path.stem != "__init__"
        }
        written = set(re.findall(r"`(\w+)`", row))
        if "`check_*`" in row:
            written |= {name for name in names if name.startswith("check_")}
        assert names <= written, package
    assert rows.keys() >= {
        path.parent.name for path in (REPOSITORY / "agent").glob("*/__init__.py")
    }


def test_the_pictures_of_a_node_s_states_are_those_of_the_code():
    picture = (REPOSITORY / "docs/explanation/states.svg").read_text()
    drawn = re.findall(r'data-from="(\w+)" data-to="(\w+)"', picture)
    known = [(state.value, after.value) for state in NEXT for after in NEXT[state]]
    assert sorted(drawn) == sorted(known)
    assert re.findall(r'font-weight="600">(\w+)<', picture) == [state.value for state in State]

    plan = (REPOSITORY / "docs/explanation/architecture.md").read_text()
    section = plan.partition("## A node's states")[2].partition("\n## ")[0]
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("|")
    ]
    assert head == ["state", *(kind.value for kind in FailureKind)]
    assert rows == [
        [state.value, *("yes" if kind in ABORTS[state] else "" for kind in FailureKind)]
        for state in State
    ]
