from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from threading import Event, Semaphore

import pytest

from gateway.adapters.recordings import late_index
from gateway.adapters.recordings.late_index import BURST_S, LateIndex, Paced, paced
from gateway.audit.recording import Frame

PATIENCE = timedelta(seconds=20)


def frames() -> Iterator[Frame]:
    return (Frame(seq, 0, "out", b"") for seq in range(12))


def test_sessions_are_indexed_one_by_one_and_the_end_waits_for_them() -> None:
    told: list[tuple[str, int]] = []

    def index(session_id: str, paced: Paced) -> bool:
        told.append((session_id, len(list(paced(frames())))))
        return True

    late = LateIndex(index)
    for session_id in ("ses_1", "ses_2"):
        late.add(session_id)
    assert late.finish(PATIENCE) == frozenset()
    assert told == [("ses_1", 12), ("ses_2", 12)]


def test_it_rests_three_times_as_long_as_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []
    clock = count(0, BURST_S / 4)
    monkeypatch.setattr(late_index, "thread_time", lambda: next(clock))
    assert len(list(paced(frames(), rests.append))) == 12
    assert rests == pytest.approx([3.75 * BURST_S] * 2)


def test_what_cannot_be_indexed_stops_no_other() -> None:
    told: list[str] = []

    def index(session_id: str, _: object) -> bool:
        if session_id == "ses_1":
            raise RuntimeError("a mistake")
        told.append(session_id)
        return True

    late = LateIndex(index)
    for session_id in ("ses_1", "ses_2"):
        late.add(session_id)
    assert late.finish(PATIENCE) == {"ses_1"}
    assert told == ["ses_2"]


def test_what_may_go_better_later_is_tried_again_and_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late_index, "AGAIN_S", (0.01, 0.02))
    told: list[str] = []
    done = Event()

    def index(session_id: str, _: object) -> bool:
        told.append(session_id)
        is_done = session_id == "ses_2" or told.count(session_id) == 5
        if is_done and session_id == "ses_1":
            done.set()
        return is_done

    late = LateIndex(index)
    for session_id in ("ses_1", "ses_2", "ses_1"):
        late.add(session_id)
    assert done.wait(PATIENCE.total_seconds())
    assert late.finish(PATIENCE) == frozenset()
    assert told.count("ses_1") == 5, "it waits once, however often it is added"
    assert told.count("ses_2") == 1


def test_the_end_waits_for_no_other_try_and_tells_who_lacks_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late_index, "MOST", 2)
    tried = Semaphore(0)

    def index(*_: object) -> bool:
        tried.release()
        return False

    late = LateIndex(index)
    for session_id in ("ses_1", "ses_2", "ses_3"):
        late.add(session_id)
    for _ in range(2):
        assert tried.acquire(timeout=PATIENCE.total_seconds())
    assert late.finish(PATIENCE) == {"ses_1", "ses_2"}
