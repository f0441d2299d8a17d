"""A whole context over a real SQLite store, with a policy that is told what to permit. For tests of the edges."""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gateway.adapters.credentials.ssh_ca import SshAuthorities
from gateway.adapters.door_tls import ClientAuthority
from gateway.adapters.dpop import SignedDeviceProofs
from gateway.adapters.sealed_secrets import SealedSecrets
from gateway.adapters.store import SqlStore, upgrade
from gateway.app.context import Context
from gateway.app.credentials import digest_of
from gateway.app.live import LiveSessions
from gateway.app.log_ports import EventFilter, StoredEvent
from gateway.app.people_ports import Credential
from gateway.app.possession import KEY
from gateway.app.recording_ports import Recording
from gateway.app.target_ports import DatabaseLogin
from gateway.core.decision import Action, Decision, Deny, Permit, Query
from gateway.core.errors import Refusal, Unavailable
from gateway.core.obligation import Obligations, Record
from gateway.core.principal import User
from gateway.core.session import Session
from gateway.core.target import Catalogue, Kind, Level, Service, Target
from tests.fakes import FakeClock, RandomIds
from tests.unit.edges.device import DEVICE

NO = Refusal("no-policy", "No policy permits that.", ("a permit",), ("Ask the operators.",))


@dataclass
class ToldPolicy:
    """Permits what `permits` says, under `obligations`; denies the rest."""

    permits: Callable[[Query], bool] = lambda _: True
    obligations: Obligations = field(default_factory=Obligations)

    def decide(self, query: Query) -> Decision:
        duty = {"is_on_call": True, "service": "orders", "until": "2026-03-02T18:00:00+00:00", "source": "rota.yaml"}
        incident = {"id": "INC-1042", "service": "orders", "state": "open"}
        facts = {"level": query.facts.level, "on_call": {**duty, "freshness": "fresh"}, "incident": incident}
        if self.permits(query):
            return Permit(("told-yes",), "0" * 64, self.obligations, facts)
        return Deny(NO, (), "0" * 64, facts)

    def digest(self) -> str:
        return "0" * 64

    def reload(self) -> str | None:
        return None


@dataclass
class FixedCatalogue:
    catalogue: Catalogue

    def current(self) -> Catalogue:
        return self.catalogue

    def reload(self) -> str | None:
        return None


@dataclass
class PromptLog:
    """Confirms everything, or nothing when `is_down`."""

    is_down: bool = False

    def wait_included(self, event_ids: Sequence[str], timeout: timedelta) -> bool:
        return not self.is_down

    def search(self, filter: EventFilter) -> Sequence[StoredEvent]:
        return ()

    def get(self, event_id: str) -> StoredEvent | None:
        return None

    def checkpoint(self) -> str:
        return "stage\n0\n"

    def inclusion_proof(self, event_id: str) -> str:
        raise Unavailable(NO)

    def tile(self, path: str) -> bytes | None:
        return None


class NoRoles:
    def create(self, target: Target, level: Level, role: str, until: datetime) -> DatabaseLogin:
        raise Unavailable(NO)

    def extend(self, target: Target, role: str, until: datetime) -> None: ...

    def revoke(self, target: Target, role: str, before: object = None) -> None: ...

    def end_backend(self, target: Target, role: str, pid: int, attempt: Callable[[], None]) -> bool:
        return False

    def roles_of(self, target: Target, prefix: str) -> Sequence[str]:
        return ()


class NoRecorder:
    def open(self, session: Session, mode: Record, on_failure: Callable[[], None]) -> Recording:
        raise Unavailable(NO)

    def recover(self) -> Sequence[tuple[str, int, str]]:
        return ()


@dataclass
class KeptNotes:
    notes: list[tuple[str, str]] = field(default_factory=list)

    def notify(self, channel: str, title: str, body: str, fields: dict[str, str]) -> None:
        self.notes.append((channel, title))


DB = Target(
    "orders-db", Kind.POSTGRES, "orders", "production", "127.0.0.1", 5432,
    {"read": Level("read", "orders_read", 0), "admin": Level("admin", "orders_admin", 2)},
)  # fmt: skip
WEB = Target("web-1", Kind.SSH, "orders", "production", "127.0.0.1", 22, {"shell": Level("shell", "deploy", 0)})
CATALOGUE = Catalogue(
    "0" * 64, {"orders": Service("orders", ("leads",))}, {"orders-db": DB, "web-1": WEB}
)  # fmt: skip
ISSUER = "http://127.0.0.1:9"


@dataclass
class Stage:
    ctx: Context
    clock: FakeClock
    policy: ToldPolicy
    log: PromptLog
    store: SqlStore
    database: Path

    def user(self, name: str, *groups: str) -> User:
        user = User(self.ctx.ids.new("usr"), ISSUER, f"sub-{name}", name, "", frozenset(groups))
        with self.ctx.store.begin() as uow:
            uow.users.upsert(user)
        return user

    def token(self, user: User, purpose: str = "cli", prefix: str = "gwc_", *, bound: bool = True) -> str:
        secret = prefix + self.ctx.ids.secret()
        at = self.clock.now()
        with self.ctx.store.begin() as uow:
            data = {"login": self.ctx.ids.new("lgn"), **({KEY: DEVICE.thumbprint} if bound else {})}
            uow.credentials.add(
                Credential(digest_of(secret), purpose, user.id, at, at + timedelta(hours=12), data=data)
            )
        return secret

    def events(self) -> list[tuple[str, str]]:
        with closing(sqlite3.connect(self.database)) as database:
            return database.execute("SELECT type, outcome FROM event ORDER BY ordinal").fetchall()

    def dump(self) -> str:
        """Everything that is stored, as text, to look for what must not be there."""
        with closing(sqlite3.connect(self.database)) as database:
            return "\n".join(database.iterdump())

    def forbid(self, *actions: Action) -> None:
        self.policy.permits = lambda q: q.action not in actions


def make_stage(folder: Path, clock: FakeClock | None = None) -> Stage:
    clock = clock or FakeClock(datetime.now(UTC))
    ids = RandomIds(clock)
    database = folder / "stage.db"
    url = f"sqlite:///{database}"
    upgrade(url)
    store, policy, log = SqlStore(url), ToldPolicy(), PromptLog()
    ctx = Context(
        gateway="stage", clock=clock, ids=ids, store=store, log=log, policy=policy,
        catalogue=FixedCatalogue(CATALOGUE), roles=NoRoles(), ssh=SshAuthorities(folder / "ssh"),
        recorder=NoRecorder(), notifier=KeptNotes(), live=LiveSessions(),
        sealer=SealedSecrets(folder / "tokens.key"), device_proofs=SignedDeviceProofs(),
        clients=ClientAuthority(folder / "clients"),
    )  # fmt: skip
    return Stage(ctx, clock, policy, log, store, database)
