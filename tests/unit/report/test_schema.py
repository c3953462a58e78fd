"""The schemas of run.json are published as files, and records of version 1 are still read."""

import json

import jsonschema
import pytest

from agent.report.reader import read
from agent.report.run_json import RUN_SCHEMA
from agent.report.schema import SCHEMA
from agent.report.version_1 import RUN_SCHEMA_1
from tests.support.basics import REPOSITORY
from tests.support.records import record
from tests.unit.report.test_page import FAILED

SCHEMAS = REPOSITORY / "docs/schemas"


def published(version):
    return json.loads((SCHEMAS / f"run-{version}.json").read_text())


def of_version_1(run):
    """Return a record as the first version had it: other names, the same values."""
    run = json.loads(json.dumps(run)) | {"schema": RUN_SCHEMA_1}
    run["exit"]["spoke"] = run["exit"].pop("source")
    for node in run["nodes"]:
        for one in node["phases"]:
            one["phase"] = "part" if one["phase"] == "release" else one["phase"]
    return run


def test_the_published_schema_is_the_one_that_the_code_has():
    """After a change: python -m agent.report.schema >docs/schemas/run-2.json."""
    assert published(2) == SCHEMA


@pytest.mark.parametrize(("version", "schema"), [(1, RUN_SCHEMA_1), (2, RUN_SCHEMA)])
def test_each_published_schema_describes_its_version(version, schema):
    jsonschema.Draft202012Validator.check_schema(published(version))
    run = json.loads(json.dumps(record(3, outcome=FAILED)))
    jsonschema.validate(of_version_1(run) if version == 1 else run, published(version))
    assert published(version)["properties"]["schema"]["const"] == schema


def test_a_record_of_version_1_is_read():
    """It has the same run in it: the same source, phases and times."""
    run = json.loads(json.dumps(record(3, outcome=FAILED)))
    assert read(of_version_1(run)) == read(run)
    assert "release" in read(of_version_1(run)).phases
