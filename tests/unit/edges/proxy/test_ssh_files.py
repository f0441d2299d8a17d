import json
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from queue import Queue

import pytest

from gateway.core.target import FileRule
from gateway.edges.proxy.ssh_files import ChannelRefusedError, FileGate, NoFiles, ScpGate, SftpGate, open_gate
from gateway.edges.proxy.ssh_record import ChannelRecord, SessionRecord
from gateway.wire.sftp import MOST_REQUESTS
from tests.unit.wire.test_sftp import HELLO, INIT, READ_FLAG, open_, packet, read, sftp

ALL_BUT_SHADOW = (FileRule(False, "/etc/shadow*"), FileRule(True, "/**"))


class Kept:
    """A recording in memory."""

    def __init__(self) -> None:
        self.records: list[tuple[str, dict[str, object]]] = []

    def append(self, kind: str, at: datetime, data: bytes) -> int:
        self.records.append((kind, json.loads(data)))
        return len(self.records) - 1

    def append_all(self, records: Sequence[tuple[str, int, bytes]]) -> int:
        raise NotImplementedError  # for databases

    def wait_durable(self, seq: int, timeout: timedelta) -> None: ...

    def on_durable(self, seq: int, callback: object) -> None: ...

    def digest(self) -> tuple[int, str]:
        return 0, ""

    def seal(self) -> tuple[int, str]:
        return 0, ""


class Channel:
    def __init__(self, kind: str, command: bytes, rules: tuple[FileRule, ...] = ()) -> None:
        self.kept = Kept()
        self.session = SessionRecord(self.kept, lambda: datetime.now(UTC), require=False)
        self.poked = 0
        self.is_gone = False
        record = ChannelRecord(self.session, 0, 1000)
        self.gate: FileGate = open_gate(kind, command, rules, record, self._poke, lambda: self.is_gone)

    def _poke(self) -> None:
        self.poked += 1

    def inward(self, octets: bytes) -> bytes:
        return b"".join(self.gate.inward(octets))

    def outward(self, octets: bytes) -> bytes:
        return b"".join(self.gate.outward(octets))


def test_which_gate() -> None:
    assert isinstance(Channel("shell", b"").gate, NoFiles)
    assert isinstance(Channel("exec", b"cat /etc/shadow", ALL_BUT_SHADOW).gate, NoFiles)
    assert isinstance(Channel("subsystem", b"sftp").gate, SftpGate)
    assert isinstance(Channel("exec", b"scp -t /x").gate, ScpGate)
    assert isinstance(Channel("exec", b"scp -t /x", (FileRule(True, "/**", "upload"),)).gate, ScpGate)
    for command in (b"scp -t /x", b"scp -f /x", b"rsync --server . /x", b"sudo rsync --server --sender . /x"):
        with pytest.raises(ChannelRefusedError):
            Channel("exec", command, ALL_BUT_SHADOW)
    with pytest.raises(ChannelRefusedError):
        Channel("exec", b"scp -f /x", (FileRule(True, "/**", "upload"),))


def test_a_refused_file_is_answered_between_packets_when_the_target_is_quiet() -> None:
    channel = Channel("subsystem", b"sftp", ALL_BUT_SHADOW)
    assert channel.inward(INIT) == INIT
    hello = HELLO[1][1]
    assert channel.outward(hello) == hello
    assert channel.inward(open_(1, b"/etc/.//shadow", READ_FLAG)) == b""
    assert channel.poked == 1
    answer = channel.outward(b"")
    assert answer[4] == sftp.STATUS
    assert b"its rule for /etc/shadow* says no" in answer
    assert channel.outward(b"") == b""
    channel.session.close()
    assert [kind for kind, _ in channel.kept.records] == ["file-refused", "files-summary"]


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (open_(1, b"relative", READ_FLAG), b"give the name in full"),
        (packet(sftp.SYMLINK, 1, b"../x", b"/tmp/l"), b"both names of a symbolic link in full"),
        (packet(sftp.SYMLINK, 1, b"/etc/shadow", b"/tmp/l"), b"the other's place"),
        (packet(sftp.SYMLINK, 1, b"/etc", b"/tmp/l"), b"the other's place"),
        (packet(sftp.RENAME, 1, b"/etc", b"/tmp/etc"), b"the other's place"),
        (packet(sftp.RENAME, 1, b"etc", b"/tmp/etc"), b"both names in full"),
        (open_(1, b"/etc/shadow\xff", 2), b"uploaded or changed"),
        (open_(1, b"/a\0/etc/shadow", READ_FLAG), b"give the name in full"),
    ],
)
def test_ways_around_are_closed(request_: bytes, sentence: bytes) -> None:
    channel = Channel("subsystem", b"sftp", ALL_BUT_SHADOW)
    channel.inward(INIT)
    channel.outward(HELLO[1][1])
    assert channel.inward(request_) == b""
    assert sentence in channel.outward(b"")


def test_a_client_that_asks_for_too_much_waits_until_the_target_answers() -> None:
    channel = Channel("subsystem", b"sftp")
    channel.inward(INIT)
    channel.outward(HELLO[1][1])
    channel.inward(open_(1, b"/a", READ_FLAG))
    channel.outward(packet(sftp.HANDLE, 1, b"h"))
    channel.inward(b"".join(read(2 + n, b"h", n, 1) for n in range(MOST_REQUESTS)))
    passed: list[bytes] = []
    waiting = threading.Thread(target=lambda: passed.append(channel.inward(packet(sftp.CLOSE, 1, b"h"))))
    waiting.start()
    channel.outward(packet(sftp.DATA, 2, b"x"))
    waiting.join(10)
    assert passed == [packet(sftp.CLOSE, 1, b"h")]


def test_a_source_that_does_not_wait_is_made_to() -> None:
    channel = Channel("exec", b"scp -t /tmp/x")
    passed: Queue[bytes] = Queue()

    def send() -> None:
        for piece in channel.gate.inward(b"C0644 5 a\nhello\0"):
            passed.put(bytes(piece))

    source = threading.Thread(target=send)
    source.start()
    for piece in (b"C0644 5 a\n", b"hello\0"):
        channel.outward(b"\0")
        assert passed.get(timeout=10) == piece
    channel.outward(b"\0")
    source.join(10)
    assert [fields["outcome"] for _, fields in channel.kept.records] == ["ok"]


@pytest.mark.parametrize("how", ["end", "gone"])
def test_who_waits_for_an_answer_is_let_go(how: str) -> None:
    channel = Channel("exec", b"scp -t /tmp/x")
    source = threading.Thread(target=channel.inward, args=(b"C0644 5 a\nhello\0",))
    source.start()
    if how == "end":
        channel.gate.end()
    else:
        channel.is_gone = True
    source.join(10)
    assert not source.is_alive()


def test_what_cannot_be_followed_ends_the_channel_and_is_recorded() -> None:
    for kind, command in (("subsystem", b"sftp"), ("exec", b"scp -f /x")):
        channel = Channel(kind, command)
        with pytest.raises(ChannelRefusedError, match="cannot follow"):
            channel.inward(b"\0" * 5)
        assert channel.kept.records[0][0] == "refused"
