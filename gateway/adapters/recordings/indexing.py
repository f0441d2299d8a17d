"""What the recorder does for its statement index. Nothing of it stands in the way of a recording."""

import json
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import timedelta

from gateway.adapters.recordings.index import NOT_INDEXED, PASSING, StatementIndex
from gateway.adapters.recordings.lane import Batch
from gateway.adapters.recordings.late_index import LateIndex, Paced
from gateway.adapters.recordings.sealed import UNSEALED
from gateway.app.replay_session import RecordingShredded
from gateway.audit.recording import Frame

log = logging.getLogger(__name__)


class Indexing:
    """Feeds the index and makes up in it what it lacks; does nothing where there is none.

    `read(session id)` gives the frames of a recording, `is_live(session id)` says whether it is not sealed yet,
    `sealed()` which are. `start` and `finish` are never called at the same time.
    """

    def __init__(
        self,
        index: StatementIndex | None,
        read: Callable[[str], Iterator[Frame]],
        is_live: Callable[[str], bool],
        sealed: Callable[[], Iterable[str]],
    ) -> None:
        self._index = index
        self._read = read
        self._is_live = is_live
        self._sealed = sealed
        self._noted: frozenset[str] = frozenset()  # at the start
        self._late: LateIndex | None = None

    def start(self) -> None:
        """With what is sealed and not wholly indexed: as a process that was killed left it, or all of it when the index
        is new, because it was deleted or could not be read. Idempotent.
        """
        if self._late is None and self._index is not None:
            self._late = LateIndex(self._is_made_up)
            left = self._left_behind()
            self._noted = frozenset(left)
            for session_id in reversed(left):  # what happened last is looked for most
                self._late.add(session_id)

    def finish(self, timeout: timedelta) -> None:
        """Make up what is under way, and note the rest for the next start; nothing is fed any more. Idempotent."""
        if self._index is None:
            return
        lacking = self._index.waiting()
        if self._late is not None:
            lacking |= self._late.finish(timeout)
            self._late = None
        self.note(lacking)

    def feed(self, batch: Batch) -> None:
        """Take what is durable; cheap."""
        if self._index is not None:
            self._index.feed((entry.lane.session_id, entry.kind, entry.frame) for entry in batch)

    def store(self) -> None:
        """Write down some of what was fed. To be called about once a second."""
        if self._index is not None:
            self._index.store_fed()

    def note(self, session_ids: Collection[str]) -> None:
        """The index lacks something of these: they are made up after the next start, unless they have been before."""
        try:
            if self._index is not None and session_ids:
                self._index.note_behind(session_ids)
        except NOT_INDEXED:
            log.exception("it could not be noted of which sessions not all is indexed")

    def note_ending(self, session_ids: Collection[str]) -> None:
        """What the index lacks of these. To be called before they are sealed, for what is not is recovered."""
        if self._index is None:
            return
        self.note(self._index.left_out().intersection(session_ids))
        try:
            self._index.note_ending(session_ids)
        except NOT_INDEXED:
            log.exception("it could not be noted which sessions end before they are indexed")

    def make_up(self) -> None:
        """One by one what was left out of sessions that are sealed. To be called now and then, at no cost."""
        if self._index is not None and (late := self._late) is not None:
            for session_id in self._index.left_out():
                if not self._is_live(session_id):
                    late.add(session_id)

    def rebuild(self, session_ids: Iterable[str]) -> None:
        """Index these anew from their recordings; what fails is made up later."""
        if self._index is None:
            return
        for session_id in session_ids:
            try:
                self._rebuild(session_id, self._read(session_id))
            except (LookupError, *UNSEALED, *NOT_INDEXED):
                log.exception("the statements of %s could not be indexed", session_id)
                self._index.leave_out(session_id)

    def forget(self, session_id: str) -> None:
        """Destroy what the index has of a session, for good; one of NOT_INDEXED when that fails."""
        if self._index is not None:
            self._index.forget(session_id)

    def _is_made_up(self, session_id: str, paced: Paced) -> bool:
        """False when it may go better later. What cannot be read, or never be held by an index, is not tried again."""
        assert self._index is not None, "only called with an index"
        try:
            if session_id in self._noted and not self._index.is_noted(session_id):
                return True  # by another process meanwhile
            self._rebuild(session_id, paced(self._read(session_id)))
        except PASSING:
            log.exception("the statements of %s could not be indexed yet", session_id)
            return False
        return True

    def _rebuild(self, session_id: str, frames: Iterator[Frame]) -> None:
        assert self._index is not None, "only called with an index"
        try:
            self._index.rebuild_session(session_id, _of_a_database(frames))
        except RecordingShredded:
            self._index.forget(session_id)

    def _left_behind(self) -> Sequence[str]:
        try:
            if self._index is None:
                return ()
            if new := self._index.note_if_blank(self._sealed):
                log.warning("the statement index is new: it is made from %d recordings in the background", new)
            return self._index.left_behind()
        except NOT_INDEXED:
            log.exception("which sessions are not all indexed could not be read")
            return ()


def _of_a_database(frames: Iterator[Frame]) -> Iterator[Frame]:
    """Of a session on a server only the first: it has no statements, and may be large."""
    for frame in frames:
        yield frame
        if frame.seq == 0 and frame.kind == "session" and json.loads(frame.payload).get("protocol") == "ssh":
            return
