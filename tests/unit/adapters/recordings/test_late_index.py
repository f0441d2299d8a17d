from collections.abc import Iterator
from datetime import timedelta
from itertools import count

import pytest

from gateway.adapters.recordings import late_index
from gateway.adapters.recordings.late_index import BURST_S, LateIndex, paced
from gateway.audit.recording import Frame

PATIENCE = timedelta(seconds=20)


def frames() -> Iterator[Frame]:
    return (Frame(seq, 0, "out", b"") for seq in range(12))


def test_sessions_are_indexed_one_by_one_and_the_end_waits_for_them() -> None:
    told: list[tuple[str, int]] = []
    late = LateIndex(lambda session_id, paced: told.append((session_id, len(list(paced(frames()))))))
    for session_id in ("ses_1", "ses_2"):
        late.add(session_id)
    late.finish(PATIENCE)
    assert told == [("ses_1", 12), ("ses_2", 12)]


def test_it_rests_three_times_as_long_as_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []
    clock = count(0, BURST_S / 4)
    monkeypatch.setattr(late_index, "thread_time", lambda: next(clock))
    assert len(list(paced(frames(), rests.append))) == 12
    assert rests == pytest.approx([3.75 * BURST_S] * 2)


def test_what_cannot_be_indexed_stops_no_other() -> None:
    told: list[str] = []

    def index(session_id: str, _: object) -> None:
        if session_id == "ses_1":
            raise RuntimeError("a mistake")
        told.append(session_id)

    late = LateIndex(index)
    for session_id in ("ses_1", "ses_2"):
        late.add(session_id)
    late.finish(PATIENCE)
    assert told == ["ses_2"]
