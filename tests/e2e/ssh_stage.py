"""A door, a target and a person for tests of the SSH edge, with simple use cases behind the door."""

import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.adapters.credentials.ssh_ca import SshAuthorities
from gateway.app.open_session import Opened
from gateway.app.recording_ports import Recording, RecordingFailed
from gateway.app.session_ports import LiveSession
from gateway.app.ssh_sign_in import BAD_TICKET
from gateway.core.errors import Denied, Refusal, Unavailable
from gateway.core.grant import Grant
from gateway.core.obligation import Obligations, Record
from gateway.core.principal import User
from gateway.core.request import RequestKind
from gateway.core.session import EndReason, Protocol, Session
from gateway.core.target import Kind, Level, Target
from gateway.core.window import Window
from gateway.edges.proxy.ssh_door import DoorLimits, SshDoor, serve_ssh
from gateway.edges.proxy.ssh_keeper import Doorkeeper
from tests.sshd import Sshd

ONCALL = User("usr_oncall", "https://idp.test", "1", "oncall")
VICTIM = User("usr_victim", "https://idp.test", "2", "victim")


class MemoryRecording:
    """Keeps records in memory; `fail` makes it refuse from then on."""

    def __init__(self) -> None:
        self.records: list[tuple[str, bytes]] = []
        self.waited: list[int] = []
        self.fail = False
        self._lock = threading.Lock()

    def append(self, kind: str, at: datetime, data: bytes) -> int:
        with self._lock:
            if self.fail:
                raise RecordingFailed
            self.records.append((kind, bytes(data)))
            return len(self.records) - 1

    def append_all(self, records: Sequence[tuple[str, int, bytes]]) -> int:
        raise NotImplementedError  # for databases

    def wait_durable(self, seq: int, timeout: timedelta) -> None:
        self.waited.append(seq)

    def on_durable(self, seq: int, callback: Callable[[bool], None]) -> None:
        callback(True)

    def digest(self) -> tuple[int, str]:
        return len(self.records), ""

    def seal(self) -> tuple[int, str]:
        return self.digest()

    def of(self, kind: str) -> list[bytes]:
        with self._lock:
            return [data for known, data in self.records if known == kind]


@dataclass
class Stage:
    """Everything a test may look at. `refusal` makes the next grant_for say no."""

    directory: Path
    sshd: Sshd
    authorities: SshAuthorities
    target: Target
    level: Level
    require: bool = False
    refusal: Refusal | None = None
    users: dict[str, User] = field(default_factory=lambda: {u.id: u for u in (ONCALL, VICTIM)})
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    opened: list[Opened] = field(default_factory=list)
    recordings: list[MemoryRecording] = field(default_factory=list)
    ended: list[tuple[str, EndReason, str]] = field(default_factory=list)
    refused: list[tuple[str, Refusal]] = field(default_factory=list)
    tickets: dict[tuple[str, str], tuple[User, Grant]] = field(default_factory=dict)
    events: list[tuple[str, str, str, dict[str, object]]] = field(default_factory=list)
    log_fails: bool = False
    live: dict[str, LiveSession] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)
    door: SshDoor | None = None

    def keeper(self) -> Doorkeeper:
        return Doorkeeper(
            now=lambda: datetime.now(UTC),
            user=self.users.get,
            ticket=lambda name, ticket, _client: self.tickets.get((name, ticket), BAD_TICKET),
            grant_for=self._grant_for,
            open=self._open,
            end=self._end,
            tell=self._tell,
            hold=self._hold,
            release=lambda session_id: self.live.pop(session_id, None) and None,
            refused=lambda name, _client, refusal: self.refused.append((name, refusal)),
        )

    def _tell(self, session: Session, type_: str, outcome: str, data: dict[str, object]) -> None:
        with self.changed:
            if self.log_fails:
                raise Unavailable(Refusal("log-unavailable", "The log does not answer."))
            self.events.append((session.id, type_, outcome, data))
            self.changed.notify_all()

    def events_of(self, type_: str) -> list[dict[str, object]]:
        with self.changed:
            return [data for _, known, _, data in self.events if known == type_]

    def _grant_for(self, user: User, target: str, level: str) -> Grant:
        self.asked.append((user.id, target, level))
        if self.refusal is not None:
            raise Denied(self.refusal)
        now = datetime.now(UTC)
        record = Record.REQUIRE if self.require else Record.SPOOL
        return Grant(
            "grt_1", "req_1", user.id, user.name, target, level or "shell", Window(now, now + timedelta(hours=1)),
            next(iter(RequestKind)), Obligations(record=record),
        )  # fmt: skip

    def _open(self, user: User, grant: Grant, client: str) -> Opened:
        recording = MemoryRecording()
        session = Session(
            f"ses_{len(self.opened)}", grant.id, user.id, user.name, grant.target, grant.level, Protocol.SSH,
            client, "gw-test", datetime.now(UTC), grant.window.not_after,
        )  # fmt: skip
        opened = Opened(session, grant, self.target, self.level, recording, grant.obligations.record, None)
        self.recordings.append(recording)
        with self.changed:
            self.opened.append(opened)
            self.changed.notify_all()
        return opened

    def _hold(self, session_id: str, live: LiveSession) -> None:
        with self.changed:
            self.live[session_id] = live
            self.changed.notify_all()

    def _end(self, session: Session, recording: Recording, reason: EndReason, detail: str) -> None:
        with self.changed:
            self.ended.append((session.id, reason, detail))
            self.changed.notify_all()

    def wait(self, condition: Callable[[], object], seconds: float = 10.0) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, seconds), "this never came about"

    # ------------------------------------------------------------ the person

    def open_door(
        self, limits: DoorLimits | None = None, *, host: str = "127.0.0.1", post_quantum_only: bool = False
    ) -> SshDoor:
        self.door = serve_ssh(
            self.keeper(), host, 0, self.authorities, self.authorities.host_key(), limits,
            post_quantum_only=post_quantum_only,
        )  # fmt: skip
        (self.directory / "known_hosts").write_text(f"web-1.gw {self.authorities.host_key_public}\n")
        self.person("me", ONCALL)
        self.config()
        return self.door

    def person(self, name: str, user: User, *, kind: str = "ed25519") -> Path:
        key = self.directory / name
        if not key.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(key)], check=True)
        now = datetime.now(UTC)
        public = key.with_suffix(".pub").read_text()
        line = self.authorities.door_certificate(user, public, now, now + timedelta(hours=1))
        (self.directory / f"{name}-cert.pub").write_text(line + "\n")
        return key

    def config(self, key: str = "me", *extra: str) -> Path:
        assert self.door is not None
        path = self.directory / f"ssh_config.{key}"
        lines = [
            "Host *.gw",
            "  HostName 127.0.0.1",
            f"  Port {self.door.port}",
            "  User web-1",
            "  HostKeyAlias web-1.gw",
            f"  UserKnownHostsFile {self.directory / 'known_hosts'}",
            "  GlobalKnownHostsFile /dev/null",
            "  StrictHostKeyChecking yes",
            f"  IdentityFile {self.directory / key}",
            f"  CertificateFile {self.directory / key}-cert.pub",
            "  IdentitiesOnly yes",
            "  IdentityAgent none",
            "  BatchMode yes",
            "  LogLevel ERROR",
            *(f"  {line}" for line in extra),
        ]
        path.write_text("\n".join(lines) + "\n")
        return path

    def ssh_args(self, *args: str, key: str = "me") -> list[str]:
        return ["ssh", "-F", str(self.directory / f"ssh_config.{key}"), *args]

    def ssh(self, *args: str, key: str = "me", **kwargs: Any) -> "subprocess.CompletedProcess[bytes]":
        kwargs = {"timeout": 60, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **kwargs}
        if "input" not in kwargs:
            kwargs["stdin"] = subprocess.DEVNULL
        return subprocess.run(self.ssh_args(*args, key=key), check=False, **kwargs)

    def with_target(self, **changes: Any) -> None:
        self.target = replace(self.target, **changes)


def make_stage(directory: Path, sshd: Sshd, authorities: SshAuthorities) -> Stage:
    level = Level("shell", sshd.account, 0)
    target = Target(
        "web-1", Kind.SSH, "orders", "production", "127.0.0.1", sshd.port, {"shell": level}, host_keys=(sshd.host_key,)
    )
    return Stage(directory, sshd, authorities, target, level)


# Fixtures: a test module imports the three by name.


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> SshAuthorities:
    return SshAuthorities(tmp_path_factory.mktemp("ssh") / "authorities")


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory, authorities: SshAuthorities) -> Iterator[Sshd]:
    with Sshd(tmp_path_factory.mktemp("sshd"), authorities.target_ca_public) as running:
        yield running


@pytest.fixture
def stage(tmp_path: Path, sshd: Sshd, authorities: SshAuthorities) -> Iterator[Stage]:
    made = make_stage(tmp_path, sshd, authorities)
    made.open_door()
    yield made
    assert made.door is not None
    made.door.close()
    assert len(made.ended) == len(made.opened), "every session ends exactly once"
