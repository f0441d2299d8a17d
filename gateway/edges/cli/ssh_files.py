"""The files with which any OpenSSH client finds its way through the gateway: key, certificate, known host, config."""

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from gateway.edges.cli import client, output

ALIAS = "gw-door"
_VALID_FOR = timedelta(seconds=60)
_HOST = re.compile(r"[A-Za-z0-9\[:][A-Za-z0-9._:%\[\]-]{0,254}")  # names and addresses; never an option
_HOST_KEY = re.compile(r"[a-z0-9@.-]{1,64} [A-Za-z0-9+/]{1,8000}={0,2}( [ -~]{0,200})?")


def _folder() -> Path:
    folder = client.home() / "ssh"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def key_path() -> Path:
    """The private key; the public one and the certificate lie beside it, where OpenSSH looks."""
    return _folder() / "id_ed25519"


def certificate_path() -> Path:
    """OpenSSH's own name for it."""
    return _folder() / "id_ed25519-cert.pub"


def _note_path() -> Path:
    return _folder() / "certificate.json"


def _whose() -> str:
    """Changes with the address and the sign-in, so that nobody goes on as somebody else; needs no keyring."""
    return sha256(json.dumps([client.base_url(), client.sign_in_mark()]).encode()).hexdigest()


def is_certificate_valid() -> bool:
    """True when the certificate is this sign-in's and lasts more than a minute. Reads two small files."""
    try:
        note = json.loads(_note_path().read_text())
        lasts = datetime.fromisoformat(note["expires_at"]) - datetime.now(UTC) > _VALID_FOR
        return lasts and note["whose"] == _whose() and certificate_path().exists() and key_path().exists()
    except (OSError, ValueError, KeyError, TypeError):
        return False


def ensure_certificate(api: client.Api) -> str:
    """A certificate that is good for a minute or more; its expiry (ISO)."""
    if not is_certificate_valid():
        answer = api.post("/api/ssh-certificate", {"public_key": _public_key()})
        client.write_private(certificate_path(), (answer["certificate"].strip() + "\n").encode())
        note = {"expires_at": answer["expires_at"], "whose": _whose()}
        client.write_private(_note_path(), json.dumps(note).encode())
    return str(json.loads(_note_path().read_text())["expires_at"])


def forget_certificate() -> None:
    """After another sign-in, or none."""
    certificate_path().unlink(missing_ok=True)
    _note_path().unlink(missing_ok=True)


def _public_key() -> str:
    public = key_path().with_suffix(".pub")
    if not key_path().exists() or not public.exists():
        _make_key(public)
    return public.read_text().strip()


def _make_key(public: Path) -> None:
    from cryptography.hazmat.primitives import serialization as form  # noqa: PLC0415  once per machine
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415  as above

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption())
    line = key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH)
    client.write_private(public, line + b"\n")
    client.write_private(key_path(), private)


def write_known_host(door: Any) -> Path:
    """Pin the door's host key; returns the known_hosts file."""
    _demand_plain(door)
    path = _folder() / "known_hosts"
    line = " ".join(str(door["host_key"]).split()[:2])
    client.write_private(path, f"{ALIAS} {line}\n".encode())
    return path


def config(door: Any, targets: Iterable[str], *, refreshes: bool) -> str:
    """An OpenSSH client configuration with a host `TARGET.gw` for each target. `refreshes`: fetch the certificate.

    Holds no secret: the certificate is fetched by `gw ssh-cert --ensure`, which finds the sign-in by itself.
    """
    known_hosts = write_known_host(door)
    names = [name for name in targets if _is_plain(name)]
    hosts = "".join(_host(name, door, known_hosts) for name in names)
    if not refreshes or not names:
        return hosts
    patterns = ",".join(f"{name}.gw" for name in names)
    # Match exec runs while the configuration is read, before any key is offered.
    return f'{hosts}Match originalhost {patterns} exec "{_refresh_command()}"\n'


def _host(name: str, door: Any, known_hosts: Path) -> str:
    lines = [
        f"Host {name}.gw",
        f"    HostName {str(door['host']).replace('%', '%%')}",  # an IPv6 zone is no token
        f"    Port {int(door['port'])}",
        f"    User {name}",
        f"    HostKeyAlias {ALIAS}",
        f"    UserKnownHostsFile {_quoted(known_hosts)}",
        "    GlobalKnownHostsFile /dev/null",
        "    StrictHostKeyChecking yes",
        "    UpdateHostKeys no",
        f"    IdentityFile {_quoted(key_path())}",
        f"    CertificateFile {_quoted(certificate_path())}",
        "    IdentitiesOnly yes",
        "    PreferredAuthentications publickey",
        "    ForwardAgent no",
    ]
    return "\n".join(lines) + "\n\n"


def _is_plain(name: str) -> bool:
    """What may stand in a configuration line: a catalogue's names are, a hostile server's need not be."""
    return bool(name) and all(c.isascii() and (c.isalnum() or c in "._-") for c in name) and not name.startswith("-")


def _demand_plain(door: Any) -> None:
    """Ends the command unless the server's answer can stand in OpenSSH's files: a line break would add directives."""
    try:
        host, port, key = str(door["host"]), int(door["port"]), str(door["host_key"])
    except (KeyError, TypeError, ValueError):
        host, port, key = "", 0, ""
    if not (_HOST.fullmatch(host) and 0 < port < 65536 and _HOST_KEY.fullmatch(key)):
        output.fail(
            "The server's answer is no SSH door: its host, port or host key is not well-formed.",
            output.EXIT_ERROR,
            "No configuration was written. Compare GW_URL with what the gateway's operators told you.",
            code="door-malformed",
        )


def _quoted(path: Path) -> str:
    text = str(path).replace("%", "%%")  # OpenSSH expands %-tokens here
    if '"' in text or "\n" in text:
        output.fail(f"{output.safe(text)} cannot stand in an OpenSSH configuration.", output.EXIT_ERROR, "Set GW_HOME.")
    return f'"{text}"'


def _refresh_command() -> str:
    """`env GW_…=… /path/gw ssh-cert --ensure`, by absolute paths, fit for any login shell; never the token."""
    settings = {"GW_URL": client.base_url(), "GW_HOME": str(client.home())}
    for name in ("GW_CA_FILE", "GW_KEYRING"):
        if os.environ.get(name):
            settings[name] = str(Path(os.environ[name]).absolute()) if name.endswith("_FILE") else os.environ[name]
    words = ["env", *(f"{name}={value}" for name, value in settings.items()), *_own_command(), "ssh-cert", "--ensure"]
    command = shlex.join(words).replace("%", "%%")
    if '"' in command or "\n" in command:
        output.fail("GW_URL or GW_HOME cannot stand in an OpenSSH configuration.", output.EXIT_ERROR)
    return command


def _own_command() -> list[str]:
    found = shutil.which(sys.argv[0]) if Path(sys.argv[0]).name == "gw" else None
    return [str(Path(found).absolute())] if found else [sys.executable, "-m", "gateway"]
