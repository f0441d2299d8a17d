"""`gw step-up`: a terminal that is signed in asks its person to answer with a passkey, in any browser.

As with the device flow the terminal shows a short code and waits; the browser's page says who and which terminal asks.
The browser needs no sign-in of its own: the passkey's answer is bound to the code's person, so nobody else's will do,
and it goes to the one sign-in that asked.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256

from gateway.app import attempts, journal
from gateway.app.ceremony import issue_challenge, verified_assertion
from gateway.app.context import Context
from gateway.app.credentials import digest_of
from gateway.app.demand_proof import passkey_proof
from gateway.app.passkey_ports import Answer, RelyingParty
from gateway.app.people_ports import Credential
from gateway.app.place import ELSEWHERE, is_elsewhere, origin_of
from gateway.app.ports import UnitOfWork
from gateway.app.refuse_stranger import refuse_stranger
from gateway.core.errors import Conflict, Denied, NotFound, Refusal
from gateway.core.principal import User

LIFETIME = timedelta(minutes=5)
INTERVAL = timedelta(seconds=1)
_PURPOSE = "step-up"
_ALPHABET = "BCDFGHJKLMNPQRSTVWXZ"  # RFC 8628 §6.1, as for the device flow
_STARTS_PER_WINDOW = 60  # of one person
_GUESSES_PER_WINDOW = 20  # of one browser's address: 20 out of 20^8
_UNKNOWN = Refusal("unknown-code", "No terminal waits under that code.", next_steps=("Run gw step-up again.",))


class State(StrEnum):
    PENDING = "pending"
    PROVED = "proved"
    DENIED = "denied"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class StepUpStart:
    """`code` is what the link holds and the person compares."""

    code: str
    expires_at: datetime
    interval: timedelta


@dataclass(frozen=True, slots=True)
class StepUpView:
    """What the person is shown before they touch their key."""

    code: str
    user_name: str
    client: str
    program: str
    started_at: datetime
    is_elsewhere: bool


def start_step_up(ctx: Context, user: User, token: str, client: str, program: str) -> StepUpStart:
    """For the sign-in that `token` is, of a terminal at `client`. Denied without a passkey to answer with."""
    at = ctx.clock.now()
    with ctx.store.begin() as uow:
        if attempts.count(uow, f"step-up:{user.id}", at) > _STARTS_PER_WINDOW:
            raise Denied(Refusal("too-many-attempts", "You have asked too often.", (), ("Wait ten minutes.",)))
        if not uow.passkeys.of(user.id):
            raise Denied(_without_passkey())
        code = _code(ctx.ids.secret())
        data = {"code": code, "client": client[:100], "program": program, "sign_in": _sign_in_of(uow, token)}
        kept = Credential(_digest(code), _PURPOSE, user.id, at, at + LIFETIME, data=data | {"state": State.PENDING})
        uow.credentials.add(kept)
        journal.append(ctx, uow, "step-up:started", principal=user.name, data={"client": client[:100]})
    return StepUpStart(code, kept.expires_at, INTERVAL)


def step_up_state(ctx: Context, user: User, code: str) -> State:
    """How far one's own step-up is."""
    with ctx.store.read() as uow:
        kept = uow.credentials.find(_digest(code), _PURPOSE)
    if kept is None or kept.subject != user.id:
        raise NotFound(_UNKNOWN)
    state = State((kept.data or {}).get("state", State.EXPIRED))
    return State.EXPIRED if state is State.PENDING and ctx.clock.now() >= kept.expires_at else state


def find_step_up(ctx: Context, code: str, browser: str) -> StepUpView:
    """What the page shows; NotFound, or Denied after many wrong codes from one address."""
    kept = _waiting(ctx, code, browser)
    data = kept.data or {}
    with ctx.store.read() as uow:
        user = uow.users.get(kept.subject)
    client = data.get("client", "")
    return StepUpView(
        data["code"], user.name if user else "", client, data.get("program", ""), kept.issued_at,
        is_elsewhere(client, browser),
    )  # fmt: skip


def begin_proof(ctx: Context, party: RelyingParty, code: str, browser: str) -> dict[str, object]:
    """What the browser asks an authenticator, for the person whose terminal shows the code."""
    kept = _waiting(ctx, code, browser)
    return party.request_options(issue_challenge(ctx, _purpose(kept), kept.subject))


def finish_proof(
    ctx: Context, party: RelyingParty, code: str, browser: str, answer: Answer, *, knows_place: bool
) -> None:
    """The terminal's sign-in has proved now that its person is there; once per code."""
    kept = _waiting(ctx, code, browser)
    data = kept.data or {}
    if is_elsewhere(data.get("client", ""), browser) and not knows_place:
        raise refuse_stranger(ctx, browser, "step-up:denied", ELSEWHERE, data={"terminal": data.get("client", "")})
    user, passkey = verified_assertion(ctx, party, answer, _purpose(kept), kept.subject, browser)
    at = ctx.clock.now()
    with ctx.store.begin() as uow:
        _settle(uow, kept, State.PROVED)
        sign_in = _find_sign_in(uow, data.get("sign_in", ""))
        if sign_in is None or sign_in.used_at or at >= sign_in.expires_at or sign_in.subject != user.id:
            raise Conflict(Refusal("sign-in-over", "The terminal's sign-in is over.", (), ("Run gw login there.",)))
        uow.credentials.save(replace(sign_in, data={**(sign_in.data or {}), **passkey_proof(ctx, uow, passkey, at)}))
        said = {"passkey": passkey.id, "via": "cli", "client": data.get("client", ""), "browser": browser[:100]}
        journal.append(ctx, uow, "step-up:proved", principal=user.name, data=said)


def deny_step_up(ctx: Context, code: str, browser: str) -> None:
    """Whoever holds the link may say no: it only ends a wait."""
    kept = _waiting(ctx, code, browser)
    with ctx.store.begin() as uow:
        _settle(uow, kept, State.DENIED)
        user = uow.users.get(kept.subject)
        data = {"client": (kept.data or {}).get("client", ""), "browser": browser[:100]}
        journal.append(ctx, uow, "step-up:denied", "denied", principal=user.name if user else "", data=data)


def _sign_in_of(uow: UnitOfWork, token: str) -> str:
    """A sign-in keeps its id while its secret is renewed."""
    held = uow.credentials.find(digest_of(token), "cli")
    return (held.data or {}).get("login", "") if held else ""


def _find_sign_in(uow: UnitOfWork, login: str) -> Credential | None:
    return uow.credentials.find_by_data("cli", "login", login) if login else None


def _settle(uow: UnitOfWork, kept: Credential, state: State) -> None:
    fresh = uow.credentials.find(kept.digest, _PURPOSE)
    if fresh is None or (fresh.data or {}).get("state") != State.PENDING:
        raise Conflict(Refusal("step-up-answered", "This has been answered already."))
    uow.credentials.save(replace(fresh, data={**(fresh.data or {}), "state": state}))


def _waiting(ctx: Context, code: str, browser: str) -> Credential:
    at = ctx.clock.now()
    with ctx.store.begin() as uow:
        kept = uow.credentials.find(_digest(code), _PURPOSE)
        found = kept is not None and at < kept.expires_at and (kept.data or {}).get("state") == State.PENDING
        guesses = attempts.count(uow, f"step-up-code:{origin_of(browser)}", at, add=0 if found else 1)
    if guesses > _GUESSES_PER_WINDOW:
        raise Denied(Refusal("too-many-attempts", "Too many wrong codes.", (), ("Wait ten minutes.",)))
    if kept is None or not found:
        raise NotFound(_UNKNOWN)
    return kept


def _purpose(kept: Credential) -> str:
    return f"step-up:{(kept.data or {}).get('code', '')}"


def _digest(code: str) -> str:
    return digest_of(f"step-up {code.strip().upper()[:16]}")


def _code(secret: str) -> str:
    number = int.from_bytes(sha256(secret.encode()).digest(), "big")  # 256 bits: no bias over 20^8
    letters = "".join(_ALPHABET[number // 20**place % 20] for place in range(8))
    return f"{letters[:4]}-{letters[4:]}"


def _without_passkey() -> Refusal:
    return Refusal(
        "no-passkey",
        "You have no passkey here to answer with.",
        ("a passkey",),
        ("gw passkeys says where to add one.", "or sign in once more: gw login --fresh"),
    )
