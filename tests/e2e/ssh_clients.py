"""Other people's SSH clients at the stage's door: how each is told where to go, whom to trust and who comes."""

import base64
import hashlib
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.core.grant import Grant
from gateway.core.obligation import Obligations
from gateway.core.request import RequestKind
from gateway.core.window import Window
from gateway.demo import programs
from tests.e2e.ssh_stage import ONCALL, Stage

TICKET = "gwt_a-ticket-of-the-stage"


def need(*names: str) -> None:
    """Installed where that is possible, else a failure that says what to install: what is not run is not claimed."""
    try:
        programs.need(names)
    except programs.MissingProgramError as missing:
        pytest.fail(str(missing))


def ticket_for(stage: Stage, login: str = "oncall%web-1") -> str:
    """A ticket of the person on call, as `gw connect` prints one, good for that SSH user name."""
    now = datetime.now(UTC)
    window = Window(now, now + timedelta(hours=1))
    grant = Grant(
        "grt_1", "req_1", ONCALL.id, ONCALL.name, "web-1", "shell", window, RequestKind.STANDARD, Obligations()
    )
    stage.tickets[(login, TICKET)] = (ONCALL, grant)
    return TICKET


def fingerprint(stage: Stage) -> str:
    """The door's host key as PuTTY wants to hear it."""
    blob = base64.b64decode(stage.authorities.host_key_public.split()[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def run(args: list[str], stage: Stage, **extra: object) -> "subprocess.CompletedProcess[bytes]":
    """With a home directory of its own: no configuration of this machine counts."""
    environment = {**os.environ, "HOME": str(stage.directory), "DROPBEAR_PASSWORD": TICKET}
    options: dict[str, object] = {"timeout": 60, "capture_output": True, "env": environment, "check": False, **extra}
    if "input" not in options and "stdin" not in options:
        options["stdin"] = subprocess.DEVNULL
    return subprocess.run(args, **options)  # type: ignore[call-overload,no-any-return]


def putty(stage: Stage, program: str, *args: str, certificate: bool = False) -> list[str]:
    """PuTTY's command-line programs, with a ticket in a file or with the certificate (0.78 and newer)."""
    assert stage.door is not None
    door = [program, "-batch", "-P", str(stage.door.port), "-hostkey", fingerprint(stage)]
    if certificate:
        key = stage.directory / "me.ppk"
        if not key.exists():
            subprocess.run(["puttygen", str(stage.directory / "me"), "-O", "private", "-o", str(key)], check=True)
        who = ["-noagent", "-i", str(key), "-cert", str(stage.directory / "me-cert.pub")]
    else:
        secret = stage.directory / "ticket"
        secret.write_text(ticket_for(stage) + "\n")
        who = ["-noagent", "-pwfile", str(secret)]
    return [*door, *who, *args]


def dropbear(stage: Stage, *args: str) -> list[str]:
    """Dropbear's client with a ticket (it knows no certificates) and the door's key in its known_hosts."""
    assert stage.door is not None
    ticket_for(stage)
    known = stage.directory / ".ssh" / "known_hosts"
    known.parent.mkdir(exist_ok=True)
    known.write_text(f"127.0.0.1 {stage.authorities.host_key_public}\n")
    return ["dbclient", "-p", str(stage.door.port), "oncall%web-1@127.0.0.1", *args]


def git_over_ssh(stage: Stage) -> dict[str, str]:
    """The environment of git: our ssh, and nobody's configuration."""
    config: Path = stage.directory / "ssh_config.me"
    return {
        **os.environ,
        "HOME": str(stage.directory),
        "GIT_SSH_COMMAND": f"ssh -F {config}",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "oncall", "GIT_AUTHOR_EMAIL": "oncall@example.org",
        "GIT_COMMITTER_NAME": "oncall", "GIT_COMMITTER_EMAIL": "oncall@example.org",
    }  # fmt: skip
