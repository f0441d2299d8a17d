"""Which system account the stage's servers run as: the caller's own, or dedicated ones when the caller is root.

PostgreSQL refuses to run as root, and nobody should practise production access on root's own shell.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

from gateway.demo.processes import Owner, StageError
from gateway.demo.programs import find

DATABASE_USER = "gwdemo-db"
SHELL_USER = "gwdemo"
SHARED = Path("/var/lib/gw-demo")


def database_owner() -> Owner | None:
    """The account for PostgreSQL; None for the caller's own."""
    return ensure_user(DATABASE_USER, login_shell="/usr/sbin/nologin") if os.geteuid() == 0 else None


def shell_account() -> str:
    """The login on `web-1` for level `shell`."""
    if os.geteuid() == 0:
        return ensure_user(SHELL_USER, login_shell="/bin/bash").name
    return pwd.getpwuid(os.geteuid()).pw_name


def root_account() -> str:
    """The login for level `root`. An sshd that is not root can only log its own user in."""
    return pwd.getpwuid(os.geteuid()).pw_name


def ensure_user(name: str, login_shell: str) -> Owner:
    """The account of that name, made when missing; StageError when that cannot be."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        useradd = find("useradd")
        if useradd is None:
            raise StageError(
                "useradd is missing; install the package passwd, or run the demo as an ordinary user"
            ) from None
        # `*` is no password that anybody could type; the default `!` means locked, which sshd refuses without PAM.
        subprocess.run(
            [useradd, "--create-home", "--password", "*", "--shell", login_shell, name],
            check=True, capture_output=True, timeout=30,
        )  # fmt: skip
        entry = pwd.getpwnam(name)
    return Owner(name, entry.pw_uid, entry.pw_gid)


def reachable_directory(wanted: Path, owner: Owner | None, fallback: str) -> Path:
    """`wanted`, unless `owner` could not come by its parents; then a directory under /var/lib/gw-demo.

    Parents are never opened up: a demo does not make somebody's home readable.
    """
    if owner is None or all(_may_pass(parent, owner) for parent in wanted.absolute().parents):
        return wanted
    SHARED.mkdir(mode=0o755, parents=True, exist_ok=True)
    return SHARED / fallback


def _may_pass(directory: Path, owner: Owner) -> bool:
    if not directory.exists():
        return True
    status = directory.stat()
    if status.st_uid == owner.uid:
        return bool(status.st_mode & 0o100)
    return bool(status.st_mode & (0o010 if status.st_gid == owner.gid else 0o001))


def reachable_copy(site: Path, parts: tuple[str, ...], owner: Owner | None, name: str) -> Path:
    """`site`, or a directory with copies of its `parts` where `owner` can read them (a venv below /root, say)."""
    place = reachable_directory(site / parts[0], owner, name)
    if place == site / parts[0]:
        return site
    if not place.exists():
        with tempfile.TemporaryDirectory(dir=place.parent) as half:
            for part in filter(lambda part: (site / part).exists(), parts):
                shutil.copytree(site / part, Path(half) / name / part, symlinks=True)
            for each in (Path(half) / name).rglob("*"):
                each.chmod(0o755 if each.is_dir() or each.stat().st_mode & 0o100 else 0o644)
            (Path(half) / name).chmod(0o755)
            (Path(half) / name).rename(place)
    return place
