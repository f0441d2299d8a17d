"""Forwards of one connection, each decided by the session's level, recorded and in the log before it opens.

All of them run through the connection to the target: the gateway dials nothing (GHSA-hw4x), so that its own loopback
and metadata addresses are out of reach. What is carried is counted, not kept.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Protocol

from paramiko import SSHException

from gateway.app.open_session import Opened
from gateway.core.errors import GatewayError
from gateway.core.ssh_rules import Place, Socket, Tcp, may_forward, may_listen
from gateway.edges.proxy.ssh_attendance import Attendance
from gateway.edges.proxy.ssh_channels import ChannelEnd
from gateway.edges.proxy.ssh_client import TargetTransport
from gateway.edges.proxy.ssh_fields import Fields, ProtocolViolationError, TargetViolationError, by_target
from gateway.edges.proxy.ssh_messages import CLOSE, DATA, EOF, LOST, NOTE, REQUEST, Octets
from gateway.edges.proxy.ssh_openings import GlobalAnswer, OpeningTransport, RefusedByPeerError
from gateway.edges.proxy.ssh_record import SessionRecord
from gateway.edges.proxy.ssh_transport import RESOURCE_SHORTAGE

LOG = logging.getLogger("gateway.ssh")
MOST_FORWARDS = 64  # open at once on one connection, both directions together
MOST_LISTENERS = 16
MOST_WAITING = 100  # requests to listen, answered or not
OPEN_TIMEOUT = 60.0  # for the target to reach where a forward leads
ASK_TIMEOUT = 20.0
CLOSE_GRACE = 5.0
TELL_EVERY = 1.0  # seconds between events of refused forwards, however many are asked for
CONNECTION_GONE = (EOFError, OSError, SSHException)
CONNECT_FAILED = 2  # RFC 4254 §5.1

DIRECT = frozenset({"direct-tcpip", "direct-streamlocal@openssh.com"})
LISTEN = frozenset({"tcpip-forward", "streamlocal-forward@openssh.com"})
CANCEL = {f"cancel-{kind}": kind for kind in LISTEN}
_FORWARDED = {
    "forwarded-tcpip": "tcpip-forward",
    "forwarded-streamlocal@openssh.com": "streamlocal-forward@openssh.com",
}
_PERMITS = {"auth-agent-req@openssh.com": "auth-agent@openssh.com", "x11-req": "x11"}


class Host(Protocol):
    """What forwards need of the connection that they belong to."""

    attendance: Attendance

    def door(self) -> OpeningTransport:
        """The person's leg."""
        ...

    def session(self) -> tuple[Opened, SessionRecord]:
        """The session, opened if need be. GatewayError for a no."""
        ...

    def upstream(self) -> tuple[TargetTransport, SessionRecord]:
        """The connection to the target, dialled if need be. GatewayError for a no."""
        ...

    def tell(self, type: str, outcome: str, data: dict[str, object]) -> None:
        """Store an event about the session. GatewayError when it cannot be stored."""
        ...

    def start(self, work: Callable[[], None]) -> None:
        """Run in a thread of the connection."""
        ...


@dataclass(slots=True)
class _Forward:
    """One that is open. Octets are counted by the thread of their direction."""

    record: SessionRecord
    about: dict[str, object]
    to_target: int = 0
    to_person: int = 0
    pumps: int = 2


class Forwards:
    """Methods without a leading underscore return at once unless they say otherwise."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._lock = Lock()
        self._remote = Lock()  # held while the target is asked to listen, so that it is known what it may open
        self._open = 0
        self._number = 0
        self._listeners: dict[tuple[str, Place], _Forward] = {}
        self._permitted: set[str] = set()
        self._requests: deque[tuple[str, bytes, GlobalAnswer | None]] = deque()
        self._is_working = False
        self._quiet_until = 0.0
        self._untold = 0

    # ---------------------------------------------------------------- called by the person's transport

    def direct(self, kind: str, octets: bytes, channel: ChannelEnd) -> None:
        """The person wants the target to dial somewhere."""
        place, originator = _destination(kind, octets)
        self._host.start(lambda: self._direct(kind, octets, channel, place, originator))

    def listen(self, kind: str, octets: bytes, due: GlobalAnswer | None) -> None:
        """The person wants the target to listen, or to stop it. Answered in turn."""
        _listening(kind, octets)
        with self._lock:
            if len(self._requests) >= MOST_WAITING:
                raise ProtocolViolationError("too many requests to listen")
            self._requests.append((kind, octets, due))
            if self._is_working:
                return
            self._is_working = True
        self._host.start(self._work)

    def refused(self, what: str) -> None:
        """Something that is never forwarded was asked for. No thread for each of many."""
        with self._lock:
            if time.monotonic() < self._quiet_until:
                self._untold += 1
                return
        self._host.start(lambda: self._tell_refused(what, None))

    # ---------------------------------------------------------------- called by relays and the target's transport

    def permit(self, request: str) -> bool:
        """True when the level opens the person's agent or display; the target may open channels to it then. Waits."""
        opened, record = self._host.session()
        rules = opened.level.ssh
        if not (rules.agent_forwarding if request == "auth-agent-req@openssh.com" else rules.x11_forwarding):
            self._tell_refused(request, record)
            return False
        self._permitted.add(_PERMITS[request])
        return True

    def attach(self, leg: TargetTransport) -> None:
        """Take what the target opens."""
        leg.channel_asked = lambda kind, octets, channel: self._from_target(leg, kind, octets, channel)
        leg.expects_channel = lambda kind: kind in self._permitted or (kind in _FORWARDED and self._may_be_opened())

    def _may_be_opened(self) -> bool:
        return bool(self._listeners) or self._remote.locked()

    def end(self) -> None:
        """The connection is over: nothing listens any more. Waits; called when all threads have stopped."""
        listeners, self._listeners = self._listeners, {}
        for forward in listeners.values():
            self._close(forward)

    # ---------------------------------------------------------------- person → target (-L, -D, -W)

    def _direct(self, kind: str, octets: bytes, person: ChannelEnd, place: Place, originator: str) -> None:
        try:
            opened, record = self._host.session()
            if not self._may_dial(opened, place):
                self._tell_refused(f"{kind} {place}", record)  # before the person, who may leave while they are told
                self._host.door().turn_down(person, _no(opened, f"forward to {place}"))
                return
            if not self._enter():
                self._host.door().turn_down(person, f"At most {MOST_FORWARDS} forwards at once.", RESOURCE_SHORTAGE)
                return
        except GatewayError as no:
            self._host.door().turn_down(person, no.refusal.sentence())
            return
        except OSError:
            self._host.door().turn_down(person, "The target is gone.", CONNECT_FAILED)
            return
        self._host.attendance.wait_unlocked(person.is_over)
        if self._host.attendance.is_locked():  # they left meanwhile
            self._leave()
            self._host.door().turn_down(person, "This session is locked.")
            return
        self._connect(person, None, kind, octets, {"destination": str(place), "originator": originator})

    def _may_dial(self, opened: Opened, place: Place) -> bool:
        """Judged before the target is dialled, and again with the address that it turns out to have."""
        target, own = opened.target, [opened.target.host, opened.target.name]
        if not may_forward(opened.level.ssh, place, target.port, own):
            return False
        leg, _record = self._host.upstream()
        return may_forward(opened.level.ssh, place, target.port, [*own, leg.peer_address()])

    def _connect(
        self, person: ChannelEnd | None, target: ChannelEnd | None, kind: str, octets: bytes, about: dict[str, object]
    ) -> None:
        """Open the end that is missing, then carry. One of the two has been asked for and waits for its answer."""
        forward = None
        asker: OpeningTransport = self._host.door()
        waiting = person or target
        if waiting is None:
            raise AssertionError("somebody asked for it")
        try:
            leg, record = self._host.upstream()
            asker, other = (self._host.door(), leg) if person else (leg, self._host.door())
            forward = self._begin(record, {"type": kind, **about})
            found = other.open_channel_to_peer(kind, octets, OPEN_TIMEOUT)
            asker.let_open(waiting)
        except GatewayError as no:
            self._failed(forward, no.refusal.code)
            asker.turn_down(waiting, no.refusal.sentence())
        except RefusedByPeerError as no:
            self._failed(forward, str(no))
            asker.turn_down(waiting, str(no), no.reason)
        except CONNECTION_GONE as gone:
            self._failed(forward, str(gone) or "the connection is gone")
            asker.turn_down(waiting, "The other side does not answer.", CONNECT_FAILED)
        else:
            self._carry(forward, person or found, target or found)

    def _carry(self, forward: _Forward, person: ChannelEnd, target: ChannelEnd) -> None:
        person.when_closed = lambda: target.hurry(CLOSE_GRACE)
        target.when_closed = lambda: person.hurry(CLOSE_GRACE)

        self._host.start(lambda: self._pump(forward, target, person, inward=False))
        self._pump(forward, person, target, inward=True)

    def _pump(self, forward: _Forward, source: ChannelEnd, sink: ChannelEnd, *, inward: bool) -> None:
        """One direction, until it is closed or a connection is gone; the last one of the two notes the end."""
        try:
            going = True
            while going:
                for item in source.take():
                    if item.kind == DATA:
                        self._pass(forward, item.octets, source, sink, inward=inward)
                    elif item.kind == EOF:
                        sink.send_eof()
                    elif item.kind in (CLOSE, LOST):
                        going = False
                    elif item.kind not in (NOTE, REQUEST):
                        wrong = f"message {item.kind} in a forward"
                        raise ProtocolViolationError(wrong) if inward else TargetViolationError(wrong)
            sink.close()
        except CONNECTION_GONE as gone:
            LOG.debug("a forward's connection is gone: %r", gone)
        finally:
            with self._lock:
                forward.pumps -= 1
                is_last = forward.pumps == 0
            if is_last:
                self._leave()
                self._close(forward)

    def _pass(self, forward: _Forward, octets: Octets, source: ChannelEnd, sink: ChannelEnd, *, inward: bool) -> None:
        self._host.attendance.seen()
        if inward:
            self._host.attendance.wait_unlocked(source.is_over)
            if self._host.attendance.is_locked():  # who closes a channel while it waits has not sent it
                return
        forward.to_target += len(octets) * inward  # before: a channel that closes may have taken some of it
        forward.to_person += len(octets) * (not inward)
        sink.send(octets)
        source.consumed(len(octets))

    # ---------------------------------------------------------------- target → person (-R, agent, X11)

    def _work(self) -> None:
        """Requests to listen, one after the other."""
        while True:
            with self._lock:
                if not self._requests:
                    self._is_working = False
                    return
                kind, octets, due = self._requests.popleft()
            answer = None
            try:
                answer = self._cancel(kind, octets) if kind in CANCEL else self._listen(kind, octets)
            except (GatewayError, *CONNECTION_GONE) as no:
                LOG.debug("no remote forward: %r", no)
            finally:
                if due is not None:
                    self._host.door().answer(due, answer)

    def _listen(self, kind: str, octets: bytes) -> bytes | None:
        place = _listening(kind, octets)
        opened, record = self._host.session()
        is_taken = (kind, place) in self._listeners or len(self._listeners) >= MOST_LISTENERS
        if is_taken or not may_listen(opened.level.ssh, place):
            self._tell_refused(f"{kind} {place}", record)
            return None
        self._host.attendance.wait_unlocked(lambda: not self._host.door().is_active())
        if self._host.attendance.is_locked():
            return None
        leg, record = self._host.upstream()
        forward = self._begin(record, {"type": kind, "destination": str(place), "originator": ""})
        with self._remote:
            answer = leg.ask(kind, octets, ASK_TIMEOUT)
            if answer is None:
                self._failed(forward, "the target does not listen there")
                return None
            if isinstance(place, Tcp) and place.port == 0:
                with by_target():
                    place = Tcp(place.host, Fields(answer).u32())
            self._listeners[kind, place] = forward
        return answer

    def _cancel(self, kind: str, octets: bytes) -> bytes | None:
        forward = self._listeners.pop((CANCEL[kind], _listening(kind, octets)), None)
        if forward is None:
            return None
        self._close(forward)
        leg, _record = self._host.upstream()
        return leg.ask(kind, octets, ASK_TIMEOUT)

    def _from_target(self, leg: TargetTransport, kind: str, octets: bytes, channel: ChannelEnd) -> None:
        """By the target's transport: the check needs a lock that is held while the target is asked, so not here."""
        self._host.start(lambda: self._forwarded(leg, kind, octets, channel))

    def _forwarded(self, leg: TargetTransport, kind: str, octets: bytes, target: ChannelEnd) -> None:
        with by_target():
            place, originator = _arrival(kind, octets)
        if kind in _FORWARDED:
            with self._remote:
                is_expected = place is not None and self._listens(_FORWARDED[kind], place)
        else:
            is_expected = kind in self._permitted
        if not is_expected or not self._enter():
            leg.turn_down(target, "Nobody asked for this.")
            return
        about: dict[str, object] = {"destination": str(place or "the person's side"), "originator": originator}
        self._connect(None, target, kind, octets, about)

    def _listens(self, kind: str, place: Place) -> bool:
        """True when a listener is what the target names when it opens a channel: it spells addresses as it likes."""
        return any(kind == known and _spot(at) == _spot(place) for known, at in list(self._listeners))

    # ---------------------------------------------------------------- the record and the log

    def _enter(self) -> bool:
        with self._lock:
            if self._open >= MOST_FORWARDS:
                return False
            self._open += 1
            return True

    def _leave(self) -> None:
        with self._lock:
            self._open -= 1

    def _begin(self, record: SessionRecord, about: dict[str, object]) -> _Forward:
        """On record and in the log: only now may it open. GatewayError or RecordingFailed when it may not."""
        with self._lock:
            self._number += 1
            numbered = {"forward": self._number, **about}
        record.begun(record.fact("forward", **numbered))
        self._host.tell("forward:opened", "ok", numbered)
        return _Forward(record, numbered)

    def _failed(self, forward: _Forward | None, why: str) -> None:
        if forward is None:
            self._leave()
            return
        forward.about["error"] = why[:200]
        if forward.about["type"] not in LISTEN:
            self._leave()
        self._close(forward)

    def _close(self, forward: _Forward) -> None:
        about = {**forward.about, "octets_to_target": forward.to_target, "octets_to_person": forward.to_person}
        forward.record.fact("forward-end", **about)
        try:
            self._host.tell("forward:closed", "failed" if "error" in about else "ok", about)
        except GatewayError as no:  # it is over, and the recording says so
            LOG.warning("the end of a forward is not in the log: %s", no.refusal.message)

    def _tell_refused(self, what: str, record: SessionRecord | None) -> None:
        """Each refusal is in the recording; the log hears of one in a second, and how many it did not hear of."""
        what = what[:300]
        if record is not None:
            record.fact("refused", what=what)
        with self._lock:
            if time.monotonic() < self._quiet_until:
                self._untold += 1
                return
            self._quiet_until = time.monotonic() + TELL_EVERY
            untold, self._untold = self._untold, 0
        try:
            self._host.tell("forward:refused", "denied", {"what": what, "untold": untold})
        except GatewayError as no:
            LOG.warning("a refused forward is not in the log: %s", no.refusal.message)


def _no(opened: Opened, what: str) -> str:
    return f"Level {opened.level.name} of {opened.target.name} does not allow a {what}."


def _spot(place: Place) -> int | str:
    return place.port if isinstance(place, Tcp) else place.path


def _destination(kind: str, octets: bytes) -> tuple[Place, str]:
    """RFC 4254 §7.2; PROTOCOL §2.4 of OpenSSH."""
    fields = Fields(octets)
    if kind == "direct-tcpip":
        place: Place = Tcp(fields.text(), fields.u32())
        originator = str(Tcp(_printable(fields.string()), fields.u32()))
    else:
        place, originator = Socket(fields.text()), _printable(fields.string())
        fields.u32()
    fields.end()
    return place, originator


def _listening(kind: str, octets: bytes) -> Place:
    """RFC 4254 §7.1; PROTOCOL §2.4 of OpenSSH."""
    fields = Fields(octets)
    place: Place = Tcp(fields.text(), fields.u32()) if kind.endswith("tcpip-forward") else Socket(fields.text())
    fields.end()
    return place


def _arrival(kind: str, octets: bytes) -> tuple[Place | None, str]:
    """What the target says of a channel that it opens, and where it comes from."""
    fields = Fields(octets)
    place: Place | None = None
    if kind == "forwarded-tcpip":
        place = Tcp(fields.text(), fields.u32())
    elif kind in _FORWARDED:
        place = Socket(fields.text())
        fields.string()
    is_tcp = kind in ("forwarded-tcpip", "x11")
    originator = str(Tcp(_printable(fields.string()), fields.u32())) if is_tcp else ""
    fields.end()
    return place, originator


def _printable(octets: bytes) -> str:
    return octets[:200].decode("utf-8", "replace")
