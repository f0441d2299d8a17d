"""The PostgreSQL door: TLS, a ticket as password, a recorded session on the target under a role made for the grant."""

import asyncio
import json
import logging
import socket
import ssl
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import stamina

from gateway.app.commit_ports import Asking, Told
from gateway.app.context import Context
from gateway.app.end_session import Sealed
from gateway.app.open_session import Opened
from gateway.core.client_encoding import is_safe_encoding
from gateway.core.errors import GatewayError, Refusal, Unavailable
from gateway.core.masking import Mask
from gateway.core.obligation import Record
from gateway.core.session import EndReason, Session
from gateway.core.target import Level
from gateway.edges.proxy import postgres_refusals as refuse
from gateway.edges.proxy.listener import MAX_STRANGERS, Admission, Listener
from gateway.edges.proxy.postgres_books import Backlog
from gateway.edges.proxy.postgres_cancel import Backend, CancelKeys
from gateway.edges.proxy.postgres_dry_run import Commits, DryRunSession
from gateway.edges.proxy.postgres_endings import Endings
from gateway.edges.proxy.postgres_greeting import Manners, Shown, Visitor, greet
from gateway.edges.proxy.postgres_guarded import GuardedSession, is_guarded, is_judged
from gateway.edges.proxy.postgres_keeper import Doorkeeper
from gateway.edges.proxy.postgres_known import MasksUnsure, learn
from gateway.edges.proxy.postgres_leg import SCRATCH, Leg, LegClosed
from gateway.edges.proxy.postgres_mistakes import end_for_mistake
from gateway.edges.proxy.postgres_refusals import Turned
from gateway.edges.proxy.postgres_relay import PostgresSession
from gateway.edges.proxy.postgres_upstream import TargetUnreachable, cancel, dial, log_in
from gateway.wire import postgres_messages as pg
from gateway.wire.buffer import ProtocolViolation
from gateway.wire.postgres_machine import TargetLogin, TargetRefused
from gateway.wire.postgres_messages import CancelRequest
from gateway.wire.postgres_parameters import ParameterRefused, client_encodings, relayed, replicates, settings_in
from gateway.wire.postgres_scram_server import Misbound, Proof

HANDSHAKE_S = 10.0
STOP_S = 5.0
_WORKERS = 32
_UNHEEDED_S = (1.0, 10.0, 60.0)  # what a cancel has not ended by then is ended; again where that fails
_ENDED_WITH_ROLE = (EndReason.GRANT_EXPIRED, EndReason.GRANT_REVOKED)
_TELL_S = 86_400.0  # how a transaction ended is tried to be stored for so long; then `LeftHeld` knows less of it
LOG = logging.getLogger(__name__)
_T = TypeVar("_T")


class PostgresDoor:
    """A running door. `port` is the one that was bound."""

    def __init__(
        self,
        keeper: Doorkeeper,
        tls: ssl.SSLContext,
        *,
        allow_plaintext: bool = False,
        uses_scram: bool = False,
        binding: bytes = b"",
        max_strangers: int = MAX_STRANGERS,
        handshake_s: float = HANDSHAKE_S,
    ) -> None:
        self.port = 0
        self._keeper = keeper
        self._manners = Manners(tls, uses_scram=uses_scram, binding=binding, allow_plaintext=allow_plaintext)
        self._handshake_s = handshake_s
        self._listener = Listener(self._serve, max_strangers)
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="postgres-door")
        self._scratch = memoryview(bytearray(SCRATCH))
        self._keys = CancelKeys()
        self._backlog = Backlog()
        self._endings = Endings(partial(self._call, keeper.end))
        self._sessions: set[PostgresSession] = set()
        self._chores: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    async def start(self, host: str, port: int, *, reuse_port: bool = False) -> None:
        """Bind and accept; with `reuse_port`, beside other processes."""
        self.port = await self._listener.start(host, port, reuse_port=reuse_port)

    def settle(self) -> None:
        """Account now for everything that has gone on. On the loop."""
        for session in tuple(self._sessions):
            session.settle()

    async def close(self) -> None:
        """End every session with a word to its person; returns within a few seconds."""
        self._is_stopping = True
        await self._listener.stop()
        for session in tuple(self._sessions):
            session.end(EndReason.GATEWAY_STOPPED)
        await self._listener.wait_idle(STOP_S)
        if self._chores:
            await asyncio.wait(self._chores, timeout=STOP_S)
        self._pool.shutdown(wait=False)

    # ------------------------------------------------------------ one connection

    async def _serve(self, sock: socket.socket, admission: Admission) -> None:
        try:
            client = _address(sock)
        except OSError:  # gone already
            sock.close()
            return
        leg = Leg(self._scratch)
        try:
            visitor = await self._meet(leg, sock)
            if isinstance(visitor, CancelRequest):
                await self._cancel(visitor)
            elif visitor is not None:
                await self._admit(leg, visitor, client, admission)
        except Turned as no:
            leg.write(pg.error_response(no.report))
        finally:
            leg.close()
            await leg.wait_closed()

    async def _meet(self, leg: Leg, sock: socket.socket) -> Visitor | CancelRequest | None:
        """Who comes; None when nobody stayed long enough, or in time, to be told anything."""
        try:
            async with asyncio.timeout(self._handshake_s):
                return await greet(leg, sock, self._manners)
        except ProtocolViolation as why:
            raise Turned(refuse.fatal(refuse.PROTOCOL_VIOLATION, f"Protocol violation: {why}.")) from why
        except (LegClosed, TimeoutError, OSError):
            return None

    async def _cancel(self, request: CancelRequest) -> None:
        backend = self._keys.find(request)
        if backend is not None:  # an unknown key gets no answer either way
            await cancel(backend.target, backend.pid, backend.secret, self._scratch)

    async def _admit(self, leg: Leg, visitor: Visitor, client: str, admission: Admission) -> None:
        admission.settle()
        try:
            opened, answer, parameters = await self._call(self._let_in, visitor, client)
        except GatewayError as no:
            raise Turned(refuse.of_error(no)) from no
        admission.release()
        leg.write(answer)
        await self._hold(leg, visitor, opened, parameters)

    def _let_in(self, visitor: Visitor, client: str) -> tuple[Opened, bytes, dict[str, str]]:
        """The session, what the client is told of its sign-in first, and what of its parameters goes to the target.

        On a worker's thread, at one go: each change of threads costs a busy gateway more than the look-ups do.
        """
        answer = b""
        if isinstance(visitor.secret, Shown):
            who = self._keeper.recognise(visitor.user, visitor.secret.digest, visitor.target, visitor.level, client)
        elif isinstance(visitor.secret, Proof | Misbound):
            who, said = self._keeper.prove(visitor.user, visitor.secret, visitor.target, client)
            answer = pg.authentication_sasl_final(said)
        else:
            who = self._keeper.authenticate(visitor.user, visitor.secret, visitor.target, client)
        if visitor.level and visitor.level != who.grant.level:
            raise self._keeper.other_level(who, visitor.level, client)
        parameters = relayed(visitor.parameters)
        if isinstance(parameters, ParameterRefused):
            report = refuse.of_parameter(parameters)
            self._keeper.deny(who, Refusal("startup-parameter", report.message), client)
            raise Turned(report)
        return self._keeper.open(who, client), answer, parameters

    async def _hold(self, leg: Leg, visitor: Visitor, opened: Opened, parameters: dict[str, str]) -> None:
        """A session is open: whatever happens from here on, it is ended exactly once."""
        is_strict = opened.record is Record.REQUIRE
        session = self._session(leg, opened, is_strict=is_strict)
        self._sessions.add(session)
        reason, detail = EndReason.INTERRUPTED, ""
        try:
            self._keeper.live.add(opened.session.id, session)
            if self._is_stopping:
                session.end(EndReason.GATEWAY_STOPPED)
            try:
                session.note("startup", _startup_record(visitor, parameters, opened.level))
                _demand_safe_encoding(session, opened.level, parameters)
                _demand_replication(session, opened.level, parameters)
                if isinstance(session, DryRunSession):
                    session.know([name for name, _ in settings_in(parameters)])
                await self._run(visitor, opened, parameters, session)
            except Exception as fault:  # noqa: BLE001 - whatever it is, the person is told why the session is over
                end_for_mistake(session, fault)
            reason, detail = await session.over
        finally:
            self._sessions.discard(session)
            session.close_account()
            await self._endings.add(await self._call(self._seal, session, opened, reason, detail))
            self._keeper.live.discard(opened.session.id)

    def _session(self, leg: Leg, opened: Opened, *, is_strict: bool) -> PostgresSession:
        keeper = self._keeper
        if not is_guarded(opened.level):
            binds, both = opened.level.bind_parameters, opened.level.replication
            return PostgresSession(
                leg,
                opened.recording,
                keeper.now,
                self._backlog,
                is_strict=is_strict,
                bind_parameters=binds,
                replicates=both,
            )
        tell = partial(self._note, opened.session)
        level, reader = opened.level, keeper.reader
        of_all = (leg, opened.recording, keeper.now, self._backlog, level, reader, tell)
        if level.dry_run is not None:
            return DryRunSession(*of_all, self._commits(opened.session), is_strict=is_strict)
        return GuardedSession(*of_all, is_strict=is_strict)

    def _commits(self, session: Session) -> Commits:
        asked: set[asyncio.Task[Told]] = set()  # a worker goes on with it, also when nobody waits any more
        ending: set[asyncio.Task[None]] = set()  # of transactions before; in the store a session has one at a time

        async def ask(asking: Asking) -> Told:
            if ending:
                await asyncio.wait(ending)
            told = asyncio.create_task(self._call(self._keeper.ask_commit, session, asking))
            asked.add(told)
            told.add_done_callback(asked.discard)
            return await asyncio.shield(told)

        async def ended(tx: int, outcome: str) -> None:
            if asked:  # else it would be held once more behind its end, and for ever
                await asyncio.wait(asked, timeout=_TELL_S)
            await self._ended(session, tx, outcome)

        def end(tx: int, outcome: str) -> None:
            chore = self._keep(ended(tx, outcome))
            ending.add(chore)
            chore.add_done_callback(ending.discard)

        return Commits(session.id, ask, end)

    async def _ended(self, session: Session, tx: int, outcome: str) -> None:
        """It has happened, so the event is tried again while the store is away."""
        try:
            async for attempt in stamina.retry_context(on=Unavailable, attempts=None, timeout=_TELL_S):
                with attempt:
                    await self._call(self._keeper.end_held, session, tx, outcome)
        except GatewayError as why:
            LOG.warning("an event of %s could not be stored: %s", session.id, why.refusal.message)

    def _note(self, session: Session, type: str, data: Mapping[str, object]) -> None:
        """An event, by a worker: the loop waits for nothing."""
        self._keep(self._noted(session, type, data))

    async def _noted(self, session: Session, type: str, data: Mapping[str, object]) -> None:
        try:
            await self._call(self._keeper.note, session, type, data)
        except GatewayError as why:
            LOG.warning("an event of %s could not be stored: %s", session.id, why.refusal.message)

    def _keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Go on with it when the session is over."""
        chore = asyncio.create_task(work)
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)
        return chore

    def _seal(self, session: PostgresSession, opened: Opened, reason: EndReason, detail: str) -> Sealed:
        """On a worker's thread: what is still to be recorded may have to wait for a slow disk."""
        session.record_rest()
        return self._keeper.seal(opened.session, opened.recording, reason, detail)

    async def _run(
        self, visitor: Visitor, opened: Opened, parameters: dict[str, str], session: PostgresSession
    ) -> None:
        """Reach the target, unless the session is ended meanwhile, and relay until it is over."""
        connecting = asyncio.create_task(self._connect(opened, parameters, session))
        try:
            await asyncio.wait((session.over, connecting), return_when=asyncio.FIRST_COMPLETED)
            if not session.over.done() and (found := connecting.result()) is not None:
                await self._relay(visitor, session, opened, *found)
        finally:
            connecting.cancel()
            await asyncio.wait((connecting,))
            if not connecting.cancelled() and (found := connecting.result()) is not None:
                found[0].close()
                await found[0].wait_closed()

    async def _connect(
        self, opened: Opened, parameters: dict[str, str], session: PostgresSession
    ) -> tuple[Leg, TargetLogin] | None:
        """A leg that is logged in; None when the session was ended because there is none."""
        target, login = opened.target, opened.login
        assert login is not None, "a database session has a login"
        leg = None
        try:
            leg = await dial(target, self._scratch)
            machine = await log_in(leg, target, login, parameters, self._pool)
            self._keeper.login_worked(login.role)
            await self._learn_masks(leg, opened.level, session)
            return leg, machine  # noqa: TRY300 - what goes wrong above ends the session
        except TargetUnreachable as why:
            session.end(EndReason.TARGET_UNREACHABLE, str(why), report=refuse.of_unreachable(why, target))
        except MasksUnsure as why:
            session.end(EndReason.MASKS_UNSURE, str(why), report=refuse.of_unsure_masks(str(why), opened.level))
        except TargetRefused as no:
            is_replaced = no.is_of_role and self._keeper.login_refused(opened.session, login)
            report = refuse.of_target(no, target, login.password, is_replaced=is_replaced)
            session.end(EndReason.TARGET_UNREACHABLE, str(no), report=report)
        except BaseException:
            if leg is not None:
                leg.abort()
            raise
        if leg is not None:
            leg.abort()
        return None

    async def _learn_masks(self, leg: Leg, level: Level, session: PostgresSession) -> None:
        if level.masks and isinstance(session, GuardedSession):
            _demand_key(level, self._keeper.mask_key)
            session.mask(await learn(leg, level.masks), self._keeper.mask_key)

    async def _relay(
        self, visitor: Visitor, session: PostgresSession, opened: Opened, leg: Leg, machine: TargetLogin
    ) -> None:
        target = opened.target
        key = self._keys.issue(Backend(target, machine.pid, machine.secret), visitor.minor)
        session.cancel_request = partial(cancel, target, machine.pid, machine.secret, self._scratch)
        try:
            greeting = pg.authentication_ok() + pg.backend_key_data(key.pid, key.secret) + machine.settled()
            session.start(leg, greeting, visitor.early, machine.rest())
            reason, _ = await session.wait_over()
        finally:
            self._keys.forget(key)
        if session.left_work or reason not in (EndReason.CLIENT_CLOSED, EndReason.TARGET_CLOSED):
            is_at_work = session.left_work and reason not in _ENDED_WITH_ROLE
            self._keep(self._stop_work(opened, machine, is_at_work=is_at_work))

    async def _stop_work(self, opened: Opened, machine: TargetLogin, *, is_at_work: bool) -> None:
        """A backend does not notice a closed connection while it works, and nothing may go on after a session: also not
        code that catches a cancel (`EXCEPTION WHEN query_canceled`).
        """
        target, login = opened.target, opened.login
        assert login is not None, "a database session has a login"
        await cancel(target, machine.pid, machine.secret, self._scratch)
        for wait in _UNHEEDED_S if is_at_work else ():
            await asyncio.sleep(wait)
            try:
                await self._call(self._keeper.end_backend, opened.session, target, login.role, machine.pid)
            except GatewayError as why:
                LOG.warning("what a session left at work could not be ended yet: %s", why.refusal.message)
            else:
                return

    async def _call(self, function: Callable[..., _T], *args: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, partial(function, *args))


async def serve_postgres(
    ctx: Context,
    host: str,
    port: int,
    tls: ssl.SSLContext,
    *,
    uses_scram: bool = False,
    binding: bytes = b"",
    allow_plaintext: bool = False,
    reuse_port: bool = False,
) -> PostgresDoor:
    """Open the door on the running event loop; OSError when the address cannot be bound.

    `tls` is a server-side context with its certificate; the ALPN name that direct TLS needs is set on it here.
    With `uses_scram` clients prove that they have a ticket, bound to the certificate whose hash is `binding` where that
    is given; else they show it as password. `allow_plaintext` is for loopback tests only.
    """
    tls.set_alpn_protocols(["postgresql"])
    tls.num_tickets = 0  # libpq resumes no session, nor does PostgreSQL offer it
    keeper = Doorkeeper.of(ctx)
    door = PostgresDoor(keeper, tls, allow_plaintext=allow_plaintext, uses_scram=uses_scram, binding=binding)
    await door.start(host, port, reuse_port=reuse_port)
    return door


def _address(sock: socket.socket) -> str:
    host, port, *_ = sock.getpeername()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _demand_safe_encoding(session: PostgresSession, level: Level, parameters: dict[str, str]) -> None:
    """Where statements are judged, no session in which the server could read another text than was."""
    wrong = [name for name in client_encodings(parameters) if not is_safe_encoding(name)]
    if wrong and is_judged(level):
        report = refuse.of_encoding(wrong[0], level)
        session.end(EndReason.PROTOCOL_VIOLATION, "client_encoding", report=report)


def _demand_replication(session: PostgresSession, level: Level, parameters: dict[str, str]) -> None:
    """A session that is refused so is in the log, as one who asks has a grant."""
    if replicates(parameters) and not level.replication:
        why = f"level {level.name} lets no replication connections pass"
        report = refuse.of_parameter(ParameterRefused("replication", why))
        session.end(EndReason.PROTOCOL_VIOLATION, "replication", report=report)


def _demand_key(level: Level, key: bytes) -> None:
    if Mask.HASH in level.masks.values() and not key:
        raise MasksUnsure("This gateway has no key for masks.")


def _startup_record(visitor: Visitor, parameters: dict[str, str], level: Level) -> bytes:
    about: dict[str, object] = {"protocol": f"3.{visitor.minor}", "tls": visitor.tls, "parameters": parameters}
    about["bind_parameters"] = level.bind_parameters.value
    if level.masks:
        about["masks"] = {".".join(name): mask.value for name, mask in sorted(level.masks.items())}
    if level.dry_run is not None:
        about["dry_run"] = level.dry_run.confirm.value
    return json.dumps(about, ensure_ascii=False).encode()
