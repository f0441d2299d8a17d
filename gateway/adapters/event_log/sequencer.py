"""Grows the tree: one writer with group commit, elected by a lease row among all gateways of one database.

A batch is one transaction: take the lease, check the stored head against its own tiles and signature, give the next
events their positions, store tiles and a signed checkpoint. A batch reads everything that it builds on, so that a
crash, or a commit whose answer was lost, leaves nothing to repair: the next batch starts from what is stored.

INVARIANT: this key signs one tree only. A stored head that is not ours, does not follow from the tiles, or lies
behind what was signed before stops the sequencer for good; then nothing is released any more.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from threading import Condition, Lock, Thread
from typing import Final

from sqlalchemy import Connection, Engine, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError

from gateway.adapters.event_log.tree import (
    EVENTS,
    HEAD,
    Head,
    add_checkpoint,
    newest_head,
    root_at,
    store_tiles,
    stored_bytes,
    tile_loader,
)
from gateway.adapters.signer import Signer
from gateway.adapters.store.engine import writing_engine
from gateway.adapters.store.failures import outages_as_unavailable
from gateway.adapters.store.log_tables import unix_microseconds
from gateway.adapters.store.prepared import Found, Prepared
from gateway.adapters.store.readonly import ReadOnlyDatabase
from gateway.audit.checkpoint import BadNoteError, Checkpoint, open_checkpoint
from gateway.audit.merkle import EMPTY_ROOT, leaf_hash
from gateway.audit.tiles import GrowingTree
from gateway.core.errors import Unavailable

BATCH: Final = 1024
LEASE: Final = timedelta(seconds=2)
IDLE_SECONDS: Final = 0.25
BUSY_SECONDS: Final = 0.05
RETRY_SECONDS: Final = 1.0
REMEMBERED: Final = 4 * BATCH  # events that were sequenced last, for those who wait for them
_LOG: Final = logging.getLogger(__name__)


class TreeMismatchError(Exception):
    """The stored tree is not the one that was signed. It is evidence now: nobody may write to it."""


def utc_now() -> datetime:
    """The system's clock."""
    return datetime.now(UTC)


class Sequencer:
    """Runs in a thread between `start` and `stop`. `owner` names this process in the lease."""

    def __init__(
        self,
        url: str,
        signer: Signer,
        origin: str,
        owner: str,
        now: Callable[[], datetime] = utc_now,
        engine: Engine | None = None,
    ) -> None:
        """`engine` is the store's: then the two wait for their turns in one queue, and neither polls for SQLite's lock
        while hundreds of others of this process get it.
        """
        self._engine = writing_engine(url) if engine is None else engine
        self._owns_engine = engine is None
        self._database = ReadOnlyDatabase(url)
        self._signer = signer
        self._key = signer.verifier(origin)
        self._owner = owner
        self._now = now
        self._one_at_a_time = Lock()
        self._signed: Checkpoint | None = None
        self._note = ""  # the text of that, once it is stored
        lock = Lock()
        # Apart: who waits for its event is not woken by each of the others that asks for a batch.
        self._work, self._news = Condition(lock), Condition(lock)
        self._poked = self._was_poked = self._stopping = False
        self._failure = ""
        self._newest: dict[str, None] = {}  # ids that this process has sequenced, the newest last
        self._thread = Thread(target=self._run, name="sequencer", daemon=True)

    # ---------------------------------------------------------------- for others

    def start(self) -> None:
        """Begin the log if it is new, check it if not (TreeMismatchError, Unavailable), then sequence in a thread."""
        self.prepare()
        self._thread.start()

    def prepare(self) -> None:
        """Begin or check the stored log without starting the thread."""
        with self._one_at_a_time, outages_as_unavailable(), self._engine.begin() as connection:
            self._begin_log(connection)
            self._signed = self._checked_memory(connection)
            self._checked_tree(connection)

    def stop(self) -> None:
        """End the thread after its present batch and close the connections."""
        with self._work:
            self._stopping = True
            self._work.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout=30)
            self._sequence_the_rest()
        if self._owns_engine:
            self._engine.dispose()
        self._database.close()

    def _sequence_the_rest(self) -> None:
        """What was appended while stopping is signed now rather than at the next start."""
        if self._failure or self._thread.is_alive():
            return
        try:
            self.sequence()
        except (Unavailable, OSError, TreeMismatchError) as error:
            _LOG.warning("the last events are sequenced at the next start: %s", error)

    def poke(self) -> None:
        """There is something to sequence: do it now."""
        with self._work:
            self._poked = True
            self._work.notify_all()

    def wait_for(self, event_ids: Collection[str], timeout: float) -> bool:
        """True as soon as this process has sequenced them all; False after `timeout` seconds.

        False says nothing: another gateway may have done it, or it was long ago.
        """
        with self._news:
            return self._news.wait_for(lambda: all(of in self._newest for of in event_ids), timeout)

    @property
    def failure(self) -> str:
        """Why it has stopped for good; "" while all is well."""
        return self._failure

    # ---------------------------------------------------------------- the thread

    def _run(self) -> None:
        try:
            self._sequence_until_stopped()
        finally:
            if not self._stopping and not self._failure:
                self._failure = "a bug ended the sequencer"

    def _sequence_until_stopped(self) -> None:
        pause = IDLE_SECONDS
        while self._sleep(pause):
            try:
                count = self.sequence() if self._was_poked or self._has_work() else 0
                pause = BUSY_SECONDS if count else min(IDLE_SECONDS, pause * 1.5)
            except (Unavailable, OSError) as error:
                _LOG.warning("sequencing is delayed: %s", error)
                pause = RETRY_SECONDS
            except TreeMismatchError as error:
                self._failure = str(error)
                _LOG.critical("SEQUENCING STOPPED, nothing will be released: %s", error)
                return

    def _sleep(self, seconds: float) -> bool:
        """False when it is time to stop."""
        with self._work:
            self._work.wait_for(lambda: self._poked or self._stopping, seconds)
            self._was_poked, self._poked = self._poked, False
            return not self._stopping

    def _has_work(self) -> bool:
        with self._database.view() as connection:
            return connection.execute(_ANY_WAITS).first() is not None

    # ---------------------------------------------------------------- a batch

    def sequence(self) -> int:
        """Sequence all that waits; how many events, 0 when another gateway holds the lease."""
        total = 0
        while done := self._batch():
            total += len(done)
            with self._news:
                self._newest |= dict.fromkeys(done)
                for of in list(islice(self._newest, max(0, len(self._newest) - REMEMBERED))):
                    del self._newest[of]
                self._news.notify_all()
            if len(done) < BATCH:
                break
        return total

    def _batch(self) -> Sequence[str]:
        """Ids of the events that have positions now."""
        with self._one_at_a_time:
            try:
                with outages_as_unavailable(committing=True), self._engine.begin() as connection:
                    head, done = self._grow(connection) if self._take_lease(connection) else (None, ())
            except IntegrityError as error:
                raise TreeMismatchError("a position or size is taken that should be free") from error
            if head is not None:  # only what was committed is remembered
                self._signed, self._note = Checkpoint(self._key.name, head.size, head.root), head.note
                self._signer.remember(head.note)
            return done

    def _take_lease(self, connection: Connection) -> bool:
        at, length = unix_microseconds(self._now()), LEASE // timedelta(microseconds=1)
        until = at + length
        # An end that is too far away was written before a clock was set back.
        told = {"of": self._owner, "at": at, "too_far": until + length, "until": until}
        return _TAKE_LEASE.run(connection, told) == 1

    def _grow(self, connection: Connection) -> tuple[Head | None, Sequence[str]]:
        waiting = _WAITING.find(connection)
        if not waiting:
            return None, ()
        tree = self._checked_tree(connection)
        _give_positions(connection, waiting, tree.size)
        for row in waiting:
            tree.append(leaf_hash(stored_bytes(row[EVENTS.c.leaf])))
        store_tiles(connection, tree.changed)
        head = self._sign(connection, Checkpoint(self._key.name, tree.size, tree.root()))
        return head, [row[EVENTS.c.id] for row in waiting]

    def _sign(self, connection: Connection, checkpoint: Checkpoint) -> Head:
        head = Head(checkpoint.size, checkpoint.root, self._signer.sign(checkpoint))
        add_checkpoint(connection, head, unix_microseconds(self._now()))
        return head

    # ---------------------------------------------------------------- trust in what is stored

    def _begin_log(self, connection: Connection) -> None:
        if connection.execute(select(HEAD.c.id)).first() is None:
            connection.execute(insert(HEAD).values(id=1, owner="", expires_at=0))
        if newest_head(connection) is None and self._signer.remembered(self._key.name) is None:
            self._sign(connection, Checkpoint(self._key.name, 0, EMPTY_ROOT))

    def _checked_memory(self, connection: Connection) -> Checkpoint | None:
        """What this key signed last must still be part of the stored log."""
        try:
            signed = self._signer.remembered(self._key.name)
        except ValueError as error:
            raise TreeMismatchError(f"the signer's memory of what it signed is unusable: {error}") from error
        if signed is not None and root_at(connection, signed.size) != signed.root:
            raise TreeMismatchError(
                f"this key has signed {signed.size} events that the database does not hold: it was put back to an "
                "earlier state. Restore the newer one, or begin a new log with a new key and a new origin"
            )
        return signed

    def _checked_tree(self, connection: Connection) -> GrowingTree:
        """The stored tree, once it is sure that it is the one that was signed."""
        head = newest_head(connection)
        if head is None:
            raise TreeMismatchError("the log has no checkpoint any more")
        try:
            checkpoint = self._opened(head.note)
            tree = GrowingTree(head.size, tile_loader(connection))
            root = tree.root()
        except BadNoteError as error:
            raise TreeMismatchError(f"the newest checkpoint is not one of this key: {error}") from error
        except ValueError as error:
            raise TreeMismatchError(f"the stored tree is damaged: {error}") from error
        if not (checkpoint.size == head.size and checkpoint.root == head.root == root):
            raise TreeMismatchError(f"the tiles do not give the root that was signed for {checkpoint.size} events")
        self._require_not_behind(checkpoint)
        self._require_all_that_was_signed(connection)
        return tree

    def _require_all_that_was_signed(self, connection: Connection) -> None:
        """What another process has signed with this key since, this one has not seen."""
        if self._signer.remembered_note() != self._note.encode():
            self._checked_memory(connection)

    def _opened(self, note: str) -> Checkpoint:
        """What a note of this key says. The very text that this process has signed needs no second look."""
        if self._signed is not None and note == self._note:
            return self._signed
        return open_checkpoint(note, self._key)[0]

    def _require_not_behind(self, checkpoint: Checkpoint) -> None:
        signed = self._signed
        if signed is None or checkpoint.size > signed.size:
            return
        if checkpoint != signed:
            raise TreeMismatchError(f"the database went back from {signed.size} events to {checkpoint.size}")


def _give_positions(connection: Connection, rows: Sequence[Found], first: int) -> None:
    _GIVE_POSITION.run(connection, *({"of": row[EVENTS.c.ordinal], "to": first + i} for i, row in enumerate(rows)))


# Made once: building a statement anew costs more than running it, and these run in every batch.
_ANY_WAITS: Final = select(EVENTS.c.id).where(EVENTS.c.position.is_(None)).limit(1)
_WAITING: Final = Prepared(
    select(EVENTS.c.ordinal, EVENTS.c.id, EVENTS.c.leaf)
    .where(EVENTS.c.position.is_(None))
    .order_by(EVENTS.c.ordinal)
    .limit(BATCH)
)
_IS_FREE: Final = (
    (HEAD.c.owner == bindparam("of"))
    | (HEAD.c.expires_at <= bindparam("at"))
    | (HEAD.c.expires_at > bindparam("too_far"))
)
_TAKE_LEASE: Final = Prepared(
    update(HEAD).where(HEAD.c.id == 1, _IS_FREE).values(owner=bindparam("of"), expires_at=bindparam("until"))
)
_GIVE_POSITION: Final = Prepared(
    update(EVENTS).where(EVENTS.c.ordinal == bindparam("of")).values(position=bindparam("to"))
)
