"""Commands of deploys on a real sshd, by the gateway's own SSH client."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from gateway.adapters.credentials.ssh_ca import SshAuthorities
from gateway.app.deploy_ports import Ended, Job
from gateway.core.errors import Conflict, Refusal, Unavailable
from gateway.core.session import Protocol, Session
from gateway.core.target import Kind, Level, Target
from gateway.edges.proxy.ssh_command import SshCommands
from tests.e2e.ssh_stage import authorities, sshd
from tests.sshd import Sshd

__all__ = ["authorities", "sshd"]
pytestmark = pytest.mark.servers


@dataclass
class Command:
    sshd: Sshd
    runner: SshCommands
    out: list[bytes] = field(default_factory=list)
    err: list[bytes] = field(default_factory=list)
    started: threading.Event = field(default_factory=threading.Event)
    stop: Callable[[], None] = lambda: None

    def target(self) -> Target:
        levels = {"shell": Level("shell", self.sshd.account, 0)}
        return Target(
            "web-1", Kind.SSH, "orders", "production", "127.0.0.1", self.sshd.port, levels,
            host_keys=(self.sshd.host_key,),
        )  # fmt: skip

    def job(self, command: str, stdin: bytes = b"") -> Job:
        at = datetime.now(UTC)
        session = Session(
            "ses_1", "run_1", "wkl_1", "github:octo/shop; not one principal", "web-1", "verb:deploy", Protocol.SSH, "", "gw", at,
            at + timedelta(minutes=1),
        )  # fmt: skip
        return Job(session, self.target(), self.sshd.account, command, stdin)

    def run(self, command: str, stdin: bytes = b"") -> Ended:
        return self.runner.run(self.job(command, stdin), self._output, self._began)

    def _output(self, stream: str, data: bytes) -> None:
        (self.out if stream == "out" else self.err).append(data)

    def _began(self, stop: Callable[[], None]) -> None:
        self.stop = stop
        self.started.set()


@pytest.fixture
def command(sshd: Sshd, authorities: SshAuthorities) -> Command:
    return Command(sshd, SshCommands(authorities, lambda: datetime.now(UTC)))


@pytest.mark.parametrize("status", [0, 1, 3, 255])
def test_exit_statuses(command: Command, status: int) -> None:
    assert command.run(f"exit {status}") == Ended(status)


def test_streams_are_told_apart_and_nothing_else_is_open(command: Command) -> None:
    assert command.run("echo out; echo err >&2; test -t 0 || echo no terminal; echo agent:$SSH_AUTH_SOCK") == Ended(0)
    assert b"".join(command.out) == b"out\nno terminal\nagent:\n"
    assert b"".join(command.err) == b"err\n"


def test_a_lot_of_output_arrives_whole(command: Command) -> None:
    assert command.run("head -c 30000000 /dev/zero") == Ended(0)
    assert sum(map(len, command.out)) == 30_000_000


def test_input_goes_in_whole_and_ends(command: Command) -> None:
    text = bytes(range(256)) * 4096
    assert command.run("cat", text) == Ended(0)
    assert b"".join(command.out) == text


def test_input_that_nobody_reads_holds_nothing_up(command: Command) -> None:
    assert command.run("exit 4", b"x" * 20_000_000) == Ended(4)


def test_a_command_that_kills_itself_has_no_status(command: Command) -> None:
    ended = command.run("kill -KILL $$")
    assert (ended.status, ended.detail) == (None, "ended by signal KILL")


@pytest.mark.parametrize("trap", ["", "trap '' TERM; "])
def test_stopping_takes_term_or_else_kill(command: Command, trap: str) -> None:
    ended: list[Ended] = []
    thread = threading.Thread(target=lambda: ended.append(command.run(f"{trap}echo up; while :; do sleep 1; done")))
    thread.start()
    assert command.started.wait(10)
    command.stop()
    command.stop()
    thread.join(30)
    assert not thread.is_alive()
    assert ended[0].status is None
    assert ended[0].detail


def test_what_may_not_begin_sends_nothing(command: Command, tmp_path: object) -> None:
    def refuse(_stop: Callable[[], None]) -> None:
        raise Conflict(Refusal("lock-lost", "It is lost."))

    with pytest.raises(Conflict):
        command.runner.run(command.job(f"touch {tmp_path}/sent"), command._output, refuse)
    from pathlib import Path

    assert not (Path(str(tmp_path)) / "sent").exists()


def test_a_server_with_another_host_key_is_told_nothing(command: Command) -> None:
    job = command.job("echo hi")
    other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGKHX1lHWzMRGHHYgjvGyHHJ/SmP3RBmNhV3PMQMGyoV"
    with pytest.raises(Unavailable):
        command.runner.run(
            replace(job, target=replace(job.target, host_keys=(other,))), command._output, command._began
        )
    assert not command.started.is_set()


def test_an_account_that_the_certificate_does_not_name_is_refused(command: Command) -> None:
    with pytest.raises(Unavailable, match="certificate"):
        command.runner.run(replace(command.job("id"), account="nobody-else"), command._output, command._began)
