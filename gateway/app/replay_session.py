"""See what happened in a session: the viewing is in the log first, and only what the log proves is played."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice
from typing import Protocol, runtime_checkable

from gateway.app import journal
from gateway.app.authorise import authorise, still_permitted
from gateway.app.context import Context
from gateway.app.deploy_session import session_of
from gateway.app.log_ports import EventFilter
from gateway.app.shreds import require_not_shredded
from gateway.audit.recording import BrokenRecordingError, Frame, verified
from gateway.audit.sealed_digests import ENDED, SEEN, digest_in, sealed_by
from gateway.core.decision import Action, Facts
from gateway.core.errors import Conflict, NotFound, Refusal, Unavailable
from gateway.core.principal import User
from gateway.core.session import Session
from gateway.core.target import Target

EVIDENCE_AT_ONCE = 1000
ASK_AGAIN = timedelta(seconds=3)  # whether somebody who watches still may
_UNKNOWN = Refusal("unknown-session", "There is no such session.", next_steps=("gw sessions lists them.",))
_DISABLED = Refusal("user-disabled", "Your account has been disabled.", next_steps=("Ask the gateway's operators.",))
_NO_READER = Refusal("recordings-unavailable", "This gateway process cannot read recordings.")


class RecordingLocked(Exception):
    """The recording is there and its key is not, so that nobody can read it or say whether it is whole."""


class RecordingShredded(RecordingLocked):
    """Its key was overwritten, so that nobody ever will."""


@runtime_checkable
class RecordingReader(Protocol):
    """Stored recordings. Both raise LookupError when there is none of that session, RecordingLocked without its key."""

    def read(self, session_id: str, from_seq: int = 0) -> Iterator[Frame]:
        """The frames as stored, unjudged."""
        ...

    def follow(
        self, session_id: str, from_seq: int = 0, silence: timedelta = timedelta(seconds=15)
    ) -> Iterator[Frame | None]:
        """Frames as they become durable, until the session is over; None after each silence."""
        ...


@dataclass(frozen=True, slots=True)
class Replay:
    """A recording that was held against the log: `count` frames under `digest` (hex).

    `evidence` are the running digests of the log, oldest first. `is_complete` is False when the session's end was
    never recorded (its gateway died): then these are the frames up to the last evidence. `gaps` are stretches that a
    best-effort recording could not keep, each with a record of kind `gap` in its place.
    """

    session: Session
    count: int
    digest: str
    evidence: tuple[tuple[int, str], ...]
    is_complete: bool
    reader: RecordingReader
    gaps: int = 0

    def frames(self) -> Iterator[Frame]:
        """The frames, verified once more while they pass; BrokenRecordingError if somebody changed them since."""
        frames: Iterator[Frame] = self.reader.read(self.session.id)
        if not self.is_complete:
            frames = islice(frames, self.count)
        return verified(self.session.id, frames, self.count, self.digest, self.evidence)


def replay(ctx: Context, user: User, session_id: str, *, spends: bool = True) -> Replay:
    """A verified recording of a session that is over. Raises NotFound, Denied, Unavailable.

    `spends`: where each replay needs a proof of its own it is used up; else `use_proof` does before frames are shown.

    Conflict when the session still runs, when its recording was shredded, and when the recording is not what the log
    says: the message names the first record that is wrong, and `session:recording-broken` tells everybody who reads it.
    """
    session = authorised_session(ctx, user, session_id, Action.REPLAY, spends=spends)
    if session.is_live():
        steps = (f"gw session watch {session.id} shows it as it happens.",)
        raise Conflict(Refusal("session-live", "That session still runs.", next_steps=steps))
    require_not_shredded(ctx, session)
    _note(ctx, user, session, "session:replayed")
    try:
        found = _proved(ctx, session, _reader(ctx))
        return replace(found, gaps=_gaps(found))
    except BrokenRecordingError as broken:
        raise _alarm(ctx, user, session, broken) from broken
    except RecordingLocked as locked:
        raise _locked(ctx, user, session, locked) from locked
    except LookupError as gone:
        missing = BrokenRecordingError(0, "the whole recording is missing")
        raise _alarm(ctx, user, session, missing) from gone


def _gaps(found: Replay) -> int:
    """How many; BrokenRecordingError when a frame is wrong, or the recording says that it was somebody else's."""
    gaps = 0
    for frame in found.frames():
        if frame.seq == 0 and frame.kind == "session":
            _require_same(found.session, json.loads(frame.payload))
        gaps += frame.kind == "gap"
    return gaps


def _require_same(session: Session, told: Mapping[str, object]) -> None:
    """The store's row is what is shown, and nothing seals it: what the recording began with is sealed."""
    for name in ("holder", "holder_name", "target", "level", "grant", "client"):
        if told.get(name) != getattr(session, name):
            raise BrokenRecordingError(0, f"it says {name} {told.get(name)!r}, the store {getattr(session, name)!r}")


def use_proof(ctx: Context, user: User, session: Session) -> None:
    """For one replay. Denied when it was used meanwhile."""
    authorise(ctx, user, Action.REPLAY, *_about(ctx, session))


def watch(
    ctx: Context, user: User, session_id: str, still_signed_in: Callable[[], object] = lambda: None
) -> Iterator[Frame | None]:
    """The frames of a running session from its beginning, as they become durable; None in each silence of some seconds.

    Raises NotFound, Denied, Unavailable, and Conflict when the session is over. The iterator asks policy again every
    few seconds, after `still_signed_in`, and raises Denied when the right to watch or the sign-in has ended.
    """
    session = authorised_session(ctx, user, session_id, Action.WATCH)
    if not session.is_live():
        steps = (f"gw session replay {session.id} plays it.",)
        raise Conflict(Refusal("session-over", "That session is over.", next_steps=steps))
    reader = _reader(ctx)
    _note(ctx, user, session, "session:watched")
    frames = reader.follow(session.id, silence=ASK_AGAIN)

    def ask_again() -> None:
        still_signed_in()
        still_permitted(ctx, _as_now(ctx, user), Action.WATCH, *_about(ctx, session))

    return _while_allowed(ctx, user, session, frames, ask_again)


def _while_allowed(
    ctx: Context, user: User, session: Session, frames: Iterator[Frame | None], ask_again: Callable[[], None]
) -> Iterator[Frame | None]:
    asked = ctx.clock.now()
    try:
        for frame in frames:
            now = ctx.clock.now()
            if frame is None or now - asked >= ASK_AGAIN:
                ask_again()
                asked = now
            yield frame
    except RecordingLocked as locked:
        raise _locked(ctx, user, session, locked) from locked


def _as_now(ctx: Context, user: User) -> User:
    """The person as stored now: groups change, people are disabled."""
    with ctx.store.read() as uow:
        fresh = uow.users.get(user.id)
    if fresh is None or not fresh.is_enabled():
        raise journal.refuse(ctx, "policy:denied", _DISABLED, principal=user.name)
    return fresh


def authorised_session(ctx: Context, user: User, session_id: str, action: Action, *, spends: bool = True) -> Session:
    """A session, or a step of a deploy, about which policy lets the person do that. NotFound or Denied."""
    with ctx.store.read() as uow:
        session = uow.sessions.get(session_id)
        step = uow.deploys.step_of_session(session_id) if session is None else None
    if step is not None:
        session = session_of(*step)  # a step of a deploy is a session too
    if session is None:
        raise NotFound(_UNKNOWN)
    authorise(ctx, user, action, *_about(ctx, session), spends=spends)
    return session


def _about(ctx: Context, session: Session) -> tuple[Target | None, Facts]:
    """What policy is asked about; no target when it has left the catalogue meanwhile."""
    target = ctx.catalogue.current().targets.get(session.target)
    return target, Facts(ctx.clock.now(), level=session.level, requester=session.holder)


def _note(ctx: Context, user: User, session: Session, type: str) -> None:
    """Who looks is in the log before there is anything to see."""
    about: journal.About = {**journal.about_session(session), "principal": user.name}
    journal.confirm_logged(ctx, journal.record(ctx, type, data={"holder": session.holder_name}, **about))


def _reader(ctx: Context) -> RecordingReader:
    if not isinstance(ctx.recorder, RecordingReader):
        raise Unavailable(_NO_READER)
    return ctx.recorder


def _proved(ctx: Context, session: Session, reader: RecordingReader) -> Replay:
    """What the log says about the recording; BrokenRecordingError when it and the store tell different stories."""
    ends = _digests(ctx, session, ENDED)
    sealed = sealed_by(ends, _digests(ctx, session, SEEN))
    if session.recording_digest != "{}:{}".format(*ends[0]):
        raise BrokenRecordingError(0, "the stored digest is not the one in the log")
    return Replay(session, *sealed, reader)


def _digests(ctx: Context, session: Session, type: str) -> list[tuple[int, str]]:
    """All of them: whoever can add events could push the old ones out of any number of the newest."""
    digests: list[tuple[int, str]] = []
    wanted = EventFilter(session=session.id, type=type, limit=EVIDENCE_AT_ONCE)
    while True:
        found = ctx.log.search(wanted)
        told = [one.event.data for one in found if one.event.type == type and one.event.session == session.id]
        digests += [digest_in(data) for data in told]
        if len(found) < EVIDENCE_AT_ONCE:
            return digests
        wanted = replace(wanted, before=min((one.index for one in found if one.index is not None), default=0))


def _locked(ctx: Context, user: User, session: Session, locked: RecordingLocked) -> Conflict:
    """Nobody can say whether it is whole, and who reads the log hears of that: a key is also how evidence is lost."""
    require_not_shredded(ctx, session)  # that may have been ordered while it was read
    about: journal.About = {**journal.about_session(session), "principal": user.name}
    data = {"why": str(locked), "expected": session.recording_digest}
    journal.confirm_logged(ctx, journal.record(ctx, "session:recording-locked", "failed", data, **about))
    text = f"The recording of {session.id} cannot be read: {locked}. No event of the log says that it was shredded."
    steps = (
        "The gateway's operators can put its key back from their backup.",
        "If they destroyed it on purpose, they did so behind the log's back: tell whoever watches over them.",
    )
    return Conflict(Refusal("recording-locked", text, next_steps=steps))


def _alarm(ctx: Context, user: User, session: Session, broken: BrokenRecordingError) -> Conflict:
    about: journal.About = {**journal.about_session(session), "principal": user.name}
    data = {"first_bad": broken.seq, "why": broken.why, "expected": session.recording_digest}
    journal.confirm_logged(ctx, journal.record(ctx, "session:recording-broken", "failed", data, **about))
    return Conflict(
        Refusal(
            "recording-broken",
            f"The recording of {session.id} is NOT what the log says. Record {broken.seq}: {broken.why}.",
            next_steps=(
                "Nothing is played. Tell the gateway's operators and keep the recording's files as they are.",
                f"gw audit search --session {session.id} shows what the log knows.",
            ),
        )
    )
