"""One direction of rsync's octets: taken apart into messages, and read as the numbers and strings of io.c."""

from collections.abc import Generator

from gateway.wire.file_digest import FileDigest

MOST_WAITING = 1 << 20  # octets that came before they could be understood
_MPLEX_BASE, _MSG_DATA = 7, 0
_COMPACT = 1 << 16
Octets = bytes | bytearray | memoryview
Walk = Generator[None]
Number = Generator[None, None, int]


class RsyncError(Exception):
    """Something that is not understood."""


class Input:
    """A walk asks for octets and rests until they have come: each of these generators yields while it waits."""

    def __init__(self) -> None:
        self._have = bytearray()
        self._at = 0
        self._raw: bytearray | None = None  # once it is multiplexed: what is not taken apart yet
        self._left = 0  # of a message of data
        self._skip = 0  # of another

    def put(self, data: Octets) -> None:
        """More has come."""
        if self._raw is None:
            self._have += data
        else:
            self._raw += data
            self._take_apart(self._raw)
        if len(self._have) - self._at > MOST_WAITING + len(data):
            raise RsyncError("more came than could be understood")

    def multiplex(self) -> None:
        """From here on it is messages: 4 octets (length, and a tag above it), then that many."""
        self._raw = self._have[self._at :]
        self._have, self._at = bytearray(), 0
        self._take_apart(self._raw)

    def _take_apart(self, raw: bytearray) -> None:
        at = 0
        while at < len(raw):
            if self._skip:
                step = min(self._skip, len(raw) - at)
                self._skip -= step
            elif self._left:
                step = min(self._left, len(raw) - at)
                with memoryview(raw) as view:
                    self._have += view[at : at + step]
                self._left -= step
            elif len(raw) - at < 4:
                break
            else:
                head, step = int.from_bytes(raw[at : at + 4], "little"), 4
                tag, length = (head >> 24) - _MPLEX_BASE, head & 0xFFFFFF
                if tag < 0:
                    raise RsyncError("no message begins where one should")
                self._left, self._skip = (length, 0) if tag == _MSG_DATA else (0, length)
            at += step
        del raw[:at]

    def take(self, n: int) -> Generator[None, None, bytes]:
        """The next `n` octets."""
        while len(self._have) - self._at < n:
            yield
        taken = bytes(self._have[self._at : self._at + n])
        self._at += n
        if self._at > _COMPACT:
            del self._have[: self._at]
            self._at = 0
        return taken

    def pour(self, n: int, into: FileDigest) -> Walk:
        """The next `n` octets, as they come, into a digest."""
        while n:
            step = min(n, len(self._have) - self._at)
            if not step:
                yield
                continue
            with memoryview(self._have) as have:
                into.update(have[self._at : self._at + step])
            self._at += step
            n -= step
            if self._at == len(self._have):
                self._have.clear()
                self._at = 0

    def byte(self) -> Number:
        """0 to 255."""
        return (yield from self.take(1))[0]

    def int16(self) -> Number:
        """Two octets, the lower first, without a sign."""
        return int.from_bytes((yield from self.take(2)), "little")

    def int32(self) -> Number:
        """Four octets, the lowest first, with a sign."""
        return int.from_bytes((yield from self.take(4)), "little", signed=True)

    def varint(self) -> Number:
        """1 to 5 octets, with a sign: how many more come stands in the first one's high bits."""
        value = (yield from self.varlong(1)) & 0xFFFFFFFF
        return value - (1 << 32) if value >> 31 else value

    def varlong(self, least: int) -> Number:
        """The same with `least` octets or more, up to 9, without a sign."""
        head = yield from self.take(least)
        extra = _extra(head[0])
        if least + extra > (5 if least == 1 else 9):
            raise RsyncError("a number that is too long")
        low = head[1:] + (yield from self.take(extra))
        high = head[0] & ((1 << (8 - extra)) - 1) if extra else head[0]
        return int.from_bytes(low + bytes((high,)), "little")

    def vstring(self) -> Generator[None, None, bytes]:
        """A string with its length, up to 32,767, in one octet or two."""
        length = yield from self.byte()
        if length & 0x80:
            length = (length & 0x7F) << 8 | (yield from self.byte())
        return (yield from self.take(length))


def _extra(first: int) -> int:
    for extra, limit in enumerate((0x80, 0xC0, 0xE0, 0xF0, 0xF8, 0xFC)):
        if first < limit:
            return extra
    return 6
