"""What the walker says of real runs of rsync, whose octets a remote shell of our own notes down."""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.edges.proxy.ssh_zstd import zstd
from gateway.wire import rsync_list
from gateway.wire.rsync import INFLATED_AT_ONCE, Passed, RsyncWalker, _compressed, _zlib
from gateway.wire.rsync_input import MOST_WAITING, Input, RsyncError
from gateway.wire.rsync_list import INC_RECURSE, VARINT_FLAGS, Entry, FileLists
from gateway.wire.rsync_options import Options, options_of
from gateway.wire.scp import TransferCommand, transfer_command

# In place of ssh: starts the server here, and notes which octets came from whom, in their order.
_SHELL = """
import json, os, subprocess, sys, threading
words = sys.argv[1:]
while words[0].startswith("-"):
    words = words[2:] if words[0] == "-l" else words[1:]
command = " ".join(words[1:])
for each in (0, 1):
    os.set_blocking(each, True)
server = subprocess.Popen(["sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
seen, noting = [], threading.Lock()

def pump(who, source, sink):
    try:
        while data := os.read(source, 4096):
            with noting:
                seen.append((who, data.hex()))
            while data:
                data = data[os.write(sink, data):]
    except BrokenPipeError:
        pass
    os.close(sink)

threading.Thread(target=pump, args=("client", 0, server.stdin.fileno()), daemon=True).start()
pump("server", server.stdout.fileno(), os.dup(1))
status = server.wait()
with noting:
    open(os.environ["NOTES"], "w").write(json.dumps({"command": command, "seen": seen}))
os._exit(status)
"""
Seen = list[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Run:
    command: TransferCommand
    seen: Seen

    def walked(self, seen: Seen | None = None) -> RsyncWalker:
        walker = RsyncWalker(self.command, {"zstd": zstd})
        for number, (who, data) in enumerate(self.seen if seen is None else seen):
            (walker.from_client if who == "client" else walker.from_server)(data, float(number))
        walker.end(1e6)
        return walker


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("rsync") / "source"
    chance = random.Random(7)
    for name, size in {
        "a": 0, "b": 10, "big": 300_000, "sub/one": 70_000, "sub/deep/q": 9_000, "sub.x/z": 5, "sub-file": 9, "sub0": 1,
        "with space": 8, "é": 4, **{f"d{number:02}/f{number}": number * 50 for number in range(40)},
    }.items():  # fmt: skip
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chance.randbytes(size))
    (source / "text").write_text("hello world\\n" * 9_000)
    (source / "empty").mkdir()
    (source / "link").symlink_to("a")
    (source / "hard").hardlink_to(source / "b")
    os.mkfifo(source / "fifo")
    return source


@pytest.fixture(scope="module")
def transfer(tree: Path) -> Callable[..., Run]:
    place = tree.parent
    (place / "shell.py").write_text(_SHELL)

    def run(direction: str, *options: str, there: Path | None = None) -> Run:
        copy = place / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        if there is not None:
            shutil.copytree(there, copy, symlinks=True, ignore=shutil.ignore_patterns("fifo"))
        ends = (f"{tree}/", f"host:{copy}/") if direction == "upload" else (f"host:{tree}/", f"{copy}/")
        notes = place / "notes"
        subprocess.run(
            ["rsync", "-e", f"{sys.executable} {place / 'shell.py'}", *options, *ends],
            env={**os.environ, "NOTES": str(notes)}, check=True, timeout=60, capture_output=True,
        )  # fmt: skip
        noted = json.loads(notes.read_text())
        command = transfer_command(noted["command"].encode())
        assert command is not None
        assert command.direction == direction
        return Run(command, [(who, bytes.fromhex(data)) for who, data in noted["seen"]])

    return run


def expected(tree: Path) -> dict[str, str]:
    """SHA-256 by name."""
    found = [path for path in tree.rglob("*") if path.is_file() and not path.is_symlink()]
    return {str(path.relative_to(tree)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@pytest.mark.parametrize("direction", ["upload", "download"])
@pytest.mark.parametrize(
    "options",
    [
        "-r", "-a", "-av", "-aH", "-ac", "-aR", "-aU", "-aS", "-am", "-a --no-inc-recursive", "-aHc --no-inc-recursive",
        "-a --numeric-ids", "-a --delete", "-a --delete-excluded --exclude=none", "-a --inplace", "-a --protocol=30",
        "-a --protocol=31", "-a --protocol=30 --no-inc-recursive", "-a --checksum-choice=md5",
        "-ac --checksum-choice=sha1,md4", "-az --compress-choice=zlib", "-az --compress-choice=zlibx", "-az --compress-choice=zstd", "-az", "-aW --partial-dir=.p", "-a --link-dest=/nowhere", "-a --usermap=*:0 --groupmap=*:0", "-aC --delete", "-aS --inplace",
        "-az --compress-level=3", "-a --copy-unsafe-links --msgs2stderr",
    ],
)  # fmt: skip
def test_every_file_with_its_digest(transfer: Callable[..., Run], tree: Path, direction: str, options: str) -> None:
    walker = transfer(direction, *options.split()).walked()
    assert (walker.gave_up, walker.is_over) == ("", True)
    start = f"{str(tree).lstrip('/')}/" if "R" in options.split(maxsplit=1)[0] else ""
    found = {one.path.decode().lstrip("/").removeprefix(start): one.digest.fields()["sha256"] for one in walker.done}
    wanted = expected(tree)
    if "H" in options.split(maxsplit=1)[0]:  # one of both names
        del wanted["hard" if "b" in found else "b"]
    assert found == wanted
    assert {one.outcome for one in walker.done} == {"ok"}
    assert all(one.size == one.digest.octets for one in walker.done)


@pytest.mark.parametrize("direction", ["upload", "download"])
@pytest.mark.parametrize(
    "options", ["-a", "-az --compress-choice=zlib", "-az --compress-choice=zlibx", "-az --compress-choice=zstd"]
)
def test_what_the_receiver_has_already_is_no_digest(
    transfer: Callable[..., Run], tree: Path, tmp_path: Path, direction: str, options: str
) -> None:
    older = tmp_path / "older"
    shutil.copytree(tree, older, symlinks=True, ignore=shutil.ignore_patterns("fifo"))
    content = bytearray((older / "big").read_bytes())
    content[1_000:1_100] = bytes(100)
    (older / "big").write_bytes(content)
    os.utime(older / "big", (1, 1))
    (one,) = transfer(direction, *options.split(), there=older).walked().done
    assert (one.path, one.size, one.outcome, one.digest.fields()) == (b"big", 300_000, "ok", {"sha256": None})
    assert 250_000 < one.matched < 300_000
    assert one.matched + one.digest.octets >= (300_000 if options == "-a" else 290_000)


def test_what_is_compressed_otherwise_is_counted(transfer: Callable[..., Run], tree: Path) -> None:
    walker = transfer("upload", "-az", "--compress-choice=lz4").walked()
    assert walker.is_over
    assert {one.path.decode(): one.size for one in walker.done} == {
        name: (tree / name).stat().st_size for name in expected(tree)
    }
    assert {(one.digest.fields()["sha256"], one.compression) for one in walker.done} == {(None, "lz4")}


@pytest.mark.parametrize(("options", "why"), [("-az --compress-level=0", "the option --compress-level=0"), ("-aX", "the option -X"), ("-as", "the option -s"), ("-a --iconv=.", "the option --iconv")])  # fmt: skip
def test_what_is_not_known_is_not_followed(transfer: Callable[..., Run], options: str, why: str) -> None:
    walker = transfer("upload", *options.split()).walked()
    assert (walker.gave_up, walker.is_over, walker.done) == (why, False, [])


def test_a_dry_run_moves_nothing(transfer: Callable[..., Run]) -> None:
    walker = transfer("upload", "-an").walked()
    assert (walker.gave_up, walker.is_over, walker.done) == ("", True, [])


@pytest.mark.parametrize("direction", ["upload", "download"])
def test_pieces_of_any_size_are_the_same(transfer: Callable[..., Run], tree: Path, direction: str) -> None:
    run = transfer(direction, "-a")
    for length in (1, 3, 1_000):
        pieces = [(who, data[at : at + length]) for who, data in run.seen for at in range(0, len(data), length)]
        walker = run.walked(pieces)
        assert walker.is_over
        assert {one.path.decode(): one.digest.fields()["sha256"] for one in walker.done} == expected(tree)


def test_a_run_that_is_cut_off_says_so(transfer: Callable[..., Run]) -> None:
    run = transfer("download", "-a")
    whole = len(run.walked().done)
    seen: Sequence[tuple[str, bytes]] = run.seen
    walker = run.walked(list(seen[: len(seen) // 2]))
    assert not walker.is_over
    assert 0 < len(walker.done) < whole
    assert [one.outcome for one in walker.done[:-1]] == ["ok"] * (len(walker.done) - 1)


def test_a_file_under_way_when_following_ends_has_no_digest(transfer: Callable[..., Run]) -> None:
    run = transfer("upload", "-a", "--no-inc-recursive")
    walker = RsyncWalker(run.command)
    for number, (who, data) in enumerate(run.seen):
        (walker.from_client if who == "client" else walker.from_server)(data, float(number))
        if walker._moving is not None and walker._moving.path == b"big":
            walker.from_client(bytes(1 << 18), 1e5)  # longer than the message is, and no message begins so
    walker.end(1e6)
    assert walker.gave_up == "no message begins where one should"
    one = walker.done[-1]
    assert (one.path, one.outcome, one.digest.fields()) == (b"big", "not-parsed", {"sha256": None})


@pytest.fixture(scope="module")
def some_runs(transfer: Callable[..., Run]) -> list[Run]:
    return [transfer("upload", "-a"), transfer("download", "-azH", "--compress-choice=zlib"), transfer("upload", "-ac", "--protocol=30"), transfer("download", "-az")]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_nothing_that_comes_raises(some_runs: list[Run], data: st.DataObject) -> None:
    run = data.draw(st.sampled_from(some_runs))
    seen = list(run.seen)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(seen), 40) - 1))
        who, octets = seen[at]
        start = data.draw(st.integers(0, max(0, min(len(octets), 200) - 1)))
        change = data.draw(st.binary(max_size=8))
        cut = data.draw(st.integers(0, 8))
        seen[at] = (who, octets[:start] + change + octets[start + cut :])
    walker = run.walked(seen)
    assert all(one.size >= 0 for one in walker.done)


@given(st.lists(st.tuples(st.sampled_from(["client", "server"]), st.binary(max_size=400)), max_size=12))
def test_nor_does_noise(pieces: Seen) -> None:
    command = TransferCommand("rsync", "upload", ("--server", "-logDtpre.iLsfxCIvu", ".", "x"), (".", "x"))
    assert not Run(command, pieces).walked().is_over


def test_few_octets_that_tell_of_many_blocks_cost_little() -> None:
    most, side, moving = (1 << 31) - 1, Input(), Passed(b"x", 0, 0.0)
    side.put(b"\xc0\xff\xff" * 10_000 + b"\0")  # each of a run of 65,536
    began = time.process_time()
    assert list(_compressed(side, moving, (most, 700, 5), None)) == []
    assert time.process_time() - began < 5
    assert moving.matched == 10_000 * 65_536 * 700


def test_the_last_block_of_a_run_is_shorter_and_none_is_behind_it() -> None:
    moving = Passed(b"x", 0, 0.0)
    moving.match(1, 4, 700, 5, run=2)
    assert moving.matched == 1_405
    for block, run in ((1, 3), (4, 0), (-1, 1)):
        with pytest.raises(RsyncError):
            moving.match(block, 4, 700, 5, run=run)


def test_lists_are_bounded_also_where_they_are_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rsync_list, "MOST_ENTRIES", 100)
    lists, side = FileLists(Options(), 31, INC_RECURSE | VARINT_FLAGS, 16), Input()
    side.put(b"\0\0" * 200)
    for _ in range(100):
        assert list(lists.read(side)) == []
    with pytest.raises(RsyncError):
        list(lists.read(side))
    for _ in range(50):
        lists.end_first()
    assert list(lists.read(side)) == []


def test_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rsync_list, "MOST_NAMES", 100)
    lists, side = FileLists(Options(), 31, INC_RECURSE | VARINT_FLAGS, 16), Input()
    entry = b"\x02\x28" + b"n" * 40 + bytes(3) + bytes(4)  # of the same mode as before: name, size, time
    for _ in range(2):
        side.put(entry + bytes(2))
        assert list(lists.read(side)) == []
    assert [lists.entry(index).path for index in (1, 3)] == [b"n" * 40] * 2
    for index in (0, 2, 4):
        with pytest.raises(RsyncError):
            lists.entry(index)
    side.put(entry)
    with pytest.raises(RsyncError):
        list(lists.read(side))
    lists.end_first()


def test_what_waits_is_bounded() -> None:
    command = TransferCommand("rsync", "upload", ("--server", "-logDtpre.iLsfxCIvu", ".", "x"), (".", "x"))
    walker = RsyncWalker(command)
    walker.from_client((31).to_bytes(4, "little"), 0.0)
    for _ in range(2 * MOST_WAITING // 65_536 + 2):  # before the server has said anything
        walker.from_client(bytes(65_536), 0.0)
    assert walker.gave_up == "more came than could be understood"


def receiving(*arguments: str) -> RsyncWalker:
    return RsyncWalker(TransferCommand("rsync", "upload", ("--server", *arguments), (".", "x")))


@pytest.mark.parametrize(
    "arguments",
    [
        "-re.v . x --delete -X", "-re.v . x -Q", "-r -e -m . x", "-re.iV . x", "-rzze.v . x", "-re.v *", "-re.v [-]m . x",
        "-re.v --compress-choice=auto . x", "-re.v --compress-choice=NONE . x", "-rze.v --compress-level=0x0 . x",
    ],
)  # fmt: skip
def test_what_the_server_could_read_otherwise_is_not_followed(arguments: str) -> None:
    assert receiving(*arguments.split()).gave_up


def test_options_may_stand_behind_the_names() -> None:
    options = options_of(("--server", "-re.v", ".", "x", "-cm", "--compress-level=3", "--", "-Q"))
    assert (options.checksums, options.receiver_filters, options.compresses) == (True, True, True)


def message(data: bytes) -> bytes:
    return (len(data) | 7 << 24).to_bytes(4, "little") + data


def sending(walker: RsyncWalker, flags: int = 1) -> RsyncWalker:
    """Both have greeted; the client is to send its first list."""
    walker.from_client((30).to_bytes(4, "little"), 0.0)
    walker.from_server((30).to_bytes(4, "little") + bytes((flags,)) + bytes(4), 0.0)
    return walker


def listed(name: bytes, mode: int = 0o100644, size: int = 9) -> bytes:
    head = (
        bytes((0x40,)) + bytes((0x80 | len(name) >> 8, len(name) & 0xFF))
        if len(name) > 127
        else bytes((0x40, len(name)))
    )
    return head + name + b"\0" + size.to_bytes(2, "little") + b"\0" * 4 + mode.to_bytes(4, "little")


@pytest.mark.parametrize("name", [b"", b"a/", b"a//b", b"./a", b"a/./b", b"..", b"a/..", b"../a", b"a\0", b"/./a"])
def test_a_name_that_the_receiver_would_change_is_not_followed(name: bytes) -> None:
    walker = sending(receiving("-re.i"))
    walker.from_client(message(listed(name)), 0.0)
    assert walker.gave_up == "a name that is not clean"


@pytest.mark.parametrize("name", [b".", b"/", b"a/.", b"...", b"..a/.b", b"/a"])
def test_others_are(name: bytes) -> None:
    walker = sending(receiving("-re.i"))
    walker.from_client(message(listed(name)), 0.0)
    assert not walker.gave_up


@given(
    st.lists(st.tuples(st.lists(st.sampled_from([b"a", b"a-", b"a0", b"b"]), min_size=1, max_size=3), st.booleans()))
)
def test_the_order_is_by_parts(names: list[tuple[list[bytes], bool]]) -> None:
    def parts(entry: Entry) -> list[tuple[int, bytes]]:
        above, last = entry.path.split(b"/")[:-1], entry.path.split(b"/")[-1]
        is_directory = entry.mode == 0o040755
        return [*((1, part + b"/") for part in above), (1, last + b"/") if is_directory else (0, last)]

    entries = [Entry(b"/".join(each), 0o040755 if is_directory else 0o100644, 0) for each, is_directory in names]
    assert sorted(entries, key=Entry.key) == sorted(entries, key=parts)


@pytest.mark.parametrize("cut", range(10))
def test_nothing_that_is_inflated_stays_behind(cut: int) -> None:
    for length in range(INFLATED_AT_ONCE, INFLATED_AT_ONCE + 258, 7):
        deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        data = deflater.compress(bytes(length)) + deflater.flush(zlib.Z_SYNC_FLUSH)
        data = data[: len(data) - cut]
        assert sum(map(len, _zlib()(data))) == len(zlib.decompressobj(-zlib.MAX_WBITS).decompress(data))


@pytest.mark.parametrize(
    ("offer", "why"),
    [
        (b"xxh64\0 md5", "an offer that is not clean"), (b"XXH64 md5", "an offer that is not clean"),
        (b"xxh64\x1cmd4 md5", "an offer that is not clean"), (b"xxhash md5", ""), (b"sha1", "nothing that both offer"),
    ],
)  # fmt: skip
def test_what_is_offered_is_read_as_the_server_reads_it(offer: bytes, why: str) -> None:
    walker = receiving("-re.v")
    walker.from_client((31).to_bytes(4, "little") + bytes((len(offer),)) + offer, 0.0)
    walker.from_server((31).to_bytes(4, "little") + b"\x80\x80\x09xxh64 md5" + bytes(4), 0.0)
    walker.from_client(b"", 0.0)
    assert walker.gave_up == why
