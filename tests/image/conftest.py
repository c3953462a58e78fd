"""Which image each test of the image runs."""

import pytest

from tests.support.basics import LAMBDA_IMAGE


@pytest.fixture(params=["batch", "lambda"])
def target(request, image):
    """Return the image of each target."""
    return image if request.param == "batch" else LAMBDA_IMAGE
