"""rsync's protocol 30 to 32 as somebody in the middle sees it: which files pass, and what is in them.

There is no standard; this follows rsync 3.2.7 (compat.c, flist.c, io.c, sender.c, token.c). Only the sender's octets
are followed, and of the other side its version and what it offers. Whatever is not known for certain (an option, a
version, a value out of range) ends the following (`gave_up` says why), never the transfer.

INVARIANTS
1. Nothing is held back and nothing changed: octets go on whatever is found here.
2. Of file data nothing is kept; names, entries and what waits to be understood are bounded.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from gateway.wire.file_digest import FileDigest
from gateway.wire.rsync_input import Input, Number, Octets, RsyncError, Walk
from gateway.wire.rsync_list import INC_RECURSE, LONGEST_NAME, VARINT_FLAGS, FileLists
from gateway.wire.rsync_options import Options, UnknownOptionError, options_of
from gateway.wire.scp import TransferCommand

OLDEST, NEWEST = 30, 32
_BASIS_TYPE, _XNAME, _TRANSFER = 1 << 11, 1 << 12, 1 << 15  # flags of an item
_DONE, _FLIST_EOF, _DEL_STATS, _FLIST_OFFSET = -1, -2, -3, -101  # what is no item
_SUM_LENGTHS = {"xxh128": 16, "xxh3": 8, "xxh64": 8, "md5": 16, "md4": 16, "sha1": 20, "none": 1}
_SUM_HEAD = struct.Struct("<4i")  # number and size of the blocks that the receiver told of, of their sums, of the last
_PHASES = 3  # ends that the sender says beside those of lists: of two phases, and of everything
_NAMES = re.compile(rb"[a-z0-9 ]*")
INFLATED_AT_ONCE = 1 << 18
Inflate = Callable[[bytes], Iterable[bytes]]  # what a piece of compressed data adds; RsyncError when it cannot be


@dataclass(slots=True)
class Passed:
    """A file whose content passed, in whole or as what differs. `matched` octets the receiver had already."""

    path: bytes
    size: int  # as the list of files says
    at: float
    until: float = 0.0
    outcome: str = "interrupted"
    matched: int = 0
    compression: str = ""
    digest: FileDigest = field(default_factory=FileDigest)

    def match(self, block: int, blocks: int, length: int, last: int, *, run: int = 0) -> None:
        """A block that the receiver has, and the `run` that follow it: at once, as few octets tell of very many."""
        if not 0 <= block < blocks - run:
            raise RsyncError("a block out of range")
        self.matched += run * length + (last if block + run == blocks - 1 else length)
        self.digest.lose()


class RsyncWalker:
    """Both directions of one rsync. Not safe for threads.

    `inflaters` make, by name, what reads a compression other than zlib's, which goes on from file to file.
    """

    def __init__(
        self, command: TransferCommand, inflaters: Mapping[str, Callable[[], Inflate]] = MappingProxyType({})
    ) -> None:
        self._inflaters = inflaters
        self._inflate: Inflate | None = None
        self._upload = command.direction == "upload"
        self._client, self._server = Input(), Input()
        self._sender = self._client if self._upload else self._server
        self._versions: dict[Input, int] = {}
        self._flags: int | None = None  # the server's
        self._offers: dict[Input, list[list[str]]] = {}  # checksums, then compressions
        self._previous = [-1, 1]  # index, and negated one, from which the next is counted
        self._at = 0.0
        self._moving: Passed | None = None
        self.done: list[Passed] = []  # the caller takes them out
        self.is_over = False
        self.gave_up = ""
        self._options = Options()
        try:
            self._options = options_of(command.arguments)
        except UnknownOptionError as why:
            self.gave_up = str(why)
        self._walks = [self._greet(self._client), self._greet(self._server)]

    def from_client(self, data: Octets, at: float) -> None:
        """Octets on their way to the server. Never raises."""
        self._come(self._client, data, at)

    def from_server(self, data: Octets, at: float) -> None:
        """And the other way."""
        self._come(self._server, data, at)

    def end(self, at: float) -> None:
        """Nothing more comes: what is under way was interrupted, or nobody here knows how it went on."""
        if self._moving is not None:
            if self.gave_up:
                self._moving.outcome = "not-parsed"
                self._moving.digest.lose()
            self._moving.until = at
            self.done.append(self._moving)
            self._moving = None

    def _come(self, side: Input, data: Octets, at: float) -> None:
        is_heard = side in self._offers and side is not self._sender
        if self.gave_up or self.is_over or is_heard:
            return
        self._at = at
        try:
            side.put(data)
            self._walks = [walk for walk in self._walks if next(walk, self) is None]  # each may wait for either
        except RsyncError as why:
            self.gave_up = str(why)
        except (ValueError, IndexError, OverflowError, zlib.error) as why:
            self.gave_up = f"a value out of range ({type(why).__name__})"

    # ------------------------------------------------------------ until both know what the other can

    def _greet(self, side: Input) -> Walk:
        """Version, flags (the server's), what it offers, seed (the server's); then, from the sender, everything."""
        self._versions[side] = yield from side.int32()
        while len(self._versions) < 2:
            yield
        if not OLDEST <= self._version() <= NEWEST or max(self._versions.values()) > 255:
            raise RsyncError(f"protocol {self._version()}")
        if side is self._server:
            self._flags = yield from side.varint()
        while self._flags is None:
            yield
        checksums = compressions = b""
        if self._flags & VARINT_FLAGS and not self._options.checksum:
            checksums = yield from side.vstring()
        if self._flags & VARINT_FLAGS and self._options.compresses and not self._options.compression:
            compressions = yield from side.vstring()
        if side is self._server:
            yield from side.take(4)  # the seed of the checksums
        self._offers[side] = [_offered(checksums), _offered(compressions)]
        if side is self._sender:
            side.multiplex()
            while len(self._offers) < 2:
                yield
            yield from self._send(side, self._flags)
            self.is_over = True

    def _version(self) -> int:
        return min(self._versions.values())

    def _agreed(self, nth: int, without: str) -> str:
        """The first that the client offers and the server has, too."""
        client, server = (self._offers[side][nth] for side in (self._client, self._server))
        if not client or not server:
            return without
        for name in client:
            if name in server:
                return name
        raise RsyncError("nothing that both offer")

    # ------------------------------------------------------------ the sender

    def _send(self, side: Input, flags: int) -> Walk:
        content, _, listed = (self._options.checksum or self._agreed(0, "md5")).partition(",")
        if not {content, listed or content} <= _SUM_LENGTHS.keys():
            raise RsyncError("checksums of an unknown kind")
        lists = FileLists(self._options, self._version(), flags, _SUM_LENGTHS[listed or content])
        if self._upload and self._options.receiver_filters:
            yield from _filters(side)
        yield from lists.read(side)
        if flags & INC_RECURSE:
            yield from self._items_and_lists(side, lists, _SUM_LENGTHS[content])
            return
        yield from lists.read_ids(side)
        for _ in range(_PHASES):
            while (index := (yield from self._index(side))) != _DONE:
                yield from self._item(side, lists, index, _SUM_LENGTHS[content])

    def _items_and_lists(self, side: Input, lists: FileLists, sum_length: int) -> Walk:
        """Every list but the last has an end of its own."""
        is_eof, ends, expected = False, 0, _PHASES
        while not is_eof or ends < expected:
            index = yield from self._index(side)
            if index == _DONE:
                ends += 1
                lists.end_first()
            elif index == _FLIST_EOF:
                is_eof = True
            elif index <= _FLIST_OFFSET:
                expected += 1
                yield from lists.read(side)
            else:
                yield from self._item(side, lists, index, sum_length)

    def _index(self, side: Input) -> Number:
        """The difference to the one before, in one octet where it fits; a negative one behind 0xFF."""
        first = yield from side.byte()
        if first == 0:
            return _DONE
        is_negative = first == 0xFF
        if is_negative:
            first = yield from side.byte()
        before = self._previous[is_negative]
        if first != 0xFE:
            index = first + before
        else:
            two = yield from side.take(2)
            index = int.from_bytes(two, "big") + before
            if two[0] & 0x80:  # as it is, and in an order of its own
                rest = yield from side.take(2)
                index = int.from_bytes(bytes((two[1], *rest, two[0] & 0x7F)), "little")
        self._previous[is_negative] = index
        return -index if is_negative else index

    def _item(self, side: Input, lists: FileLists, index: int, sum_length: int) -> Walk:
        if index == _DEL_STATS:
            for _ in range(5):
                yield from side.varint()
            return
        if index < 0:
            raise RsyncError("an index out of range")
        flags = yield from side.int16()
        if flags & _BASIS_TYPE:
            yield from side.byte()
        if flags & _XNAME:
            yield from side.vstring()
        if flags & _TRANSFER and not self._options.is_dry:
            entry = lists.entry(index)
            self._moving = Passed(entry.path, entry.size, self._at)
            yield from self._content(side, self._moving)
            yield from side.take(sum_length)
            self._moving.outcome = "ok"
            self.end(self._at)

    def _content(self, side: Input, moving: Passed) -> Walk:
        blocks, length, _, remainder = _SUM_HEAD.unpack((yield from side.take(_SUM_HEAD.size)))
        if blocks < 0 or not 0 <= remainder <= length:
            raise RsyncError("blocks out of range")
        if self._options.appends:
            moving.digest.lose()
        sizes = (blocks, length, remainder or length)
        if self._options.compresses:
            moving.compression = self._options.compression or self._agreed(1, "zlib")
        if moving.compression not in ("", "none"):
            yield from _compressed(side, moving, sizes, self._inflater(moving.compression))
            return
        while token := (yield from side.int32()):
            if token > 0:
                yield from side.pour(token, moving.digest)
            else:
                moving.match(-(token + 1), *sizes)

    def _inflater(self, compression: str) -> Inflate | None:
        if compression in ("zlib", "zlibx"):
            return _zlib()
        if self._inflate is None and compression in self._inflaters:
            self._inflate = self._inflaters[compression]()
        return self._inflate


def _offered(names: bytes) -> list[str]:
    """In others rsync could see ends, spaces and capitals of its own."""
    if not _NAMES.fullmatch(names):
        raise RsyncError("an offer that is not clean")
    return names.decode().replace("xxhash", "xxh64").split()  # these are the same


def _filters(side: Input) -> Walk:
    """What the receiver must know to delete nothing that was left out."""
    while length := (yield from side.int32()):
        if not 0 < length <= 4 * LONGEST_NAME:
            raise RsyncError("a filter that is too long")
        yield from side.take(length)


def _zlib() -> Inflate:
    """One for each file. Once a block has matched it would have to know that, and nobody asks it any more."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)

    def inflate(data: bytes) -> Iterator[bytes]:
        while True:
            piece = inflater.decompress(data, INFLATED_AT_ONCE)
            data = inflater.unconsumed_tail
            yield piece
            if not data and len(piece) < INFLATED_AT_ONCE:  # else some of it may stay behind
                return

    return inflate


def _compressed(side: Input, moving: Passed, sizes: tuple[int, int, int], inflate: Inflate | None) -> Walk:
    """Pieces of compressed data and tokens (token.c). What cannot be read is counted as it passed, without a digest."""
    is_zlib = moving.compression in ("zlib", "zlibx")
    if inflate is None:
        moving.digest.lose()
    token = 0
    while flag := (yield from side.byte()):
        if flag & 0xC0 == 0x40:
            data = yield from side.take((flag & 0x3F) << 8 | (yield from side.byte()))
            if is_zlib and moving.matched:
                inflate = None
            for piece in (data,) if inflate is None else inflate(data):
                moving.digest.update(piece)
            continue
        token = token + (flag & 0x3F) if flag & 0x80 else (yield from side.int32())
        is_run = flag & 0x40 if flag & 0x80 else flag & 1
        run = (yield from side.int16()) if is_run else 0
        moving.match(token, *sizes, run=run)
        token += run
