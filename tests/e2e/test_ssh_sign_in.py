"""Clients without certificates, and targets with host certificates."""

import os
import re
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import paramiko
import pytest

from gateway.adapters.credentials.ssh_ca import SshAuthorities
from gateway.core.session import EndReason
from gateway.core.target import SshRules
from tests.e2e.ssh_stage import ONCALL, VICTIM, Stage, make_stage
from tests.e2e.ssh_stage import authorities as authorities
from tests.e2e.ssh_stage import sshd as sshd
from tests.e2e.ssh_stage import stage as stage
from tests.sshd import Sshd

pytestmark = pytest.mark.servers
TICKET = "gwt_" + "a" * 43


@pytest.fixture
def ticket(stage: Stage) -> str:
    grant = stage._grant_for(ONCALL, "web-1", "shell")
    stage.asked.clear()
    stage.tickets[("oncall%web-1", TICKET)] = (ONCALL, grant)
    return TICKET


def with_password(stage: Stage, secret: str, *client: str) -> "subprocess.CompletedProcess[bytes]":
    env = {**os.environ, "SSHPASS": secret}
    return subprocess.run(["sshpass", "-e", *client], env=env, capture_output=True, check=False, timeout=60)


def openssh(stage: Stage, method: str) -> list[str]:
    assert stage.door is not None
    known = f"UserKnownHostsFile={stage.directory / 'known_hosts'}"
    return [
        "-F", "none", "-o", known, "-o", "HostKeyAlias=web-1.gw", "-o", f"PreferredAuthentications={method}",
        "-o", "NumberOfPasswordPrompts=1",
    ]  # fmt: skip


@pytest.mark.parametrize("method", ["password", "keyboard-interactive"])
@pytest.mark.client("OpenSSH ssh", "ticket")
def test_openssh_with_a_ticket(stage: Stage, ticket: str, method: str) -> None:
    assert stage.door is not None
    args = [*openssh(stage, method), "-p", str(stage.door.port), "-l", "oncall%web-1", "127.0.0.1", "echo in; exit 3"]
    done = with_password(stage, ticket, "ssh", *args)
    assert (done.returncode, done.stdout) == (3, b"in\n")
    assert not stage.asked  # the ticket's own grant, no other


@pytest.mark.client("OpenSSH sftp", "ticket")
def test_sftp_with_a_ticket(stage: Stage, ticket: str, tmp_path: Path) -> None:
    assert stage.door is not None
    (tmp_path / "there").write_text("content")
    args = [*openssh(stage, "password"), "-P", str(stage.door.port), f"oncall%web-1@127.0.0.1:{tmp_path / 'there'}"]
    done = with_password(stage, ticket, "sftp", *args, str(tmp_path / "here"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "here").read_text() == "content"


def test_a_wrong_ticket_is_refused_with_a_sentence(stage: Stage, ticket: str) -> None:
    assert stage.door is not None
    for login, secret in [("oncall%web-1", "gwt_x"), ("victim%web-1", ticket), ("oncall%web-2", ticket)]:
        args = [*openssh(stage, "password"), "-p", str(stage.door.port), "-l", login, "127.0.0.1", "true"]
        done = with_password(stage, secret, "ssh", *args)
        assert done.returncode in (5, 255)
        assert b"This ticket is not valid" in done.stderr
        assert b"gw connect TARGET prints a new one" in done.stderr
        assert secret.encode() not in done.stderr
    assert not stage.opened


def test_paramiko_with_a_ticket(stage: Stage, ticket: str) -> None:
    assert stage.door is not None
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    client.connect(
        "127.0.0.1", stage.door.port, "oncall%web-1", ticket, allow_agent=False, look_for_keys=False, timeout=20
    )
    _, out, _ = client.exec_command("echo paramiko")
    assert out.read() == b"paramiko\n"
    client.close()


def test_putty_with_a_ticket(stage: Stage, ticket: str, tmp_path: Path) -> None:
    assert stage.door is not None
    line = stage.authorities.host_key_public
    (tmp_path / "door.pub").write_text(line + "\n")
    said = subprocess.run(
        ["ssh-keygen", "-l", "-f", str(tmp_path / "door.pub")], capture_output=True, text=True, check=True
    )
    fingerprint = said.stdout.split()[1]
    (tmp_path / "pw").write_text(ticket + "\n")
    (tmp_path / "pw").chmod(0o600)
    done = subprocess.run(
        ["plink", "-batch", "-ssh", "-P", str(stage.door.port), "-hostkey", fingerprint, "-pwfile", str(tmp_path / "pw"),
         "-l", "oncall%web-1", "127.0.0.1", "echo putty"],
        capture_output=True, check=False, timeout=60, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout == b"putty\n", done.stderr


def test_the_persons_name_may_stand_in_the_user_name_of_a_certificate(stage: Stage) -> None:
    assert stage.ssh("-l", "oncall%web-1", "web-1.gw", "true").returncode == 0
    assert stage.asked == [(ONCALL.id, "web-1", "oncall")]  # decided by grant_asked_for, whom it names


# ---------------------------------------------------------------- the certificate that a target sees


def test_a_target_refuses_the_certificate_from_another_address(stage: Stage, tmp_path: Path) -> None:
    private = tmp_path / "k"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(private)], check=True)
    public = private.with_suffix(".pub").read_text()
    for address, works in [("127.0.0.1", True), ("10.9.9.9", False)]:
        line = stage.authorities.target_certificate(
            public, stage.sshd.account, "ses_x", "grt_x", datetime.now(UTC), source_address=address
        )
        (tmp_path / "k-cert.pub").write_text(line + "\n")
        done = subprocess.run(
            ["ssh", "-F", "none", "-i", str(private), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
             "-o", "BatchMode=yes", "-o", "IdentityAgent=none", "-p", str(stage.sshd.port), f"{stage.sshd.account}@127.0.0.1", "true"],
            capture_output=True, check=False, timeout=30,
        )  # fmt: skip
        assert (done.returncode == 0) == works


def test_sshd_logs_the_session_and_its_serial(stage: Stage) -> None:
    assert stage.ssh("web-1.gw", "true").returncode == 0
    found = re.search(r"ID grant=grt_1 session=ses_0 user=oncall \(serial (\d+)\)", stage.sshd.log.read_text())
    assert found


# ---------------------------------------------------------------- host certificates


def host_certificate(directory: Path, name: str, *options: str) -> str:
    ca = directory / "host_ca"
    if not ca.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(ca)], check=True)
    key = directory / "sshd" / "host_key.pub"
    subprocess.run(["ssh-keygen", "-q", "-s", str(ca), "-I", "host", "-h", "-n", name, *options, str(key)], check=True)
    return "cert-authority " + " ".join(ca.with_suffix(".pub").read_text().split()[:2])


@pytest.mark.parametrize(
    ("name", "options", "code"),
    [("127.0.0.1", [], ""), ("other", [], "does not name"), ("127.0.0.1", ["-V", "-2d:-1d"], "expired")],
    ids=["good", "another-name", "expired"],
)
def test_a_target_with_a_host_certificate(
    tmp_path: Path, authorities: SshAuthorities, name: str, options: list[str], code: str
) -> None:
    directory = tmp_path / "sshd"
    certificate = directory / "host_key-cert.pub"
    own = Sshd(directory, authorities.target_ca_public, settings=(f"HostCertificate {certificate}",))
    line = host_certificate(tmp_path, name, *options)
    with own:
        stage = make_stage(tmp_path, own, authorities)
        stage.with_target(host_keys=(line,))
        door = stage.open_door()
        done = stage.ssh("web-1.gw", "echo reached")
        door.close()
    if not code:
        assert done.stdout == b"reached\n", done.stderr
        return
    assert (done.returncode, b"is not the one in the catalogue" in done.stderr) == (254, True)
    [event] = stage.events_of("target:untrusted")
    assert code in str(event["why"])
    assert stage.ended == [("ses_0", EndReason.TARGET_UNREACHABLE, "host-key-changed")]


def test_an_unknown_host_key_is_an_event_with_fingerprints(stage: Stage, authorities: SshAuthorities) -> None:
    stage.with_target(host_keys=(authorities.host_key_public,))
    assert stage.ssh("web-1.gw", "true").returncode == 254
    [event] = stage.events_of("target:untrusted")
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-f", str(stage.sshd.directory / "host_key.pub")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert event["presented"] == shown.stdout.split()[1]
    assert event["pinned"] != [event["presented"]]


def test_nothing_but_the_level_decides_whoever_comes(stage: Stage) -> None:
    """CVE-2026-39828: what a first, failed credential would have allowed or restricted is gone."""
    stage.tickets[("web-1", TICKET)] = (VICTIM, stage._grant_for(VICTIM, "web-1", "root"))
    stage.asked.clear()
    stage.level = replace(stage.level, ssh=SshRules(shell=False, commands=("id",)))
    assert stage.door is not None
    transport = paramiko.Transport(("127.0.0.1", stage.door.port))
    transport.start_client(timeout=10)
    with pytest.raises(paramiko.AuthenticationException):
        transport.auth_password("web-1", "gwt_wrong", fallback=False)
    key = paramiko.Ed25519Key.from_private_key_file(str(stage.directory / "me"))
    key.load_certificate(str(stage.directory / "me-cert.pub"))
    transport.auth_publickey("web-1", key)
    channel = transport.open_session(timeout=10)
    channel.exec_command("sh")
    assert channel.recv_exit_status() == 254
    assert stage.asked == [(ONCALL.id, "web-1", "")]
    transport.close()
