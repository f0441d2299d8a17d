import contextlib
import hashlib
import struct
import tracemalloc
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire import sftp_packets as sftp
from gateway.wire.sftp import MOST_ANSWERS, MOST_REQUESTS, SftpWalker
from gateway.wire.sftp_packets import SftpError
from gateway.wire.sftp_requests import Asked, Denied, Done

READ_FLAG, WRITE_FLAGS = 1, 2 | 8 | 16


def string(octets: bytes) -> bytes:
    return struct.pack(">I", len(octets)) + octets


def packet(type_: int, *fields: int | bytes, tail: bytes = b"") -> bytes:
    body = bytes((type_,)) + b"".join(string(f) if isinstance(f, bytes) else struct.pack(">I", f) for f in fields)
    return string(body + tail)


def u64(number: int) -> bytes:
    return struct.pack(">Q", number)


def open_(number: int, path: bytes, flags: int) -> bytes:
    return packet(sftp.OPEN, number, path, flags, 0)


def write(number: int, handle: bytes, offset: int, data: bytes) -> bytes:
    return packet(sftp.WRITE, number, handle, tail=u64(offset) + string(data))


def read(number: int, handle: bytes, offset: int, length: int) -> bytes:
    return packet(sftp.READ, number, handle, tail=u64(offset) + struct.pack(">I", length))


def status(number: int, code: int = 0) -> bytes:
    return packet(sftp.STATUS, number, code, b"text", b"en")


INIT = packet(sftp.INIT, 3)
HELLO = [("c", INIT), ("s", packet(sftp.VERSION_REPLY, 3, b"posix-rename@openssh.com", b"1"))]
HOME = [("c", packet(sftp.REALPATH, 1, b".")), ("s", packet(sftp.NAME, 1, 1, b"/home/me", b"long", 0))]
UPLOAD = [
    ("c", open_(2, b"new", WRITE_FLAGS)), ("s", packet(sftp.HANDLE, 2, b"\0\0\0\1")),
    ("c", write(3, b"\0\0\0\1", 0, b"hello ") + write(4, b"\0\0\0\1", 6, b"world")), ("s", status(3) + status(4)),
    ("c", packet(sftp.FSETSTAT, 5, b"\0\0\0\1", 0)), ("s", status(5)),
    ("c", packet(sftp.CLOSE, 6, b"\0\0\0\1")), ("s", status(6)),
]  # fmt: skip
DOWNLOAD = [
    ("c", open_(7, b"/etc/motd", READ_FLAG)), ("s", packet(sftp.HANDLE, 7, b"h")),
    ("c", read(8, b"h", 0, 4) + read(9, b"h", 4, 4) + read(10, b"h", 8, 4)),
    ("s", packet(sftp.DATA, 8, b"abcd") + packet(sftp.DATA, 9, b"e") + status(10, sftp.EOF)),
    ("c", packet(sftp.CLOSE, 11, b"h")), ("s", status(11)),
]  # fmt: skip
OTHERS = [
    ("c", packet(sftp.OPENDIR, 12, b"/tmp")), ("s", packet(sftp.HANDLE, 12, b"d")),
    ("c", packet(sftp.READDIR, 13, b"d")), ("s", packet(sftp.NAME, 13, 1, b"x", b"x", 0)),
    ("c", packet(sftp.CLOSE, 14, b"d")), ("s", status(14)),
    ("c", packet(sftp.EXTENDED, 15, b"posix-rename@openssh.com", b"/a", b"/b")), ("s", status(15)),
    ("c", packet(sftp.REMOVE, 16, b"/gone")), ("s", status(16, 2)),
    ("c", packet(sftp.STAT, 17, b"/x") + packet(sftp.LSTAT, 18, b"/y")),
    ("s", packet(sftp.ATTRS, 17, 0) + packet(sftp.ATTRS, 18, 0)),
    ("c", packet(sftp.MKDIR, 19, b"/d", 0)), ("s", status(19)),
]  # fmt: skip
SESSION = [*HELLO, *HOME, *UPLOAD, *DOWNLOAD, *OTHERS]
DENIED = [step for step in SESSION if step != ("s", status(16, 2))]


class Between:
    """A walker with a clock, and what came out on either side."""

    def __init__(self, deny: Iterable[bytes] = ()) -> None:
        denied = set(deny)
        self.walker = SftpWalker(lambda asked: "no" if denied & set(asked.paths) else None)
        self.to_server = self.to_client = b""

    def feed(self, who: str, octets: bytes) -> None:
        if who == "c":
            self.to_server += bytes(self.walker.from_client(octets, 1.0))
        else:
            at = self.walker.from_server(octets, 1.0)
            answers = self.walker.take_answers() if at >= 0 else b""
            self.to_client += octets[: max(at, 0)] + answers + octets[max(at, 0) :]

    def run(self, steps: Iterable[tuple[str, bytes]]) -> "Between":
        for who, octets in steps:
            self.feed(who, octets)
        return self

    def facts(self) -> list[tuple[object, ...]]:
        return [
            (one.asked, one.sentence)
            if isinstance(one, Denied)
            else (one.asked, one.direction, one.outcome, one.digest and one.digest.fields())
            for one in self.walker.done
        ]


def sent(steps: Iterable[tuple[str, bytes]], who: str) -> bytes:
    return b"".join(octets for side, octets in steps if side == who)


def sha(data: bytes) -> dict[str, str]:
    return {"sha256": hashlib.sha256(data).hexdigest()}


def test_a_session_passes_unchanged_and_is_understood() -> None:
    between = Between().run(SESSION)
    assert between.to_server == sent(SESSION, "c")
    assert between.to_client == sent(SESSION, "s")
    assert between.walker.base == b"/home/me"
    assert between.facts() == [
        (Asked("setstat", (b"new",)), "", "ok", None),
        (Asked("open", (b"new",), reads=False, changes=True), "upload", "ok", sha(b"hello world")),
        (Asked("open", (b"/etc/motd",), reads=True, changes=False), "download", "ok", sha(b"abcde")),
        (Asked("list", (b"/tmp",), changes=False), "", "ok", None),
        (Asked("rename", (b"/a", b"/b")), "", "ok", None),
        (Asked("remove", (b"/gone",)), "", "no-such-file", None),
        (Asked("mkdir", (b"/d",)), "", "ok", None),
    ]
    assert not between.walker._pending
    assert not between.walker._handles


@given(st.data())
def test_any_chunking_is_one_chunking(data: st.DataObject) -> None:
    steps = []
    for who, octets in DENIED:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(octets)), max_size=4)))
        steps += [(who, octets[a:b]) for a, b in zip([0, *cuts], [*cuts, len(octets)], strict=True)]
    cut, whole = Between([b"/gone"]).run(steps), Between([b"/gone"]).run(DENIED)
    assert cut.facts() == whole.facts()
    assert cut.to_server == whole.to_server == sent(DENIED, "c").replace(packet(sftp.REMOVE, 16, b"/gone"), b"")
    no = packet(sftp.STATUS, 16, sftp.PERMISSION_DENIED, b"no", b"en")
    assert cut.to_client.replace(no, b"") == sent(DENIED, "s")


def test_octet_by_octet() -> None:
    steps = [(who, octets[i : i + 1]) for who, octets in SESSION for i in range(len(octets))]
    between = Between().run(steps)
    assert between.facts() == Between().run(SESSION).facts()
    assert (between.to_server, between.to_client) == (sent(SESSION, "c"), sent(SESSION, "s"))


def test_what_is_refused_is_answered_here_and_never_asked() -> None:
    between = Between([b"/etc/shadow"]).run([*HELLO, ("c", open_(5, b"/etc/shadow", READ_FLAG)), ("s", b"")])
    assert between.to_server == INIT
    assert between.to_client.endswith(packet(sftp.STATUS, 5, sftp.PERMISSION_DENIED, b"no", b"en"))
    assert between.facts() == [(Asked("open", (b"/etc/shadow",), reads=True, changes=False), "no")]


def test_answers_stand_between_the_servers_packets() -> None:
    between = Between([b"/x"]).run([*HELLO, ("c", open_(1, b"/a", READ_FLAG)), ("s", packet(sftp.HANDLE, 1, b"h"))])
    data = packet(sftp.DATA, 2, b"123456789")
    before = between.to_client
    between.run([("c", read(2, b"h", 0, 9)), ("s", data[:15]), ("c", packet(sftp.REMOVE, 3, b"/x")), ("s", b"")])
    assert between.to_client == before + data[:15]
    between.run([("s", data[15:])])
    no = packet(sftp.STATUS, 3, sftp.PERMISSION_DENIED, b"no", b"en")
    assert between.to_client == before + data + no


def test_renames_and_links_are_judged_by_both_names() -> None:
    for request in (
        packet(sftp.RENAME, 1, b"/a", b"/no"),
        packet(sftp.SYMLINK, 1, b"/no", b"/a"),
        packet(sftp.EXTENDED, 1, b"hardlink@openssh.com", b"/no", b"/a"),
        packet(sftp.EXTENDED, 1, b"posix-rename@openssh.com", b"/no", b"/a"),
        packet(sftp.EXTENDED, 1, b"lsetstat@openssh.com", b"/no", 0),
        packet(sftp.SETSTAT, 1, b"/no", 0),
        packet(sftp.RMDIR, 1, b"/no"),
        packet(sftp.MKDIR, 1, b"/no", 0),
    ):
        between = Between([b"/no"]).run([*HELLO, ("c", request)])
        assert between.to_server == INIT, request
        assert len(between.facts()) == 1


def test_a_later_version_is_asked_down_to_three() -> None:
    assert bytes(Between().walker.from_client(packet(sftp.INIT, 6, b"ext", b"data"), 0)) == INIT


def test_unknown_extensions_are_answered_here() -> None:
    between = Between().run([*HELLO, ("c", packet(sftp.EXTENDED, 9, b"get-all@evil", b"x")), ("s", b"")])
    assert between.to_server == INIT
    assert between.to_client.endswith(b"\0\0\0\2en")


def test_data_for_no_file_never_reaches_the_server() -> None:
    between = Between().run([*HELLO, ("c", open_(1, b"/a", READ_FLAG)), ("s", packet(sftp.HANDLE, 1, b"h"))])
    before = between.to_server
    between.run(
        [("c", write(2, b"h", 0, b"x" * 1000)), ("c", write(3, b"nobody's", 0, b"y")), ("c", read(4, b"?", 0, 1))]
    )
    assert between.to_server == before
    assert between.walker.has_answers
    assert not between.walker._handles[b"h"].written.octets


def test_out_of_order_and_failures() -> None:
    steps = [
        *HELLO, ("c", open_(1, b"/a", 1 | 2)), ("s", packet(sftp.HANDLE, 1, b"h")),
        ("c", write(2, b"h", 100, b"late") + write(3, b"h", 0, b"early") + read(4, b"h", 0, 5)),
        ("s", status(2) + status(3, 4) + packet(sftp.DATA, 4, b"EARLY")),
        ("c", packet(sftp.CLOSE, 5, b"h")), ("s", status(5)),
    ]  # fmt: skip
    down, up = Between().run(steps).walker.done
    assert isinstance(down, Done)
    assert isinstance(up, Done)
    assert (down.direction, down.outcome, down.digest and down.digest.fields()) == (
        "download",
        "failure",
        sha(b"EARLY"),
    )
    assert up.digest is not None
    assert (up.direction, up.digest.fields()["sha256"], up.digest.runs, up.digest.octets) == ("upload", None, 1, 9)


def test_what_is_open_at_the_end_was_interrupted() -> None:
    between = Between().run([*HELLO, *HOME, *UPLOAD[:4], ("c", open_(20, b"/z", READ_FLAG))])
    between.walker.interrupt(9.0)
    between.walker.interrupt(9.0)
    assert [fact[1:3] for fact in between.facts()] == [("upload", "interrupted"), ("download", "interrupted")]


H = [*HELLO, ("c", open_(1, b"/a", READ_FLAG)), ("s", packet(sftp.HANDLE, 1, b"h"))]


@pytest.mark.parametrize(
    "steps",
    [
        [("c", packet(sftp.REMOVE, 1, b"/a"))],
        [*HELLO, ("c", INIT)],
        [("c", packet(sftp.INIT, 2))],
        [("s", packet(sftp.VERSION_REPLY, 3))],
        [("c", INIT), ("s", packet(sftp.VERSION_REPLY, 4))],
        [("c", INIT), ("s", status(1))],
        [*HELLO, ("c", packet(99, 1, b"x"))],
        [*HELLO, ("c", packet(sftp.STATUS, 1, 0))],
        [*HELLO, ("c", struct.pack(">IB", 1 << 31, sftp.WRITE))],
        [*HELLO, ("c", struct.pack(">IB", 100_000, sftp.OPEN))],
        [*HELLO, ("c", packet(sftp.REMOVE, 1, b"/a", b"more"))],
        [*HELLO, ("c", string(bytes((sftp.REMOVE,)) + struct.pack(">II", 1, 99) + b"/a"))],
        [*HELLO, ("c", packet(sftp.STAT, 1, b"/a")), ("c", packet(sftp.STAT, 1, b"/a"))],
        [*HELLO, ("s", status(1))],
        [*HELLO, ("c", packet(sftp.STAT, 1, b"/a")), ("s", packet(sftp.DATA, 1, b"x"))],
        [*H, ("c", read(2, b"h", 0, 3)), ("s", packet(sftp.DATA, 2, b"more"))],
        [*H, ("c", open_(2, b"/b", READ_FLAG)), ("s", packet(sftp.HANDLE, 2, b"h"))],
        [*H, ("c", open_(2, b"/b", READ_FLAG)), ("s", packet(sftp.HANDLE, 2, b"h" * 300))],
        [*H, ("c", write(2, b"h" * 300, 0, b"x"))],
        [*H, ("c", string(bytes((sftp.WRITE,)) + struct.pack(">I", 2) + string(b"h") + u64(0) + struct.pack(">I", 9)))],
        [*HELLO, ("s", struct.pack(">IBI", 1 << 24, sftp.DATA, 1))],
    ],
)
def test_what_the_protocol_does_not_allow_ends_it(steps: list[tuple[str, bytes]]) -> None:
    with pytest.raises(SftpError):
        Between().run(steps)


@given(st.lists(st.tuples(st.sampled_from("cs"), st.binary(max_size=60)), max_size=20), st.booleans())
def test_random_octets_raise_only_what_is_declared(steps: list[tuple[str, bytes]], started: bool) -> None:
    between = Between().run(SESSION if started else [])
    with contextlib.suppress(SftpError):
        between.run(steps)
    between.walker.interrupt(2.0)


@given(st.data())
def test_a_mutated_session_raises_only_what_is_declared(data: st.DataObject) -> None:
    steps = [(who, bytearray(octets)) for who, octets in SESSION]
    for _ in range(data.draw(st.integers(1, 3))):
        octets = steps[data.draw(st.integers(0, len(steps) - 1))][1]
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(SftpError):
        Between([b"/a"]).run([(who, bytes(octets)) for who, octets in steps])


def test_memory_is_bounded_however_much_passes() -> None:
    between = Between().run([*HELLO, ("c", open_(1, b"/a", WRITE_FLAGS)), ("s", packet(sftp.HANDLE, 1, b"h"))])
    piece = write(2, b"h", 0, bytes(200_000))
    tracemalloc.start()
    for _ in range(50):
        between.walker.from_client(piece[:100_000], 0)
        between.walker.from_client(piece[100_000:], 0)
        between.walker.from_server(status(2), 0)
    assert tracemalloc.get_traced_memory()[0] < 300_000
    tracemalloc.stop()


def test_a_client_that_asks_for_everything_at_once_has_to_wait() -> None:
    between = Between().run(H)
    for number in range(MOST_REQUESTS):
        assert not between.walker.is_full
        between.walker.from_client(read(number + 2, b"h", 0, 1), 0)
    assert between.walker.is_full
    between.run([("s", status(2))])
    assert not between.walker.is_full


def test_refusals_nobody_reads_are_bounded() -> None:
    between = Between([b"/no"]).run(HELLO)
    with pytest.raises(SftpError, match="without reading"):
        between.run(("c", packet(sftp.REMOVE, n, b"/no")) for n in range(MOST_ANSWERS + 1))
