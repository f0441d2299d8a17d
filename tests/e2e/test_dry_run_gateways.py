"""Two gateways on one PostgreSQL store: a yes that is given at one frees the COMMIT that another holds, once."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from gateway.adapters.event_log import EventLogReader
from gateway.adapters.postgres_parser import PostgresParser
from gateway.adapters.sealed_secrets import SealedSecrets
from gateway.adapters.store import SqlStore
from gateway.app.confirm_commit import HeldView, answer_held, show_held
from gateway.app.context import Context
from gateway.app.hold_commit import LeftHeld, end_held
from gateway.app.issue_ticket import issue_ticket
from gateway.app.live import LiveSessions
from gateway.core.dry_run import Confirm, DryRun
from gateway.core.errors import Conflict, NotFound, Refusal, Unavailable
from gateway.core.held_commit import HeldState
from gateway.core.target import Catalogue
from tests.e2e.postgres_stage import door_tls
from tests.e2e.stage import wait_for
from tests.e2e.test_scim_ends_sessions import door
from tests.servers import PostgresServer
from tests.unit.app.house import FixedCatalogue, House, open_house
from tests.unit.app.test_main_job import READ, granted

Held = psycopg.errors.ObjectNotInPrerequisiteState
Session = psycopg.Connection[tuple[object, ...]]
YES = HeldState.CONFIRMED


@dataclass
class Pair:
    """`a` holds the sessions; `b` shares nothing with it but the store and the keys."""

    house: House
    a: Context
    b: Context
    ports: tuple[int, int]
    ca: Path
    target: str

    def connect(self, port: int) -> Session:
        secret = quote(issue_ticket(self.a, self.house.people["oncall"], "orders-db").secret, safe="")
        url = f"postgresql://oncall:{secret}@127.0.0.1:{port}/orders-db?sslmode=verify-full&sslrootcert={self.ca}"
        return psycopg.connect(url, autocommit=True)

    def say(self, ctx: Context, session: str, mark: str) -> HeldView:
        return answer_held(ctx, self.house.people["lead"], session, mark, YES)

    def held(self, ctx: Context, session: str) -> HeldView:
        return show_held(ctx, self.house.people["lead"], session)

    def kept(self) -> int:
        with psycopg.connect(self.target) as admin:
            (count,) = admin.execute("SELECT count(*) FROM things").fetchone() or (0,)
        return int(count)

    def ended(self, *outcomes: str) -> None:
        wait_for("the ends are in the log", lambda: self.outcomes("transaction:ended") == list(outcomes))

    def outcomes(self, type: str) -> list[object]:
        return [event.data.get("outcome", event.outcome) for event in self.house.events(type)]


def with_dry_run(catalogue: Catalogue) -> FixedCatalogue:
    orders = catalogue.targets["orders-db"]
    levels = {name: replace(level, dry_run=DryRun(Confirm.APPROVER)) for name, level in orders.levels.items()}
    return FixedCatalogue(replace(catalogue, targets={"orders-db": replace(orders, levels=levels)}))


@pytest.fixture
def pair(tmp_path: Path, postgres_server: PostgresServer, postgres_store_url: str) -> Iterator[Pair]:
    with ExitStack() as stack:
        house = stack.enter_context(open_house(tmp_path, postgres_server, postgres_store_url))
        orders = house.ctx.catalogue.current().targets["orders-db"]
        group = orders.levels["read"].account
        postgres_server.execute(f"CREATE TABLE things (id int); GRANT ALL ON things TO {group}", orders.database)
        a = replace(
            house.ctx,
            gateway="a",
            catalogue=with_dry_run(house.ctx.catalogue.current()),
            sealer=SealedSecrets(tmp_path / "tokens.key"),
            reader=PostgresParser(),
        )
        store, log = SqlStore(postgres_store_url), EventLogReader(postgres_store_url)
        stack.callback(store.close)
        stack.callback(log.close)
        b = replace(a, gateway="b", store=store, log=log, live=LiveSessions())
        tls, ca = door_tls(tmp_path / "tls")
        ports = tuple(stack.enter_context(door(ctx, tls)).port for ctx in (a, b))
        granted(house, READ)
        yield Pair(house, a, b, (ports[0], ports[1]), ca, postgres_server.url(orders.database))


def hold(session: Session) -> str:
    """The session whose COMMIT is held."""
    with pytest.raises(Held) as no:
        session.execute("COMMIT")
    hint = no.value.diag.message_hint or ""
    return next(word for word in hint.split() if word.startswith("ses_"))


def test_a_yes_at_one_gateway_frees_the_commit_at_the_other_once(pair: Pair) -> None:
    with pair.connect(pair.ports[0]) as session, pair.connect(pair.ports[1]) as other:
        for each in (session, other):
            each.execute("BEGIN; INSERT INTO things VALUES (1)")
        of = hold(session)
        hold(other)
        shown = pair.held(pair.b, of)
        assert [write.tag for write in shown.writes] == ["INSERT 0 1"]
        assert dict(shown.under[0].settings)["search_path"] == '"$user", public'
        pair.say(pair.b, of, shown.held.mark)
        with pytest.raises(Conflict):
            pair.say(pair.a, of, shown.held.mark)
        hold(other)  # the same text, in another session
        session.execute("COMMIT")
        assert pair.kept() == 1
        session.execute("BEGIN; INSERT INTO things VALUES (1)")
        hold(session)  # the same again
        assert pair.kept() == 1
        for each in (session, other):
            each.execute("ROLLBACK")
    assert pair.outcomes("transaction:confirmed") == ["attempt", "ok", "denied"]
    assert pair.outcomes("transaction:ended").count("committed") == 1
    with pytest.raises(NotFound):
        pair.say(pair.b, of, shown.held.mark)


def test_of_answers_at_both_gateways_at_once_one_counts(pair: Pair) -> None:
    with pair.connect(pair.ports[0]) as session, ThreadPoolExecutor(4) as at_once:
        for n in range(3):
            session.execute("BEGIN; INSERT INTO things VALUES (1)")
            of = hold(session)
            mark, together = pair.held(pair.b, of).held.mark, threading.Barrier(4)

            def say(ctx: Context) -> str:
                together.wait(10)  # noqa: B023 - used within its round
                try:
                    pair.say(ctx, of, mark)  # noqa: B023 - as above
                except Conflict as no:
                    return no.refusal.code
                return "counts"

            said = list(at_once.map(say, (pair.a, pair.b, pair.a, pair.b)))
            assert sorted(said) == ["commit-confirmed"] * 3 + ["counts"]
            session.execute("COMMIT")
            assert pair.kept() == n + 1
    assert pair.outcomes("transaction:confirmed").count("ok") == 3


def test_a_yes_at_one_gateway_is_no_yes_to_what_was_written_meanwhile_at_the_other(pair: Pair) -> None:
    with pair.connect(pair.ports[0]) as session:
        session.execute("BEGIN; INSERT INTO things VALUES (1)")
        of = hold(session)
        mark = pair.held(pair.b, of).held.mark
        session.execute("SET search_path = pg_temp")
        pair.say(pair.b, of, mark)
        hold(session)
        with pytest.raises(Conflict):
            pair.say(pair.b, of, mark)
        assert pair.kept() == 0
        session.execute("ROLLBACK")


class Outage:
    """Stands before `end_held`, `left` times."""

    def __init__(self, left: int) -> None:
        self.left = left

    def __call__(self, *about: object) -> None:
        if self.left:
            self.left -= 1
            raise Unavailable(Refusal("store", "The store is away."))
        end_held(*about)  # type: ignore[arg-type]


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> Outage:
    made = Outage(3)
    monkeypatch.setattr("gateway.edges.proxy.postgres_keeper.end_held", made)
    return made


def test_how_one_transaction_ended_is_stored_before_the_next_is_held(outage: Outage, pair: Pair) -> None:
    with pair.connect(pair.ports[0]) as session:
        for _ in range(2):
            session.execute("BEGIN; INSERT INTO things VALUES (1)")
            hold(session)
            session.execute("ROLLBACK")
    pair.ended("rolled-back", "rolled-back")


def test_what_no_store_took_for_too_long_is_ended_by_the_sweeper(
    outage: Outage, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.edges.proxy.postgres._TELL_S", 0.2)
    outage.left = 1000
    session = pair.connect(pair.ports[0])
    session.execute("BEGIN; INSERT INTO things VALUES (1)")
    of = hold(session)
    session.close()
    step = LeftHeld()
    wait_for("the other gateway has ended it", lambda: step.step(pair.b))
    pair.ended("lost")
    with pair.b.store.read() as uow:
        assert uow.held.get(of) is None
