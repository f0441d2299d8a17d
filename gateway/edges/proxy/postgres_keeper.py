"""What the database door asks of the rest of the gateway, in one value: the use cases behind it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from gateway.app.commit_ports import Asking, Told
from gateway.app.context import Context
from gateway.app.database_certificate import user_of_certificate
from gateway.app.end_backend import end_backend
from gateway.app.end_session import Sealed, seal_session, store_ends
from gateway.app.hold_commit import ask_commit, end_held
from gateway.app.lease_role import login_refused
from gateway.app.live import LiveSessions
from gateway.app.note_statement import note_statement
from gateway.app.open_session import Admitted, Opened, admit, open_session, refuse_admitted, refuse_level
from gateway.app.recording_ports import Recording
from gateway.app.statement_ports import ReadsNothing, StatementReader
from gateway.app.target_ports import DatabaseLogin
from gateway.app.ticket_proof import user_of_proof
from gateway.core.errors import Denied, GatewayError, Refusal
from gateway.core.session import EndReason, Session
from gateway.core.target import Target
from gateway.wire.postgres_scram_server import Misbound, Proof


def _proves_nothing(user: str, proof: Proof | Misbound, target: str, client: str) -> tuple[Admitted, bytes]:
    raise NotImplementedError("this door asks for passwords")


def _recognises_nobody(user: str, digest: str, target: str, level: str, client: str) -> Admitted:
    raise NotImplementedError("this door asks for no certificates")


def _denies_level(who: Admitted, level: str, client: str) -> GatewayError:
    del level, client
    return Denied(Refusal("other-level", f"This ticket is for level {who.grant.level}."))


def _denies(who: Admitted, refusal: Refusal, client: str) -> GatewayError:
    del who, client
    return Denied(refusal)


def _agrees_to_nothing(session: Session, asking: Asking) -> Told:
    del session, asking
    return Told(may_pass=False)


@dataclass(frozen=True, slots=True)
class Doorkeeper:
    """The use cases behind the door, as plain synchronous calls. They raise GatewayError."""

    authenticate: Callable[[str, str, str, str], Admitted]  # user, ticket, target, client's address
    open: Callable[[Admitted, str], Opened]
    seal: Callable[[Session, Recording, EndReason, str], Sealed]
    end: Callable[[Sequence[Sealed]], None]  # of sessions that are sealed
    live: LiveSessions
    now: Callable[[], datetime]
    reader: StatementReader = field(default_factory=ReadsNothing)
    note: Callable[[Session, str, Mapping[str, object]], None] = lambda *_: None
    prove: Callable[[str, Proof | Misbound, str, str], tuple[Admitted, bytes]] = field(default=_proves_nothing)
    recognise: Callable[[str, str, str, str, str], Admitted] = field(default=_recognises_nobody)
    mask_key: bytes = field(default=b"", repr=False)
    ask_commit: Callable[[Session, Asking], Told] = field(default=_agrees_to_nothing)
    end_held: Callable[[Session, int, str], None] = lambda *_: None
    login_worked: Callable[[str], None] = lambda _: None  # the role's
    login_refused: Callable[[Session, DatabaseLogin], bool] = lambda *_: False  # True: the next connection has another
    end_backend: Callable[[Session, Target, str, int], None] = lambda *_: None  # of the session: target, role, pid
    other_level: Callable[[Admitted, str, str], GatewayError] = field(default=_denies_level)  # asked for level, client
    deny: Callable[[Admitted, Refusal, str], GatewayError] = field(default=_denies)  # for that reason, client

    @classmethod
    def of(cls, ctx: Context) -> "Doorkeeper":
        """The real ones."""
        return cls(
            lambda user, ticket, target, client: admit(ctx, user, ticket, target, client=client),
            lambda who, client: open_session(ctx, who.user, who.grant, client, who.judged),
            partial(seal_session, ctx),
            partial(store_ends, ctx),
            ctx.live,
            ctx.clock.now,
            ctx.reader,
            partial(note_statement, ctx),
            lambda user, proof, target, client: user_of_proof(ctx, user, proof, target, client),
            lambda *shown: Admitted(*user_of_certificate(ctx, *shown)),
            ctx.mask_key,
            partial(ask_commit, ctx),
            partial(end_held, ctx),
            ctx.logins.worked,
            lambda session, login: login_refused(ctx, session.grant, login),
            partial(end_backend, ctx),
            other_level=partial(refuse_level, ctx),
            deny=partial(refuse_admitted, ctx),
        )
