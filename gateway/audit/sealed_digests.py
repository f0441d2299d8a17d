"""What the log says of one recording: its end, what was seen of it while it grew, and whether it was destroyed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from gateway.audit.leaf import decode_event
from gateway.audit.recording import BrokenRecordingError

ENDED: Final = "session:ended"
SEEN: Final = "session:evidence"
SHREDDED: Final = "session:shredded"
ORDERED: Final = "attempt"  # outcomes of the same: stored before anything is destroyed, and after all of it was
DONE: Final = "ok"


class Sealed(NamedTuple):
    """`records` frames under `digest` (hex), and the running digests, fewest frames first.

    `complete` is False when the end was never recorded (the gateway died): then it is as far as the last evidence.
    """

    records: int
    digest: str
    evidence: tuple[tuple[int, str], ...]
    complete: bool


class Shredding(NamedTuple):
    """Who ordered a recording destroyed, when (as in the leaf), why. `place` of that event, if it has one."""

    place: int | None
    principal: str
    at: str
    reason: str
    is_done: bool

    def sentence(self) -> str:
        """What to say behind "The recording of …". The names and the reason were typed by people."""
        event = f"event {self.place}" if self.place is not None else "an event that is not in the log yet"
        by = f"by {self.principal} at {self.at}, {event}: {self.reason.rstrip('.')}."
        return f"was shredded {by}" if self.is_done else f"is being shredded, as ordered {by}"


def sealed_by(ends: Sequence[tuple[int, str]], evidence: Iterable[tuple[int, str]]) -> Sealed:
    """What the digests in these events come to; BrokenRecordingError unless there is exactly one end."""
    if len(ends) != 1:
        raise BrokenRecordingError(0, f"the log has {len(ends)} ends of this session")
    known = tuple(sorted(evidence))
    if ends[0][1]:
        return Sealed(*ends[0], known, True)
    last = known[-1] if known else (0, "")
    return Sealed(*last, known, False)


def digest_in(data: Mapping[str, object]) -> tuple[int, str]:
    """(count, hex digest) in the `data` of such an event."""
    count = data.get("records")
    return count if isinstance(count, int) else 0, str(data.get("digest") or "")


class DigestsInLog:
    """Finds those of one session among the entries of a log, to be read along while that is verified."""

    def __init__(self, session_id: str) -> None:
        self._session = session_id
        self._found: dict[str, list[tuple[int, str]]] = {ENDED: [], SEEN: []}
        self.shredding: Shredding | None = None

    def take(self, index: int, entry: bytes) -> None:
        """One entry of the log."""
        if self._session.encode() not in entry:
            return
        try:
            event = decode_event(entry)
        except ValueError:
            return  # the verification says so
        data = event["data"]
        if event["session"] != self._session or not isinstance(data, Mapping):
            return
        if event["type"] in self._found:
            self._found[str(event["type"])].append(digest_in(data))
        elif event["type"] == SHREDDED and event["outcome"] in (ORDERED, DONE):
            known = self.shredding or Shredding(
                index, str(event["principal"]), str(event["at"]), str(data.get("reason", "")), is_done=False
            )
            self.shredding = known._replace(is_done=known.is_done or event["outcome"] == DONE)

    def sealed(self) -> Sealed:
        """What the log says; BrokenRecordingError unless it has exactly one end of this session."""
        return sealed_by(self._found[ENDED], self._found[SEEN])
