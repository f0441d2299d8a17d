"""Sign in by passkey while the identity provider does not answer: for breaking the glass, and for nothing else.

The person's browser answers for the terminal that shows a code, as in the device flow. The gateway itself asks the
provider, before and after the touch; only if both fail does anybody come in, on the groups that the provider named
last, which must not be old. All of it is told to everybody.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from gateway.app import attempts, journal
from gateway.app.ceremony import issue_challenge, verified_assertion
from gateway.app.context import Context
from gateway.app.demand_proof import passkey_proof
from gateway.app.device_flow import DeviceView, device_view, normal_code
from gateway.app.emergency_credential import EMERGENCY
from gateway.app.identity import IdentityProvider
from gateway.app.passkey_ports import Answer, Passkey, RelyingParty
from gateway.app.people_ports import Credential
from gateway.app.place import ELSEWHERE, origin_of
from gateway.app.ports import UnitOfWork
from gateway.app.providers import Providers
from gateway.app.provision import not_provisioned
from gateway.app.refuse_stranger import refuse_stranger
from gateway.core.errors import Conflict, Denied, GatewayError, NotFound, Refusal, Unavailable
from gateway.core.principal import User

_GUESSES_PER_WINDOW = 20  # of one browser's address
_TOO_MANY = Refusal("too-many-attempts", "Too many wrong codes.", next_steps=("Wait ten minutes.",))
_UNKNOWN = Refusal("unknown-code", "No sign-in waits under that code.", next_steps=("Run gw login --passkey again.",))
_PROVIDER_ANSWERS = Refusal(
    "provider-answers",
    "The identity provider answers, so signing in by passkey alone is closed.",
    ("a provider that is down",),
    ("Run gw login and sign in there.",),
)


def find_emergency(ctx: Context, code: str, browser: str) -> DeviceView:
    """The terminal that waits under a code; NotFound, or Denied after many wrong ones from one address."""
    return device_view(_waiting(ctx, code, browser), browser)


def begin_emergency(
    ctx: Context, party: RelyingParty, providers: Providers, code: str, browser: str
) -> dict[str, object]:
    """What the browser asks an authenticator. Denied, with its event, while every provider answers."""
    device = _waiting(ctx, code, browser)
    if _all_answer(providers):
        raise _refuse(ctx, browser, _PROVIDER_ANSWERS)
    return party.request_options(issue_challenge(ctx, _purpose(device)))


def finish_emergency(
    ctx: Context, party: RelyingParty, providers: Providers, code: str, browser: str, answer: Answer,
    *, knows_place: bool,
) -> User:  # fmt: skip
    """Let the terminal that shows the code break the glass in the name of whose passkey answers.

    Denied, or Unavailable while it is not known whether their provider answers; each with its event.
    """
    device = _waiting(ctx, code, browser)
    view = device_view(device, browser)
    if view.is_elsewhere and not knows_place:
        raise _refuse(ctx, browser, ELSEWHERE)
    user, passkey = verified_assertion(ctx, party, answer, _purpose(device), client=browser)
    at = ctx.clock.now()
    try:
        no = _why_not(ctx, providers, user, at)
    except Unavailable as not_known:
        raise _refuse(ctx, browser, not_known.refusal, user.name, Unavailable) from not_known
    if no is not None:
        raise _refuse(ctx, browser, no, user.name)
    with ctx.store.begin() as uow:
        fresh = uow.credentials.find(device.digest, "device")
        if fresh is None or (fresh.data or {}).get("state") != "pending":
            raise Conflict(Refusal("device-answered", "This sign-in has been answered already."))
        _confirm(ctx, uow, fresh, user, passkey, at)
        data = {"issuer": user.issuer, "client": view.client, "browser": browser[:100], "passkey": passkey.id}
        noted = journal.append(ctx, uow, "emergency:opened", principal=user.name, data=data)
    journal.confirm_logged(ctx, noted)
    _tell(ctx, user, view)
    return user


def _confirm(ctx: Context, uow: UnitOfWork, device: Credential, user: User, passkey: Passkey, at: datetime) -> None:
    proof = passkey_proof(ctx, uow, passkey, at)
    answered = {**(device.data or {}), **proof, "state": "confirmed", "only": EMERGENCY}
    uow.credentials.save(replace(device, subject=user.id, data=answered))


def _why_not(ctx: Context, providers: Providers, user: User, at: datetime) -> Refusal | None:
    """Whoever their own provider could let in goes there; its last word about them must not be old.

    Unavailable while it is not known whether it answers.
    """
    provider = providers.of_issuer(user.issuer)
    if provider is None:
        return Refusal("unknown-provider", "Your identity provider is no longer one of this gateway's.")
    if provider.is_reachable():
        return _PROVIDER_ANSWERS
    with ctx.store.read() as uow:
        confirmed_at = uow.users.confirmed_at(user.id)
        no = not_provisioned(uow, provider, user)
    if no is not None:
        return no
    limit = ctx.limits.emergency_groups_age
    if confirmed_at is None or at - confirmed_at > limit:
        return Refusal(
            "groups-too-old",
            f"Your provider has not told of you for more than {limit.total_seconds() / 86400:g} days.",
            ("a sign-in of late",),
            ("Somebody who has signed in of late can break the glass.",),
        )
    return None


def _all_answer(providers: Iterable[IdentityProvider]) -> bool:
    """False also when it is not known of one: whose provider that is, is found out after the touch."""
    try:
        return all(provider.is_reachable() for provider in providers)
    except Unavailable:
        return False


def _waiting(ctx: Context, code: str, browser: str) -> Credential:
    at, normal = ctx.clock.now(), normal_code(code)
    with ctx.store.begin() as uow:
        device = uow.credentials.find_by_data("device", "user_code", normal) if normal else None
        found = device is not None and at < device.expires_at and (device.data or {}).get("state") == "pending"
        guesses = attempts.count(uow, f"emergency-code:{origin_of(browser)}", at, add=0 if found else 1)
    if guesses > _GUESSES_PER_WINDOW:
        raise Denied(_TOO_MANY)
    if device is None or not found:
        raise NotFound(_UNKNOWN)
    return device


def _purpose(device: Credential) -> str:
    return f"{EMERGENCY}:{(device.data or {}).get('user_code', '')}"


def _refuse(
    ctx: Context, browser: str, refusal: Refusal, principal: str = "", kind: type[GatewayError] = Denied
) -> GatewayError:
    outcome = "denied" if kind is Denied else "failed"
    about: journal.About = {"principal": principal}
    return refuse_stranger(ctx, browser, "emergency:denied", refusal, kind, outcome=outcome, about=about)


def _tell(ctx: Context, user: User, view: DeviceView) -> None:
    title = f"{user.name} came in by passkey while the identity provider is down"
    body = "Good for breaking the glass only. If that is not expected: gw users disable, and call them."
    fields = {"user": user.name, "terminal": view.client, "provider": user.issuer}
    ctx.notifier.notify("break-glass", title, body, fields)
