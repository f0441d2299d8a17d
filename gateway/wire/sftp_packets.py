"""The packets of SFTP version 3 (draft-ietf-secsh-filexfer-02): numbers, limits, fields, and what answers what."""

import struct

LONGEST_PACKET = 1024 * 1024
LONGEST_REQUEST = 34_000  # the draft's §3 asks for no more; only data and directory listings are longer
LONGEST_HANDLE = 256  # §3
VERSION = 3

INIT, VERSION_REPLY = 1, 2
OPEN, CLOSE, READ, WRITE = 3, 4, 5, 6
LSTAT, FSTAT, SETSTAT, FSETSTAT, OPENDIR, READDIR, REMOVE, MKDIR, RMDIR = range(7, 16)
REALPATH, STAT, RENAME, READLINK, SYMLINK = range(16, 21)
STATUS, HANDLE, DATA, NAME, ATTRS = range(101, 106)
EXTENDED, EXTENDED_REPLY = 200, 201
OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, OP_UNSUPPORTED = 0, 1, 2, 3, 4, 8
FOR_READING, FOR_WRITING, FOR_CHANGES = 0x01, 0x02, 0x02 | 0x04 | 0x08 | 0x10  # §6.3: WRITE, APPEND, CREAT, TRUNC

OUTCOMES = ("ok", "eof", "no-such-file", "permission-denied", "failure", "bad-message", "no-connection",
             "connection-lost", "unsupported")  # fmt: skip  # §7
# Requests with names: how many names, and what the record calls them ("" for a mere look).
NAMED = {
    LSTAT: (1, ""), STAT: (1, ""), READLINK: (1, ""), REALPATH: (1, ""), OPENDIR: (1, "list"),
    SETSTAT: (1, "setstat"), REMOVE: (1, "remove"), MKDIR: (1, "mkdir"), RMDIR: (1, "rmdir"),
    RENAME: (2, "rename"), SYMLINK: (2, "symlink"),
}  # fmt: skip
NAMED_EXTENDED = {
    b"posix-rename@openssh.com": (2, "rename"), b"hardlink@openssh.com": (2, "link"),
    b"lsetstat@openssh.com": (1, "setstat"), b"statvfs@openssh.com": (1, ""), b"expand-path@openssh.com": (1, ""),
    b"home-directory": (1, ""),
}  # fmt: skip
WITH_HANDLE_EXTENDED = frozenset({b"fsync@openssh.com", b"fstatvfs@openssh.com"})
FREE_EXTENDED = frozenset({b"limits@openssh.com", b"users-groups-by-id@openssh.com"})
HAVE_ATTRIBUTES_AFTER = frozenset({SETSTAT, MKDIR, OPEN, FSETSTAT})
ANSWERED_BY = {
    OPEN: {STATUS, HANDLE}, OPENDIR: {STATUS, HANDLE}, READ: {STATUS, DATA}, READDIR: {STATUS, NAME},
    REALPATH: {STATUS, NAME}, READLINK: {STATUS, NAME}, STAT: {STATUS, ATTRS}, LSTAT: {STATUS, ATTRS},
    FSTAT: {STATUS, ATTRS}, EXTENDED: {STATUS, NAME, EXTENDED_REPLY},
}  # fmt: skip
STATUS_ONLY = {STATUS}
U32 = struct.Struct(">I")
HEAD = struct.Struct(">IBI")  # length, type, request id
HEAD_AND_SIZE = struct.Struct(">IBII")  # and how long the string is that follows: a READ's handle, DATA's data
PLACE = struct.Struct(">QI")  # offset, length: how a READ ends, and what stands before the data of a WRITE


class SftpError(Exception):
    """A peer sent what SFTP 3 does not allow, or more than is kept. Ends the subsystem."""


def missing_of_request(head: bytearray) -> int:
    """How many octets are missing until a request can be judged: all of it, or a WRITE up to its data."""
    if len(head) < 5:
        return 5 - len(head)
    length = U32.unpack_from(head)[0]
    if not 5 <= length <= LONGEST_PACKET:
        raise SftpError(f"a packet of {length} octets from a client")
    if head[4] != WRITE:
        if length > LONGEST_REQUEST:
            raise SftpError(f"a request of {length} octets")
        return int(length) + 4 - len(head)
    if length < 4 + HEAD.size + PLACE.size:
        raise SftpError("a WRITE that is too short")
    if len(head) < HEAD.size + 4:
        return HEAD.size + 4 - len(head)
    handle = U32.unpack_from(head, HEAD.size)[0]
    wanted = HEAD.size + 4 + handle + PLACE.size
    if handle > LONGEST_HANDLE or wanted > length + 4:
        raise SftpError("a handle that is too long")
    return int(wanted) - len(head)


def whole_read(octets: memoryview, at: int) -> tuple[int, bytes, int, int, int] | None:
    """A READ that begins there, if all of it is there and as it should be: number, handle, offset, length, its end.

    Whoever downloads sends one for each 32 KB or so.
    """
    if len(octets) - at < HEAD_AND_SIZE.size:
        return None
    length, type_, number, handle = HEAD_AND_SIZE.unpack_from(octets, at)
    tail = at + HEAD_AND_SIZE.size + handle
    end = tail + PLACE.size
    if type_ != READ or handle > LONGEST_HANDLE or end != at + 4 + length or end > len(octets):
        return None
    return number, bytes(octets[at + HEAD_AND_SIZE.size : tail]), *PLACE.unpack_from(octets, tail), end


class Reader:
    """A cursor over a head. Every read raises SftpError past the end."""

    __slots__ = ("_at", "_octets")

    def __init__(self, octets: bytes, at: int) -> None:
        self._octets = octets
        self._at = at

    def _take(self, count: int) -> bytes:
        taken = self._octets[self._at : self._at + count]
        if len(taken) != count:
            raise SftpError("a packet ends in the middle of a field")
        self._at += count
        return taken

    def u32(self) -> int:
        return int.from_bytes(self._take(4), "big")

    def u64(self) -> int:
        return int.from_bytes(self._take(8), "big")

    def string(self) -> bytes:
        return self._take(self.u32())

    def end(self) -> None:
        if self._at != len(self._octets):
            raise SftpError("a packet with more fields than it should have")


def string(octets: bytes) -> bytes:
    return U32.pack(len(octets)) + octets


def outcome_word(code: int) -> str:
    return OUTCOMES[code] if code < len(OUTCOMES) else f"status-{code}"
