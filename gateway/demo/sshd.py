"""A real OpenSSH server as `web-1`: it trusts the gateway's certificate authority and nothing else."""

import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from gateway.demo.postgres import write_secret
from gateway.demo.processes import Processes, listens
from gateway.demo.programs import find

NAME = "sshd"
_CONFIG = """\
ListenAddress 127.0.0.1:{port}
HostKey {host_key}
PidFile none
TrustedUserCAKeys {ca}
AuthorizedKeysFile none
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
AllowUsers {users}
Subsystem sftp internal-sftp
AcceptEnv LANG LC_*
MaxStartups 300
PrintMotd no
LogLevel VERBOSE
"""


@dataclass(frozen=True, slots=True)
class Server:
    """The running server and the public host key line to pin for it."""

    host: str
    port: int
    host_key: str


def host_key(state: Path, name: str = "web-1") -> tuple[Path, str]:
    """(private key file, public key line) of a server, made when missing."""
    path = state / "secrets" / f"{name}.hostkey"
    public = path.with_suffix(".pub")
    if not public.exists():
        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        write_secret(path, private.decode())
        public.write_text(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode() + "\n")
    return path, public.read_text().strip()


def start(
    processes: Processes, state: Path, port: int, ca_file: Path, users: tuple[str, ...], name: str = NAME
) -> Server:
    """Start sshd; MissingProgramError was the caller's to avoid. `ca_file` is read anew at every login."""
    key_file, line = host_key(state, "web-1" if name == NAME else name)
    config = state / f"{name}.conf"
    config.write_text(_CONFIG.format(port=port, host_key=key_file, ca=ca_file, users=" ".join(dict.fromkeys(users))))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's empty chroot; made at boot where there is a boot
    program = find("sshd")
    assert program is not None
    processes.start(name, [program, "-D", "-e", "-f", str(config)], log=state / "log" / f"{name}.log")
    processes.await_ready(name, lambda: listens("127.0.0.1", port), 15)
    return Server("127.0.0.1", port, line)
