"""The files with which a database client comes by certificate: this machine's own key, and what was signed."""

from dataclasses import dataclass
from pathlib import Path

from gateway.edges.cli import client


@dataclass(frozen=True, slots=True)
class Signed:
    """`key` and `certificate` are PEM files, as libpq's sslkey and sslcert want them."""

    user: str
    key: Path
    certificate: Path
    expires_at: str


def fetch(api: client.Api) -> Signed:
    """A fresh certificate for this machine's key, which is made once."""
    folder = client.home() / "database"
    folder.mkdir(mode=0o700, exist_ok=True)
    key, certificate = folder / "client.key", folder / "client.crt"
    answer = api.post("/api/database-certificate", {"public_key": _public_key(key)})
    client.write_private(certificate, str(answer["certificate"]).encode())
    return Signed(str(answer["user"]), key, certificate, str(answer["expires_at"]))


def _public_key(path: Path) -> str:
    """As OpenSSH writes it. P-256: every TLS library signs with it."""
    from cryptography.hazmat.primitives import serialization as form  # noqa: PLC0415  not for --help
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415  as above

    if not path.exists():
        made = ec.generate_private_key(ec.SECP256R1())
        pem = made.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
        client.write_private(path, pem)
    key = form.load_pem_private_key(path.read_bytes(), None)
    return key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH).decode()
