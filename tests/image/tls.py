"""Ask a server over TLS for an object: without its certificate, then with it by each variable.

Run by the agent's own Python in a container; prints what went wrong or else what helped.
"""

import http.server
import os
import ssl
import sys
import threading
from datetime import UTC, datetime, timedelta

import boto3
import botocore.config
import botocore.exceptions
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

HOST = "storage.example"
CERTIFICATE = "/tmp/certificate.pem"


def make_certificate():
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    form = serialization.PrivateFormat.TraditionalOpenSSL
    with open(CERTIFICATE, "wb") as file:
        file.write(certificate.public_bytes(pem))
        file.write(key.private_bytes(pem, form, serialization.NoEncryption()))


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "7")
        self.end_headers()
        self.wfile.write(b"content")

    def log_message(self, *arguments):
        pass


def serve():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def ask(port):
    client = boto3.client(
        "s3",
        endpoint_url=f"https://{HOST}:{port}",
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        config=botocore.config.Config(
            s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}
        ),
    )
    return client.get_object(Bucket="bucket", Key="key")["Body"].read()


make_certificate()
port = serve()
try:
    ask(port)
except botocore.exceptions.SSLError as error:
    print(type(error).__name__)
for variable in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
    os.environ[variable] = CERTIFICATE
    if ask(port) == b"content":
        print(variable)
    del os.environ[variable]
sys.stdout.flush()
