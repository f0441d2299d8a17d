"""Clients with dependencies of their own, installed apart by `make conformance`: never part of the gateway's lock file."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e.ssh_clients import TICKET, ticket_for
from tests.e2e.ssh_stage import Stage
from tests.e2e.ssh_stage import authorities as authorities
from tests.e2e.ssh_stage import sshd as sshd
from tests.e2e.ssh_stage import stage as stage

BIN = Path(os.environ["CONFORMANCE_BIN"])
HOSTS = 20
BY_ASYNCSSH = Path(__file__).with_name("by_asyncssh.py")


def ansible(stage: Stage, *args: str) -> str:
    """Twenty aliases of the target, twenty forks, connections shared and kept as Ansible does."""
    inventory = stage.directory / "inventory"
    inventory.write_text("\n".join(f"web-{n}.gw" for n in range(HOSTS)) + "\n")
    arguments = (
        f"-F {stage.directory / 'ssh_config.me'} -o ControlMaster=auto -o ControlPersist=30s "
        f"-o ControlPath={stage.directory}/cm-%n"
    )
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HOME": str(stage.directory),
        "ANSIBLE_SSH_ARGS": arguments,
        "ANSIBLE_FORKS": str(HOSTS),
        "ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3",
        "ANSIBLE_LOCAL_TEMP": str(stage.directory / "local"),
        "ANSIBLE_REMOTE_TEMP": str(stage.directory / "remote"),
    }
    command = [str(BIN / "ansible"), "all", "-i", str(inventory), *args]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=110, check=False, text=True)
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


@pytest.mark.timeout(300)
@pytest.mark.parametrize("transfer", ["sftp", "scp", "piped"])
@pytest.mark.client("Ansible core", "command", "files", "many", "certificate")
def test_ansible_pings_copies_and_runs_on_twenty_hosts_at_once(
    stage: Stage, transfer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANSIBLE_SSH_TRANSFER_METHOD", transfer)
    assert ansible(stage, "-m", "ping").count('"ping": "pong"') == HOSTS
    source = stage.directory / "source"
    source.write_bytes(os.urandom(200_000))
    target = f"{stage.directory}/copied-{{{{ inventory_hostname }}}}"
    assert ansible(stage, "-m", "copy", "-a", f"src={source} dest={target}").count("CHANGED") == HOSTS
    copies = list(stage.directory.glob("copied-*"))
    assert len(copies) == HOSTS
    assert {copy.read_bytes() for copy in copies} == {source.read_bytes()}
    assert ansible(stage, "-m", "shell", "-a", "echo one; exit 0").count("\none") == HOSTS
    assert len(stage.opened) == HOSTS  # ControlPersist: one connection, and one session, for each alias
    for n in range(HOSTS):
        subprocess.run(
            ["ssh", "-F", str(stage.directory / "ssh_config.me"), "-o", f"ControlPath={stage.directory}/cm-%n",
             "-O", "exit", f"web-{n}.gw"], capture_output=True, check=False,
        )  # fmt: skip


@pytest.mark.parametrize("credential", ["certificate", "ticket"])
@pytest.mark.client("asyncssh", "command", "terminal", "files", "many", "certificate", "ticket")
def test_asyncssh_runs_commands_a_terminal_and_files(stage: Stage, credential: str) -> None:
    assert stage.door is not None
    ticket_for(stage)
    kind, key = stage.authorities.host_key_public.split()[:2]
    known = stage.directory / "known"
    known.write_text(f"[127.0.0.1]:{stage.door.port} {kind} {key}\n")
    done = subprocess.run(
        [str(BIN / "python"), str(BY_ASYNCSSH), credential, str(stage.door.port), str(stage.directory)],
        env={**os.environ, "TICKET": TICKET}, capture_output=True, timeout=90, check=False, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "command, streams, status, terminal, ten channels, files\n"), done
