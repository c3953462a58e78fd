"""What the tests with SCAR's parts share."""

from tests.support.runtime_api import api
from tests.support.scar import (
    account_image,
    archive,
    batch,
    bucket,
    deploy,
    function,
    function_image,
    node_image,
    submit,
)

__all__ = [
    "account_image",
    "api",
    "archive",
    "batch",
    "bucket",
    "deploy",
    "function",
    "function_image",
    "node_image",
    "submit",
]
