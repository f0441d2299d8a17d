"""Run as a process of its own and killed: it takes an order to shred a recording, says so, and gets no further."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event

from gateway.adapters.event_log import EventLogReader, Sequencer
from gateway.adapters.recordings import FileRecorder, StatementIndex
from gateway.adapters.signer import Signer
from gateway.app import journal
from gateway.app.context import Context
from gateway.app.shred_session import shred_session
from gateway.core.grant import Grant
from gateway.core.obligation import Obligations, Record
from gateway.core.principal import User
from gateway.core.request import Request, RequestKind
from gateway.core.session import EndReason, Protocol, Session, end
from gateway.core.window import Window
from tests.unit.adapters.recordings.stage import eventually, is_sealed, keyring, nothing
from tests.unit.edges.stage import make_stage

ONCALL, SECURITY = (User(f"usr_{name}", "http://idp", name, name) for name in ("oncall", "security"))
ID, SECRET, WHY = "ses_shredded", "select secret_ohmigod", "kept for long enough"


class DyingIndex(StatementIndex):
    at = ""

    def forget(self, session_id: str) -> None:
        if self.at == "between":
            stop_here()
        super().forget(session_id)


class DyingRecorder(FileRecorder):
    at = ""

    def shred(self, session_id: str) -> None:
        if self.at == "before":
            stop_here()
        super().shred(session_id)
        if self.at == "after":
            stop_here()


def stop_here() -> None:
    print("here", flush=True)
    Event().wait(60)


@contextmanager
def running(directory: Path, at: str = "") -> Iterator[tuple[Context, DyingRecorder, StatementIndex]]:
    stage = make_stage(directory)
    url = f"sqlite:///{stage.database}"
    sequencer = Sequencer(url, Signer(directory / "log.key"), "test/log", "stage", lambda: datetime.now(UTC))
    sequencer.start()
    index = DyingIndex(directory / "recordings" / "statements.sqlite")
    recorder = DyingRecorder(directory / "recordings", "stage", keyring(directory), index=index)
    index.at = recorder.at = at
    log = EventLogReader(url, sequencer)
    yield replace(stage.ctx, log=log, recorder=recorder), recorder, index
    recorder.close()
    index.close()
    sequencer.stop()
    log.close()
    stage.store.close()


def record(ctx: Context, recorder: FileRecorder) -> None:
    """A session that is over, as the store, the log and the recordings know it."""
    at = ctx.clock.now()
    window = Window(at, at + timedelta(hours=1))
    asked = Request(
        "req_1", ONCALL.id, "oncall", "orders-db", "read", timedelta(hours=1), "why", "INC-1", RequestKind.STANDARD,
        at, Obligations(), (), "",
    )  # fmt: skip
    grant = Grant(
        "grt_1", "req_1", ONCALL.id, "oncall", "orders-db", "read", window, RequestKind.STANDARD, Obligations(), "INC-1"
    )
    session = Session(
        ID,
        "grt_1",
        ONCALL.id,
        "oncall",
        "orders-db",
        "read",
        Protocol.POSTGRES,
        "127.0.0.1:1",
        "stage",
        at,
        window.not_after,
    )
    recording = recorder.open(session, Record.REQUIRE, nothing)
    recording.append("statement", at, b'{"n": 1, "sql": "%s"}' % SECRET.encode())
    count, digest = recording.seal()
    eventually(is_sealed(recorder, ID))
    over = end(session, EndReason.CLIENT_CLOSED, at, "", f"{count}:{digest}")
    assert isinstance(over, Session)
    with ctx.store.begin() as uow:
        for person in (ONCALL, SECURITY):
            uow.users.upsert(person)
        uow.requests.add(asked)
        uow.grants.add(grant)
        uow.sessions.add(session)
        assert uow.sessions.save(over)
        data = {"records": count, "digest": digest}
        ended = journal.append(ctx, uow, "session:ended", data=data, **journal.about_session(session))
    journal.confirm_logged(ctx, ended)


def main(directory: Path, at: str) -> None:
    with running(directory, at) as (ctx, recorder, index):
        record(ctx, recorder)
        index.store_fed()
        shred_session(ctx, SECURITY, ID, WHY)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
