"""A real OpenSSH sshd on an ephemeral port, as a target for tests and demonstrations. Needs no root."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

from gateway.demo.ports import free_port

START_WITHIN = 10.0


class Sshd:
    """Trusts one user CA; `account` is the only login that works without root. Use as a context manager.

    `host_key` is its OpenSSH public key line. `log` holds what sshd said.
    """

    def __init__(self, directory: Path, user_ca_public_key: str, *, settings: tuple[str, ...] = ()) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.account = getpass.getuser()
        self.log = directory / "sshd.log"
        self._settings = settings
        (directory / "user_ca.pub").write_text(user_ca_public_key + "\n")
        key = directory / "host_key"
        if not key.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        self.host_key = " ".join(key.with_suffix(".pub").read_text().split()[:2])
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        binary = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
        if binary is None:
            raise RuntimeError("sshd is not installed: apt-get install openssh-server")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        for _attempt in range(5):
            if self._start(binary):
                return self
        raise RuntimeError(f"sshd does not start: {self.log.read_text()[-2000:]}")

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def _start(self, binary: str) -> bool:
        self.port = free_port()
        config = self.directory / "sshd_config"
        config.write_text("\n".join(self._config()) + "\n")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [binary, "-D", "-e", "-f", str(config)], stdin=subprocess.DEVNULL, stderr=log
            )
        deadline = time.monotonic() + START_WITHIN
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return True
        self.stop()
        return False

    def _config(self) -> list[str]:
        return [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"SetEnv SHLVL=2 HOME={self.directory}",  # else bash reads the account's .bashrc, which may take a minute
            f"HostKey {self.directory / 'host_key'}",
            f"TrustedUserCAKeys {self.directory / 'user_ca.pub'}",
            f"PidFile {self.directory / 'sshd.pid'}",
            "AuthorizedKeysFile none",
            "AuthenticationMethods publickey",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin yes",
            "UsePAM no",
            "StrictModes no",
            "PrintMotd no",
            "PrintLastLog no",
            "AcceptEnv *",
            "MaxStartups 100",
            "MaxSessions 20",  # one that has just ended may still count when the next is asked for
            "Subsystem sftp internal-sftp",
            *self._settings,
        ]
