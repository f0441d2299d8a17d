"""The log on SQLite and on PostgreSQL: what is acknowledged stays, and whatever is done to the tables is found."""

import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from gateway.adapters.event_log import EventLogReader, Sequencer, TreeMismatchError
from gateway.adapters.event_log.sequencer import LEASE, REMEMBERED
from gateway.adapters.signer import Signer
from gateway.adapters.store import SqlStore, upgrade
from gateway.adapters.store.engine import parse_url
from gateway.app.log_ports import EventFilter
from gateway.audit.proof import verify_receipt
from gateway.audit.report import Fault, Report
from gateway.audit.verify import Kept, verify
from gateway.core.errors import NotFound, Unavailable
from gateway.core.event import Event
from tests.fakes import FakeClock

ORIGIN = "gw.test/audit"
AT = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
SOON = timedelta(seconds=20)
NOW = timedelta(0)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.servers)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/gw.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    upgrade(url)
    return str(url)


class House:
    """A store, its log, and hands that tamper."""

    def __init__(self, url: str, keys: Path) -> None:
        self.url = url
        self.signer = Signer(keys / "log.key")
        self.store = SqlStore(url)
        self.key = self.signer.verifier(ORIGIN)
        self._open: list[Any] = []
        self.sequencer = self.new_sequencer()
        self.log = self.new_reader(self.sequencer)

    def new_sequencer(self, owner: str = "gw-1", now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Sequencer:
        sequencer = Sequencer(self.url, self.signer, ORIGIN, owner, now)
        self._open.append(sequencer.stop)
        return sequencer

    def new_reader(self, sequencer: Sequencer | None) -> EventLogReader:
        log = EventLogReader(self.url, sequencer)
        self._open.append(log.close)
        return log

    def append(self, count: int, first: int = 0, **fields: Any) -> list[str]:
        events = [event(number, **fields) for number in range(first, first + count)]
        with self.store.begin() as uow:
            for one in events:
                uow.events.append(one)
        return [one.id for one in events]

    def sequenced(self, count: int, first: int = 0, **fields: Any) -> list[str]:
        ids = self.append(count, first, **fields)
        self.sequencer.prepare()
        assert self.sequencer.sequence() == count
        return ids

    def fetch(self, path: str) -> bytes | None:
        return self.log.checkpoint().encode() if path == "checkpoint" else self.log.tile(path)

    def verified(self, kept: Kept | None = None) -> Report:
        return verify(self.fetch, self.key, kept or Kept())

    def tamper(self, *statements: str) -> None:
        """As somebody with the database's own tools."""
        engine = create_engine(parse_url(self.url))
        try:
            with engine.begin() as connection:
                for statement in statements:
                    connection.execute(text(statement))
        finally:
            engine.dispose()

    def close(self) -> None:
        for close in reversed(self._open):
            close()
        self.store.close()


def event(number: int, **fields: Any) -> Event:
    return Event(
        **{
            "id": f"evt_{number:04}",
            "at": AT + timedelta(seconds=number),
            "type": "grant:issued",
            "source": "gateway/gw-1",
            **fields,
        }
    )


@pytest.fixture
def house(url: str, tmp_path: Path) -> Iterator[House]:
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)
    house = House(url, keys)
    yield house
    house.close()


# ---------------------------------------------------------------- appending, waiting, proving


def test_on_the_stores_engine_it_waits_for_its_turn_and_leaves_the_engine_to_the_store(url: str, tmp_path: Path):
    store = SqlStore(url)
    sequencer = Sequencer(url, Signer(tmp_path / "keys" / "log.key"), ORIGIN, "gw-1", engine=store.writing)
    sequencer.prepare()
    counts: list[int] = []
    with store.begin() as uow:
        uow.events.append(event(1))
        waiting = Thread(target=lambda: counts.append(sequencer.sequence()))
        waiting.start()
        uow.events.append(event(2))
    waiting.join(20)
    assert counts == [2]
    pool = store.writing.pool
    sequencer.stop()
    assert store.writing.pool is pool  # a disposed engine has another one
    with store.begin() as uow:
        uow.events.append(event(3))
    store.close()


def test_a_new_log_is_empty_and_signed(house: House):
    with pytest.raises(Unavailable):
        house.log.checkpoint()
    house.sequencer.prepare()
    assert house.verified().is_verified
    assert house.log.checkpoint().split("\n")[:2] == [ORIGIN, "0"]
    assert house.sequencer.sequence() == 0


def test_events_become_leaves_in_order_and_are_proved(house: House):
    ids = house.sequenced(300)
    more = house.sequenced(300, 300)
    assert house.verified().is_verified
    for one in (ids[0], ids[255], ids[256], more[-1]):
        stored = house.log.get(one)
        assert stored is not None
        proved = verify_receipt(house.log.inclusion_proof(one), house.key)
        assert (proved.index, proved.leaf, proved.event["id"]) == (stored.index, stored.leaf, one)
        assert proved.index == int(one[4:])


def test_a_batch_larger_than_one_transaction(house: House):
    house.sequenced(2500)
    assert house.verified().is_verified


def test_the_thread_sequences_when_poked_and_by_itself(house: House):
    house.sequencer.start()
    ids = house.append(3)
    assert house.log.wait_included(ids, SOON)
    house.append(1, 3)
    alone = house.new_reader(None)  # pokes nobody
    assert alone.wait_included(["evt_0003"], SOON)
    assert house.verified().is_verified


def test_waiting_ends(house: House):
    ids = house.append(1)
    assert not house.log.wait_included(ids, NOW)
    house.sequencer.prepare()
    house.sequencer.sequence()
    assert house.log.wait_included(ids, NOW)
    assert not house.log.wait_included([*ids, "evt_unknown"], timedelta(milliseconds=60))
    assert house.log.wait_included([], NOW)


def test_what_another_gateway_sequences_or_what_was_forgotten_here_is_found_in_the_log(house: House):
    other = house.new_sequencer("gw-2")
    ids = house.append(REMEMBERED + 10)
    other.prepare()
    assert other.sequence() == len(ids)
    assert not other.wait_for(ids[:10], 0)  # only the newest are remembered
    assert other.wait_for(ids[10:], 0)
    assert not house.sequencer.wait_for(ids[-1:], 0)
    assert house.log.wait_included(ids[:20], SOON)


def test_what_was_rolled_back_is_not_in_the_log(house: House):
    house.sequencer.prepare()
    with pytest.raises(RuntimeError), house.store.begin() as uow:  # noqa: PT012 - the exit is what is tested
        uow.events.append(event(0))
        raise RuntimeError
    assert house.sequencer.sequence() == 0
    assert house.log.get("evt_0000") is None


def test_what_is_not_sequenced_has_no_receipt(house: House):
    house.sequencer.prepare()
    house.append(1)
    stored = house.log.get("evt_0000")
    assert stored is not None
    assert stored.index is None
    for one in ("evt_0000", "evt_unknown"):
        with pytest.raises(NotFound):
            house.log.inclusion_proof(one)


def test_tiles_that_do_not_exist(house: House):
    house.sequenced(300)
    for path in (
        "tile/0/001",
        "tile/0/001.p/45",
        "tile/entries/001.p/45",
        "tile/2/000.p/1",
        "tile/0/../secret",
        "checkpoint",
        "",
        "tile/entries/x999/999",
    ):
        assert house.log.tile(path) is None
    assert house.log.tile("tile/0/001.p/2") == (house.log.tile("tile/0/001.p/44") or b"")[:64]


# ---------------------------------------------------------------- searching


def test_a_search_goes_on_below_an_index(house: House):
    ids = house.sequenced(5)
    house.append(1, 5)  # not sequenced, so below no index
    found = house.log.search(EventFilter(before=3, limit=2))
    assert [(stored.event.id, stored.index) for stored in found] == [(ids[2], 2), (ids[1], 1)]
    assert house.log.search(EventFilter(before=0)) == []


def test_search_filters_in_the_database(house: House):
    house.append(2, 0, target="orders-db", principal="oncall", grant="grt_1", request="req_1", session="ses_1")
    house.append(2, 2, type="policy:denied", outcome="denied", data={"reason": 'say "HALT"\nnow', "list": ["Ärger"]})
    house.sequencer.prepare()
    for found, query in [
        (["evt_0001", "evt_0000"], EventFilter(target="orders-db")),
        (["evt_0001", "evt_0000"], EventFilter(principal="oncall", grant="grt_1", request="req_1", session="ses_1")),
        ([], EventFilter(target="orders-db", type="policy:denied")),
        (["evt_0003", "evt_0002"], EventFilter(type="policy:denied")),
        (["evt_0003", "evt_0002"], EventFilter(type="policy")),
        ([], EventFilter(type="pol%")),
        ([], EventFilter(type="pol")),
        (["evt_0003", "evt_0002"], EventFilter(text='"halt"\nN')),
        (["evt_0003", "evt_0002"], EventFilter(text="äRGER")),
        (["evt_0003"], EventFilter(text="denied", limit=1)),
        ([], EventFilter(text="gw-1")),
        (["evt_0003"], EventFilter(limit=1)),
        (["evt_0002", "evt_0001"], EventFilter(since=AT + timedelta(seconds=1), until=AT + timedelta(seconds=3))),
    ]:
        assert [stored.event.id for stored in house.log.search(query)] == found, query
    assert house.log.search(EventFilter(text="ärger"))[0].event == event(
        3, type="policy:denied", outcome="denied", data={"reason": 'say "HALT"\nnow', "list": ["Ärger"]}
    )


def test_names_of_any_length_and_kind_are_kept_and_found(house: House):
    name = "x\0" + "y" * 5000 + "'; DROP TABLE event; --"
    house.append(1, target=name)
    assert [stored.event.target for stored in house.log.search(EventFilter(target=name))] == [name]


def test_an_event_that_does_not_fit_is_refused_and_the_transaction_with_it(house: House):
    with pytest.raises(ValueError, match="65535"), house.store.begin() as uow:  # noqa: PT012 - as above
        uow.events.append(event(0))
        uow.events.append(event(1, data={"x": "y" * 70_000}))
    assert house.log.search(EventFilter()) == []


def test_the_reader_cannot_write(house: House):
    with pytest.raises(Exception, match=r"reading"), house.log._database.view() as connection:
        connection.execute(text("DELETE FROM event"))


# ---------------------------------------------------------------- several gateways


def test_only_the_holder_of_the_lease_sequences_until_it_is_over(house: House):
    clock = FakeClock()
    first, second = house.new_sequencer("gw-1", clock.now), house.new_sequencer("gw-2", clock.now)
    first.prepare()
    second.prepare()
    house.append(1)
    assert first.sequence() == 1
    house.append(1, 1)
    assert second.sequence() == 0
    clock.set(clock.now() + LEASE)
    assert second.sequence() == 1
    house.append(1, 2)
    clock.set(clock.now() - timedelta(days=1))  # a clock that was set back does not keep everybody out
    assert first.sequence() == 1
    assert house.verified().is_verified


def test_gateways_that_append_and_sequence_at_once_grow_one_tree(house: House):
    sequencers = [house.new_sequencer(f"gw-{n}") for n in range(3)]
    logs = [house.new_reader(sequencer) for sequencer in sequencers]
    for sequencer in sequencers:
        sequencer.start()
    missing: list[str] = []

    def work(gateway: int) -> None:
        for number in range(20):
            ids = house.append(1, gateway * 100 + number)
            if not logs[gateway].wait_included(ids, SOON):
                missing.extend(ids)

    threads = [Thread(target=work, args=(gateway,)) for gateway in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert missing == []
    report = house.verified()
    assert report.is_verified
    assert len({entry.id for entry in report.entries}) == 60


# ---------------------------------------------------------------- failures


def commits(sequencer: Sequencer, *, stored: bool) -> Callable[[Any], None]:
    """The database's commit fails: before it was done, or after (the answer is lost)."""
    dialect = sequencer._engine.dialect
    original = dialect.do_commit
    error = sqlite3.OperationalError if dialect.name == "sqlite" else psycopg.OperationalError

    def do_commit(connection: Any) -> None:
        dialect.do_commit = original  # type: ignore[method-assign]
        if stored:
            original(connection)
        raise error("the connection went away")

    return do_commit


@pytest.mark.parametrize("stored", [True, False])
def test_a_commit_whose_answer_is_lost_is_neither_repeated_nor_forgotten(house: House, stored: bool):
    kept = house.sequenced(5)
    house.append(7, 5)
    house.sequencer._engine.dialect.do_commit = commits(house.sequencer, stored=stored)  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        house.sequencer.sequence()
    assert house.sequencer.sequence() == (0 if stored else 7)
    report = house.verified()
    assert report.is_verified
    assert [entry.id for entry in report.entries] == [*kept, *(f"evt_{n:04}" for n in range(5, 12))]


def test_a_killed_gateway_loses_nothing_that_it_acknowledged(house: House, tmp_path: Path):
    chance = random.Random(7)
    acknowledged: set[str] = set()
    for life in range(3):
        command = [
            sys.executable,
            "-m",
            "tests.contract.log_writer",
            house.url,
            str(tmp_path / "keys" / "log.key"),
            f"r{life}",
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(chance.randint(1, 40)):
                acknowledged.add(writer.stdout.readline().strip())
            writer.kill()
            acknowledged.update(line.strip() for line in writer.stdout if line.endswith("\n"))
        house.new_sequencer().prepare()  # checks the stored tree
        report = house.verified()
        assert report.is_verified
        assert acknowledged - {""} == acknowledged <= {entry.id for entry in report.entries}
    again = house.new_sequencer("writer")
    again.start()
    assert house.new_reader(again).wait_included(house.append(1), SOON)


# ---------------------------------------------------------------- tampering with the tables


CHANGED = "UPDATE event SET leaf = (SELECT leaf FROM event WHERE position = 1) WHERE position = 77"


@pytest.mark.parametrize(
    ("statements", "fault", "index", "event_id"),
    [
        (["UPDATE event SET leaf = CAST('{}' AS {blob}) WHERE position = 77"], Fault.CHANGED, 77, ""),
        ([CHANGED], Fault.CHANGED, 77, "evt_0001"),
        (["DELETE FROM event WHERE position = 77"], Fault.REMOVED, 77, ""),
        (
            [
                "UPDATE event SET position = -1 WHERE position = 77",
                "UPDATE event SET position = 77 WHERE position = 78",
                "UPDATE event SET position = 78 WHERE position = -1",
            ],
            Fault.REORDERED,
            77,
            "evt_0077",
        ),
        (["DELETE FROM event WHERE position >= 290"], Fault.CUT, 290, ""),
    ],
)
def test_tampering_with_events_is_named(house: House, statements: list[str], fault: Fault, index: int, event_id: str):
    house.sequenced(300)
    before = house.verified()
    blob = "BLOB" if house.url.startswith("sqlite") else "BYTEA"
    house.tamper(*(statement.replace("{blob}", blob).replace("'{}'", "'[]'") for statement in statements))
    first = house.verified().first
    assert first is not None
    assert (first.fault, first.index, first.event) == (fault, index, event_id)
    named = house.verified(Kept(before.note, before.entries)).first  # who was here before knows its name
    assert named is not None
    assert (named.index, named.event) == (index, f"evt_{index:04}")
    assert len(house.log.search(EventFilter(limit=300))) >= 290  # the others can still be looked at


def test_leaves_of_any_length_hide_nothing(house: House):
    house.sequenced(3)
    is_sqlite = house.url.startswith("sqlite")
    huge = "zeroblob(70000)" if is_sqlite else "convert_to(repeat('x', 70000), 'UTF8')"
    house.tamper(f"UPDATE event SET leaf = {huge} WHERE position = 1")
    first = house.verified().first
    assert first is not None
    assert (first.fault, first.index) == (Fault.CHANGED, 1)
    assert "unreadable" in house.log.search(EventFilter())[1].event.data
    if is_sqlite:  # which keeps text and numbers in a column of bytes
        house.tamper("UPDATE event SET leaf = 7 WHERE position = 1", "UPDATE event SET leaf = 'x' WHERE position = 2")
        first = house.verified().first
        assert first is not None
        assert (first.fault, first.index) == (Fault.CHANGED, 1)


def test_a_replaced_tile_is_found_and_ends_sequencing(house: House):
    house.sequenced(300)
    house.tamper(
        "UPDATE log_tile SET hashes = (SELECT hashes FROM log_tile WHERE level = 1) WHERE level = 0 AND number = 1"
    )
    report = house.verified()
    assert report.first is not None
    assert (report.first.fault, report.first.index) == (Fault.TILE, 256)
    house.append(1, 300)
    with pytest.raises(TreeMismatchError):
        house.sequencer.sequence()
    with pytest.raises(Unavailable):
        house.log.inclusion_proof("evt_0299")
    with pytest.raises(TreeMismatchError):
        house.new_sequencer().start()


def test_a_stopped_sequencer_says_so_and_nobody_waits(house: House):
    house.sequencer.start()
    assert house.log.wait_included(house.append(3), SOON)
    house.tamper("UPDATE log_checkpoint SET root = (SELECT root FROM log_checkpoint WHERE size = 0) WHERE size > 0")
    assert not house.log.wait_included(house.append(1, 3), SOON)
    assert "root that was signed" in house.sequencer.failure


def test_a_checkpoint_of_a_forged_key_is_refused_by_everybody(house: House, tmp_path: Path):
    house.sequenced(3)
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    forged = Signer(other / "log.key").sign(house.verified().checkpoint or pytest.fail("no checkpoint"))
    house.tamper(f"UPDATE log_checkpoint SET note = '{forged}' WHERE size = 3")
    assert [finding.fault for finding in house.verified().findings] == [Fault.CHECKPOINT]
    with pytest.raises(TreeMismatchError, match="not one of this key"):
        house.new_sequencer().prepare()


ROLLBACK = (
    "DELETE FROM event WHERE position >= 5",
    "DELETE FROM log_checkpoint WHERE size > 5",
    "UPDATE log_tile SET hashes = {hashes}",
)


def test_a_database_put_back_is_found_and_not_signed_over(house: House):
    house.sequenced(5)
    early = house.log.tile("tile/0/000.p/5") or b""
    house.sequenced(3, 5)
    late = house.verified()
    assert late.is_verified
    literal = f"X'{early.hex()}'" if house.url.startswith("sqlite") else f"'\\x{early.hex()}'"
    house.tamper(*(statement.replace("{hashes}", literal) for statement in ROLLBACK))
    assert house.verified().is_verified  # to a newcomer it looks whole
    first = house.verified(Kept(late.note, late.entries)).first
    assert first is not None
    assert (first.fault, first.index, first.event) == (Fault.ROLLBACK, 5, "evt_0005")
    house.append(1, 9)
    with pytest.raises(TreeMismatchError, match="went back"):
        house.sequencer.sequence()
    with pytest.raises(TreeMismatchError, match="earlier"):
        house.new_sequencer().prepare()


def test_a_database_put_back_is_not_signed_over_by_a_process_that_saw_less(house: House):
    """Somebody with the database hands the lease to a worker that has not sequenced for a while."""
    other = house.new_sequencer("gw-2", lambda: datetime.now(UTC) + LEASE * 2)
    house.append(3)
    other.prepare()
    assert other.sequence() == 3
    house.tamper("UPDATE log_head SET owner = 'gw-1'")
    house.sequenced(2, 3)
    early = house.log.tile("tile/0/000.p/5") or b""
    house.sequenced(3, 5)
    literal = f"X'{early.hex()}'" if house.url.startswith("sqlite") else f"'\\x{early.hex()}'"
    house.tamper(*(statement.replace("{hashes}", literal) for statement in ROLLBACK))
    house.tamper("UPDATE log_head SET owner = 'gw-2'")
    house.append(1, 9)
    with pytest.raises(TreeMismatchError, match="signed 8 events that the database does not hold"):
        other.sequence()


def test_an_emptied_database_is_not_a_new_log(house: House):
    house.sequenced(3)
    house.tamper("DELETE FROM event", "DELETE FROM log_checkpoint", "DELETE FROM log_tile", "DELETE FROM log_head")
    with pytest.raises(TreeMismatchError):
        house.new_sequencer().start()


def test_a_position_cannot_be_given_twice(house: House):
    house.sequenced(3)
    with pytest.raises(DBAPIError):
        house.tamper("UPDATE event SET position = 1 WHERE position = 2")
