"""Challenges for passkeys: each is good once, for a few minutes, for one purpose and one person.

A challenge is stored by its digest, so whoever reads the store cannot answer it in a browser's place. An answer is
looked at only after its challenge was used up: trying twice needs a second challenge.
"""

from datetime import timedelta

from gateway.app import journal
from gateway.app.context import Context
from gateway.app.credentials import digest_of
from gateway.app.passkey_ports import Answer, ForgedAnswerError, NewKey, Passkey, RelyingParty
from gateway.app.people_ports import Credential
from gateway.app.refuse_stranger import refuse_stranger
from gateway.core.errors import GatewayError, Refusal
from gateway.core.principal import User

LIFETIME = timedelta(minutes=5)
_CHALLENGE = "challenge"


def issue_challenge(ctx: Context, purpose: str, subject: str = "") -> str:
    """A challenge for one purpose; `subject` is a user id, "" where the answer is to say who it is."""
    challenge, at = ctx.ids.secret(), ctx.clock.now()
    kept = Credential(
        digest_of(challenge), _CHALLENGE, subject, at, at + LIFETIME, single_use=True, data={"for": purpose}
    )
    with ctx.store.begin() as uow:
        uow.credentials.add(kept)
    return challenge


def verified_creation(ctx: Context, party: RelyingParty, answer: Answer, purpose: str, user: User) -> NewKey:
    """The new key of `user` that a browser's answer proves; Denied, with its event, otherwise."""
    try:
        return party.verify_creation(answer, _claimed(ctx, party, answer, purpose, user.id))
    except ForgedAnswerError as why:
        raise _refused(ctx, str(why), purpose, user.id, user.name) from why


def verified_assertion(
    ctx: Context, party: RelyingParty, answer: Answer, purpose: str, subject: str = "", client: str = ""
) -> tuple[User, Passkey]:
    """The person, and which key of theirs has answered; Denied, with its event, otherwise.

    `subject` "" lets the key say who it is: then, and only then, anybody's key will do. `client` is the address of a
    browser that has not signed in.
    """
    try:
        challenge = _claimed(ctx, party, answer, purpose, subject)
        passkey, user = _key_of(ctx, answer, subject)
    except ForgedAnswerError as why:
        raise _refused(ctx, str(why), purpose, client or subject) from why
    try:
        count = party.verify_assertion(answer, challenge, passkey)
    except ForgedAnswerError as why:
        raise _refused(ctx, str(why), purpose, client or subject, user.name) from why
    _note_use(ctx, user, passkey, count)
    return user, passkey


def _claimed(ctx: Context, party: RelyingParty, answer: Answer, purpose: str, subject: str) -> str:
    """The challenge that an answer is about, used up; ForgedAnswerError unless it was issued for just this."""
    challenge = party.unverified_challenge(answer)
    digest, at = digest_of(challenge), ctx.clock.now()
    with ctx.store.begin() as uow:
        kept = uow.credentials.find(digest, _CHALLENGE)
        claimed = kept is not None and uow.credentials.claim(digest, _CHALLENGE, at)
    if kept is None or not claimed:
        raise ForgedAnswerError("its challenge is too old, was answered before, or is not from here")
    if (kept.data or {}).get("for") != purpose or kept.subject != subject:
        raise ForgedAnswerError("its challenge was for something else")
    return challenge


def _key_of(ctx: Context, answer: Answer, subject: str) -> tuple[Passkey, User]:
    wanted = answer.get("id")
    with ctx.store.read() as uow:
        passkey = uow.passkeys.get(wanted) if isinstance(wanted, str) and len(wanted) <= 2048 else None
        user = uow.users.get(passkey.user) if passkey else None
    if passkey is None or user is None or not user.is_enabled():
        raise ForgedAnswerError("that passkey is not known here")
    if subject and passkey.user != subject:
        raise ForgedAnswerError("that passkey is somebody else's")
    return passkey, user


def _note_use(ctx: Context, user: User, passkey: Passkey, count: int) -> None:
    """A count that does not grow is a copied key (WebAuthn §6.1.1); keys that do not count always say 0."""
    at = ctx.clock.now()
    has_grown = count > passkey.sign_count or (count == 0 and passkey.sign_count == 0)
    with ctx.store.begin() as uow:
        if has_grown and uow.passkeys.used(passkey, count, at):
            return
    copied = Refusal(
        "passkey-copied",
        f"The passkey {passkey.name!r} counts backwards, so there may be a copy of it. It was not accepted.",
        next_steps=("If you did not expect that: remove it (gw passkeys) and tell the gateway's operators.",),
    )
    data = {"passkey": passkey.id, "name": passkey.name, "count": count, "count_before": passkey.sign_count}
    ctx.notifier.notify("default", f"A passkey of {user.name} may have been copied", copied.message, {})
    raise journal.refuse(ctx, "passkey:copied", copied, data=data, principal=user.name)


def _refused(ctx: Context, why: str, purpose: str, whence: str, principal: str = "") -> GatewayError:
    """The exception for an answer that is not believed, after its event. `whence`: an address, or a person's id."""
    refusal = Refusal(
        "passkey-refused", f"The passkey's answer was not accepted: {why}.", ("a passkey",), ("Try once more.",)
    )
    data = {"for": purpose.split(":", 1)[0]}
    return refuse_stranger(ctx, whence, "passkey:refused", refusal, data=data, about={"principal": principal})
