"""The protocol of `scp -O` (BSD's rcp) as somebody in the middle sees it, and the command lines of file transfers.

There is no standard; this follows OpenSSH's scp.c. The source sends `C0644 SIZE NAME`, `D0755 0 NAME`, `E` and
`T…` lines, each answered by the sink with a zero octet, or 1 or 2 and a sentence. A `C` line that was answered with
zero is followed by SIZE octets, a zero octet (or 1, 2 and a sentence), and one more answer.

INVARIANTS
1. What the source sends is read only as far as the sink has answered (`ScpWalker.from_source` says how far): else
   nobody could know whether a sink takes the next octets for data or for a command.
2. Lines are bounded (`LONGEST_LINE`), of file data nothing is kept, directories are bounded (`DEEPEST`).
3. A line that is none of these is ScpError: whoever walks ends the transfer. Sentences are told in full (`error`).
"""

import re
import shlex
from contextlib import suppress
from dataclasses import dataclass, field

from gateway.wire.file_digest import FileDigest

LONGEST_LINE = 8_192
LONGEST_COMMAND = 16_384  # taking one apart costs a second for a few hundred KB; longer ones are no transfers
DEEPEST = 1_024
LARGEST_FILE = (1 << 63) - 1
_FILE_OR_DIRECTORY = re.compile(rb"([CD])([0-7]{4}) ([0-9]{1,19}) (.+)", re.DOTALL)
_TIMES = re.compile(rb"T[0-9]{1,20} [0-9]{1,6} [0-9]{1,20} [0-9]{1,6}")
_COMMAND, _DATA, _STATUS = range(3)
_SUDO = frozenset({"sudo", "doas"})
_PROGRAMS = frozenset({"scp", "rsync", "sftp-server", "internal-sftp"})
# scp.c's options; those of the second set take a word, or the rest of their own.
_SCP_FLAGS = frozenset("346ABCTOdfpqRrstv")
_SCP_WITH_WORD = frozenset("DFJMPSXcilo")
# One command to a shell: what would begin a second one stands in quotes.
_ONE_COMMAND = re.compile(r"""(?:[^'"\\`;|&()<>\n\r]|\\[^\n]|'[^']*'|"(?:[^"\\`$]|\\[^\n]|\$(?!\())*")*""", re.DOTALL)
_LITERAL = re.compile(r"""\\.|'[^']*'|"(?:[^"\\$]|\\.)*\"""", re.DOTALL)
_SUDO_WITH_WORD = frozenset("ugpCTDRhrt")
_MADE_UP = re.compile(r"\$|(?:^|\s)[#{]")  # words that only the shell knows, or does not know


class ScpError(Exception):
    """A peer sent what scp does not understand, or more than is kept. Ends the transfer."""


@dataclass(frozen=True, slots=True)
class TransferCommand:
    """A command line that moves files. `program` is sftp, scp or rsync; `paths` are its operands as written."""

    program: str
    direction: str  # download, upload, or "" when both may happen
    arguments: tuple[str, ...]
    paths: tuple[str, ...]


def transfer_command(command: bytes) -> TransferCommand | None:
    """What a command line moves; None when it is not one that a client of scp, sftp or rsync sends.

    Only the command line tells: whoever may run any command can also move files by other means.
    """
    if len(command) > LONGEST_COMMAND:
        return None
    text = command.decode("utf-8", "surrogateescape")
    words = _words(text)
    if words and words[0] in _SUDO:
        words = _without_sudo(words)
    if not words or not _ONE_COMMAND.fullmatch(text):  # what else runs there speaks another language
        return None
    program, arguments = words[0].rpartition("/")[2], tuple(words[1:])
    if program in ("sftp-server", "internal-sftp"):
        return TransferCommand("sftp", "", arguments, ())
    if program == "rsync" and arguments[:1] == ("--server",):
        return None if _MADE_UP.search(_LITERAL.sub(_a_letter, text)) else _rsync(arguments)
    found = _scp_options(arguments) if program == "scp" else None
    if found is not None and ("t" in found[0]) != ("f" in found[0]):
        return TransferCommand("scp", "upload" if "t" in found[0] else "download", arguments, found[1])
    return None


def _rsync(arguments: tuple[str, ...]) -> TransferCommand | None:
    """Its client says `--sender` in the second place or nowhere; elsewhere it could as well be a name."""
    is_download = arguments[1:2] == ("--sender",)
    if "--sender" in arguments[2:]:
        return None
    return TransferCommand("rsync", "download" if is_download else "upload", arguments, _operands(arguments))


def _a_letter(literal: re.Match[str]) -> str:
    return "Q" if literal[0] not in ("''", '""') else ""


def _without_sudo(words: list[str]) -> list[str]:
    """The command behind its own options."""
    rest = words[1:]
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        if option == "--":
            break
        if len(option) == 2 and option[1] in _SUDO_WITH_WORD:
            del rest[:1]
    return rest


def may_move_files(command: bytes) -> bool:
    """True when a command line names a program that moves files, however it is called; False says nothing."""
    words = _words(command.decode("utf-8", "surrogateescape"))
    named = words if words and words[0] in _SUDO else words[:1]
    return any(word.rpartition("/")[2] in _PROGRAMS for word in named)


def _words(text: str) -> list[str]:
    with suppress(ValueError):
        if len(text) <= LONGEST_COMMAND:
            return shlex.split(text)
    return text.split()


def _scp_options(arguments: tuple[str, ...]) -> tuple[str, tuple[str, ...]] | None:
    """The letters without a word of their own, and the operands; None for what scp does not know."""
    letters, operands, rest = "", list[str](), list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            operands += rest
            break
        if not word.startswith("-") or word == "-":
            operands.append(word)
            continue
        for at, letter in enumerate(word[1:], 2):
            if letter in _SCP_WITH_WORD:
                if at == len(word):
                    del rest[:1]
                break
            if letter not in _SCP_FLAGS:
                return None
            letters += letter
    return letters, tuple(operands)


def _operands(arguments: tuple[str, ...]) -> tuple[str, ...]:
    if "--" in arguments:
        return arguments[arguments.index("--") + 1 :]
    return tuple(word for word in arguments if not word.startswith("-"))


@dataclass(slots=True)
class Moved:
    """One file, or directory that was made. `path` as the operand and the names in the stream give it."""

    op: str  # open, mkdir; error, whose `path` is the sentence
    path: bytes
    mode: str
    size: int
    at: float
    until: float = 0.0
    outcome: str = ""
    digest: FileDigest = field(default_factory=FileDigest)


class ScpWalker:
    """Both directions of one scp. `direction` is upload when the person is the source. Not safe for threads."""

    def __init__(self, command: TransferCommand) -> None:
        self._upload = command.direction == "upload"
        operands = command.paths or ("",)
        self._operand = operands[-1].encode("utf-8", "surrogateescape").rstrip(b"/") if len(operands) == 1 else b""
        options = _scp_options(command.arguments)
        self._into_directory = options is not None and "d" in options[0]
        self._directories: list[bytes] = []
        self._owed = 1  # answers that the source must wait for; the sink speaks first
        self._state = _COMMAND
        self._line = bytearray()
        self._answer = bytearray()
        self._left = 0
        self._sent = False
        self._moving: Moved | None = None
        self.done: list[Moved] = []  # the caller takes them out

    @property
    def is_waiting(self) -> bool:
        """True when the sink has to answer before more of the source may be read."""
        return self._owed > 0

    # ---------------------------------------------------------------- source → sink

    def from_source(self, data: bytes | bytearray | memoryview, at: float) -> int:
        """How many octets may go on; the others have to come again, when the sink has answered."""
        view, position = memoryview(data), 0
        while position < len(view):
            if self._state == _DATA:
                piece = view[position : position + self._left]
                self._data(piece)
                position += len(piece)
                continue
            if self._owed:
                break
            octet = view[position]
            position += 1
            self._octet(octet, at)
        return position

    def _data(self, piece: memoryview) -> None:
        if self._moving is None:
            raise AssertionError("data belongs to a file")
        self._moving.digest.update(piece)
        self._left -= len(piece)
        if not self._left:
            self._state = _STATUS

    def _octet(self, octet: int, at: float) -> None:
        if self._state == _STATUS and not self._line and octet == 0:
            self._data_ended()
            return
        self._line.append(octet)
        if len(self._line) > LONGEST_LINE:
            raise ScpError("a line that is too long")
        if octet != 0x0A:
            return
        line = bytes(self._line[:-1])
        self._line.clear()
        if line[:1] in (b"\1", b"\2"):
            self._source_failed(line[1:], at)
        elif self._state == _STATUS:
            raise ScpError("no end after a file's data")
        else:
            self._command(line, at)

    def _source_failed(self, sentence: bytes, at: float) -> None:
        """A sentence instead of a file, which nobody answers; or after its data, which is answered like data."""
        self.done.append(Moved("error", sentence, "", 0, at, at, "source-failed"))
        if self._state == _STATUS and self._moving is not None:
            self._moving.outcome = "source-failed"
            self._data_ended()

    def _data_ended(self) -> None:
        self._owed, self._state, self._sent = 1, _COMMAND, True

    def _command(self, line: bytes, at: float) -> None:
        self._owed = 1
        if line == b"E":
            del self._directories[-1:]
            return
        if _TIMES.fullmatch(line):
            return
        found = _FILE_OR_DIRECTORY.fullmatch(line)
        if found is None:
            raise ScpError("a line that scp does not know")
        kind, mode, size, name = found[1], found[2].decode(), int(found[3]), found[4]
        if b"/" in name or name == b"..":  # would leave the directory, if the sink let it (CVE-2019-6111)
            raise ScpError("a name that is none")
        if size > LARGEST_FILE or len(self._directories) >= DEEPEST:
            raise ScpError("too large a file, or too many directories")
        path = self._path(name)
        if kind == b"D":
            self._directories.append(path)
        self._sent = False
        self._moving = Moved("open" if kind == b"C" else "mkdir", path, mode, size, at)

    def _path(self, name: bytes) -> bytes:
        if self._directories:
            return self._directories[-1] + b"/" + name
        if self._upload:  # whether the operand is a directory only the target knows, unless the client said so
            return self._operand + b"/" + name if self._into_directory else self._operand
        if self._operand.rpartition(b"/")[2] == name:
            return self._operand
        return self._operand.rpartition(b"/")[0] + b"/" + name if b"/" in self._operand else name

    # ---------------------------------------------------------------- sink → source

    def from_sink(self, data: bytes | bytearray | memoryview, at: float) -> None:
        """Its answers."""
        for octet in memoryview(data):
            if not self._answer and octet == 0:
                self._answered(at, "")
                continue
            self._answer.append(octet)
            if len(self._answer) > LONGEST_LINE:
                raise ScpError("an answer that is too long")
            if octet == 0x0A:
                self.done.append(Moved("error", bytes(self._answer).strip(b"\1\2\n"), "", 0, at, at, "sink-failed"))
                self._answer.clear()
                self._answered(at, "sink-failed")

    def _answered(self, at: float, failure: str) -> None:
        if not self._owed:
            if failure:
                return  # a sink may complain without being asked
            raise ScpError("an answer to nothing")
        self._owed = 0
        moving = self._moving
        if moving is None:
            return
        if failure and moving.op == "mkdir":
            del self._directories[-1:]
        if failure or moving.op == "mkdir" or self._sent:
            self._finish(moving, at, failure or moving.outcome or "ok")
        else:
            self._left, self._state = moving.size, _DATA if moving.size else _STATUS

    def _finish(self, moving: Moved, at: float, outcome: str) -> None:
        moving.until, moving.outcome = at, outcome
        self.done.append(moving)
        self._moving = None

    def interrupt(self, at: float) -> None:
        """No more comes."""
        if self._moving is not None:
            self._finish(self._moving, at, "interrupted")
