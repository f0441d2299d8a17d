"""One person's SSH connection: any number of channels, and one session for all of them (`ssh_upstream`).

The session is opened by the first channel (a connection that asks for nothing opens nothing), and ended exactly once,
by the connection's own thread, when everything that could still write to its recording has stopped.
"""

import logging
import math
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Lock, Thread

import paramiko

from gateway.app.open_session import Opened
from gateway.app.recording_ports import RecordingFailed
from gateway.core.errors import GatewayError, Refusal
from gateway.core.session import EndReason
from gateway.edges.proxy.ssh_attendance import Attendance
from gateway.edges.proxy.ssh_channels import ChannelEnd
from gateway.edges.proxy.ssh_client import TargetTransport
from gateway.edges.proxy.ssh_fields import ProtocolViolationError, TargetViolationError, by_target
from gateway.edges.proxy.ssh_forwards import Forwards
from gateway.edges.proxy.ssh_gate import Gate
from gateway.edges.proxy.ssh_goodbye import Goodbyes
from gateway.edges.proxy.ssh_keeper import Doorkeeper
from gateway.edges.proxy.ssh_messages import LOST, REQUEST
from gateway.edges.proxy.ssh_openings import GlobalAnswer, OpeningTransport
from gateway.edges.proxy.ssh_record import ChannelRecord, SessionRecord
from gateway.edges.proxy.ssh_relay import CONNECTION_GONE, Relay
from gateway.edges.proxy.ssh_server import DoorEvents, DoorTransport, Newcomer
from gateway.edges.proxy.ssh_target import Authority, fault
from gateway.edges.proxy.ssh_upstream import Upstream

LOG = logging.getLogger("gateway.ssh")
REFUSED_STATUS = 254
SILENT_FOR = 2.0  # seconds after login; by then a client that wants a session has asked for it
LEAVE_WITHIN = 5.0  # for a client whose target could not be reached
PUMP_TIME = 5.0
CHANNEL_TIMEOUT = 20.0


@dataclass(slots=True)
class _Progress:
    """What changes over a connection's life; under `Connection._lock`."""

    since: float = math.inf  # when they logged in
    asked: bool = False  # for any channel or forward, whatever came of it
    ending: tuple[EndReason, str] | None = None
    ending_since: float = math.inf
    told_of_refusal: bool = False
    relays: list[Relay] = field(default_factory=list)
    unsaid: list[str] = field(default_factory=list)
    channels: list[ChannelEnd] = field(default_factory=list)
    threads: list[Thread] = field(default_factory=list)


class Connection:
    """See the module's text. Implements `LiveSession`."""

    def __init__(
        self,
        sock: socket.socket,
        client: str,
        keeper: Doorkeeper,
        authority: Authority,
        host_key: paramiko.PKey,
        when_over: Callable[["Connection"], None],
        goodbyes: Goodbyes,
        *,
        post_quantum_only: bool = False,
    ) -> None:
        self.client = client
        self._keeper = keeper
        self._authority = authority
        self._when_over = when_over
        self._lock = Lock()
        self._is = _Progress()
        self.attendance = Attendance()
        self._goodbyes = goodbyes
        self._forwards = Forwards(self)
        self._upstream = Upstream(self, keeper, authority, self._forwards.attach)
        events = DoorEvents(
            self._judge, self._ticket, self._refused, self._logged_in, self._opened,
            direct=self._direct, listen=self._listen, forward_refused=self._forward_refused, over=self._over,
        )  # fmt: skip
        self._transport = DoorTransport(sock, host_key, events, post_quantum_only=post_quantum_only)

    def serve(self) -> None:
        """Begin; returns at once."""
        self._transport.serve()

    def cut(self) -> None:
        """End both legs without a word. Unless another reason stands, it is the person who has left."""
        self.ends(self._natural_end(), "")
        self._upstream.hang_up()
        self._transport.close()

    def is_logged_in(self) -> bool:
        """False while nobody has authenticated."""
        return self._upstream.is_admitted()

    def holds_session(self) -> bool:
        """False while nothing is opened: such a connection may do nothing and need not stay."""
        return self._upstream.is_open()

    def look(self, now: float) -> None:
        """Open the session of who only waits (`ssh -N -L`): a no is told at once, and a yes need not hurry.

        Also notice that the target has vanished, with data on its way to it.
        """
        leg = self._upstream.leg
        if leg is not None and leg.is_stalled(now):
            self.terminate(EndReason.TARGET_CLOSED, "it does not answer any more")
        if now - self._is.since > SILENT_FOR and not self._is.asked:
            self._is.asked = True
            self.start(self._open_early)

    def is_stalled(self, now: float) -> bool:
        """True when the person has vanished with data on its way to them."""
        return self._transport.is_stalled(now)

    def is_overdue(self, now: float) -> bool:
        """True when it should have ended by now (`now` is monotonic): the client was told and stays."""
        return now - self._is.ending_since > LEAVE_WITHIN

    # ---------------------------------------------------------------- called by the person's transport

    def _judge(self, blob: bytes) -> str | Refusal:
        verdict = self._authority.verify_door_certificate(blob, self._keeper.now())
        if isinstance(verdict, Refusal):
            return verdict
        user = self._keeper.user(verdict)
        if user is None or not user.is_enabled():
            return Refusal(
                "user-disabled", "Your account is unknown or disabled.", next_steps=("Ask an administrator.",)
            )
        return verdict

    def _refused(self, user_name: str, refusal: Refusal) -> None:
        if not self._is.told_of_refusal:  # one event for each connection: a stranger cannot fill the log
            self._is.told_of_refusal = True
            self._keeper.refused(user_name, self.client, refusal)

    def _ticket(self, user_name: str, ticket: str) -> Newcomer | Refusal:
        found = self._keeper.ticket(user_name, ticket, self.client)
        return found if isinstance(found, Refusal) else Newcomer(found[0].id, found[1])

    def _logged_in(self, who: Newcomer, user_name: str) -> None:
        self._upstream.admit(self._keeper.user(who.user_id), who.grant, user_name)
        self._is.since = time.monotonic()

    def _opened(self, channel: ChannelEnd) -> None:
        with self._lock:
            self._is.asked = True
            self._is.channels = [known for known in self._is.channels if not known.is_over()]
            self._is.channels.append(channel)
        self.start(lambda: self._serve_channel(channel))

    def _forward_refused(self, what: str) -> None:
        if self.holds_session():
            self._forwards.refused(what)

    def _direct(self, kind: str, octets: bytes, channel: ChannelEnd) -> None:
        self._is.asked = True
        self._forwards.direct(kind, octets, channel)

    def _listen(self, kind: str, octets: bytes, due: GlobalAnswer | None) -> None:
        self._is.asked = True
        self._forwards.listen(kind, octets, due)

    def _open_early(self) -> None:
        try:
            self.upstream()
        except GatewayError as no:
            self._say_all(no.refusal.sentence())

    def _over(self) -> None:
        """The last thing that the connection's thread does."""
        self.ends(self._natural_end(), "")
        self._upstream.shut()
        self.cut()
        with self._goodbyes.books():
            self._close_books()

    def _close_books(self) -> None:
        for thread in self._is.threads:
            thread.join(PUMP_TIME)
        self._recorded(self._forwards.end)
        if self._upstream.record is not None:
            self._recorded(self._upstream.record.close)
        try:
            if self._is.ending is not None:
                self._upstream.end(*self._is.ending)
        finally:
            self._when_over(self)

    def _natural_end(self) -> EndReason:
        broken = isinstance(self._transport.why_over(), ProtocolViolationError)
        return EndReason.PROTOCOL_VIOLATION if broken else EndReason.CLIENT_CLOSED

    # ---------------------------------------------------------------- LiveSession

    def terminate(self, reason: EndReason, detail: str) -> None:
        """See `LiveSession`."""
        if not self.ends(reason, detail):
            return
        self._goodbyes.add(self, reason.sentence(detail))

    def say_goodbye(self, sentence: str) -> None:
        """See `ssh_goodbye`: the person's leg ends when the sentence is read, or is cut half a second later."""
        if self._transport.can_speak():
            self._say_why(sentence)
        else:  # a client that does not read, or exchanges keys, holds nobody up
            Thread(target=self._say_late, args=(sentence,), name="ssh-last-words", daemon=True).start()

    def disconnect(self, sentence: str) -> None:
        """See `ssh_goodbye`."""
        if self._transport.can_speak():
            self._say_all(sentence)

    def leave_target(self) -> None:
        """See `ssh_goodbye`."""
        self._upstream.hang_up()

    def _say_why(self, sentence: str) -> None:
        with self._lock:
            channels = list(self._is.channels)
        said = [channel.farewell(f"\r\n{sentence}\r\n".encode(), REFUSED_STATUS) for channel in channels]
        with suppress(*CONNECTION_GONE):
            self._transport.say_last([message for messages in said for message in messages])

    def _say_all(self, sentence: str) -> None:
        with suppress(*CONNECTION_GONE):
            self._transport.say_goodbye(sentence)
        self._transport.finish_writing()

    def _say_late(self, sentence: str) -> None:
        self._say_why(sentence)
        self._say_all(sentence)

    def warn(self, sentence: str) -> None:
        """See `LiveSession`."""
        with self._lock:
            relays = list(self._is.relays)
            if not relays:  # said on the first channel: a grant may be about to end as a session begins
                self._is.unsaid = [*self._is.unsaid[-3:], sentence]
        for relay in relays:
            relay.target.note(sentence.encode())

    def lock(self, *, locked: bool) -> None:
        """See `LiveSession`."""
        self.attendance.lock(locked=locked)

    def idle_for(self) -> timedelta:
        """See `LiveSession`."""
        return self.attendance.idle_for()

    def statement(self) -> None:
        """See `LiveSession`: a shell has none."""

    def cancel(self, by: str, n: int) -> None:
        """See `LiveSession`: core refuses before this is reached."""

    # ---------------------------------------------------------------- channels

    def start(self, work: Callable[[], None]) -> None:
        """See `ssh_forwards.Host`."""
        thread = Thread(target=self._guarded, args=(work,), name="ssh-channel", daemon=True)
        with self._lock:
            self._is.threads = [known for known in self._is.threads if known.is_alive()]
            self._is.threads.append(thread)
            thread.start()

    def _guarded(self, work: Callable[[], None]) -> None:
        """Run a channel's thread; whatever it raises ends this connection and no other."""
        try:
            work()
        except RecordingFailed:
            self.terminate(EndReason.RECORDING_FAILED, "")
        except ProtocolViolationError as wrong:
            self.terminate(EndReason.PROTOCOL_VIOLATION, str(wrong))
        except TargetViolationError as wrong:
            self.terminate(EndReason.TARGET_CLOSED, fault(wrong))
        except CONNECTION_GONE as gone:  # whose transport tells the rest
            LOG.debug("a channel's connection is gone: %r", gone)
        except Exception:  # the boundary of a thread: it must not die unseen and leave the session hanging
            LOG.exception("a channel failed")
            self.terminate(EndReason.INTERRUPTED, "")

    def _recorded(self, record: Callable[[], object]) -> None:
        try:
            record()
        except RecordingFailed:
            self.terminate(EndReason.RECORDING_FAILED, "")

    def _serve_channel(self, channel: ChannelEnd) -> None:
        try:
            relay = self._relay(channel)
        except GatewayError as no:
            self._turn_away(channel, no.refusal)
            return
        except CONNECTION_GONE as no:
            reason = f"The target opens no session: {str(no) or 'the connection is gone'}."
            self._turn_away(channel, Refusal("target-refused", reason, next_steps=("Try again.",)))
            return
        self.start(by_target()(relay.outward))
        relay.inward()

    def _relay(self, channel: ChannelEnd) -> Relay:
        leg, record = self.upstream()
        target = leg.open_session_channel(CHANNEL_TIMEOUT)
        gate = self._gate()
        kept = ChannelRecord(record, channel.number, gate.level.ssh.output_limit)
        relay = Relay(channel, target, kept, gate, self.attendance)
        with self._lock:
            self._is.relays = [known for known in self._is.relays if not known.person.is_over()]
            self._is.relays.append(relay)
            unsaid, self._is.unsaid = self._is.unsaid, []
        for sentence in unsaid:
            target.note(sentence.encode())
        return relay

    def _gate(self) -> Gate:
        opened, _record = self.session()
        return Gate(opened.level, opened.target.name, self._forwards.permit)

    def session(self) -> tuple[Opened, SessionRecord]:
        """See `ssh_forwards.Host`."""
        return self._upstream.session()

    def upstream(self) -> tuple[TargetTransport, SessionRecord]:
        """See `ssh_forwards.Host`."""
        return self._upstream.connection()

    def door(self) -> OpeningTransport:
        """See `ssh_forwards.Host`."""
        return self._transport

    def tell(self, type: str, outcome: str, data: dict[str, object]) -> None:
        """See `ssh_forwards.Host`."""
        self._upstream.tell(type, outcome, data)

    # ---------------------------------------------------------------- how it ends

    def is_ending(self) -> bool:
        """See `ssh_upstream.Owner`."""
        return self._is.ending is not None

    def ends(self, reason: EndReason, detail: str) -> bool:
        """See `ssh_upstream.Owner`."""
        with self._lock:
            if self._is.ending is not None:
                return False
            self._is.ending = (reason, detail)
            self._is.ending_since = time.monotonic()
            return True

    def _turn_away(self, channel: ChannelEnd, refusal: Refusal) -> None:
        """A no, told where a person and a script can see it: on stderr and as exit status."""
        text = "\r\n".join((f"gw: {refusal.message}", *(f"    {step}" for step in refusal.next_steps), ""))
        try:
            while not any(
                _is_start(channel, item.kind, item.name, wants_reply=item.wants_reply) for item in channel.take()
            ):
                if channel.is_over():
                    return
            channel.last_words(text.encode(), REFUSED_STATUS)
        except CONNECTION_GONE as gone:
            LOG.debug("nobody to turn away: %r", gone)


def _is_start(channel: ChannelEnd, kind: int, name: str, *, wants_reply: bool) -> bool:
    """Answer a request on a channel that leads nowhere; True when it is the one that starts something."""
    if kind != REQUEST:
        return kind == LOST
    if wants_reply:
        channel.reply(ok=True)
    return name in ("shell", "exec", "subsystem")
