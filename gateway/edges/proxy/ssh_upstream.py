"""What one SSH connection has beyond the door: at most one gateway session, and at most one connection to its target.

The first who asks for either opens it, one thread at a time, and nobody any more once the connection is over or ends.
"""

from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import Protocol

from gateway.app.open_session import Opened
from gateway.app.session_ports import LiveSession
from gateway.core.errors import GatewayError, Refusal, Unavailable
from gateway.core.grant import Grant
from gateway.core.obligation import Record
from gateway.core.principal import User
from gateway.core.session import EndReason
from gateway.edges.proxy.ssh_client import HostKeyChangedError, TargetTransport
from gateway.edges.proxy.ssh_keeper import Doorkeeper
from gateway.edges.proxy.ssh_record import SessionRecord
from gateway.edges.proxy.ssh_target import Authority, TargetRefusedError, dial, fault, host_key_changed


class Owner(LiveSession, Protocol):
    """The connection that it belongs to."""

    client: str

    def is_ending(self) -> bool:
        """True when it is settled why it ends."""
        ...

    def ends(self, reason: EndReason, detail: str) -> bool:
        """Note why it ends, and tell nobody; False when that is settled already: the first reason stands."""
        ...


class Upstream:
    """`dialled` is told of the connection to the target once it is there."""

    def __init__(
        self, owner: Owner, keeper: Doorkeeper, authority: Authority, dialled: Callable[[TargetTransport], None]
    ) -> None:
        self._owner = owner
        self._keeper = keeper
        self._authority = authority
        self._dialled = dialled
        self._opening = Lock()  # one thread opens; the end waits for it
        self._user: User | None = None
        self._grant: Grant | None = None  # the one that a ticket is for
        self._asked_for = ""
        self._opened: Opened | None = None
        self._is_over = False
        self.record: SessionRecord | None = None
        self.leg: TargetTransport | None = None

    def admit(self, user: User | None, grant: Grant | None, asked_for: str) -> None:
        """Who has logged in, and the user name that says what they want."""
        self._user, self._grant, self._asked_for = user, grant, asked_for

    def is_admitted(self) -> bool:
        """False while nobody has authenticated."""
        return self._user is not None

    def is_open(self) -> bool:
        """False while there is no session."""
        return self._opened is not None

    def session(self) -> tuple[Opened, SessionRecord]:
        """The session, opened if need be. GatewayError for a no."""
        with self._opening:
            return self._session()

    def connection(self) -> tuple[TargetTransport, SessionRecord]:
        """The connection to the target, dialled if need be. GatewayError for a no."""
        with self._opening:
            opened, record = self._session()
            if self.leg is None:
                self._dial(opened)
            if self.leg is None:
                raise AssertionError("dialled or raised")
            return self.leg, record

    def hang_up(self) -> None:
        """The target's leg ends now."""
        if self.leg is not None:
            self.leg.close()

    def shut(self) -> None:
        """Nothing is opened any more; waits for what is being opened."""
        with self._opening:
            self._is_over = True

    def end(self, reason: EndReason, detail: str) -> None:
        """Close the books on the session, if there is one."""
        if self._opened is not None:
            self._keeper.release(self._opened.session.id)
            self._keeper.end(self._opened.session, self._opened.recording, reason, detail)

    def tell(self, type: str, outcome: str, data: dict[str, object]) -> None:
        """Store an event about the session. GatewayError when it cannot be stored."""
        if self._opened is not None:
            self._keeper.tell(self._opened.session, type, outcome, data)

    def _session(self) -> tuple[Opened, SessionRecord]:
        self._still_wanted()
        if self.record is None:
            self._open_session()
        if self.record is None or self._opened is None:
            raise AssertionError("a session that is open has a record")
        return self._opened, self.record

    def _still_wanted(self) -> None:
        if self._is_over or self._owner.is_ending():
            raise Unavailable(Refusal("session-over", "This connection is closing."))

    def _open_session(self) -> None:
        if self._user is None:
            raise AssertionError("channels come after login")
        level, _, target = self._asked_for.rpartition("%")
        grant = self._grant or self._keeper.grant_for(self._user, target, level)
        opened = self._keeper.open(self._user, grant, self._owner.client)
        require = opened.record is Record.REQUIRE
        self._opened = opened
        self.record = SessionRecord(opened.recording, self._keeper.now, require=require)
        self._keeper.hold(opened.session.id, self._owner)

    def _dial(self, opened: Opened) -> None:
        try:
            leg = dial(opened, self._authority, self._keeper.now(), self._target_over)
        except TargetRefusedError as no:
            if no.presented:
                self._untrusted(no)
            self._owner.ends(EndReason.TARGET_UNREACHABLE, no.refusal.code)  # the person is told on the channel
            raise
        self._dialled(leg)
        self.leg = leg
        if not leg.is_active():  # it was over before anybody could be told
            self._target_over()
        if self._owner.is_ending():
            leg.close()
            self._still_wanted()

    def _target_over(self) -> None:
        """Called by the thread of the upstream connection, whoever ended it; a failed dial tells its own story."""
        if self.leg is None or self._opened is None:
            return
        why = self.leg.why_over()
        if isinstance(why, HostKeyChangedError):  # when keys were exchanged anew
            with suppress(GatewayError):
                self._untrusted(host_key_changed(self._opened.target, why))
        self._owner.terminate(EndReason.TARGET_CLOSED, fault(why))

    def _untrusted(self, no: TargetRefusedError) -> None:
        """A host key that the catalogue does not know is worth an event of its own."""
        self.tell("target:untrusted", "denied", {"code": no.refusal.code, **no.presented})
