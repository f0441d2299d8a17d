"""A person's passkeys: add, see, remove. Changing them takes a fresh sign-in, or a passkey that is there already."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from gateway.app import journal
from gateway.app.ceremony import issue_challenge, verified_assertion, verified_creation
from gateway.app.context import Context
from gateway.app.credentials import digest_of
from gateway.app.demand_proof import passkey_proof
from gateway.app.identity import NotSignedIn
from gateway.app.passkey_ports import Answer, Passkey, RelyingParty
from gateway.core.authentication import REQUIRED, unmet
from gateway.core.errors import Conflict, NotFound, Refusal
from gateway.core.obligation import USUAL_AGE, Obligations
from gateway.core.principal import User

MOST_KEYS = 10
LONGEST_NAME = 60
_FRESH = Obligations(max_auth_age=USUAL_AGE)
_STALE = Refusal(
    REQUIRED,
    "Adding or removing a passkey takes a sign-in that is not older than 10 min.",
    ("fresh_sign_in",),
    ("Sign in once more, or answer with a passkey that you have: the page /passkeys offers both; gw step-up.",),
)


def is_fresh(user: User, at: datetime) -> bool:
    """True when the caller has proved just now who they are: stolen sign-ins add no keys (ASVS 6.3.4)."""
    return unmet(_FRESH, user.proof, at) is None


def passkeys_of(ctx: Context, user: User) -> Sequence[Passkey]:
    """One's own, oldest first."""
    with ctx.store.read() as uow:
        return uow.passkeys.of(user.id)


def begin_registration(ctx: Context, party: RelyingParty, user: User) -> dict[str, object]:
    """What the browser asks an authenticator. Denied without a fresh sign-in, Conflict with too many keys."""
    _demand_fresh(ctx, user, "passkey:refused")
    existing = passkeys_of(ctx, user)
    if len(existing) >= MOST_KEYS:
        raise Conflict(Refusal("too-many-passkeys", f"You have {MOST_KEYS} passkeys already; remove one first."))
    return party.creation_options(user, issue_challenge(ctx, "register", user.id), existing)


def finish_registration(ctx: Context, party: RelyingParty, user: User, name: str, answer: Answer) -> Passkey:
    """Store the key that the answer proves. Denied when it proves nothing."""
    _demand_fresh(ctx, user, "passkey:refused")
    made = verified_creation(ctx, party, answer, "register", user)
    at = ctx.clock.now()
    said = "".join(c for c in name.strip() if c.isprintable())[:LONGEST_NAME] or "passkey"
    passkey = Passkey(made.id, user.id, said, made.public_key, made.sign_count, made.transports, at)
    with ctx.store.begin() as uow:
        if uow.passkeys.get(passkey.id) is not None or len(uow.passkeys.of(user.id)) >= MOST_KEYS:
            raise Conflict(Refusal("passkey-known", "That passkey is registered already, or you have too many."))
        uow.passkeys.add(passkey)
        data = {"passkey": passkey.id, "name": passkey.name}
        noted = journal.append(ctx, uow, "passkey:registered", principal=user.name, data=data)
    journal.confirm_logged(ctx, noted)
    ctx.notifier.notify("default", f"{user.name} has a new passkey: {passkey.name}", "", {"user": user.name})
    return passkey


def remove_passkey(ctx: Context, user: User, passkey_id: str) -> Passkey:
    """Forget one of one's own keys. NotFound for anybody else's."""
    with ctx.store.read() as uow:
        passkey = uow.passkeys.get(passkey_id)
    if passkey is None or passkey.user != user.id:
        raise NotFound(Refusal("unknown-passkey", "You have no such passkey.", next_steps=("gw passkeys lists them.",)))
    _demand_fresh(ctx, user, "passkey:refused")
    with ctx.store.begin() as uow:
        if not uow.passkeys.remove(passkey.id):
            raise Conflict(Refusal("passkey-removed", "That passkey was removed meanwhile."))
        data = {"passkey": passkey.id, "name": passkey.name}
        noted = journal.append(ctx, uow, "passkey:removed", principal=user.name, data=data)
    journal.confirm_logged(ctx, noted)
    return passkey


def begin_unlock(ctx: Context, party: RelyingParty, user: User) -> dict[str, object]:
    """Let a browser session be proved by a passkey that the person has."""
    return party.request_options(issue_challenge(ctx, "unlock", user.id))


def finish_unlock(ctx: Context, party: RelyingParty, user: User, session: str, answer: Answer) -> None:
    """The browser session (by its secret) has proved just now who it is."""
    _, passkey = verified_assertion(ctx, party, answer, "unlock", user.id)
    at = ctx.clock.now()
    with ctx.store.begin() as uow:
        held = uow.credentials.find(digest_of(session), "web")
        if held is None or held.subject != user.id or held.used_at or at >= held.expires_at:
            raise NotSignedIn(Refusal("not-signed-in", "The sign-in is over.", ("a sign-in",)))
        uow.credentials.save(replace(held, data={**(held.data or {}), **passkey_proof(ctx, uow, passkey, at)}))
        journal.append(ctx, uow, "step-up:proved", principal=user.name, data={"passkey": passkey.id, "via": "web"})


def _demand_fresh(ctx: Context, user: User, event: str) -> None:
    if not is_fresh(user, ctx.clock.now()):
        raise journal.refuse(ctx, event, _STALE, principal=user.name)
