"""Carry one session channel between a person and a target, message by message, in order, recorded before it is sent.

Two pumps: `inward` (person → target) decides which requests pass; `outward` (target → person) passes on what comes.
While a pump has nothing to do, the transport's thread does its work for plain data (`ChannelEnd.carry`).
Requests that the gateway answers itself must not overtake the target's answers: `Replies` keeps their order
(RFC 4254 §4: answers carry no number).
"""

import re
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from threading import Event, Lock

from paramiko import SSHException

from gateway.edges.proxy.ssh_attendance import Attendance
from gateway.edges.proxy.ssh_channels import ChannelEnd
from gateway.edges.proxy.ssh_fields import Fields, ProtocolViolationError
from gateway.edges.proxy.ssh_files import ChannelRefusedError, FileGate, NoFiles, open_gate
from gateway.edges.proxy.ssh_gate import Gate
from gateway.edges.proxy.ssh_messages import (
    BURST,
    CLOSE,
    DATA,
    EOF,
    EXTENDED_DATA,
    FAILURE,
    LEFT,
    LOST,
    MAX_PACKET,
    NOTE,
    REQUEST,
    SUCCESS,
    Item,
    Octets,
)
from gateway.edges.proxy.ssh_record import ChannelRecord

CONNECTION_GONE = (EOFError, OSError, SSHException)
CLOSE_GRACE = 5.0
LOOK_EVERY = 1.0  # seconds; who is gone while an answer is waited for is noticed then
REFUSED_STATUS = 254
SIGNALS = frozenset(
    {"ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM", "USR1", "USR2"}
)  # RFC 4254 §6.10
SUBSYSTEMS = frozenset({"sftp"})
_TERM = re.compile(rb"[!-~]{0,100}")
_STARTS = frozenset({"shell", "exec", "subsystem"})
_TO_PERSON = frozenset({"auth-agent-req@openssh.com", "x11-req"})  # ask for channels from the target to the person
_FROM_TARGET = frozenset({"exit-status", "exit-signal", "xon-xoff", "eow@openssh.com"})


@dataclass(slots=True)
class _Due:
    """An answer: `ok` None until the target gives it. `heard` is called with it before the person is told."""

    ok: bool | None = None
    is_told: bool = True
    heard: Callable[[bool], None] | None = None


class Replies:
    """Answers to the person's requests, in the order of the requests."""

    def __init__(self, person: ChannelEnd) -> None:
        self._person = person
        self._lock = Lock()
        self._due: deque[_Due] = deque()

    def expect(self, *, is_told: bool = True, heard: Callable[[bool], None] | None = None) -> None:
        """A request that wants an answer was passed on; see `_Due`."""
        with self._lock:
            self._due.append(_Due(None, is_told, heard))

    def answer(self, *, ok: bool) -> None:
        """The gateway's own answer."""
        with self._lock:
            self._due.append(_Due(ok))
            self._flush()

    def target_answered(self, *, ok: bool) -> None:
        """The target's answer to the oldest request that it was asked."""
        with self._lock:
            oldest = next((due for due in self._due if due.ok is None), None)
            if oldest is None:
                raise ProtocolViolationError("the target answered what nobody asked")
            oldest.ok = ok
            if oldest.heard is not None:
                oldest.heard(ok)
            self._flush()

    def _flush(self) -> None:
        while self._due and self._due[0].ok is not None:
            due = self._due.popleft()
            if due.is_told:
                self._person.reply(ok=due.ok is True)


class Relay:
    """One channel. `inward` and `outward` each run in a thread of their own until the channel is over."""

    def __init__(
        self, person: ChannelEnd, target: ChannelEnd, record: ChannelRecord, gate: Gate, attendance: Attendance
    ) -> None:
        self.person = person
        self.target = target
        self.record = record
        self.attendance = attendance
        self._gate = gate
        self._replies = Replies(person)
        self._files: FileGate = NoFiles()
        self._started = self._refused = False
        self._unsaid: deque[bytes] = deque()
        self._target_closed = False
        person.when_closed = lambda: target.hurry(CLOSE_GRACE)
        person.carry = partial(self._carry, True)
        target.carry = partial(self._carry, False)

    def _pump(self, pass_on: Callable[[Item], bool], end: ChannelEnd) -> None:
        try:
            while all(pass_on(item) for item in end.take()):
                pass
        except ChannelRefusedError as no:  # in the middle of a transfer, which nobody follows from here on
            self._refused = True
            self.person.last_words(f"gw: {no}\r\n".encode(), REFUSED_STATUS)

    def _carry(self, inward: bool, items: list[Item]) -> list[Item]:
        """Pass on data without waiting; what is left of it, and everything behind it."""
        source, sink = (self.person, self.target) if inward else (self.target, self.person)
        prepare = self._prepare_in if inward else self._prepare_out
        at = 0
        while at < len(items):
            begin, kind, owed, left = at, items[at].kind, 0, None
            pieces: list[Octets] = []
            try:
                while at < len(items) and items[at].kind == kind and owed < BURST:
                    if (prepared := prepare(items[at])) is None:
                        break
                    pieces += prepared
                    owed += len(items[at].octets)
                    at += 1
            finally:  # what was recorded goes out, also when what follows is refused
                if owed:
                    left = _sent_now(source, sink, pieces, owed, stderr=kind == EXTENDED_DATA)
            if left is not None:
                return [left, *items[at:]]
            if at == begin:
                break
        return items[at:]

    def _pass_left(self, source: ChannelEnd, sink: ChannelEnd, item: Item) -> bool:
        sink.flush()
        sink.send(item.octets, stderr=item.stderr)
        source.consumed(item.owed)
        return True

    # ---------------------------------------------------------------- person → target

    def _prepare_in(self, item: Item) -> Iterable[Octets] | None:
        """What may go to the target now, recorded; None when the pump has to look at it."""
        is_plain = item.kind == DATA and self._started and not self._refused and not self.attendance.is_locked()
        if not is_plain or not self._files.is_prompt(inward=True):
            return None
        self.attendance.seen()
        self.record.stream("in", item.octets)
        return self._files.inward(item.octets)

    def inward(self) -> None:
        """Until the person closes the channel or either connection is gone. Raises RecordingFailed."""
        with suppress(*CONNECTION_GONE):
            self._pump(self._pass_in, self.person)
        with suppress(*CONNECTION_GONE):
            self.target.close()

    def _pass_in(self, item: Item) -> bool:
        """One message; False when it was the last."""
        if item.kind == LEFT:
            return self._pass_left(self.person, self.target, item)
        self._notice(item)
        if self.attendance.is_locked() and not self._pass_locked(item):
            return True
        if item.kind == DATA:
            if self._refused:  # sent before the client knew: it goes nowhere
                self.person.consumed(len(item.octets))
                return True
            if not self._started:
                raise ProtocolViolationError("data before anything was started")
            self.record.stream("in", item.octets)
            for octets in self._files.inward(item.octets):
                self.target.send(octets)
            self.person.consumed(len(item.octets))
        elif item.kind == EOF:
            self.target.send_eof()
        elif item.kind == REQUEST:
            self._request(item)
        elif item.kind in (CLOSE, LOST):
            return False
        else:
            raise ProtocolViolationError(f"message {item.kind} from a client")
        return True

    def _notice(self, item: Item) -> None:
        """Keep-alives and a new size of the window are nobody's doing."""
        if item.kind == DATA or item.name in _STARTS:
            self.attendance.seen()

    def _pass_locked(self, item: Item) -> bool:
        """While the session is locked: keys are lost, other input waits, so that what carries files stays whole."""
        if item.kind not in (DATA, EOF, REQUEST) or item.name == "window-change":
            return True
        if item.kind == EOF or not (self._started and self.record.is_terminal):
            self.attendance.wait_unlocked(self.person.is_over)
            return not self.attendance.is_locked()
        self.record.fact("refused", what=f"{len(item.octets)} octets typed, or a signal, while locked")
        self.person.consumed(len(item.octets) if item.kind == DATA else 0)
        if item.wants_reply:
            self._replies.answer(ok=False)
        return False

    def _request(self, item: Item) -> None:
        if self._passes(item):
            if item.name == "pty-req":
                self._ask_terminal(item)
                return
            if item.wants_reply:
                self._replies.expect()
            self.target.request(item.name, bytes(item.octets), wants_reply=item.wants_reply)
        elif item.wants_reply:
            self._replies.answer(ok=False)

    def _turn_away(self, sentence: str) -> None:
        """A start that the level does not allow: told where a person and a script can see it."""
        self._refused = True
        self._replies.answer(ok=True)
        self.person.last_words(f"gw: {sentence}\r\n".encode(), REFUSED_STATUS)

    def _passes(self, item: Item) -> bool:
        """True when a request may go to the target; it is recorded by then."""
        fields = Fields(bytes(item.octets))
        if item.name in _STARTS:
            return self._start(item.name, fields)
        if item.name == "pty-req":
            return self._terminal(fields)
        if item.name == "window-change":
            self.record.resized(fields.u32(), fields.u32())
            return True
        if item.name == "env":
            return self._environment(fields.text(), fields.string())
        if item.name == "signal":
            return self._signal(fields.text())
        if item.name in ("break", "eow@openssh.com"):
            return self._started
        if item.name == "keepalive@openssh.com":  # dropbear's; any answer does
            return False
        if item.name in _TO_PERSON and not self._started and self._gate.permit(item.name):
            self.record.fact("opened", what=item.name)
            return True
        self.record.fact("refused", what=item.name[:100])
        return False

    def _start(self, name: str, fields: Fields) -> bool:
        """One shell, command or subsystem on each channel (RFC 4254 §6.5)."""
        command = b"" if name == "shell" else fields.string()
        fields.end()
        if self._started or (name == "subsystem" and command.decode("utf-8", "replace") not in SUBSYSTEMS):
            self.record.fact("refused", what=f"{name} {command[:100].decode('utf-8', 'backslashreplace')}")
            self._refused = not self._started
            return False
        if why_not := self._gate.why_not(name, command):
            self.record.fact("refused", what=f"{name} {command[:1000].decode('utf-8', 'backslashreplace')}")
            self._turn_away(why_not)
            return False
        rules, poke = self._gate.level.ssh.files, partial(self.target.note, b"")
        runs = self._gate.runs(name, command)
        try:
            self._files = open_gate(*runs, rules, self.record, poke, self.person.is_over)
        except ChannelRefusedError as no:
            self._turn_away(str(no))
            return False
        self.record.begin(name, command, runs)
        self._started = True
        poke()
        return True

    def _terminal(self, fields: Fields) -> bool:
        if self._started or self.record.is_terminal or not self._gate.may_terminal():
            self.record.fact("refused", what="a terminal")
            return False
        term, columns, rows = fields.string(), fields.u32(), fields.u32()
        if not _TERM.fullmatch(term):  # it becomes a variable there, so all of it is recorded
            self.record.fact("refused", what=f"a terminal {term[:100].decode('utf-8', 'backslashreplace')}")
            return False
        self.record.terminal(term.decode(), columns, rows)
        self.person.be_prompt()
        self.target.be_prompt()
        return True

    def _ask_terminal(self, item: Item) -> None:
        """What follows waits for the answer: without a terminal all that is typed is recorded, seen or not."""
        answered = Event()

        def heard(is_there: bool) -> None:
            if not is_there:
                self.record.no_terminal()
            answered.set()

        self._replies.expect(is_told=item.wants_reply, heard=heard)
        self.target.request(item.name, bytes(item.octets), wants_reply=True)
        while not (answered.wait(LOOK_EVERY) or self.person.is_over() or self.target.is_over()):
            pass

    def _environment(self, name: str, value: bytes) -> bool:
        if self._started or not self._gate.may_set(name, value):
            return False
        self.record.fact("env", name=name, value=value.decode("utf-8", "backslashreplace"))
        return True

    def _signal(self, name: str) -> bool:
        if name not in SIGNALS or not self._started:
            return False
        self.record.fact("signal", name=name)
        return True

    # ---------------------------------------------------------------- target → person

    def _prepare_out(self, item: Item) -> Iterable[Octets] | None:
        """As `_prepare_in`, to the person."""
        if item.kind == EXTENDED_DATA:
            self._record_output(item)
            return (item.octets,)
        if item.kind != DATA or not self._files.is_prompt(inward=False):
            return None
        self._record_output(item)
        return self._files.outward(item.octets)

    def outward(self) -> None:
        """Until the target closes the channel or either connection is gone. Raises RecordingFailed.

        When the connection is lost the channel stays open: there is a sentence to be said on it.
        """
        with suppress(*CONNECTION_GONE):
            self._pump(self._pass_out, self.target)
        self._files.end()
        self.record.end()
        if self._target_closed:
            for end in (self.target, self.person):  # so the target has room for what the person opens next
                with suppress(*CONNECTION_GONE):
                    end.close()

    def _pass_out(self, item: Item) -> bool:
        """One message; False when it was the last."""
        if item.kind in (DATA, EXTENDED_DATA):
            self._output(item)
        elif item.kind == LEFT:
            return self._pass_left(self.target, self.person, item)
        elif item.kind == EOF:
            self.person.send_eof()
        elif item.kind == REQUEST:
            self._report(item)
        elif item.kind in (SUCCESS, FAILURE):
            self._replies.target_answered(ok=item.kind == SUCCESS)
        elif item.kind == NOTE and not item.octets:  # the gate of a file transfer has an answer of its own
            self._say_unsaid()
            self._send_out(b"")
        elif item.kind == NOTE:
            self._unsaid.append(bytes(item.octets))
            self._say_unsaid()
        elif item.kind == CLOSE:
            self._target_closed = True
        return item.kind not in (CLOSE, LOST)

    def _say_unsaid(self) -> None:
        """Sentences wait until it is known whether there is a terminal for them."""
        while self._started and self._unsaid:
            sentence = self._unsaid.popleft()
            self.record.fact("note", text=sentence.decode())
            if self.record.is_terminal:
                self.person.send(b"\r\n" + sentence + b"\r\n", stderr=True)

    def _output(self, item: Item) -> None:
        self._record_output(item)
        if item.kind == EXTENDED_DATA:
            self.person.send(item.octets, stderr=True)
        else:
            self._send_out(item.octets)
        self.target.consumed(len(item.octets))

    def _record_output(self, item: Item) -> None:
        if not self.record.is_terminal:
            self.attendance.seen()  # who waits for a transfer or a command types nothing
        self.record.stream("err" if item.kind == EXTENDED_DATA else "out", item.octets)

    def _send_out(self, octets: Octets) -> None:
        for piece in self._files.outward(octets):
            self.person.send(piece)

    def _report(self, item: Item) -> None:
        """How it ended; and what servers ask of clients without need of an answer."""
        if item.name in _FROM_TARGET:
            self._record_end(item)
            self.person.request(item.name, bytes(item.octets), wants_reply=False)
        if item.wants_reply:
            self.target.reply(ok=False)

    def _record_end(self, item: Item) -> None:
        fields = Fields(bytes(item.octets))
        if item.name == "exit-status":
            self.record.fact("exit", status=fields.u32())
        elif item.name == "exit-signal":
            self.record.fact("exit", signal=fields.string()[:40].decode("utf-8", "replace"))


def _sent_now(source: ChannelEnd, sink: ChannelEnd, pieces: list[Octets], owed: int, *, stderr: bool) -> Item | None:
    """Send what is recorded already; what is left of that for the pump."""
    packets = [piece for whole in pieces for piece in _sliced(whole)]
    if packets and not sink.send_now(packets, stderr=stderr):
        return Item(LEFT, b"".join(packets), owed=owed, stderr=stderr)
    if not sink.is_flushed():
        return Item(LEFT, owed=owed)
    return None if source.consumed_now(owed) else Item(LEFT)


def _sliced(octets: Octets) -> Iterable[Octets]:
    if len(octets) <= MAX_PACKET:
        return (octets,) if octets else ()
    view = memoryview(octets)
    return [view[at : at + MAX_PACKET] for at in range(0, len(view), MAX_PACKET)]
