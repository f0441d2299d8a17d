"""What a log says of a recording, read while the log is verified."""

import pytest

from gateway.audit.leaf import decode_event, encode_event
from gateway.audit.read_along import ReadAlong
from gateway.audit.recording import BrokenRecordingError
from gateway.audit.sealed_digests import DigestsInLog, Sealed
from gateway.audit.verify import verify
from tests.unit.audit.logs import PINNED, Log, event, events


def told(type: str, records: object, digest: object, session: str = "ses_1") -> bytes:
    fields = decode_event(event(0, records=records, digest=digest))
    return encode_event({**fields, "type": type, "session": session})


def sealed(*of_session: bytes) -> Sealed:
    log = Log([*events(300), *of_session, *events(300)])
    found = DigestsInLog("ses_1")
    assert verify(ReadAlong(log.files.get, found.take).fetch, PINNED).is_verified
    return found.sealed()


SEEN = told("session:evidence", 1, "aa")
END = told("session:ended", 3, "bb")


def test_the_end_and_what_was_seen_before():
    assert sealed(SEEN, END) == Sealed(3, "bb", ((1, "aa"),), True)
    others = told("session:ended", 9, "cc", "ses_2"), event(7, about="ses_1"), told("session:killed", 9, "cc")
    assert sealed(*others, END) == Sealed(3, "bb", (), True)


def test_without_an_end_that_was_seen_the_last_evidence_counts():
    assert sealed(SEEN, told("session:ended", 0, "")) == Sealed(1, "aa", ((1, "aa"),), False)
    assert sealed(told("session:ended", "many", None)) == Sealed(0, "", (), False)


@pytest.mark.parametrize("ends", [(), (END, END), (END, told("session:ended", 1, "aa"))])
def test_one_end_and_no_other(ends: tuple[bytes, ...]):
    with pytest.raises(BrokenRecordingError, match=f"{len(ends)} ends"):
        sealed(SEEN, *ends)


def test_what_is_no_bundle_is_left_to_the_verification():
    log = Log(events(3))
    log.files["tile/entries/000.p/3"] = b"ses_1"
    taken: list[int] = []
    assert not verify(ReadAlong(log.files.get, lambda index, _: taken.append(index)).fetch, PINNED).is_verified
    assert taken == []
    DigestsInLog("ses_1").take(0, b"ses_1 in what is no event")
