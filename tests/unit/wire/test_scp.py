import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.scp import (
    LONGEST_COMMAND,
    LONGEST_LINE,
    ScpError,
    ScpWalker,
    TransferCommand,
    may_move_files,
    transfer_command,
)

UP = TransferCommand("scp", "upload", ("-t", "/in"), ("/in",))
DOWN = TransferCommand("scp", "download", ("-r", "-f", "/var/log"), ("/var/log",))
OK = b"\0"
# (who, octets): k is the sink, o the source.
FILE = [("k", OK), ("o", b"C0644 5 a b\n"), ("k", OK), ("o", b"hello\0"), ("k", OK)]
TREE = [
    ("k", OK), ("o", b"T1 0 2 0\n"), ("k", OK), ("o", b"D0755 0 log\n"), ("k", OK),
    ("o", b"C0600 0 empty\n"), ("k", OK), ("o", OK), ("k", OK),
    ("o", b"D0755 0 sub\n"), ("k", OK), ("o", b"C0600 1 \xff\x1b[2J\n"), ("k", OK), ("o", b"x\0"), ("k", OK),
    ("o", b"E\n"), ("k", OK), ("o", b"C0600 3 no\n"), ("k", b"\1scp: disk full\n"),
    ("o", b"\1scp: gone: No such file\n"), ("o", b"E\n"), ("k", OK),
]  # fmt: skip


def walked(command: TransferCommand, steps: list[tuple[str, bytes]], at: float = 0.0) -> ScpWalker:
    walker = ScpWalker(command)
    for who, octets in steps:
        if who == "k":
            walker.from_sink(octets, at)
        else:
            assert walker.from_source(octets, at) == len(octets)
    return walker


def facts(walker: ScpWalker) -> list[tuple[object, ...]]:
    return [(one.op, one.path, one.outcome, one.digest.fields()["sha256"]) for one in walker.done]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_one_file() -> None:
    assert facts(walked(UP, FILE)) == [("open", b"/in", "ok", sha(b"hello"))]
    into = TransferCommand("scp", "upload", ("-d", "-t", "/in"), ("/in",))
    assert facts(walked(into, FILE)) == [("open", b"/in/a b", "ok", sha(b"hello"))]
    assert walked(UP, FILE).done[0].mode == "0644"


def test_a_tree_with_failures() -> None:
    assert facts(walked(DOWN, TREE)) == [
        ("mkdir", b"/var/log", "ok", sha(b"")),
        ("open", b"/var/log/empty", "ok", sha(b"")),
        ("mkdir", b"/var/log/sub", "ok", sha(b"")),
        ("open", b"/var/log/sub/\xff\x1b[2J", "ok", sha(b"x")),
        ("error", b"scp: disk full", "sink-failed", sha(b"")),
        ("open", b"/var/log/no", "sink-failed", sha(b"")),
        ("error", b"scp: gone: No such file", "source-failed", sha(b"")),
    ]


def test_the_source_may_fail_after_the_data_and_the_sink_too() -> None:
    steps = [*FILE[:3], ("o", b"hello\1scp: read error\n"), ("k", OK)]
    assert [one[:3] for one in facts(walked(UP, steps))] == [
        ("error", b"scp: read error", "source-failed"),
        ("open", b"/in", "source-failed"),
    ]
    steps = [*FILE[:3], ("o", b"hello\0"), ("k", b"\1scp: disk full\n")]
    assert [one[:3] for one in facts(walked(UP, steps))] == [
        ("error", b"scp: disk full", "sink-failed"),
        ("open", b"/in", "sink-failed"),
    ]


def test_the_source_is_read_no_further_than_the_sink_has_answered() -> None:
    walker = ScpWalker(UP)
    everything = b"C0644 5 a\nhello\0C0644 0 b\n"
    assert walker.from_source(everything, 0) == 0
    walker.from_sink(OK, 0)
    assert walker.from_source(everything, 0) == 10
    assert walker.is_waiting
    walker.from_sink(b"\1no\n", 0)
    with pytest.raises(ScpError):  # what a sink that said no would take for a command
        walker.from_source(b"hello\0C06\n", 0)


def test_what_is_cut_was_interrupted() -> None:
    walker = walked(UP, [*FILE[:3], ("o", b"hel")])
    walker.interrupt(2.0)
    walker.interrupt(2.0)
    assert facts(walker) == [("open", b"/in", "interrupted", sha(b"hel"))]


@given(st.sampled_from([FILE, TREE]), st.data())
def test_any_chunking_is_one_chunking(steps: list[tuple[str, bytes]], data: st.DataObject) -> None:
    cut = []
    for who, octets in steps:
        at = data.draw(st.integers(0, len(octets)))
        cut += [(who, octets[:at]), (who, octets[at:])]
    assert facts(walked(DOWN, cut)) == facts(walked(DOWN, steps))


@given(st.lists(st.tuples(st.sampled_from("ko"), st.binary(max_size=30)), max_size=20), st.booleans())
def test_random_octets_raise_only_what_is_declared(steps: list[tuple[str, bytes]], started: bool) -> None:
    walker = walked(DOWN, TREE[:12] if started else [])
    try:
        for who, octets in steps:
            if who == "k":
                walker.from_sink(octets, 0)
            else:
                assert 0 <= walker.from_source(octets, 0) <= len(octets)
    except ScpError:
        pass
    walker.interrupt(0)


@pytest.mark.parametrize("line", [b"hello\n", b"C0644 99999999999999999999 a\n", b"C0644 -1 a\n", b"C0644 5\n", b"x" * 9000, b"C9999 1 a\n",
                                  b"C0644 1 ../a\n", b"D0755 0 ..\n", b"C0644 1 /a\n"])  # fmt: skip
def test_lines_that_scp_does_not_know(line: bytes) -> None:
    walker = walked(UP, [("k", OK)])
    with pytest.raises(ScpError):
        walker.from_source(line, 0)


def test_answers_are_bounded_and_only_to_what_was_asked() -> None:
    with pytest.raises(ScpError):
        walked(UP, [("k", OK), ("k", OK)])
    with pytest.raises(ScpError):
        walked(UP, [("k", b"\1" * (LONGEST_LINE + 1))])


@pytest.mark.parametrize(
    ("line", "program", "direction", "paths"),
    [
        (b"scp -t /tmp/a", "scp", "upload", ("/tmp/a",)),
        (b"/usr/bin/scp -v -r -p -f -- '/tmp/a b' c", "scp", "download", ("/tmp/a b", "c")),
        (b"scp -qrt .", "scp", "upload", (".",)),
        (b"sudo -n scp -f /etc/x", "scp", "download", ("/etc/x",)),
        (b"scp -4f -o t /x", "scp", "download", ("/x",)),
        (b"scp -Ft -P f -t -- -y", "scp", "upload", ("-y",)),
        (b"scp -t '/a;b' \"(c) $HOME\" d\\;e", "scp", "upload", ("/a;b", "(c) $HOME", "d;e")),
        (b"rsync --server --sender -logDtpre.iLsfxC . /data/", "rsync", "download", (".", "/data/")),
        (b"sudo -u www -n rsync --server --sender -ze.i . /a", "rsync", "download", (".", "/a")),
        (
            b"rsync --server -e.i . '$x' '#' a\\$b \"#\" x{a,b}",
            "rsync",
            "upload",
            (".", "$x", "#", "a$b", "#", "x{a,b}"),
        ),
        (b"rsync --server -e.iLsfxC . x", "rsync", "upload", (".", "x")),
        (b"/usr/lib/openssh/sftp-server -e", "sftp", "", ()),
        (b"sudo /usr/lib/openssh/sftp-server", "sftp", "", ()),
    ],
)
def test_transfers_are_known_by_their_command(
    line: bytes, program: str, direction: str, paths: tuple[str, ...]
) -> None:
    found = transfer_command(line)
    assert found is not None
    assert (found.program, found.direction, found.paths) == (program, direction, paths)


@pytest.mark.parametrize("line", [
    b"", b"cat x", b"scp a host:b", b"rsync a b", b"sudo", b"git-upload-pack 'x'",
    b"scp -tf x", b"scp -{f,q} x", b"scp -t x -f", b"scp -\xc3\xa9f x",  # which no client sends
    b"scp -f x; sh", b"rsync --server . x & sh", b"scp -t x\nsh", b'scp -t "$(sh)"', b"scp -t `sh`", b"sftp-server|sh",
    b"rsync --server . x # --sender", b"rsync --server . ''$x", b"rsync --server . {--sender,x}", b"rsync --server \\\n--sender . x",
    b'rsync --server "\\\n--sender" . x', b"rsync --server . a${IFS}--sender", b"rsync --server -- . --sender", b"rsync -e --server . x",
    b"scp -t x >y", b"scp -t 'x", b"scp -t " + b"a" * LONGEST_COMMAND,
])  # fmt: skip
def test_other_commands_are_not_transfers(line: bytes) -> None:
    assert transfer_command(line) is None


@given(st.binary(max_size=100))
def test_any_command_line_can_be_asked(line: bytes) -> None:
    transfer_command(line)
    transfer_command(b"scp -t " + line)


@pytest.mark.parametrize(
    ("line", "moves"),
    [
        (b"scp -4f x", True), (b"/usr/bin/rsync --daemon", True), (b"sudo -u x scp -t y", True), (b"scp 'x", True),
        (b"scp " + b"x" * LONGEST_COMMAND, True), (b"cat scp", False), (b"", False), (b"scpx", False),
    ],
)  # fmt: skip
def test_programs_that_move_files_are_known_however_they_are_called(line: bytes, moves: bool) -> None:
    assert may_move_files(line) is moves
