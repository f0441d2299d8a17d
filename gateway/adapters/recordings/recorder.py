"""The recorder of one process: one spool for all its sessions, a sealed file for each when it is over."""

import json
import logging
import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event, Lock, Thread
from time import monotonic

from gateway.adapters.recordings import recovery
from gateway.adapters.recordings.files import RecordingFiles
from gateway.adapters.recordings.gap import Gap
from gateway.adapters.recordings.index import NOT_INDEXED, StatementIndex
from gateway.adapters.recordings.indexing import Indexing
from gateway.adapters.recordings.keys import Keyring
from gateway.adapters.recordings.lane import Lane
from gateway.adapters.recordings.shredding import Orders, is_in_spool, overwrite_key
from gateway.adapters.recordings.spool import (
    Disk,
    Stretch,
    frames_of,
    private_directory,
    require_gateway,
    require_session_id,
    segments,
)
from gateway.adapters.recordings.writer import SpoolLimits, SpoolWriter
from gateway.app.recording_ports import RecordingFailed
from gateway.app.shred_session import ShredFailed, ShredOrders
from gateway.audit.recording import MAX_PAYLOAD, Frame, unix_ns, verified
from gateway.core.obligation import Record
from gateway.core.session import Session

log = logging.getLogger(__name__)
GATHER = 0.05  # seconds in which sessions end that are sealed together
MOST_AT_ONCE = 64
RETRY = 5.0  # seconds until sealing is tried again, for example on a full disk
Evidence = Callable[[str, int, str, dict[str, int]], None]
Gaps = Callable[[str, dict[str, object]], None]


class SpoolRecording:
    """The `Recording` of one session. Thread-safe."""

    def __init__(self, lane: Lane, writer: SpoolWriter, hand_over: Callable[[Lane], None]) -> None:
        self._lane = lane
        self._writer = writer
        self._hand_over = hand_over
        self._order = Lock()  # pieces of one record stay together
        self._sealing = Lock()
        self._is_whole: bool | None = None

    def append(self, kind: str, at: datetime, data: bytes) -> int:
        """Queue one record; the number of its last frame. See `recording_ports.Recording`."""
        with self._order:
            return self._append(kind, unix_ns(at), data)

    def append_all(self, records: Sequence[tuple[str, int, bytes]]) -> int:
        """See `recording_ports.Recording`."""
        with self._order:
            last = self._writer.append_all(self._lane, records)
            if last is None:  # it may have to wait, in a gap or to be split
                last = -1
                for kind, at_ns, data in records:
                    last = self._append(kind, at_ns, data)
            return last

    def _append(self, kind: str, at_ns: int, data: bytes) -> int:
        start = 0
        while len(data) - start > MAX_PAYLOAD:
            piece = data[start : start + MAX_PAYLOAD]
            self._writer.append(self._lane, kind, at_ns, piece, continues=True)
            start += MAX_PAYLOAD
        return self._writer.append(self._lane, kind, at_ns, data[start:] if start else data, continues=False)

    def wait_durable(self, seq: int, timeout: timedelta) -> None:
        """See `recording_ports.Recording`."""
        self._writer.wait_durable(self._lane, seq, timeout)

    def on_durable(self, seq: int, callback: Callable[[bool], None]) -> None:
        """See `recording_ports.Recording`. When it is decided already, the callback comes at once, from this thread."""
        self._writer.on_durable(self._lane, seq, callback)

    def digest(self) -> tuple[int, str]:
        """(count, hex digest) of what is durable."""
        with self._writer.lock:
            return self._lane.durable_count, self._lane.durable_digest.hex()

    def seal(self) -> tuple[int, str]:
        """The final (count, digest), fixed from here on; the session's own file is made in the background.

        RecordingFailed when something that was appended could not be kept; `digest` says what could. A best-effort
        recording does not fail: what it lost is in the log as gaps.
        """
        with self._sealing:
            if self._is_whole is None:
                self._is_whole = self._writer.settle(self._lane)
                self._hand_over(self._lane)
        if not self._is_whole and not self._lane.tolerant:
            raise RecordingFailed(self._lane.failure)
        return self.digest()


class FileRecorder(RecordingFiles):
    """Implements `recording_ports.Recorder`, and reading. Makes, starts nothing before the first `open` or `recover`.

    `evidence(session id, count, hex digest, counters)` is called from the recorder's own thread, at most once a second
    for each session that grew, and when it ends; when it raises it is tried again a second later.
    `gaps(session id, described)` tells of what a best-effort recording lost, likewise: `state` is `begun`, then `over`
    or, at the end of a session whose recorder never came back, `to-the-end`.
    """

    def __init__(
        self,
        directory: Path,
        gateway: str,
        keys: Keyring,
        *,
        evidence: Evidence | None = None,
        gaps: Gaps | None = None,
        index: StatementIndex | None = None,
        limits: SpoolLimits | None = None,
        disk: Disk | None = None,
        evidence_every: timedelta = timedelta(seconds=1),
    ) -> None:
        super().__init__(directory, keys)
        self._gateway = require_gateway(gateway)
        self.orders: ShredOrders = Orders(directory / "keys")
        self._evidence = evidence
        self._gaps = gaps
        self._limits = limits or SpoolLimits()
        self._disk = disk or Disk()
        self._evidence_every = evidence_every
        self._starting = Lock()
        self._reporting = Lock()
        self._lock: recovery.SpoolLock | None = None
        self._writer: SpoolWriter | None = None
        self._first = 1  # number of this process's first segment
        self._lanes: dict[str, Lane] = {}  # guarded by the writer's lock
        self._indexing = Indexing(index, self.read, self._lanes.__contains__, self.sealed.sessions)
        self._to_seal: queue.SimpleQueue[Lane | None] = queue.SimpleQueue()
        self._stopping = Event()
        self._threads: list[Thread] = []

    # ------------------------------------------------------------ the port

    def open(self, session: Session, mode: Record, on_failure: Callable[[], None]) -> SpoolRecording:
        """Begin. The first record, kind `session`, says whose it is, and is durable before this returns.

        `best-effort` begins also when it cannot be kept, and keeps it later; but not without a directory to write in.
        """
        try:
            writer = self._started()
        except OSError as error:
            raise RecordingFailed(f"the recording directory cannot be used: {error.strerror}") from error
        key = self._keys.fresh(require_session_id(session.id))
        tolerant = mode is Record.BEST_EFFORT
        lane = Lane(key, writer.lock, urgent=mode is Record.REQUIRE, tolerant=tolerant)
        described = json.dumps(_described(session, mode)).encode()
        lane.opening = ("session", unix_ns(session.started_at), described) if tolerant else None
        with writer.lock:
            if session.id in self._lanes:
                raise RecordingFailed(f"{session.id} is being recorded already")
            self._lanes[session.id] = lane
        recording = SpoolRecording(lane, writer, self._take_over)
        try:
            seq = recording.append("session", session.started_at, described)
            recording.wait_durable(seq, self._limits.append_timeout)
        except RecordingFailed:
            writer.settle(lane)
            with writer.lock:
                del self._lanes[session.id]
            raise
        with writer.lock:
            lane.on_failure = on_failure
        return recording

    def recover(self) -> Sequence[tuple[str, int, str]]:
        """Seal what this gateway left behind when it died; see `recovery.recover`. To be called before `open`."""
        with self._starting:
            self._hold_name()
            left = segments(self.spool_directory, self._gateway)
            if self._writer is not None:
                left = [name for name in left if name.number < self._first]
            results = recovery.recover(self.sealed, self._keys, left, self._indexing.note) if left else []
        self._indexing.rebuild(session_id for session_id, _, _ in results)
        with self._starting:
            self._indexing.start()
        return results

    def recover_all(self) -> Sequence[tuple[str, int, str]]:
        """The same for other gateways on this directory of which no process lives."""
        private_directory(self.spool_directory)
        results = recovery.recover_all(self.spool_directory, self.sealed, self._keys, self._indexing.note)
        self._indexing.rebuild(session_id for session_id, _, _ in results)
        return results

    def sealed_digest(self, session_id: str) -> tuple[int, str] | None:
        """(count, digest) of a sealed recording; None when it is not sealed or damaged."""
        return self.sealed.digest(session_id)

    def can_shred(self, session_id: str) -> bool:
        """See `shred_session.Shredder`. Also when the sealed file itself was moved away: its key stays here."""
        key = self.sealed.key_path(session_id)
        if session_id in self._lanes or not key.is_file():
            return False
        return self.sealed.find(session_id) is not None or not is_in_spool(key, self.spool_directory)

    def shred(self, session_id: str) -> None:
        """See `shred_session.Shredder`."""
        try:
            overwrite_key(self.sealed.key_path(session_id), self.spool_directory)
            self._indexing.forget(session_id)
        except OSError as error:
            raise ShredFailed(f"its key cannot be overwritten: {error.strerror}") from error
        except NOT_INDEXED as error:
            raise ShredFailed("its key is destroyed, but its statements cannot be taken out of their index") from error

    def close(self, timeout: timedelta = timedelta(seconds=30)) -> None:
        """Write what is queued, seal what is over, stop the threads. What is not over is found by `recover`."""
        with self._starting:
            is_stopped = self._stop_writing(timeout)
            self._indexing.finish(timeout)
            if not is_stopped:
                log.error("the recording disk does not answer; what is left is recovered at the next start")
            elif self._lock is not None:
                self._lock.release()
                self._lock = None

    def _stop_writing(self, timeout: timedelta) -> bool:
        if self._writer is None:
            return True
        self._stopping.set()
        self._to_seal.put(None)
        for thread in self._threads:
            thread.join(timeout.total_seconds())
        if not self._writer.stop(timeout):
            return False
        with self._writer.lock:
            self._remove_empty_segments(below=self._writer.current_number() + 1)
        self._writer = None
        return True

    # ------------------------------------------------------------ threads

    def _started(self) -> SpoolWriter:
        with self._starting:
            if self._writer is None:
                if self._stopping.is_set():
                    raise RecordingFailed("the recorder is closed")
                self._hold_name()
                used = segments(self.spool_directory, self._gateway)
                self._first = max((name.number for name in used), default=0) + 1
                self._writer = SpoolWriter(
                    self.spool_directory, self._gateway, self._first, self._limits, self._disk, self._indexing.feed
                )
                self._threads = [
                    Thread(target=self._report_for_ever, name="recording-clerk", daemon=True),
                    Thread(target=self._seal_for_ever, name="recording-sealer", daemon=True),
                ]
                self._indexing.start()
                for thread in self._threads:
                    thread.start()
            return self._writer

    def _hold_name(self) -> None:
        if self._lock is None:
            private_directory(self.directory)
            self._lock = recovery.SpoolLock(self.spool_directory, self._gateway)

    def _report_for_ever(self) -> None:
        while not self._stopping.wait(self._evidence_every.total_seconds()):
            self._report_grown()
        self._report_grown()

    def _report_grown(self) -> None:
        with self._running().lock:
            grown = [lane for lane in self._lanes.values() if lane.durable_count > lane.reported]
            holed = [lane for lane in self._lanes.values() if lane.gap is not None or lane.past_gaps]
        for lane in grown:
            self._report(lane)
        for lane in holed:
            self._tell_gaps(lane)
        self._indexing.store()

    def _report(self, lane: Lane) -> None:
        with self._reporting:  # the clerk and the sealer both report, and never an older count after a newer one
            with self._running().lock:
                count, digest, counts = lane.durable_count, lane.durable_digest.hex(), dict(lane.counts)
            if self._evidence is None or count <= lane.reported:
                return
            try:
                self._evidence(lane.session_id, count, digest, {"records": count, **counts})
                lane.reported = count
            except Exception:  # the thread must live: the next second brings the next try
                log.exception("the evidence of %s could not be handed on", lane.session_id)

    def _tell_gaps(self, lane: Lane) -> bool:
        """Hand on what is new about gaps; False when that has to be tried again."""
        with self._reporting:
            try:
                while news := self._gap_news(lane):
                    gap, state = news
                    if self._gaps is not None:
                        self._gaps(lane.session_id, {"state": state, **gap.described()})
                    with self._running().lock:
                        gap.is_reported = True
                        if state == "over":
                            lane.past_gaps.popleft()
                        elif state == "to-the-end":
                            lane.gap = None
            except Exception:  # the thread must live: there is a next try
                log.exception("a gap in the recording of %s could not be handed on", lane.session_id)
                return False
        return True

    def _gap_news(self, lane: Lane) -> tuple[Gap, str] | None:
        with self._running().lock:
            first = lane.past_gaps[0] if lane.past_gaps else lane.gap
            if first is not None and not first.is_reported:
                return first, "begun"
            if lane.past_gaps:
                return lane.past_gaps[0], "over"
            return (first, "to-the-end") if first is not None and lane.frozen else None

    def _take_over(self, lane: Lane) -> None:
        """The session is over. Its gaps are in the log before its end is, if the log takes them."""
        self._tell_gaps(lane)
        self._to_seal.put(lane)

    def _seal_for_ever(self) -> None:
        again: list[Lane] = []
        due = monotonic()
        is_closing = False
        while not is_closing:
            lanes, is_closing = self._next_over()
            if again and monotonic() >= due:  # however many others end
                lanes, again = [*lanes, *again], []
            if failed := self._unsealed(lanes):
                again += failed
                due = monotonic() + RETRY

    def _next_over(self) -> tuple[list[Lane], bool]:
        """Those whose sessions ended within a moment: they share what sealing costs. True when no more will come.

        None of either after a while.
        """
        lanes: list[Lane] = []
        while len(lanes) < MOST_AT_ONCE:
            try:
                lane = self._to_seal.get(timeout=0 if lanes else RETRY)
            except queue.Empty:
                break
            if lane is None:
                return lanes, True
            if not lanes:
                self._stopping.wait(GATHER)
            lanes.append(lane)
        return lanes, False

    def _unsealed(self, lanes: Sequence[Lane]) -> list[Lane]:
        """Make each session's own file; those for which that has to be tried again."""
        for lane in lanes:
            self._report(lane)
        told = [lane for lane in lanes if self._tell_gaps(lane)]
        self._indexing.note_ending([lane.session_id for lane in told])
        made = self.sealed.write_all([(lane.key, self._whole(lane)) for lane in told])
        sealed = []
        for lane, result in zip(told, made, strict=True):
            if isinstance(result, Exception):
                text = "the recording of %s could not be sealed; its spool is kept"
                log.error(text, lane.session_id, exc_info=result)
            else:
                sealed.append(lane)
        writer = self._running()
        with writer.lock:
            for lane in sealed:
                self._lanes.pop(lane.session_id, None)
            self._remove_empty_segments(below=writer.current_number())
        self._indexing.make_up()
        return [lane for lane in lanes if lane not in sealed]

    def _whole(self, lane: Lane) -> Iterator[Frame]:
        """Every frame, checked against what was acknowledged."""
        frames = frames_of(lane.session_id, list(lane.stretches), self._keys, key=lane.key)
        return verified(lane.session_id, frames, lane.durable_count, lane.durable_digest.hex())

    def _remove_empty_segments(self, below: int) -> None:
        """Segments of this process, with smaller numbers, in which no unsealed session has anything (hold the lock)."""
        held = {stretch.path for lane in self._lanes.values() for stretch in lane.stretches}
        for name in segments(self.spool_directory, self._gateway):
            if self._first <= name.number < below and name.path not in held:
                with suppress(OSError):  # it is tried again when the next are sealed
                    name.path.unlink(missing_ok=True)

    def _running(self) -> SpoolWriter:
        assert self._writer is not None, "only called between start and close"
        return self._writer

    # ------------------------------------------------------------ reading what this process writes

    def _stretches(self, session_id: str) -> Sequence[Stretch]:
        """Exactly where a session of this process lies, and no further than it is durable."""
        writer = self._writer
        if writer is not None:
            with writer.lock:
                if (lane := self._lanes.get(session_id)) is not None:
                    return [Stretch(s.path, s.start, s.end) for s in lane.stretches]
        return super()._stretches(session_id)

    def _is_over(self, session_id: str) -> bool:
        lane = self._lanes.get(session_id)
        return lane.is_settled() if lane is not None else super()._is_over(session_id)

    def _wait_beyond(self, session_id: str, count: int, silence: timedelta) -> bool:
        writer, lane = self._writer, self._lanes.get(session_id)
        if writer is None or lane is None:
            return super()._wait_beyond(session_id, count, silence)
        with writer.lock:
            return lane.news.wait_for(
                lambda: lane.durable_count > count or lane.is_settled(), silence.total_seconds()
            )  # fmt: skip


def _described(session: Session, mode: Record) -> Mapping[str, str]:
    return {
        "session": session.id,
        "grant": session.grant,
        "holder": session.holder,
        "holder_name": session.holder_name,
        "target": session.target,
        "level": session.level,
        "protocol": session.protocol.value,
        "client": session.client,
        "gateway": session.gateway,
        "started_at": session.started_at.isoformat(),
        "deadline": session.deadline.isoformat(),
        "mode": mode.value,
    }
