"""The one thread that writes: frames of all sessions in, one synchronous write per batch, then the news.

Group commit comes by itself: while one batch is being synced the next gathers.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Condition, Event, Lock, Thread
from time import monotonic

from gateway.adapters.recordings.gap import Gap
from gateway.adapters.recordings.lane import GAP, Batch, Entry, Lane, Parts
from gateway.adapters.recordings.spool import MAX_BATCH, Disk, Segment, block
from gateway.app.recording_ports import RecordingFailed
from gateway.audit.recording import BATCH, HEADER_SIZE, MAX_KIND, MAX_PAYLOAD, batch_of, encode

log = logging.getLogger(__name__)
MAX_ENTRIES = 8192  # of one batch: the time that it keeps the others waiting
TOO_SLOW = "the recording disk is too slow"
CLOSED = "the recording is closed"


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """Bytes and times. A session's queue is bounded on its own, so that one cannot starve the others."""

    segment_bytes: int = 64 * 1024 * 1024
    queue_bytes: int = 64 * 1024 * 1024
    session_queue_bytes: int = 4 * 1024 * 1024
    append_timeout: timedelta = timedelta(seconds=5)
    seal_timeout: timedelta = timedelta(seconds=10)
    spool_delay: timedelta = timedelta(milliseconds=50)


class SpoolWriter:
    """`first` numbers the first segment; `on_batch` gets every durable batch, on the writer's thread."""

    def __init__(
        self,
        directory: Path,
        gateway: str,
        first: int,
        limits: SpoolLimits,
        disk: Disk,
        on_batch: Callable[[Batch], None],
    ) -> None:
        self._directory, self._gateway, self._limits, self._disk = directory, gateway, limits, disk
        self._on_batch = on_batch
        self._number = first
        self._segment: Segment | None = None
        self.lock = Lock()
        self._work = Condition(self.lock)
        self._room = Condition(self.lock)
        self._queue: deque[Entry] = deque()
        self._queued = 0
        self._urgent = False
        self._stopping = False
        self._in_hand: Batch = ()  # being written since
        self._since = monotonic()
        self._thread = Thread(target=self._run, name="recording-writer", daemon=True)
        self._thread.start()
        self._is_over = Event()
        Thread(target=self._watch, name="recording-watch", daemon=True).start()

    # ------------------------------------------------------------ called by sessions

    def append(self, lane: Lane, kind: str, at_ns: int, payload: bytes, *, continues: bool) -> int:
        """Queue one frame; its number. Blocks while there is no room, then RecordingFailed."""
        with self.lock:
            size = len(payload) + HEADER_SIZE
            if lane.failure or lane.closed or self._stopping or not self._has_room(lane, size):
                self._make_room(lane, size)
            if lane.gap is not None and not self._resumes(lane, at_ns, size):
                lane.gap.lose(at_ns, size)
                return lane.next_seq
            return self._put(lane, kind, at_ns, payload, continues=continues)

    def append_all(self, lane: Lane, records: Sequence[tuple[str, int, bytes]]) -> int | None:
        """Queue one frame for every (kind, unix ns, payload); its number. None when `append` has to do it."""
        size = sum([len(payload) for _, _, payload in records]) + (HEADER_SIZE + MAX_KIND) * len(records)
        if not records or size > MAX_PAYLOAD:
            return None
        kind, at_ns, payload = records[0]
        kinds: tuple[str, ...] = ()
        if len(records) > 1:
            kind, payload, kinds = BATCH, batch_of(records), tuple([kind for kind, _, _ in records])
        with self.lock:
            if lane.failure or lane.closed or self._stopping or lane.gap or not self._has_room(lane, size):
                return None
            return self._put(lane, kind, at_ns, payload, kinds=kinds)

    def _put(
        self,
        lane: Lane,
        kind: str,
        at_ns: int,
        payload: bytes,
        *,
        continues: bool = False,
        kinds: tuple[str, ...] = (),
    ) -> int:
        seq = lane.next_seq
        entry = Entry(lane, kind, encode(seq, at_ns, kind, payload, continues=continues), kinds)
        lane.next_seq = seq + 1
        lane.queued += len(entry.frame)
        lane.queued_records += entry.total()
        self._queued += len(entry.frame)
        self._queue.append(entry)
        if lane.urgent and not self._urgent:
            self._hurry()
        elif len(self._queue) == 1:
            self._work.notify()
        return seq

    def _resumes(self, lane: Lane, at_ns: int, size: int) -> bool:
        """In a gap: True when it is time to try again, with the record that tells of the gap in front."""
        gap = lane.gap
        assert gap is not None, "only asked in a gap"
        if not self._has_room(lane, size):
            return False
        if gap.told is None:
            if not gap.is_due():
                return False
            if lane.next_seq == 0 and lane.opening is not None:
                self._put(lane, *lane.opening)
            gap.told = self._put(lane, GAP, at_ns, gap.payload())
        return True

    def wait_durable(self, lane: Lane, seq: int, timeout: timedelta) -> None:
        """Return once frame `seq` is durable; RecordingFailed when it will not be, or not in time.

        A tolerant lane just returns.
        """
        with self.lock:
            self._hurry()
            lane.news.wait_for(
                lambda: lane.durable_count > seq or lane.frozen or lane.gap is not None, timeout.total_seconds()
            )
            if lane.durable_count <= seq and not lane.tolerant:
                raise RecordingFailed(lane.failure or (CLOSED if lane.frozen else TOO_SLOW))

    def on_durable(self, lane: Lane, seq: int, callback: Callable[[bool], None]) -> None:
        """Call back once when frame `seq` is durable (True), or will never be or not in time (False).

        A tolerant lane waits for nothing.
        """
        with self.lock:
            if lane.durable_count <= seq and not lane.failure and not lane.frozen and not lane.tolerant:
                lane.waiting.append((seq, callback))
                self._hurry()
                return
            is_durable = lane.durable_count > seq or lane.tolerant
        callback(is_durable)

    def settle(self, lane: Lane) -> bool:
        """Take nothing more, wait for what is queued, freeze; True when all of it is durable and nothing failed."""
        with self.lock:
            if lane.gap is not None and not lane.closed:  # the last chance to tell of it in the recording itself
                lane.gap.hurry()
                self._resumes(lane, lane.gap.until_ns, 0)
            lane.closed = True
            self._room.notify_all()
            self._hurry()
            lane.news.wait_for(lane.is_settled, self._limits.seal_timeout.total_seconds())
            is_whole = lane.durable_count == lane.next_seq and not lane.failure
            lane.failure = lane.failure or ("" if is_whole else TOO_SLOW)
            if lane.tolerant and lane.durable_count < lane.next_seq:
                gap = lane.gap = lane.gap or Gap(TOO_SLOW, lane.durable_count)
                gap.records += lane.queued_records - (gap.told is not None)
            refused = self._freeze(lane)
        _call(refused, is_durable=False)
        return is_whole

    def current_number(self) -> int:
        """Of the segment being written. Everything in the ones below it is settled."""
        return self._number - 1

    def stop(self, timeout: timedelta) -> bool:
        """Write what is queued, then end the thread; False when it did not end in time."""
        with self.lock:
            self._stopping = True
            self._work.notify()
            self._room.notify_all()
        self._thread.join(timeout.total_seconds())
        self._is_over.set()
        return not self._thread.is_alive()

    def _hurry(self) -> None:
        if not self._urgent and self._queue:
            self._urgent = True
            self._work.notify()

    def _has_room(self, lane: Lane, size: int) -> bool:
        """A frame always fits into an empty queue, however small the limit."""
        own = lane.queued == 0 or lane.queued + size <= self._limits.session_queue_bytes
        return own and (self._queued == 0 or self._queued + size <= self._limits.queue_bytes)

    def _make_room(self, lane: Lane, size: int) -> None:
        """Back-pressure. Whoever waits too long has lost its recording: RecordingFailed, now and for good.

        A tolerant lane is in a gap then, and does not wait while it is in one.
        """
        until = monotonic() + self._limits.append_timeout.total_seconds()
        self._hurry()
        while not (lane.failure or lane.closed or self._stopping or lane.gap or self._has_room(lane, size)):
            if not self._room.wait(until - monotonic()) and not self._has_room(lane, size):
                if lane.tolerant:
                    lane.gap = lane.gap or Gap(TOO_SLOW, lane.next_seq)
                    break
                lane.failure = TOO_SLOW
                _tell(lane.fail())
        if lane.failure or lane.closed or self._stopping:
            raise RecordingFailed(lane.failure or CLOSED)

    def _freeze(self, lane: Lane) -> list[Callable[[bool], None]]:
        lane.frozen = True
        lane.news.notify_all()
        refused = [callback for _, callback in lane.waiting]
        lane.waiting.clear()
        return refused

    # ------------------------------------------------------------ a thread that watches the writer's

    def _watch(self) -> None:
        """One write that takes too long: whoever waits for it waits no longer. A store on that disk may hang, too, so
        nothing else may be asked of this thread.
        """
        patience = self._limits.append_timeout.total_seconds()
        while not self._is_over.wait(min(1.0, patience)):
            refused: list[Callable[[bool], None]] = []
            told: list[Callable[[], None]] = []
            with self.lock:
                is_late = self._in_hand and monotonic() - self._since > patience
                late = [*self._in_hand, *self._queue] if is_late else ()
                for lane in _by_lane(late):
                    if lane.waiting:
                        lane.failure = lane.failure or TOO_SLOW
                        refused += [callback for _, callback in lane.waiting]
                        lane.waiting.clear()
                        told += lane.fail()
            _call(refused, is_durable=False)
            _tell(told)

    # ------------------------------------------------------------ the writer's thread

    def _run(self) -> None:
        while batch := self._next_batch():
            try:
                self._write(batch)
            except Exception as error:  # noqa: BLE001 - the thread must live: without it every session would wait for ever
                self._fail(batch, error)
        if self._segment is not None:
            self._segment.retire()

    def _next_batch(self) -> list[Entry]:
        """What is queued, up to `MAX_BATCH` bytes; empty when it is time to stop."""
        with self.lock:
            self._in_hand = ()
            while not self._queue and not self._stopping:
                self._work.wait()
            if not self._urgent and not self._stopping:
                self._work.wait(self._limits.spool_delay.total_seconds())
            batch: list[Entry] = []
            size = 0
            while self._queue and size < MAX_BATCH and len(batch) < MAX_ENTRIES:
                entry = self._queue.popleft()
                batch.append(entry)
                size += len(entry.frame)
            self._urgent = bool(self._queue)
            self._in_hand, self._since = batch, monotonic()
            return batch

    def _write(self, batch: Batch) -> None:
        parts = _by_lane(batch)
        blocks = [(lane, _block(lane, entries)) for lane, entries in parts.items() if not lane.frozen]
        content = b"".join(part for _, pair in blocks for part in pair)
        segment = self._segment_for(len(content))
        start = segment.append(content) if content else segment.size
        self._on_batch(batch)  # first: whoever seals a session then knows what the index has still to store of it
        done = self._settle(parts, [(lane, len(head) + len(body)) for lane, (head, body) in blocks], segment, start)
        _call(done, is_durable=True)

    def _segment_for(self, size: int) -> Segment:
        if self._segment is not None and self._segment.size + size > self._limits.segment_bytes:
            self._segment.retire()
            self._segment = None
        if self._segment is None:
            number = self._number
            self._number += 1
            self._segment = Segment(self._directory, self._gateway, number, self._disk)
        return self._segment

    def _settle(
        self, parts: Parts, blocks: Iterable[tuple[Lane, int]], segment: Segment, start: int
    ) -> list[Callable[[bool], None]]:
        """Whom to tell that it is durable."""
        done: list[Callable[[bool], None]] = []
        with self.lock:
            self._release(parts)
            for lane, size in blocks:
                start += size
                if lane.frozen:  # given up while this was on its way: it must not grow any more
                    continue
                lane.cover(segment.path, start - size, start)
                lane.durable_count, lane.durable_digest = lane.chain.count, lane.chain.digest
                lane.count_in(parts[lane])
                lane.leave_gap()
                while lane.waiting and lane.waiting[0][0] < lane.durable_count:
                    done.append(lane.waiting.popleft()[1])
                lane.news.notify_all()
        return done

    def _fail(self, batch: Batch, error: Exception) -> None:
        """Nothing of the batch or the queue is kept; every session that had something there is told once.

        A tolerant one is not told: it is in a gap from here on.
        """
        why = error.strerror if isinstance(error, OSError) else type(error).__name__
        log.error("recordings cannot be written: %s", why)
        if self._segment is not None:
            self._segment.retire()
            self._segment = None
        refused: list[Callable[[bool], None]] = []
        told: list[Callable[[], None]] = []
        with self.lock:
            lost = [*batch, *self._queue]
            self._queue.clear()
            parts = _by_lane(lost)
            self._release(parts)
            for lane, entries in parts.items():
                if lane.tolerant:
                    if not lane.frozen:
                        lane.lose(entries, f"the recording cannot be written: {why}")
                    continue
                lane.failure = lane.failure or f"the recording cannot be written: {why}"
                refused += self._freeze(lane)
                told += lane.fail()
        _call(refused, is_durable=False)
        for on_failure in told:
            on_failure()

    def _release(self, parts: Parts) -> None:
        for lane, entries in parts.items():
            size = sum([len(entry.frame) for entry in entries])
            lane.queued -= size
            lane.queued_records -= sum([len(entry.kinds) or 1 for entry in entries])
            self._queued -= size
        self._room.notify_all()


def _by_lane(batch: Batch) -> Parts:
    parts: dict[Lane, list[Entry]] = {}
    for entry in batch:
        parts.setdefault(entry.lane, []).append(entry)
    return parts


def _block(lane: Lane, entries: Batch) -> tuple[bytes, bytes]:
    number = lane.blocks
    lane.blocks += 1
    return block(lane.key, number, [(entry.frame, lane.chain.extend(entry.frame)) for entry in entries])


def _call(callbacks: Iterable[Callable[[bool], None]], *, is_durable: bool) -> None:
    for callback in callbacks:
        try:
            callback(is_durable)
        except Exception:  # one session's closed event loop must not stop the recording of the others
            log.exception("a session did not take the news about its recording")


def _tell(told: Sequence[Callable[[], None]]) -> None:
    """From another thread, as the port promises: whoever hears it may ask a store."""
    if told:
        Thread(target=lambda: [on_failure() for on_failure in told], name="recording-failed", daemon=True).start()
