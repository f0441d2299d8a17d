"""What the recorder does for its statement index. Nothing of it stands in the way of a recording."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta

from gateway.adapters.recordings.index import NOT_INDEXED, StatementIndex
from gateway.adapters.recordings.lane import Batch
from gateway.adapters.recordings.late_index import LateIndex, Paced
from gateway.adapters.recordings.sealed import UNSEALED
from gateway.audit.recording import Frame

log = logging.getLogger(__name__)


class Indexing:
    """Feeds the index and makes up in it what was left out; does nothing where there is none.

    `read(session id)` gives the frames of a recording. `start` and `finish` are never called at the same time.
    """

    def __init__(self, index: StatementIndex | None, read: Callable[[str], Iterator[Frame]]) -> None:
        self._index = index
        self._read = read
        self._late: LateIndex | None = None

    def start(self) -> None:
        """With what is sealed and not wholly indexed, as a process that was killed left it. Idempotent."""
        if self._late is None and self._index is not None:
            self._late = LateIndex(lambda session_id, paced: self.rebuild([session_id], paced))
            for session_id in self._left_behind():
                self._late.add(session_id)

    def finish(self, timeout: timedelta) -> None:
        """Make up what is under way, and note what is still to be stored; nothing is fed any more. Idempotent."""
        if self._late is not None:
            self._late.finish(timeout)
            self._late = None
        for session_id in self._index.waiting() if self._index is not None else ():
            self._note_behind(session_id)  # so that it is indexed after the next start

    def feed(self, batch: Batch) -> None:
        """Take what is durable; cheap."""
        if self._index is not None:
            self._index.feed((entry.lane.session_id, entry.kind, entry.frame) for entry in batch)

    def store(self) -> None:
        """Write down some of what was fed. To be called about once a second."""
        if self._index is not None:
            self._index.store_fed()

    def note_ending(self, session_ids: Sequence[str]) -> list[str]:
        """Before they are sealed, for what is not is recovered: note what the index lacks of them. Those that were too
        busy for it are to be made up by `add` once they are sealed.
        """
        if self._index is None:
            return []
        behind = [session_id for session_id in session_ids if self._index.is_behind(session_id)]
        for session_id in behind:
            self._note_behind(session_id)
        try:
            self._index.note_ending(session_ids)  # one write for all
        except NOT_INDEXED:
            log.exception("it could not be noted which sessions end before they are indexed")
        return behind

    def add(self, session_ids: Iterable[str]) -> None:
        """Make these up, one by one."""
        if (late := self._late) is not None:
            for session_id in session_ids:
                late.add(session_id)

    def rebuild(self, session_ids: Iterable[str], paced: Paced = iter) -> None:
        """Index these anew from their recordings."""
        if self._index is None:
            return
        for session_id in session_ids:
            try:
                self._index.rebuild_session(session_id, paced(self._read(session_id)))
            except (LookupError, *UNSEALED, *NOT_INDEXED):
                log.exception("the statements of %s could not be indexed", session_id)

    def _note_behind(self, session_id: str) -> None:
        try:
            if self._index is not None:
                self._index.note_behind(session_id)
        except NOT_INDEXED:
            log.exception("it could not be noted that the statements of %s are not all indexed", session_id)

    def _left_behind(self) -> Sequence[str]:
        try:
            return self._index.left_behind() if self._index is not None else ()
        except NOT_INDEXED:
            log.exception("which sessions are not all indexed could not be read")
            return ()
