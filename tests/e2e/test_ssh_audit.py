"""What an independent auditor (ssh-audit) thinks of the door's algorithms."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import paramiko
import pytest

from gateway.adapters.credentials.ssh_ca import SshAuthorities
from tests.e2e.ssh_stage import Stage, make_stage
from tests.e2e.ssh_stage import authorities as authorities
from tests.e2e.ssh_stage import sshd as sshd
from tests.e2e.ssh_stage import stage as stage
from tests.sshd import Sshd

pytestmark = pytest.mark.servers
NO_COMPLAINT = 0  # ssh-audit's status without failures and without warnings
NOT_POST_QUANTUM = "does not provide protection against post-quantum attacks"


def audit(stage: Stage, *options: str) -> "subprocess.CompletedProcess[str]":
    assert stage.door is not None
    command = [sys.executable, "-m", "ssh_audit.ssh_audit", "--skip-rate-test", *options]
    where = ["-p", str(stage.door.port), "127.0.0.1"]
    return subprocess.run([*command, *where], capture_output=True, text=True, timeout=60, check=False)


def test_nothing_fails_and_all_that_is_warned_of_is_x25519_without_a_lattice(stage: Stage) -> None:
    """Which stays for clients that have nothing newer: OpenSSH before 9.9, PuTTY, dropbear, asyncssh."""
    said = audit(stage, "--no-colors").stdout
    print(said)
    assert "(kex) mlkem768x25519-sha256" in said
    assert "(kex) kex-strict-s-v00@openssh.com" in said
    assert "[fail]" not in said
    warned = re.findall(r"\((\w+)\) (\S+) +-- \[warn\] (.*)", said)
    assert len(warned) == said.count("[warn]")
    assert warned == [
        ("kex", "curve25519-sha256", NOT_POST_QUANTUM),
        ("kex", "curve25519-sha256@libssh.org", NOT_POST_QUANTUM),
    ]


def test_only_what_is_meant_to_be_spoken_is_offered(stage: Stage) -> None:
    offered = json.loads(audit(stage, "--json").stdout)
    assert {each["algorithm"] for each in offered["key"]} == {"ssh-ed25519"}
    # ssh-audit comes as OpenSSH and can speak GCM: nothing else is offered to it
    assert {each["algorithm"] for each in offered["enc"]} == {"aes128-gcm@openssh.com", "aes256-gcm@openssh.com"}
    assert all("etm" in each["algorithm"] for each in offered["mac"])
    assert offered["compression"] == ["none"]
    assert not offered["cves"]


def test_post_quantum_only_leaves_nothing_to_say(tmp_path: Path, sshd: Sshd, authorities: SshAuthorities) -> None:
    stage = make_stage(tmp_path, sshd, authorities)
    door = stage.open_door(post_quantum_only=True)
    done = audit(stage, "--no-colors")
    print(done.stdout)
    assert (done.returncode, "[warn]" in done.stdout, "[fail]" in done.stdout) == (NO_COMPLAINT, False, False)
    transport = paramiko.Transport(socket.create_connection(("127.0.0.1", door.port), timeout=10))
    transport.get_security_options().kex = ("mlkem768x25519-sha256",)
    transport.start_client(timeout=10)
    key = paramiko.Ed25519Key.from_private_key_file(str(stage.directory / "me"))
    key.load_certificate(str(stage.directory / "me-cert.pub"))
    transport.auth_publickey("web-1", key)
    channel = transport.open_session(timeout=10)
    channel.exec_command("echo in")
    assert channel.recv(10) == b"in\n"
    transport.close()
    old = stage.ssh("-o", "LogLevel=INFO", "-o", "KexAlgorithms=curve25519-sha256", "web-1.gw", "true")
    assert (old.returncode, b"Unable to negotiate" in old.stderr) == (255, True), old.stderr
    door.close()
