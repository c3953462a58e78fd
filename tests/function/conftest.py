"""A function: the agent with a Runtime API to serve, an application, and a bucket."""

import pytest

from tests.support.basics import REPOSITORY
from tests.support.runtime_api import api

__all__ = ["api"]

APPLICATION = """#!/bin/sh
# What a test wants it to do comes as a script in SCRIPT.
eval "$SCRIPT"
"""


@pytest.fixture
def function(agent, api, root, s3_env):
    """Return what starts a function's environment below a root of its own: the agent's process."""
    path = root / "opt/application"
    path.write_text(APPLICATION)

    def start(cwd=REPOSITORY, **env):
        usual = {
            "AWS_LAMBDA_RUNTIME_API": api.address,
            "APP_BIN": "/opt/application",
            "ARCHITRAVE_LAUNCHER": "direct",
            "ARCHITRAVE_OUTPUT": "s3://bucket/function",
            "ARCHITRAVE_EVENT_ENV": "SCRIPT APP_* APP_BIN",
        }
        given = s3_env | usual | env
        return agent(env={k: v for k, v in given.items() if v is not None}, cwd=cwd)

    return start


@pytest.fixture
def invoke(api):
    """Return what invokes the function with a script to run."""

    def call(script, seconds=30.0, **event):
        return api.invoke({"env": {"SCRIPT": script}} | event, seconds)

    return call
