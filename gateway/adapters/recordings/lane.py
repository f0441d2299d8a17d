"""One session's place in the writer."""

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Condition, Lock
from typing import Final, NamedTuple

from gateway.adapters.recordings.gap import Gap
from gateway.adapters.recordings.keys import SessionKey
from gateway.adapters.recordings.spool import Stretch
from gateway.audit.recording import HEADER_SIZE, Chain, frame_of, unpacked

GAP: Final = "gap"  # kind of the record that tells of one
MOST_GAPS: Final = 1000  # kept for the log
MAX_KINDS: Final = 32  # counted apart; the rest together


class Lane:
    """One session's place in the writer. `chain` and `blocks` are the writer's own, the rest is guarded by its lock."""

    def __init__(self, key: SessionKey, lock: Lock, *, urgent: bool, tolerant: bool = False) -> None:
        self.session_id = key.session_id
        self.key = key
        self.urgent = urgent
        self.tolerant = tolerant  # what cannot be kept is lost, and the session goes on
        self.gap: Gap | None = None
        self.past_gaps: deque[Gap] = deque(maxlen=MOST_GAPS)  # to be reported
        self.opening: tuple[str, int, bytes] | None = None  # the first record, for when it could not be kept
        self.chain = Chain(key.session_id)
        self.blocks = 0  # encrypted so far
        self.next_seq = 0
        self.queued = 0  # bytes
        self.queued_records = 0
        self.durable_count = 0
        self.durable_digest = self.chain.digest
        self.counts: Counter[str] = Counter()
        self.stretches: list[Stretch] = []
        self.reported = 0  # records that evidence was given for
        self.failure = ""
        self.closed = False
        self.frozen = False  # nothing becomes durable any more
        self.news = Condition(lock)
        self.waiting: deque[tuple[int, Callable[[bool], None]]] = deque()
        self.on_failure: Callable[[], None] | None = None

    def is_settled(self) -> bool:
        """Nothing more will come."""
        return self.frozen or (self.closed and self.durable_count == self.next_seq)

    def fail(self) -> list[Callable[[], None]]:
        """Whom to tell of the failure: once."""
        told, self.on_failure = self.on_failure, None
        return [] if told is None else [told]

    def lose(self, batch: "Batch", why: str) -> None:
        """Go back to what is durable: everything that was on its way is lost."""
        self.next_seq = self.durable_count
        self.chain.count, self.chain.digest = self.durable_count, self.durable_digest
        lost = [entry for entry in batch if not (entry.kind == GAP or (self.opening and entry.kind == self.opening[0]))]
        gap = self.gap = self.gap or Gap(why, self.durable_count)
        gap.after = self.durable_count
        gap.fail()
        for frame in unpacked(frame_of(entry.frame) for entry in lost):
            gap.lose(frame.at_ns, len(frame.encoded()))
        self.news.notify_all()

    def leave_gap(self) -> None:
        """The record that tells of the gap may be durable by now."""
        if self.gap is not None and self.gap.told is not None and self.gap.told < self.durable_count:
            self.past_gaps.append(self.gap)
            self.gap = None

    def cover(self, path: Path, start: int, end: int) -> None:
        """Remember where frames lie: one stretch per segment, so memory stays small in a long session."""
        if self.stretches and self.stretches[-1].path is path:
            self.stretches[-1].end = end
        else:
            self.stretches.append(Stretch(path, start, end))

    def count_in(self, entries: "Batch") -> None:
        """For the evidence: records by kind, and bytes of payload."""
        counts = self.counts
        for entry in entries:
            counts["bytes"] += len(entry.frame) - HEADER_SIZE - len(entry.kind)
            for kind in entry.kinds or (entry.kind,):
                counts[kind if kind in counts or len(counts) < MAX_KINDS else "other"] += 1


class Entry(NamedTuple):
    """A frame on its way. `kinds` of its records, where they are several."""

    lane: Lane
    kind: str
    frame: bytes
    kinds: tuple[str, ...] = ()

    def total(self) -> int:
        """Of its records."""
        return len(self.kinds) or 1


Batch = Sequence[Entry]
Parts = Mapping[Lane, Batch]
