"""AWS's region by both of its names, in a function."""

from tests.integration.test_region import NAMES
from tests.support.s3proxy import FailingS3


@NAMES
def test_function(function, api, s3, given, wanted):
    s3.client().put_object(Bucket="bucket", Key="region/in", Body=b"x")
    with FailingS3(s3.endpoint) as failing:
        env = {"AWS_REGION": ""} | given
        function(**env, AWS_ENDPOINT_URL_S3=failing.endpoint)
        answer = api.invoke({"input": "s3://bucket/region/in", "env": {"SCRIPT": "true"}})
        assert answer.kind == "response", answer.body
        assert failing.regions == {wanted}
