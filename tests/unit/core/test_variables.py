"""The table of names and the settings have the same variables."""

import re

from agent.core import variables
from tests.support.basics import REPOSITORY

ALL = [*variables.APPLICATION, *variables.DATA, *variables.SEVERAL_NODES, *variables.RUNNING]
# Set by AWS Batch and Lambda, not by users; the SDK's own.
PLATFORM = re.compile(
    r"AWS_(BATCH_JOB|LAMBDA|ACCESS|SECRET|SESSION|CONTAINER|REGION|DEFAULT_REGION)\w*"
)


def test_every_name_that_the_settings_read_is_in_the_table():
    text = "".join(
        (REPOSITORY / f"agent/core/{name}.py").read_text()
        for name in ("settings", "environ", "event_variables")
    )
    read = set(
        re.findall(r'"((?:ARCHITRAVE|APP|AWS|S3|SSH|PRIVATE|TMP|EXEC|INPUT)_[A-Z0-9_]+)"', text)
    )
    assert {name for name in read if not PLATFORM.fullmatch(name)} == {one.name for one in ALL}
