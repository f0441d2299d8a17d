"""The system programs that the stage and the tests use: found, installed where that is possible, else named."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PACKAGES = {
    "psql": "postgresql-client",
    "ssh": "openssh-client",
    "scp": "openssh-client",
    "sftp": "openssh-client",
    "sshd": "openssh-server",
    "useradd": "passwd",
    "pgbouncer": "pgbouncer",
    "pgbench": "postgresql-15",
    "rsync": "rsync",
    "git": "git",
    "plink": "putty-tools",
    "psftp": "putty-tools",
    "puttygen": "putty-tools",
    "dbclient": "dropbear-bin",
    "sshpass": "sshpass",
    "chromium": "chromium",
    "pg_dump": "postgresql-client",
    "gcc": "gcc",
    "make": "make",
    "dpkg-source": "dpkg-dev",
    "java": "default-jdk-headless",
    "/usr/share/java/postgresql.jar": "libpostgresql-jdbc-java",
}
_SBIN = ("/usr/sbin", "/sbin", "/usr/local/sbin")
_POLICY = Path("/usr/sbin/policy-rc.d")
_INSTALL_TIMEOUT_S = 300


class MissingProgramError(Exception):
    """A program that is not there and cannot be installed from here; the text says what to do."""


def say(text: str) -> None:
    """One line of progress; standard output belongs to the result."""
    print(text, file=sys.stderr, flush=True)


def find(name: str) -> str | None:
    """The program's path; daemons live where an ordinary user's PATH does not look. An absolute name is a file."""
    if name.startswith("/"):
        return name if Path(name).exists() else None
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), *_SBIN)))


def need(names: Sequence[str]) -> None:
    """Make sure that all of them exist, through apt-get if need be; MissingProgramError names what to install."""
    packages = _packages_of_missing(names)
    if packages and _may_install():
        say(f"Installing {' '.join(packages)} …")
        _install(packages)
        packages = _packages_of_missing(names)
    if packages:
        raise MissingProgramError(
            f"Please install {' '.join(packages)} (for example: apt-get install {' '.join(packages)})."
        )


def _packages_of_missing(names: Sequence[str]) -> list[str]:
    return sorted({PACKAGES[name] for name in names if find(name) is None})


def _may_install() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def _install(packages: Sequence[str]) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with _no_service_starts():
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
            done = subprocess.run(
                ["apt-get", "-qq", *command],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_INSTALL_TIMEOUT_S,
                check=False,
            )
            if done.returncode:
                say(done.stderr.decode(errors="replace").strip().rpartition("\n")[2])
                return


@contextmanager
def _no_service_starts() -> Iterator[None]:
    """Debian starts a daemon when it installs one. An sshd on port 22 is nothing that a demo may leave behind."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")  # 101: action forbidden by policy (invoke-rc.d(8))
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink(missing_ok=True)


if __name__ == "__main__":
    try:
        need(sys.argv[1:])
    except MissingProgramError as missing:
        sys.exit(str(missing))
