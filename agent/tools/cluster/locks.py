"""Lock SeaweedFS's ports besides S3: its filer, volumes and master, for HTTP and gRPC.

By default they need no credentials: any client of these ports can read and replace objects.
security.toml (`weed scaffold -config=security`) has a key for the tokens of each HTTP port, and
certificates without which no client can use their gRPC. Both are made for one server, known to
nothing else, and removed with its directory.
"""

from __future__ import annotations

import os
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

# As `weed` names what listens.
_LISTENERS = ("master", "volume", "filer", "s3", "admin", "worker", "mq", "msg_broker", "msg_agent")
_TOKENS = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")
_NAME = "architrave"
_VALID = timedelta(days=3650)
# The certificate stays valid when the clock is set back later.
_EARLIER = timedelta(days=2)


def lock(directory: Path) -> None:
    """Write security.toml, keys and certificates into a directory that is made 0700.

    `weed` finds the file in its working directory.
    """
    directory.chmod(0o700)
    authority, certificate, key = _certificates()
    paths = {}
    for name, content in (("ca", authority), ("cert", certificate), ("key", key)):
        paths[name] = directory / f"{name}.pem"
        _write(paths[name], content)
    lines = [f'[{token}]\nkey = "{secrets.token_urlsafe(32)}"' for token in _TOKENS]
    lines.append(f'[grpc]\nca = "{paths["ca"]}"')
    pair = f'cert = "{paths["cert"]}"\nkey = "{paths["key"]}"'
    lines += [f"[grpc.{name}]\n{pair}" for name in (*_LISTENERS, "client")]
    lines.append("[filer.expose_directory_metadata]\nenabled = false")
    _write(directory / "security.toml", "\n".join([*lines, ""]).encode())


def _write(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _certificates() -> tuple[bytes, bytes, bytes]:
    """Return an authority's certificate, one that it has signed, and that one's key, all PEM.

    The authority's key is not stored: it signs once.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    signing, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    now = datetime.now(UTC)

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def certificate(public: ec.EllipticCurvePublicKey, subject: str, *, authority: bool) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name(f"{_NAME} authority"))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _EARLIER)
            .not_valid_after(now + _VALID)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if not authority:
            usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        signed = builder.sign(signing, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)

    return (
        certificate(signing.public_key(), f"{_NAME} authority", authority=True),
        certificate(key.public_key(), _NAME, authority=False),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
