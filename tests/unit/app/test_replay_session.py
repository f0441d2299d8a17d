from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.adapters.recordings import FileRecorder, StatementIndex
from gateway.app.context import Context
from gateway.app.log_ports import EventFilter, StoredEvent
from gateway.app.recording_ports import Recording
from gateway.app.replay_session import ASK_AGAIN, EVIDENCE_AT_ONCE, replay, watch
from gateway.app.search_statements import search_statements
from gateway.core.decision import Action, Query
from gateway.core.errors import Conflict, Denied, NotFound, Unavailable
from gateway.core.event import Event
from gateway.core.grant import Grant
from gateway.core.obligation import Obligations, Record
from gateway.core.principal import User
from gateway.core.request import Request, RequestKind
from gateway.core.session import EndReason, Protocol, Session, end
from gateway.core.target import Catalogue
from gateway.core.window import Window
from tests.unit.adapters.recordings.stage import eventually, is_sealed, keyring, nothing, sealed_path
from tests.unit.edges.stage import FixedCatalogue, PromptLog, Stage, make_stage

ID = "ses_replayed"


@dataclass
class KnowingLog(PromptLog):
    """Knows the events that it was given."""

    known: list[Event] = field(default_factory=list)

    def search(self, filter: EventFilter) -> Sequence[StoredEvent]:
        until = len(self.known) if filter.before is None else filter.before
        found = [StoredEvent(e, b"", index) for index, e in enumerate(self.known[:until])][::-1]
        return [s for s in found if (s.event.session, s.event.type) == (filter.session, filter.type)][: filter.limit]


@dataclass
class Scene:
    stage: Stage
    ctx: Context
    log: KnowingLog
    recorder: FileRecorder
    index: StatementIndex
    auditor: User
    session: Session
    recording: Recording
    directory: Path

    def tell(self, type: str, records: int, digest: str) -> None:
        data = {"records": records, "digest": digest}
        self.log.known.append(Event(f"evt_{len(self.log.known)}", datetime.now(UTC), type, "x", session=ID, data=data))

    def end(self, digest: str | None = None, known: str | None = None) -> None:
        """End the session as `end_session` does, with another digest in the store or the log if one is given."""
        count, sealed = self.recording.seal()
        eventually(is_sealed(self.recorder, ID))
        stored = sealed if digest is None else digest
        over = end(
            self.session, EndReason.CLIENT_CLOSED, self.stage.clock.now(), "", f"{count if stored else 0}:{stored}"
        )
        assert isinstance(over, Session)
        with self.ctx.store.begin() as uow:
            assert uow.sessions.save(over)
        logged = stored if known is None else known
        self.tell("session:ended", count if logged else 0, logged)

    def types(self) -> list[str]:
        return [event[0] for event in self.stage.events()]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    stage = make_stage(tmp_path)
    index = StatementIndex(tmp_path / "recordings" / "statements.sqlite")
    recorder = FileRecorder(tmp_path / "recordings", "stage", keyring(tmp_path / "recordings"), index=index)
    log = KnowingLog()
    ctx = replace(stage.ctx, recorder=recorder, log=log)
    holder, auditor = stage.user("oncall"), stage.user("auditor")
    at = stage.clock.now()
    request = Request(
        "req_1", holder.id, holder.name, "orders-db", "read", timedelta(hours=1), "why", "INC-1", RequestKind.STANDARD,
        at, Obligations(), (), "",
    )  # fmt: skip
    grant = Grant(
        "grt_1", "req_1", holder.id, holder.name, "orders-db", "read", Window(at, at + timedelta(hours=1)),
        RequestKind.STANDARD, Obligations(), "INC-1",
    )  # fmt: skip
    session = Session(
        ID, "grt_1", holder.id, holder.name, "orders-db", "read", Protocol.POSTGRES, "127.0.0.1:1", "stage", at,
        at + timedelta(hours=1),
    )  # fmt: skip
    with ctx.store.begin() as uow:
        uow.requests.add(request)
        uow.grants.add(grant)
        uow.sessions.add(session)
    recording = recorder.open(session, Record.REQUIRE, nothing)
    recording.append("statement", at, b'{"n": 1, "sql": "select 1"}')
    recording.append("result", at, b'{"n": 1, "tag": "SELECT 1", "rows": 1, "ms": 0.5}')
    yield Scene(stage, ctx, log, recorder, index, auditor, session, recording, tmp_path / "recordings")
    recorder.close()
    index.close()
    stage.store.close()


def test_a_replay_is_in_the_log_and_then_proved(scene: Scene):
    scene.tell("session:evidence", 1, next(iter(digests(scene))))
    scene.end()
    found = replay(scene.ctx, scene.auditor, ID)
    assert [f.kind for f in found.frames()] == ["session", "statement", "result"]
    assert (found.count, found.is_complete, len(found.evidence)) == (3, True, 1)
    assert scene.types() == ["session:replayed"]


def digests(scene: Scene) -> Iterator[str]:
    from gateway.audit.recording import Chain

    chain = Chain(ID)
    scene.recording.wait_durable(2, timedelta(seconds=20))
    for frame in scene.recorder.read(ID):
        chain.extend(frame.encoded())
        yield chain.digest.hex()


def test_nothing_is_shown_when_the_log_does_not_confirm(scene: Scene):
    scene.end()
    scene.log.is_down = True
    with pytest.raises(Unavailable):
        replay(scene.ctx, scene.auditor, ID)


def test_who_may_not_sees_nothing(scene: Scene):
    with pytest.raises(NotFound):
        replay(scene.ctx, scene.auditor, "ses_404")
    scene.stage.forbid(Action.REPLAY, Action.WATCH)
    with pytest.raises(Denied):
        watch(scene.ctx, scene.auditor, ID)
    scene.end()
    with pytest.raises(Denied):
        replay(scene.ctx, scene.auditor, ID)
    assert scene.types() == ["policy:denied", "policy:denied"]


def broken(scene: Scene) -> str:
    with pytest.raises(Conflict) as caught:
        replay(scene.ctx, scene.auditor, ID)
    assert caught.value.refusal.code == "recording-broken"
    assert scene.types()[-1] == "session:recording-broken"
    return caught.value.refusal.message


def test_another_recording_in_its_place_is_found_out(scene: Scene):
    scene.end()
    count, _ = scene.recording.digest()
    key = keyring(scene.directory).fresh(ID)
    other = list(scene.recorder.read(ID))
    other[1] = other[1]._replace(payload=b'{"n": 1, "sql": "select 2"}')
    scene.recorder.sealed.write(key, other)  # with links that fit
    assert "Record 0: changed: of records 0 to 2" in broken(scene)
    scene.recorder.sealed.write(key, other[:1])
    assert "Record 1: missing" in broken(scene)
    sealed_path(scene.directory, ID).write_bytes(b"rubbish")
    assert "Record 0" in broken(scene)
    scene.recorder.close()  # the spool still had it
    sealed_path(scene.directory, ID).unlink()
    assert "missing" in broken(scene)
    assert count == 3


def test_a_recording_whose_key_was_destroyed_is_locked_not_broken(scene: Scene):
    scene.end()
    scene.recorder.close()
    (scene.directory / "keys" / f"{ID}.key").unlink()
    with pytest.raises(Conflict, match="No event of the log says that it was shredded") as caught:
        replay(scene.ctx, scene.auditor, ID)
    assert caught.value.refusal.code == "recording-locked"
    assert scene.types() == ["session:replayed", "session:recording-locked"], "whoever destroyed it is looked for"


def test_a_store_that_tells_another_story_than_the_log_is_found_out(scene: Scene):
    scene.end(known="00" * 32)
    assert "not the one in the log" in broken(scene)


@pytest.mark.parametrize(
    "blamed", [{"holder_name": "somebody-else"}, {"holder": "usr_9"}, {"target": "billing-db"}, {"grant": "grt_9"}]
)
def test_a_store_that_says_it_was_somebody_elses_is_found_out(scene: Scene, blamed: dict[str, str]):
    scene.end()
    sessions = scene.ctx.store
    with sessions.begin() as uow:
        kept = uow.sessions.get(ID)
    assert kept is not None
    told = replace(kept, **blamed)  # type: ignore[arg-type]  # each a text
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("gateway.app.replay_session.authorised_session", lambda *_, **__: told)
        assert "Record 0: it says" in broken(scene)


def test_an_end_that_the_log_does_not_know_is_found_out(scene: Scene):
    scene.end()
    scene.log.known.clear()
    assert "0 ends" in broken(scene)


def test_evidence_that_does_not_fit_is_found_out(scene: Scene):
    scene.tell("session:evidence", 2, "00" * 32)
    scene.end()
    assert "Record 0" in broken(scene)


def test_evidence_is_not_pushed_out_by_newer(scene: Scene):
    """Somebody cut the spool of a gateway that died, then told the log so much that what it had seen was old."""
    seen = list(digests(scene))
    scene.tell("session:evidence", 4, "00" * 32)  # one record more than was left
    for _ in range(EVIDENCE_AT_ONCE * 2):
        scene.tell("session:evidence", 1, seen[0])
    scene.end()
    assert "Record 3: missing: the log saw 4 records" in broken(scene)


def test_a_session_whose_end_nobody_saw_is_played_as_far_as_the_evidence_goes(scene: Scene):
    scene.tell("session:evidence", 2, list(digests(scene))[1])
    scene.end(digest="")
    found = replay(scene.ctx, scene.auditor, ID)
    assert [f.kind for f in found.frames()] == ["session", "statement"]
    assert not found.is_complete


def test_live_is_watched_and_over_is_replayed(scene: Scene):
    with pytest.raises(Conflict, match="still runs"):
        replay(scene.ctx, scene.auditor, ID)
    seen = watch(scene.ctx, scene.auditor, ID)
    assert scene.types() == ["session:watched"]
    scene.end()
    assert [f.kind for f in seen if f is not None] == ["session", "statement", "result"]
    with pytest.raises(Conflict, match="is over"):
        watch(scene.ctx, scene.auditor, ID)


def test_the_right_to_watch_is_asked_for_again(scene: Scene):
    seen = watch(scene.ctx, scene.auditor, ID)
    assert next(seen) is not None
    scene.stage.forbid(Action.WATCH)
    assert next(seen) is not None, "not at every frame"
    scene.stage.clock.advance(ASK_AGAIN)
    with pytest.raises(Denied):
        next(seen)
    assert scene.types() == ["session:watched", "policy:denied"]


def test_silence_asks_too_and_a_disabled_person_sees_nothing_more(scene: Scene, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gateway.app.replay_session.ASK_AGAIN", timedelta(milliseconds=10))
    seen = watch(scene.ctx, scene.auditor, ID)
    assert [next(seen) is None for _ in range(4)] == [False, False, False, True]
    with scene.ctx.store.begin() as uow:
        uow.users.upsert(replace(scene.auditor, disabled_at=scene.stage.clock.now()))
    with pytest.raises(Denied, match="disabled"):
        next(seen)


def test_a_session_whose_target_has_left_the_catalogue_is_still_evidence(scene: Scene):
    scene.end()
    ctx = replace(scene.ctx, catalogue=FixedCatalogue(Catalogue("", {}, {})))
    asked: list[Query] = []

    def remember(query: Query) -> bool:
        asked.append(query)
        return True

    scene.stage.policy.permits = remember
    assert replay(ctx, scene.auditor, ID).count == 3
    assert [(q.action, q.target) for q in asked] == [(Action.REPLAY, None)]


def test_a_process_without_recordings_says_so(scene: Scene):
    scene.end()
    with pytest.raises(Unavailable):
        replay(scene.stage.ctx, scene.auditor, ID)


def test_statements_are_searched_by_those_who_may_and_in_the_log(scene: Scene):
    scene.end()
    found = search_statements(scene.ctx, scene.index, scene.auditor, text="SELECT", target="orders-db")
    assert [(s.sql, s.tag, s.principal) for s in found.statements] == [("select 1", "SELECT 1", "oncall")]
    assert scene.types() == ["audit:searched"]
    scene.stage.forbid(Action.AUDIT)
    with pytest.raises(Denied):
        search_statements(scene.ctx, scene.index, scene.auditor)
