"""rsync's lists of files as the sender tells them: `recv_file_entry` and `f_name_cmp` of flist.c, protocol 30 to 32.

Sent all at once, or one for each directory while files pass already (incremental recursion).
"""

import re
import stat
from bisect import bisect_right
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass

from gateway.wire.rsync_input import Input, RsyncError, Walk
from gateway.wire.rsync_options import Options

MOST_ENTRIES = 100_000  # of all lists that are not over; each of these counts, too
MOST_NAMES = 1 << 25  # octets of their names
LONGEST_NAME = 4_096
INC_RECURSE, VARINT_FLAGS, ID0_NAMES = 1, 128, 256  # compatibility flags of the server's
_SPECIALS_WITHOUT_NUMBERS = 31  # the protocol
# Flags of an entry: what it shares with the one before, and what is told of it.
_SAME_MODE, _EXTENDED, _SAME_UID, _SAME_GID, _SAME_NAME = 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 5
_LONG_NAME, _SAME_TIME, _SAME_RDEV_MAJOR, _HLINKED = 1 << 6, 1 << 7, 1 << 8, 1 << 9
_USER_NAME, _GROUP_NAME, _HLINK_FIRST, _MOD_NSEC, _SAME_ATIME = 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14
_CRTIME_IS_MTIME = 1 << 17
# What the receiver would make another name of (`clean_fname`), so that its order would be another one, or refuse.
_UNCLEAN = re.compile(rb"\0|//|(?:\A|/)\.\.?/|(?:\A|/)\.\.\Z|./\Z|\A\Z", re.DOTALL)
_END_WITH_ERROR = _EXTENDED | 1 << 12


@dataclass(slots=True)
class Entry:
    """One name of a list."""

    path: bytes
    mode: int
    size: int

    def key(self) -> bytes:
        """Its place in the list: files before directories, a directory as if its name ended in a slash. In one piece,
        which is compared many times as fast as a tuple: nobody else runs while a long list is sorted.
        """
        parts = self.path.split(b"/")
        last = b"\0" + parts[-1]
        if stat.S_ISDIR(self.mode):
            last = b"\0" if parts[-1] == b"." else b"\1" + parts[-1] + b"/"
        return b"".join([b"\1" + part + b"/" for part in parts[:-1]]) + last


class FileLists:
    """Those that are not over, and what an entry shares with the one before. `checksum` is the length of one's own."""

    def __init__(self, options: Options, version: int, flags: int, checksum: int) -> None:
        self._options = options
        self._has_numbers = options.specials and version < _SPECIALS_WITHOUT_NUMBERS
        self._flags = flags
        self._checksum = checksum
        self._lists: deque[tuple[int, list[Entry]]] = deque()  # index of the first, entries in their order
        self._next_index = flags & INC_RECURSE
        self._count = self._octets = 0
        self._name = b""
        self._mode = 0

    def entry(self, index: int) -> Entry:
        """What the index of a transfer means."""
        at = bisect_right(self._lists, index, key=lambda known: known[0]) - 1
        first, entries = self._lists[at] if at >= 0 else (0, [])
        if not 0 <= index - first < len(entries):
            raise RsyncError("an index that is in no list")
        return entries[index - first]

    def end_first(self) -> None:
        """Nothing more comes of the oldest; the last one stays."""
        if len(self._lists) > 1:
            _, entries = self._lists.popleft()
            self._count -= len(entries) + 1
            self._octets -= sum([len(entry.path) for entry in entries])

    def _hold(self, octets: int) -> None:
        self._count += 1
        self._octets += octets
        if self._count > MOST_ENTRIES or self._octets > MOST_NAMES:
            raise RsyncError("more files than are followed")

    def read(self, side: Input) -> Walk:
        """One more list."""
        entries: list[Entry] = []
        self._hold(0)
        while flags := (yield from self._entry_flags(side)):
            entries.append((yield from self._read(side, flags, entries)))
            self._hold(len(entries[-1].path))
        entries.sort(key=Entry.key)
        self._lists.append((self._next_index, entries))
        self._next_index += len(entries) + 1

    def read_ids(self, side: Input) -> Walk:
        """Names of owners and groups, behind a list that is sent at one go."""
        options = self._options
        for is_kept in () if options.numeric_ids else (options.owners, options.groups):
            while is_kept and (yield from side.varint()):
                yield from side.take((yield from side.byte()))
            if is_kept and self._flags & ID0_NAMES:
                yield from side.take((yield from side.byte()))

    def _entry_flags(self, side: Input) -> Generator[None, None, int]:
        """0 at the end."""
        if self._flags & VARINT_FLAGS:
            flags = yield from side.varint()
            if not flags:
                yield from side.varint()  # what went wrong
            return flags
        flags = yield from side.byte()
        if flags & _EXTENDED:
            flags |= (yield from side.byte()) << 8
        if flags == _END_WITH_ERROR:
            yield from side.varint()
            return 0
        return flags

    def _read(self, side: Input, flags: int, before: list[Entry]) -> Generator[None, None, Entry]:
        path = yield from self._read_name(side, flags)
        if flags & (_HLINKED | _HLINK_FIRST) == _HLINKED:
            first = yield from side.varint()
            if first >= self._next_index:  # in this list: the rest is as there
                other = before[first - self._next_index]
                self._mode = other.mode
                return Entry(path, other.mode, other.size)
        size = yield from side.varlong(3)
        yield from self._read_times_and_mode(side, flags)
        yield from self._read_owners(side, flags)
        yield from self._read_rest(side, flags)
        return Entry(path, self._mode, size)

    def _read_name(self, side: Input, flags: int) -> Generator[None, None, bytes]:
        same = (yield from side.byte()) if flags & _SAME_NAME else 0
        more = yield from (side.varint() if flags & _LONG_NAME else side.byte())
        if not 0 <= more <= LONGEST_NAME - same:
            raise RsyncError("a name that is too long")
        self._name = self._name[:same] + (yield from side.take(more))
        if _UNCLEAN.search(self._name):
            raise RsyncError("a name that is not clean")
        return self._name

    def _read_times_and_mode(self, side: Input, flags: int) -> Walk:
        if not flags & _SAME_TIME:
            yield from side.varlong(4)
        if flags & _MOD_NSEC:
            yield from side.varint()
        if self._options.crtimes and not flags & _CRTIME_IS_MTIME:
            yield from side.varlong(4)
        if not flags & _SAME_MODE:
            self._mode = (yield from side.int32()) & 0xFFFF
        if self._options.atimes and not stat.S_ISDIR(self._mode) and not flags & _SAME_ATIME:
            yield from side.varlong(4)

    def _read_owners(self, side: Input, flags: int) -> Walk:
        for is_kept, same, named in (
            (self._options.owners, _SAME_UID, _USER_NAME),
            (self._options.groups, _SAME_GID, _GROUP_NAME),
        ):
            if is_kept and not flags & same:
                yield from side.varint()
                if flags & named:
                    yield from side.take((yield from side.byte()))

    def _read_rest(self, side: Input, flags: int) -> Walk:
        mode = self._mode
        is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
        is_special = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
        if (self._options.devices and is_device) or (self._has_numbers and is_special):
            if not flags & _SAME_RDEV_MAJOR:
                yield from side.varint()
            yield from side.varint()
        if self._options.links and stat.S_ISLNK(mode):
            length = yield from side.varint()
            if not 0 <= length <= LONGEST_NAME:
                raise RsyncError("a link that is too long")
            yield from side.take(length)
        if self._options.checksums and stat.S_ISREG(mode):
            yield from side.take(self._checksum)
