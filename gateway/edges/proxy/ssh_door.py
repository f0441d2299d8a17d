"""The SSH door: a listening socket, its limits, and the connections behind it."""

import logging
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.app import journal
from gateway.app.context import Context
from gateway.app.open_session import end_session, open_session
from gateway.app.refuse_stranger import refuse_stranger
from gateway.app.ssh_sign_in import grant_asked_for, ticket_holder
from gateway.core.errors import Refusal
from gateway.core.grant import Grant
from gateway.core.principal import User
from gateway.core.session import EndReason, Session
from gateway.core.target import Kind
from gateway.edges.proxy.listener import origin_of
from gateway.edges.proxy.ssh_goodbye import Goodbyes
from gateway.edges.proxy.ssh_keeper import Doorkeeper
from gateway.edges.proxy.ssh_session import Connection
from gateway.edges.proxy.ssh_strangers import Strangers
from gateway.edges.proxy.ssh_target import Authority, paramiko_key

LOG = logging.getLogger("gateway.ssh")
_STACK = 1024 * 1024
_LOOK_EVERY = 1.0
_CLOSE_WITHIN = 5.0
_LEAVE_WITHIN = 1.0
OPENERS = 16  # sessions that are being opened at once; all of it waits with limits of its own
_STRANGERS_EVERY = timedelta(seconds=1)
# Refusals that anybody who can reach the port can cause.
STRANGERS = frozenset({"certificate-unreadable", "certificate-foreign", "certificate-forged"})


@dataclass(frozen=True, slots=True)
class DoorLimits:
    """`unauthenticated` and `connections` are numbers held at once; seconds count from TCP accept.

    `from_one_address` bounds those that have not logged in. Beyond these two a newcomer takes the place of the oldest
    that came from where most come from: silent ones shut nobody out. Beyond `burst` an address may come `per_second`
    times until somebody from there logs in. `login_seconds` to log in, `idle_seconds` to open a session: `ssh -N` and
    a refused person do not stay for ever.
    """

    unauthenticated: int = 100
    from_one_address: int = 50
    burst: float = 60.0
    per_second: float = 15.0
    connections: int = 2000
    login_seconds: float = 20.0
    idle_seconds: float = 90.0


# A line before the identification, as RFC 4253 §4.2 allows: clients show it.
FULL = b"Too many connections, or too many from your address that have not logged in: try again in a few seconds.\r\n"


@dataclass(slots=True)
class _Place:
    """A connection's place behind the door."""

    origin: str
    since: float
    is_cut: bool = False  # its place is another's already; its thread has not ended


class _Refusals:
    """Events of refused logins. A stranger's certificate costs one event a second at most, however many knock, and
    one address a hundred within ten minutes.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._lock = threading.Lock()
        self._quiet_until = ctx.clock.now()
        self._untold = 0

    def __call__(self, user_name: str, client: str, refusal: Refusal) -> None:
        now = self._ctx.clock.now()
        with self._lock:
            if refusal.code in STRANGERS and now < self._quiet_until:
                self._untold += 1
                return
            untold, self._untold = self._untold, 0
            self._quiet_until = now + _STRANGERS_EVERY
        refuse_stranger(self._ctx, client, "ssh:refused", refusal, data={"untold": untold}, about={"target": user_name})


def _tell(ctx: Context, session: Session, type_: str, outcome: str, data: dict[str, object]) -> None:
    journal.record(ctx, type_, outcome, data, **journal.about_session(session))


def doorkeeper(ctx: Context) -> Doorkeeper:
    """The real use cases."""

    def user(user_id: str) -> User | None:
        with ctx.store.read() as uow:
            return uow.users.get(user_id)

    def grant(who: User, target: str, level: str) -> Grant:
        found = grant_asked_for(ctx, who, target, level)
        known = ctx.catalogue.current().targets.get(target)
        if known is None or known.kind is not Kind.SSH:  # before a session is opened and a database role is made
            no = Refusal("not-a-server", f"{target} is not a server.", next_steps=(f"Run gw connect {target}.",))
            raise journal.refuse(ctx, "session:denied", no, **journal.about_grant(found))
        return found

    # Deciding and storing need deep stacks. In a few threads of their own, each session's two are spared that memory.
    openers = ThreadPoolExecutor(OPENERS, "ssh-opener")

    return Doorkeeper(
        now=ctx.clock.now,
        user=user,
        ticket=lambda name, ticket, client: ticket_holder(ctx, name, ticket, client),
        grant_for=lambda who, target, level: openers.submit(grant, who, target, level).result(),
        open=lambda who, granted, client: openers.submit(open_session, ctx, who, granted, client).result(),
        end=lambda session, recording, reason, detail: end_session(ctx, session, recording, reason, detail),
        tell=lambda session, type_, outcome, data: _tell(ctx, session, type_, outcome, data),
        hold=ctx.live.add,
        release=ctx.live.discard,
        refused=_Refusals(ctx),
    )


def _turn_away(sock: socket.socket) -> None:
    """The accept loop's: nobody is waited for."""
    with suppress(OSError):
        sock.send(FULL, socket.MSG_DONTWAIT)
    sock.close()


class SshDoor:
    """Accepts connections until closed. Two threads, besides those of the connections."""

    def __init__(
        self,
        keeper: Doorkeeper,
        listener: socket.socket,
        authority: Authority,
        host_key: Ed25519PrivateKey,
        limits: DoorLimits,
        *,
        post_quantum_only: bool = False,
    ) -> None:
        self._keeper = keeper
        self._listener = listener
        self._authority = authority
        self._host_key = paramiko_key(host_key)
        self._limits = limits
        self._lock = threading.Lock()
        self._left = threading.Condition(self._lock)
        self._strangers = Strangers(limits.burst, limits.per_second)
        self._post_quantum_only = post_quantum_only
        self._held: dict[Connection, _Place] = {}
        self._waiting: dict[Connection, _Place] = {}  # of those, who had not logged in at the last look; oldest first
        self._goodbyes = Goodbyes()
        self._closing = threading.Event()
        self.port = int(listener.getsockname()[1])
        for work in (self._accept, self._watch_logins):
            threading.Thread(target=work, name="ssh-door", daemon=True).start()

    def close(self) -> None:
        """Stop listening, tell everybody, wait a little for their sessions to end."""
        self._closing.set()
        with suppress(OSError):  # wakes the accept loop
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections():
            connection.terminate(EndReason.GATEWAY_STOPPED, "")
        deadline = time.monotonic() + _CLOSE_WITHIN
        while self._connections() and time.monotonic() < deadline:
            time.sleep(0.01)

    def _connections(self) -> list[Connection]:
        with self._lock:
            return list(self._held)

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                sock, address = self._listener.accept()
            except OSError as why:
                if self._closing.wait(0.05):  # out of file descriptors is no reason to spin
                    return
                LOG.warning("cannot accept: %s", why)
                continue
            try:
                self._admit(sock, origin_of(str(address[0])), f"{address[0]}:{address[1]}")
            except Exception:  # the accept loop outlives whatever one connection brings
                LOG.exception("a connection could not be served")
                sock.close()

    def _admit(self, sock: socket.socket, origin: str, client: str) -> None:
        if not self._strangers.admit(origin) or not self._make_room(origin):
            _turn_away(sock)
            return
        connection = Connection(
            sock, client, self._keeper, self._authority, self._host_key, self._forget, self._goodbyes,
            post_quantum_only=self._post_quantum_only,
        )  # fmt: skip
        with self._lock:
            self._held[connection] = self._waiting[connection] = _Place(origin, time.monotonic())
        try:
            connection.serve()
        except RuntimeError:  # no thread to be had: nobody else would free its place
            self._forget(connection)
            raise

    def _make_room(self, origin: str) -> bool:
        """See `DoorLimits`; False when there is none. Waits for those who lost their place: few threads may linger."""
        limits = self._limits
        self._settle()
        with self._left:
            self._left.wait_for(lambda: len(self._waiting) < 2 * limits.unauthenticated, _LEAVE_WITHIN)
            if len(self._held) >= limits.connections or len(self._waiting) >= 2 * limits.unauthenticated:
                return False
            crowds = Counter(place.origin for place in self._waiting.values() if not place.is_cut)
            if crowds[origin] >= limits.from_one_address:
                crowd = origin
            elif crowds.total() >= limits.unauthenticated:
                crowd = crowds.most_common(1)[0][0]
            else:
                return True
            oldest = next(held for held, at in self._waiting.items() if at.origin == crowd and not at.is_cut)
            self._waiting[oldest].is_cut = True
        oldest.cut()
        return True

    def _settle(self) -> None:
        """Who has logged in waits no longer, and has given their address a good name."""
        with self._lock:
            proven = [held for held in self._waiting if held.is_logged_in()]
            origins = [self._waiting.pop(held).origin for held in proven]
        for origin in origins:
            self._strangers.proven(origin)

    def _forget(self, connection: Connection) -> None:
        with self._lock:
            self._held.pop(connection, None)
            self._left.notify()
            place = self._waiting.pop(connection, None)
        if place is not None and connection.is_logged_in():  # came and went between two looks
            self._strangers.proven(place.origin)

    def _watch_logins(self) -> None:
        """Cut whoever has not logged in, or opened nothing, in time, however slowly it trickles."""
        while not self._closing.wait(_LOOK_EVERY):
            now = time.monotonic()
            self._settle()
            with self._lock:
                places = list(self._held.items())
            late = [
                held
                for held, place in places
                if held.is_overdue(now) or held.is_stalled(now) or self._is_late(held, now - place.since)
            ]
            for connection in self._connections():
                connection.look(now)
            for connection in late:
                connection.cut()

    def _is_late(self, held: Connection, age: float) -> bool:
        if not held.is_logged_in():
            return age > self._limits.login_seconds
        return not held.holds_session() and age > self._limits.idle_seconds


def serve_ssh(
    keeper: Doorkeeper,
    host: str,
    port: int,
    authority: Authority,
    host_key: Ed25519PrivateKey,
    limits: DoorLimits | None = None,
    *,
    reuse_port: bool = False,
    post_quantum_only: bool = False,
) -> SshDoor:
    """Listen on `host`:`port` (0 picks one, see `SshDoor.port`), with `reuse_port` beside other processes.

    OSError when the address cannot be had.
    """
    threading.stack_size(_STACK)
    listener = socket.create_server(
        (host, port),
        family=socket.AF_INET6 if ":" in host else socket.AF_INET,
        backlog=256,
        reuse_port=reuse_port,
    )
    return SshDoor(keeper, listener, authority, host_key, limits or DoorLimits(), post_quantum_only=post_quantum_only)
