"""What examples/lambda says agrees with what the agent does."""

import json
import re

from agent.awslambda import invocation
from agent.core import variables
from agent.core.model import Outcome
from tests.support.basics import REPOSITORY

EXAMPLES = REPOSITORY / "examples/lambda"


def test_the_answer_that_the_page_shows():
    page = (EXAMPLES / "README.md").read_text()
    shown = json.loads(re.search(r"```json\n(.*?)```", page, re.DOTALL)[1])
    made = invocation.answer(Outcome(0), {}, None, {"files": [], "failed": []}, "")
    assert shown.keys() == made.keys()


def test_the_times_that_the_page_names():
    page = " ".join((EXAMPLES / "README.md").read_text().split())
    for timeout, left in re.findall(r"(\d+) s leaves (?:the program|it) ([\d.]+) s", page):
        assert abs(invocation.budget(float(timeout), 15.0).application - float(left)) < 0.5
    assert "900 s leaves it" in page


def test_the_fields_and_names_that_the_page_explains():
    page = (EXAMPLES / "README.md").read_text()
    fields = re.findall(r"^\| `(params|input|output|env)` \|", page, re.MULTILINE)
    assert fields == ["params", "input", "output", "env"]
    known = {one.name for one in variables.EVERY}
    text = page + (EXAMPLES / "deploy").read_text()
    assert set(re.findall(r"\bARCHITRAVE_[A-Z_]+", text)) <= known


def test_the_role_may_do_what_the_agent_does_and_no_more():
    statements = json.loads((EXAMPLES / "policy.json").read_text())["Statement"]
    actions = {one["Sid"]: one["Action"] for one in statements}
    assert actions == {
        "Inputs": "s3:GetObject",
        "Results": ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"],
    }
    template = (EXAMPLES / "template.yaml").read_text()
    assert set(re.findall(r"s3:[A-Z]\w+", template)) - {"s3:ObjectCreated"} == {
        "s3:GetObject",
        "s3:PutObject",
        "s3:DeleteObject",
        "s3:AbortMultipartUpload",
    }
