"""SFTP version 3 (draft-ietf-secsh-filexfer-02) as somebody in the middle sees it: what is asked, what came of it.

`SftpWalker` is fed what each side sends, in pieces of any size. It lets file data through as it comes, holds back the
head of a client's request until `judge` has said yes, and answers a refused one itself: the server never sees it.

INVARIANTS
1. A packet's length is compared with its limit before anything is kept; of file data nothing is kept.
2. Only the packets that are listed here pass, only for requests that are open, only for handles that are open.
   Anything else is SftpError: whoever walks ends the subsystem.
3. What a server sends passes unchanged. Answers of our own are put between two of its packets.
4. What is held is bounded: `MOST_REQUESTS`, `MOST_HANDLES`, `MOST_ANSWERS`, one head of each side.
5. A handle is of no use from the request on that closes it: the server gives it to the next file that is opened, which
   may have been asked for already.
"""

from gateway.wire.file_digest import FileDigest
from gateway.wire.sftp_packets import (
    ANSWERED_BY,
    CLOSE,
    DATA,
    EOF,
    EXTENDED,
    FAILURE,
    FOR_CHANGES,
    FOR_READING,
    FOR_WRITING,
    FREE_EXTENDED,
    FSETSTAT,
    FSTAT,
    HANDLE,
    HAVE_ATTRIBUTES_AFTER,
    HEAD,
    HEAD_AND_SIZE,
    INIT,
    LONGEST_HANDLE,
    LONGEST_PACKET,
    LONGEST_REQUEST,
    NAME,
    NAMED,
    NAMED_EXTENDED,
    OK,
    OP_UNSUPPORTED,
    OPEN,
    PERMISSION_DENIED,
    READ,
    READDIR,
    REALPATH,
    STATUS,
    STATUS_ONLY,
    U32,
    VERSION,
    VERSION_REPLY,
    WITH_HANDLE_EXTENDED,
    WRITE,
    Reader,
    SftpError,
    missing_of_request,
    outcome_word,
    string,
    whole_read,
)
from gateway.wire.sftp_requests import Asked, Denied, Done, Judge, OpenFile, Pending

MOST_REQUESTS = 65_536  # paramiko asks for a whole file at once; who walks waits when `is_full`
MOST_HANDLES = 4_096
MOST_ANSWERS = 4_096
_NOT_OPEN = "Nothing is open for that under this handle."

Octets = bytes | bytearray | memoryview


class _Side:
    """Where one direction stands: a head that is not whole yet, or data of a packet that passes."""

    __slots__ = ("digest", "head", "left", "passes")

    def __init__(self) -> None:
        self.head = bytearray()
        self.left = 0
        self.digest: FileDigest | None = None
        self.passes = True


class SftpWalker:
    """See the module's text. Not safe for threads: both directions under one lock."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._client = _Side()
        self._server = _Side()
        self._initiated = self._welcomed = False
        self._pending: dict[int, Pending] = {}
        self._handles: dict[bytes, OpenFile] = {}
        self._answers: list[bytes] = []
        self.base: bytes | None = None  # where relative names start: the server's answer to REALPATH "."
        self.done: list[Done | Denied] = []  # the caller takes them out

    @property
    def is_full(self) -> bool:
        """True when the client has to wait for the server: feed no more of it."""
        return len(self._pending) >= MOST_REQUESTS

    def take_answers(self) -> bytes:
        """Our own answers to the client; to be sent between two of the server's packets."""
        answers, self._answers = self._answers, []
        return b"".join(answers)

    @property
    def has_answers(self) -> bool:
        """True when there is something to take."""
        return bool(self._answers)

    def interrupt(self, at: float) -> None:
        """No more comes: what is open stays so."""
        for file in self._handles.values():
            self._transferred(file, at, "interrupted")
        for waiting in self._pending.values():
            if waiting.type_ == CLOSE and waiting.file is not None:
                self._transferred(waiting.file, at, "interrupted")
            elif waiting.asked is not None:
                self._finish(waiting.asked, waiting.at, at, "interrupted")
        self._handles.clear()
        self._pending.clear()

    # ---------------------------------------------------------------- client → server

    def from_client(self, data: Octets, at: float) -> Octets:
        """What of it may go on now."""
        side, view, position = self._client, memoryview(data), 0
        passes: list[Octets] = []
        while position < len(view):
            if side.left:
                piece = view[position : position + side.left]
                self._stream(side, piece)
                if side.passes:
                    passes.append(piece)
                position += len(piece)
                continue
            if not side.head and self._initiated and (read := whole_read(view, position)):
                number, handle, offset, length, end = read
                if self._read(number, handle, offset, length, at):
                    passes.append(view[position:end])
                position = end
                continue
            missing = missing_of_request(side.head)
            side.head += view[position : position + missing]
            position += missing
            if not missing_of_request(side.head):
                head = bytes(side.head)
                side.head.clear()
                passes.append(self._request(head, at))
        if len(passes) == 1 and len(passes[0]) == len(view):
            return passes[0]
        return b"".join(passes)

    def _stream(self, side: _Side, piece: memoryview) -> None:
        side.left -= len(piece)
        if side.digest is not None:
            side.digest.update(piece)

    def _request(self, head: bytes, at: float) -> bytes:
        """What goes on of a request, or of the head of a WRITE."""
        type_ = head[4]
        if not self._initiated or type_ == INIT:
            return self._init(head)
        number = HEAD.unpack_from(head)[2]
        self._check_new(number)
        reader = Reader(head, HEAD.size)
        if type_ == WRITE:
            return self._write(head, number, reader, at)
        if type_ == EXTENDED:
            allowed = self._extended(number, reader, at)
        elif type_ == OPEN:
            allowed = self._open(number, reader, at)
        elif type_ in NAMED:
            allowed = self._named(type_, NAMED[type_], number, reader, at)
        elif type_ == READ:
            allowed = self._read(number, reader.string(), reader.u64(), reader.u32(), at)
        elif type_ in (CLOSE, FSTAT, FSETSTAT, READDIR):
            allowed = self._with_handle(type_, number, reader, at)
        else:
            raise SftpError(f"packet type {type_} from a client")
        if type_ not in HAVE_ATTRIBUTES_AFTER and type_ != EXTENDED:
            reader.end()
        return head if allowed else b""

    def _check_new(self, number: int) -> None:
        if number in self._pending:
            raise SftpError("two open requests with one number")

    def _init(self, head: bytes) -> bytes:
        if self._initiated or head[4] != INIT:
            raise SftpError("INIT comes first, and once")
        if Reader(head, 5).u32() < VERSION:
            raise SftpError("only version 3 is spoken")
        self._initiated = True
        # Who speaks a later version speaks this one as well (§4): the lower of both holds.
        return U32.pack(5) + bytes((INIT,)) + U32.pack(VERSION)

    def _write(self, head: bytes, number: int, reader: Reader, at: float) -> bytes:
        handle = reader.string()
        offset, length = reader.u64(), reader.u32()
        if length != U32.unpack_from(head)[0] + 4 - len(head):
            raise SftpError("a WRITE with more or less than its data")
        file = self._handles.get(handle)
        side = self._client
        side.left, side.passes = length, file is not None and file.asked.changes
        if file is None or not side.passes:
            side.digest = None
            self._answer(number, FAILURE, "No file is open for writing under this handle.")
            return b""
        side.digest = file.written
        file.written.begin(offset)
        self._expect(number, Pending(WRITE, at, file=file))
        return head

    def _open(self, number: int, reader: Reader, at: float) -> bool:
        path, flags = reader.string(), reader.u32()
        changes = bool(flags & FOR_CHANGES)
        # Who asks for neither reading nor writing (CREAT alone) may read: servers open such a file for that.
        asked = Asked("open", (path,), reads=bool(flags & FOR_READING) or not flags & FOR_WRITING, changes=changes)
        return self._judged(OPEN, number, asked, at)

    def _named(self, type_: int, shape: tuple[int, str], number: int, reader: Reader, at: float) -> bool:
        count, op = shape
        paths = tuple(reader.string() for _ in range(count))
        if not op:
            self._expect(number, Pending(type_, at, handle=paths[0] if type_ == REALPATH else b""))
            return True
        return self._judged(type_, number, Asked(op, paths, changes=op != "list"), at)

    def _judged(self, type_: int, number: int, asked: Asked, at: float) -> bool:
        sentence = self._judge(asked)
        if sentence is None:
            self._expect(number, Pending(type_, at, asked))
            return True
        self.done.append(Denied(asked, sentence))
        self._answer(number, PERMISSION_DENIED, sentence)
        return False

    def _read(self, number: int, handle: bytes, offset: int, length: int, at: float) -> bool:
        self._check_new(number)
        file = self._handles.get(handle)
        if file is None or not file.asked.reads:
            self._answer(number, FAILURE, _NOT_OPEN)
            return False
        self._expect(number, Pending(READ, at, None, file, handle, offset, length))
        return True

    def _with_handle(self, type_: int, number: int, reader: Reader, at: float) -> bool:
        handle = reader.string()
        file = self._handles.get(handle)
        if file is None:
            self._answer(number, FAILURE, _NOT_OPEN)
            return False
        if type_ == FSETSTAT:
            return self._judged(type_, number, Asked("setstat", file.asked.paths), at)
        if type_ == CLOSE:  # INVARIANT 5
            del self._handles[handle]
        self._expect(number, Pending(type_, at, file=file, handle=handle))
        return True

    def _extended(self, number: int, reader: Reader, at: float) -> bool:
        name = reader.string()
        if name in NAMED_EXTENDED:
            return self._named(EXTENDED, NAMED_EXTENDED[name], number, reader, at)
        if name in FREE_EXTENDED:
            self._expect(number, Pending(EXTENDED, at))
            return True
        if name in WITH_HANDLE_EXTENDED:
            return self._with_handle(EXTENDED, number, reader, at)
        if name == b"copy-data":
            return self._copy(number, reader, at)
        self._answer(number, OP_UNSUPPORTED, "The gateway does not know this extension.")
        return False

    def _copy(self, number: int, reader: Reader, at: float) -> bool:
        """From one open file into another, on the server: nothing that we could digest comes by here."""
        source = self._handles.get(reader.string())
        reader.u64(), reader.u64()
        sink = self._handles.get(reader.string())
        if source is None or sink is None or not source.asked.reads or not sink.asked.changes:
            self._answer(number, FAILURE, "Nothing is open for that under these handles.")
            return False
        sink.written.lose()
        return self._judged(EXTENDED, number, Asked("copy", source.asked.paths + sink.asked.paths), at)

    def _expect(self, number: int, waiting: Pending) -> None:
        self._pending[number] = waiting

    def _answer(self, number: int, code: int, sentence: str) -> None:
        if len(self._answers) >= MOST_ANSWERS:
            raise SftpError("too many refused requests without reading the answers")
        text = sentence.encode("utf-8", "replace")[:1000]
        body = b"".join((bytes((STATUS,)), U32.pack(number), U32.pack(code), string(text), string(b"en")))
        self._answers.append(string(body))

    # ---------------------------------------------------------------- server → client

    def from_server(self, data: Octets, at: float) -> int:
        """Where in `data` a packet ends last: answers may be put there. -1 when nowhere."""
        side, view, position = self._server, memoryview(data), 0
        boundary = -1 if side.head or side.left else 0
        while position < len(view):
            if side.left:
                piece = view[position : position + side.left]
                self._stream(side, piece)
                position += len(piece)
            elif not side.head and self._is_data(view, position):
                position += HEAD_AND_SIZE.size
            else:
                missing = self._missing_of_reply(side.head)
                side.head += view[position : position + missing]
                position += missing
                if not self._missing_of_reply(side.head):
                    head = bytes(side.head)
                    side.head.clear()
                    self._reply(head, at)
            if not side.left and not side.head:
                boundary = min(position, len(view))
        return boundary

    def _is_data(self, view: memoryview, position: int) -> bool:
        """True when the whole head of a piece of a file was there, and is dealt with: what most replies are."""
        if not self._welcomed or len(view) - position < HEAD_AND_SIZE.size:
            return False
        length, type_, number, size = HEAD_AND_SIZE.unpack_from(view, position)
        if type_ != DATA or not HEAD_AND_SIZE.size - 4 <= length <= LONGEST_PACKET:
            return False
        self._server.left = length + 4 - HEAD_AND_SIZE.size
        self._data(self._answered(number, DATA), size)
        return True

    def _missing_of_reply(self, head: bytearray) -> int:
        """How many octets are missing until a reply can be understood; what follows them may pass."""
        if len(head) < HEAD.size:
            return HEAD.size - len(head)
        length, type_, number = HEAD.unpack_from(head)
        if not 5 <= length <= LONGEST_PACKET:
            raise SftpError(f"a packet of {length} octets from a server")
        wanted = HEAD.size
        if type_ in (STATUS, DATA):
            wanted += 4
        elif type_ == HANDLE or (type_ == NAME and self._is_realpath(number)):
            wanted = length + 4
            if length > LONGEST_REQUEST:
                raise SftpError(f"a name of {length} octets")
        if wanted > length + 4:
            raise SftpError("a reply that is too short")
        return wanted - len(head)

    def _is_realpath(self, number: int) -> bool:
        waiting = self._pending.get(number)
        return waiting is not None and waiting.type_ == REALPATH

    def _reply(self, head: bytes, at: float) -> None:
        length, type_, number = HEAD.unpack_from(head)
        side = self._server
        side.left, side.digest = length + 4 - len(head), None
        if not self._welcomed or type_ == VERSION_REPLY:
            self._version(type_, number)
            return
        waiting = self._answered(number, type_)
        if type_ == STATUS:
            self._status(waiting, U32.unpack_from(head, HEAD.size)[0], at)
        elif type_ == DATA:
            self._data(waiting, U32.unpack_from(head, HEAD.size)[0])
        elif type_ == HANDLE:
            self._handle(waiting, Reader(head, HEAD.size))
        elif waiting.type_ == REALPATH:
            self._realpath(waiting, Reader(head, HEAD.size))
        elif waiting.asked is not None:
            self._finish(waiting.asked, waiting.at, at, "ok")

    def _answered(self, number: int, type_: int) -> Pending:
        waiting = self._pending.get(number)
        if waiting is None:
            raise SftpError("a reply to nothing that was asked")
        if type_ not in ANSWERED_BY.get(waiting.type_, STATUS_ONLY):
            raise SftpError(f"packet type {type_} in reply to {waiting.type_}")
        del self._pending[number]
        return waiting

    def _version(self, type_: int, number: int) -> None:
        """VERSION has its number where the others have the request's."""
        if self._welcomed or type_ != VERSION_REPLY or not self._initiated or number != VERSION:
            raise SftpError("VERSION 3 comes first, and once")
        self._welcomed = True

    def _status(self, waiting: Pending, code: int, at: float) -> None:
        file = waiting.file
        if waiting.type_ == CLOSE and file is not None:
            self._transferred(file, at, outcome_word(file.failed or code))
        elif waiting.type_ in (READ, WRITE) and file is not None:
            if code not in (OK, EOF) and not file.failed:
                file.failed = code
        elif waiting.asked is not None:
            self._finish(waiting.asked, waiting.at, at, outcome_word(code))

    def _data(self, waiting: Pending, length: int) -> None:
        side = self._server
        if length != side.left or length > waiting.length or waiting.file is None:
            raise SftpError("DATA with more or less than its data")
        waiting.file.read.begin(waiting.offset)
        side.digest = waiting.file.read

    def _handle(self, waiting: Pending, reader: Reader) -> None:
        handle = reader.string()
        reader.end()
        if waiting.asked is None or len(handle) > LONGEST_HANDLE or len(self._handles) >= MOST_HANDLES:
            raise SftpError("too long a handle, or too many")
        if handle in self._handles:
            raise SftpError("one handle for two files")
        self._handles[handle] = OpenFile(waiting.asked, waiting.at)

    def _realpath(self, waiting: Pending, reader: Reader) -> None:
        count, path = reader.u32(), reader.string()
        if count == 1 and waiting.handle in (b".", b"") and self.base is None and path.startswith(b"/"):
            self.base = path

    # ---------------------------------------------------------------- what came of it

    def _transferred(self, file: OpenFile, at: float, outcome: str) -> None:
        self.done.extend(file.over(at, outcome))

    def _finish(self, asked: Asked, since: float, at: float, outcome: str) -> None:
        self.done.append(asked.over(since, at, outcome))
