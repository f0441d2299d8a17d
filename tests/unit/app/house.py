"""The whole house without its doors: real store, policies, log, recorder and database roles; only time is ours."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gateway.adapters.cedar import CedarPolicy
from gateway.adapters.credentials.postgres import PostgresRoles
from gateway.adapters.credentials.ssh_ca import SshAuthorities
from gateway.adapters.door_tls import ClientAuthority
from gateway.adapters.event_log import EventLogReader, Sequencer
from gateway.adapters.recordings import FileRecorder, Keyring
from gateway.adapters.signer import Signer
from gateway.adapters.store import SqlStore, upgrade
from gateway.app.context import Context
from gateway.app.demand_proof import passkey_proof
from gateway.app.live import LiveSessions
from gateway.app.log_ports import EventFilter
from gateway.app.passkey_ports import Passkey
from gateway.app.statement_ports import Statement
from gateway.app.target_ports import DatabaseLogin
from gateway.core.authentication import Proof
from gateway.core.errors import Refusal, Unavailable
from gateway.core.event import Event
from gateway.core.incident import Incident
from gateway.core.principal import User
from gateway.core.rota import Shift
from gateway.core.session import EndReason
from gateway.core.target import Catalogue, Kind, Level, Service, Target
from gateway.core.window import Window
from tests.fakes import FakeClock, RandomIds
from tests.servers import PostgresServer

POLICIES = Path(__file__).parents[3] / "policies"
ROLES = {
    group: frozenset({role})
    for group, role in (("engineers", "engineer"), ("leads", "lead"), ("auditors", "auditor"), ("security", "security"))
}
INCIDENT = "INC-1042"
LOST = Unavailable(Refusal("database-unreachable", "The database does not answer."))


@dataclass
class Notes:
    sent: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def notify(self, channel: str, title: str, body: str, fields: dict[str, str]) -> None:
        self.sent.append((channel, title, fields))


@dataclass
class FixedCatalogue:
    catalogue: Catalogue

    def current(self) -> Catalogue:
        return self.catalogue

    def reload(self) -> str | None:
        return None


class FaultyRoles:
    """Real roles on a real database, with faults in front of and behind them: `refuse` never gets there, `lose` does."""

    def __init__(self) -> None:
        self.real = PostgresRoles()
        self.faults: list[str] = []

    def create(self, target: Target, level: Level, role: str, until: datetime) -> DatabaseLogin:
        return self._with_fault(lambda: self.real.create(target, level, role, until))

    def extend(self, target: Target, role: str, until: datetime) -> None:
        self._with_fault(lambda: self.real.extend(target, role, until))

    def revoke(self, target: Target, role: str, before: Callable[[Sequence[str]], None] = lambda _: None) -> None:
        self._with_fault(lambda: self.real.revoke(target, role, before))

    def end_backend(self, target: Target, role: str, pid: int, attempt: Callable[[], None]) -> bool:
        return bool(self._with_fault(lambda: self.real.end_backend(target, role, pid, attempt)))

    def roles_of(self, target: Target, prefix: str) -> Sequence[str]:
        return self.real.roles_of(target, prefix)

    def _with_fault(self, call: Callable[[], object]) -> object:
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "refuse":
            raise LOST
        result = call()
        if fault == "lose":
            raise LOST
        return result


@dataclass
class Held:
    """A connection that only remembers what it was told."""

    ended: list[tuple[EndReason, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    locks: list[bool] = field(default_factory=list)
    idle: timedelta = timedelta(0)
    runs: Statement | None = None
    cancels: list[tuple[str, int]] = field(default_factory=list)

    def terminate(self, reason: EndReason, detail: str) -> None:
        self.ended.append((reason, detail))

    def warn(self, sentence: str) -> None:
        self.warnings.append(sentence)

    def lock(self, *, locked: bool) -> None:
        self.locks.append(locked)

    def idle_for(self) -> timedelta:
        return self.idle

    def statement(self) -> Statement | None:
        return self.runs

    def cancel(self, by: str, n: int) -> None:
        self.cancels.append((by, n))


@dataclass
class House:
    ctx: Context
    clock: FakeClock
    roles: FaultyRoles
    notes: Notes
    people: dict[str, User]
    sequencer: Sequencer

    def incident(self, *, closed_at: datetime | None = None) -> None:
        at = self.clock.now()
        incident = Incident(INCIDENT, "orders", "slow search", at - timedelta(hours=1), closed_at, "test", at)
        with self.ctx.store.begin() as uow:
            uow.incidents.replace("test", [incident])

    def shifts(self, *subjects: str) -> None:
        at = self.clock.now()
        window = Window(at - timedelta(days=1), at + timedelta(days=7))
        with self.ctx.store.begin() as uow:
            made = [Shift("orders", s, 1, window, "test", at, "0" * 64) for s in subjects]
            uow.shifts.replace("test", Window(at - timedelta(days=2), at + timedelta(days=14)), made)

    def proved(self, name: str) -> User:
        """The person as somebody who has answered with a passkey just now."""
        at = self.clock.now()
        with self.ctx.store.begin() as uow:
            key = Passkey(f"key-{name}-{at.timestamp()}", self.people[name].id, "key", "", 0, (), at)
            kept = passkey_proof(self.ctx, uow, key, at)
        return replace(self.people[name], proof=Proof(passkey_at=at, passkey=key.id, id=kept["proof"]))

    def later(self, by: timedelta) -> datetime:
        """Time passes; rota and incident were refreshed meanwhile, as the poller does."""
        at = self.clock.advance(by)
        with self.ctx.store.begin() as uow:
            uow.incidents.replace("test", [replace(i, fetched_at=at) for i in uow.incidents.list()])
        self.shifts("oncall")
        return at

    def events(self, type: str = "") -> list[Event]:
        found = self.ctx.log.search(EventFilter(type=type, limit=500))
        return [stored.event for stored in reversed(found)]

    def types(self) -> list[tuple[str, str]]:
        return [(event.type, event.outcome) for event in self.events()]


@contextmanager
def open_house(folder: Path, server: PostgresServer, url: str = "") -> Iterator[House]:
    """`url` of its store, else a file."""
    clock = FakeClock(datetime.now(UTC).replace(microsecond=0))
    url = url or f"sqlite:///{folder / 'house.db'}"
    upgrade(url)
    store = SqlStore(url)
    database = server.create_database()
    group = f"{database}_read"
    server.execute(f"CREATE ROLE {group}")
    sequencer = Sequencer(url, Signer(_private(folder / "keys") / "log.key"), "test/log", "house", clock.now)
    recorder = FileRecorder(_private(folder / "recordings"), "house", Keyring(folder / "keys" / "recordings.key"))
    notes, roles = Notes(), FaultyRoles()
    log = EventLogReader(url, sequencer)
    ctx = Context(
        gateway="house", clock=clock, ids=RandomIds(clock), store=store, log=log,
        policy=CedarPolicy(POLICIES, ROLES), catalogue=FixedCatalogue(_catalogue(folder, server, database, group)),
        roles=roles, ssh=SshAuthorities(folder / "ssh"), recorder=recorder, notifier=notes, live=LiveSessions(),
        clients=ClientAuthority(folder / "clients"),
    )  # fmt: skip
    people = {
        name: User(ctx.ids.new("usr"), "https://idp.test", name, name, "", frozenset(groups))
        for name, groups in {
            "oncall": {"engineers"}, "developer": {"engineers"}, "lead": {"leads"}, "auditor": {"auditors"},
            "security": {"security"},
        }.items()
    }  # fmt: skip
    with store.begin() as uow:
        for person in people.values():
            uow.users.upsert(person)
    sequencer.start()
    house = House(ctx, clock, roles, notes, people, sequencer)
    house.incident()
    house.shifts("oncall")
    try:
        yield house
    finally:
        sequencer.stop()
        recorder.close()
        log.close()
        store.close()
        server.drop_database(database)
        for role in roles.real.roles_of(ctx.catalogue.current().targets["orders-db"], "gw_"):
            server.execute(f"DROP ROLE {role}")
        server.execute(f"DROP ROLE {group}")


def _catalogue(folder: Path, server: PostgresServer, database: str, group: str) -> Catalogue:
    dsn = folder / "admin.dsn"
    dsn.write_text(server.url())
    levels = {name: Level(name, group, rank) for rank, name in enumerate(("read", "write", "admin"))}
    orders = Target(
        "orders-db", Kind.POSTGRES, "orders", "production", server.host, server.port, levels,
        database=database, admin_dsn_file=str(dsn), tls="disable",
    )  # fmt: skip
    shell = {"shell": Level("shell", "deploy", 0), "root": Level("root", "root", 1)}
    web = Target("web-1", Kind.SSH, "orders", "production", "127.0.0.1", 22, shell)
    return Catalogue("1", {"orders": Service("orders", ("leads",))}, {"orders-db": orders, "web-1": web})


def _private(path: Path) -> Path:
    path.mkdir(mode=0o700)
    return path
