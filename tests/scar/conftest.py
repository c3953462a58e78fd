"""What the tests with SCAR's parts share."""

from tests.support.runtime_api import api
from tests.support.scar import account_image, batch, build, deploy, node_image

__all__ = ["account_image", "api", "batch", "build", "deploy", "node_image"]
