"""Requests are signed as botocore signs them."""

from datetime import UTC, datetime

from botocore import auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as Botocores
from hypothesis import given
from hypothesis import strategies as st

from agent.staging.sigv4 import Credentials, encoded_path, signed_headers

NOW = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
keys = st.text("abcXYZ019/+", min_size=1, max_size=40)
names = st.text("az09-_.~/ +%=&?#:@äß€\U0001f600'()*!", min_size=1, max_size=40)


@given(
    st.sampled_from(["GET", "PUT", "HEAD", "DELETE"]),
    names,
    st.sampled_from(["", "partNumber=1"]),
    keys,
    keys,
    st.sampled_from(["", "token/+="]),
    st.binary(max_size=20),
)
def test_like_botocore(method, key, query, access_key, secret_key, token, body):
    path = encoded_path("a-bucket", key)
    headers = {"host": "s3.example.org:8333", "x-amz-checksum-mode": "ENABLED"}
    ours = signed_headers(
        method,
        path,
        query,
        headers,
        Credentials(access_key, secret_key, token),
        "eu-west-1",
        body,
        NOW,
    )
    url = f"https://s3.example.org:8333{path}" + (f"?{query}" if query else "")
    request = AWSRequest(method, url, {**headers}, body)
    signer = auth.S3SigV4Auth(Botocores(access_key, secret_key, token or None), "s3", "eu-west-1")
    request.context["payload_signing_enabled"] = True
    usual = auth.get_current_datetime
    auth.get_current_datetime = lambda *_, **__: NOW.replace(tzinfo=None)
    try:
        signer.add_auth(request)
    finally:
        auth.get_current_datetime = usual
    assert ours["authorization"] == request.headers["Authorization"]
    assert ours["x-amz-content-sha256"] == request.headers["X-Amz-Content-SHA256"]
