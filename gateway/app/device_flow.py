"""The device flow of the CLI (RFC 8628), served by the gateway itself.

The CLI gets a device code (secret) and a user code (to type or compare). A person who is signed in in a browser
is shown the code with the place and time that it was asked from, and confirms or denies it. The CLI, polling,
then receives a token: once. Short life, rate limits and the confirmation are what stands against phishing.
"""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256

from gateway.app import attempts, journal
from gateway.app.context import Context
from gateway.app.credentials import digest_of
from gateway.app.demand_proof import inherited_proof
from gateway.app.emergency_credential import EMERGENCY, redeem_emergency
from gateway.app.identity import IdentityProvider
from gateway.app.people_ports import Credential
from gateway.app.place import ELSEWHERE, is_elsewhere, origin_of
from gateway.app.ports import UnitOfWork
from gateway.app.possession import KEY
from gateway.app.sign_in import SignedIn
from gateway.app.sign_ins import Device, open_sign_in
from gateway.core.errors import Conflict, Denied, NotFound, Refusal
from gateway.core.principal import User

DEVICE_PREFIX = "gwv_"  # of verification; gwd_ is a deploy token
ALPHABET = "BCDFGHJKLMNPQRSTVWXZ"  # RFC 8628 §6.1: no vowels, no digits, nothing that looks alike
CODE_LENGTH = 8
INTERVAL = timedelta(seconds=1)
SLOW_DOWN_BY = timedelta(seconds=5)  # RFC 8628 §3.5
STARTS_PER_WINDOW = 120  # of one client address
_GUESSES_PER_WINDOW = 10  # of one person: 10 out of 20^8
_LONGEST_SECRET = 256
_INHERITED = frozenset({"provider_at", "methods", KEY})


class NotYet(StrEnum):
    """Why there is no token (yet): the error codes of RFC 8628 §3.5."""

    AUTHORIZATION_PENDING = "authorization_pending"
    SLOW_DOWN = "slow_down"
    ACCESS_DENIED = "access_denied"
    EXPIRED_TOKEN = "expired_token"  # noqa: S105  an error code
    INVALID_PROOF = "invalid_dpop_proof"  # RFC 9449 §5


@dataclass(frozen=True, slots=True)
class DeviceStart:
    """`device_code` is the CLI's secret, `user_code` what a person compares."""

    device_code: str = field(repr=False)
    user_code: str
    expires_at: datetime
    interval: timedelta


@dataclass(frozen=True, slots=True)
class DeviceView:
    """What the person who confirms is shown: is this the login I began, here and now?"""

    user_code: str
    client: str
    program: str  # what the terminal's client calls itself
    provider: str  # label of the one that the terminal asks for, "" for any
    started_at: datetime
    expires_at: datetime
    is_elsewhere: bool  # the terminal is not where the browser is


def start_device(
    ctx: Context, client: str, provider: IdentityProvider | None = None, agent: str = "", key: str = ""
) -> DeviceStart:
    """A new pair of codes for a CLI at `client` (address); Denied when that address asks too often.

    With a `provider` only a person of that one can confirm it. `agent` is what it calls itself, and may be a lie.
    `key` is the thumbprint of the key that its device has proven, to which the sign-in will be bound.
    """
    at = ctx.clock.now()
    device_code = DEVICE_PREFIX + ctx.ids.secret()
    with ctx.store.begin() as uow:
        if attempts.count(uow, f"device-start:{origin_of(client)}", at) > STARTS_PER_WINDOW:
            raise Denied(_too_many("Too many sign-ins were begun from your address."))
        user_code = _free_user_code(ctx, uow, at)
        data = {
            "user_code": user_code,
            **Device(client, agent).told(),
            "state": "pending",
            "interval_s": _seconds(INTERVAL),
            **({KEY: key} if key else {}),
        }
        if provider is not None:
            data |= {"issuer": provider.issuer, "provider": provider.label}
        expires_at = at + min(ctx.limits.device_code_lifetime, timedelta(minutes=10))  # ASVS 6.6.2
        uow.credentials.add(
            Credential(digest_of(device_code), "device", "", at, expires_at, single_use=True, data=data)
        )
        journal.append(ctx, uow, "device:started", data={"client": client[:100]})
    return DeviceStart(device_code, user_code, expires_at, INTERVAL)


def find_device(ctx: Context, user: User, user_code: str, browser: str) -> DeviceView:
    """The waiting sign-in behind a code that a signed-in person typed in a browser at an address.

    NotFound, or Denied after many guesses.
    """
    return device_view(_waiting(ctx, user, user_code), browser)


def confirm_device(
    ctx: Context, user: User, user_code: str, browser: str, provider_session: str = "", *, knows_place: bool = False
) -> DeviceView:
    """Let the CLI that shows this code act as `user`, for as long as the provider's session of the browser lasts.

    Denied when it is not where the browser is, unless the person says that they know (`knows_place`): most codes that
    somebody was talked into confirming are of a terminal elsewhere (RFC 8628 §5.4).
    """
    device = _waiting(ctx, user, user_code)
    view = device_view(device, browser)
    if view.is_elsewhere and not knows_place:
        data = {"client": view.client, "browser": browser[:100]}
        raise journal.refuse(ctx, "device:denied", ELSEWHERE, data=data, principal=user.name)
    answered = {"state": "confirmed", "provider_session": provider_session, **inherited_proof(user)}
    answer_device(ctx, user, device, browser, answered, "device:confirmed")
    return view


def deny_device(ctx: Context, user: User, user_code: str, browser: str) -> DeviceView:
    """Refuse: the CLI that shows this code stays out."""
    device = _waiting(ctx, user, user_code)
    answer_device(ctx, user, device, browser, {"state": "denied"}, "device:denied")
    return device_view(device, browser)


def poll_device(ctx: Context, device_code: str, key: str = "") -> SignedIn | NotYet:
    """The token, once, after confirmation and to the device that began (`key`); else why not."""
    if not device_code.startswith(DEVICE_PREFIX) or len(device_code) > _LONGEST_SECRET:
        return NotYet.EXPIRED_TOKEN
    at, digest = ctx.clock.now(), digest_of(device_code)
    with ctx.store.begin() as uow:
        device = uow.credentials.find(digest, "device")
        if device is None or device.used_at is not None or at >= device.expires_at:
            return NotYet.EXPIRED_TOKEN
        if (device.data or {}).get(KEY, "") != key:
            return NotYet.INVALID_PROOF
        match (device.data or {}).get("state"):
            case "confirmed":
                return _redeem(ctx, uow, device, at)
            case "denied":
                return NotYet.ACCESS_DENIED
            case _:
                return _wait(uow, device, at)


def _redeem(ctx: Context, uow: UnitOfWork, device: Credential, at: datetime) -> SignedIn | NotYet:
    if not uow.credentials.claim(device.digest, "device", at):
        return NotYet.EXPIRED_TOKEN  # somebody was faster with the same code
    user = uow.users.get(device.subject)
    if user is None or not user.is_enabled():
        return NotYet.ACCESS_DENIED
    told = device.data or {}
    if told.get("only") == EMERGENCY:
        return redeem_emergency(ctx, uow, device, user, at)
    asked_from = Device(told.get("client", ""), told.get("agent", ""))
    carrier = told.get("provider_session", "")
    if carrier and not _is_alive(uow, carrier):  # ended since the browser was asked, so nothing would end this one
        data = {**asked_from.told(), "why": "the browser's sign-in is over"}
        journal.append(ctx, uow, "device:denied", "denied", principal=user.name, data=data)
        return NotYet.ACCESS_DENIED
    proof = {key: value for key, value in told.items() if key in _INHERITED}
    signed_in = open_sign_in(ctx, uow, user, "cli", at, device=asked_from, provider_session=carrier, data=proof)
    data = {"via": "device", **asked_from.told()}
    journal.append(ctx, uow, "login:succeeded", principal=user.name, data=data)
    return signed_in


def _is_alive(uow: UnitOfWork, provider_session: str) -> bool:
    found = uow.provider_sessions.get(provider_session)
    return found is not None and found.ended_at is None


def _wait(uow: UnitOfWork, device: Credential, at: datetime) -> NotYet:
    """Pending, or slow_down for a client that polls faster than told; its interval then grows (RFC 8628 §3.5)."""
    data = dict(device.data or {})
    interval = timedelta(seconds=float(data.get("interval_s", "1")))
    last = datetime.fromisoformat(data["polled_at"]) if "polled_at" in data else None
    # A tenth of grace: the client's clock is not ours, and the network shortens some gaps.
    too_fast = last is not None and at - last < interval * 0.9
    if too_fast:
        data["interval_s"] = _seconds(min(interval + SLOW_DOWN_BY, timedelta(minutes=1)))
    data["polled_at"] = at.isoformat()
    uow.credentials.save(replace(device, data=data))
    return NotYet.SLOW_DOWN if too_fast else NotYet.AUTHORIZATION_PENDING


def answer_device(
    ctx: Context, user: User, device: Credential, browser: str, answer: Mapping[str, str], event: str
) -> None:
    """Settle a waiting sign-in, once, by one person. `answer` holds its new state and what the sign-in is to know."""
    _demand_provider(ctx, user, device)
    with ctx.store.begin() as uow:
        fresh = uow.credentials.find(device.digest, "device")
        if fresh is None or (fresh.data or {}).get("state") != "pending":
            raise Conflict(Refusal("device-answered", "This sign-in has been answered already."))
        uow.credentials.save(replace(fresh, subject=user.id, data={**(fresh.data or {}), **answer}))
        data = {"client": (fresh.data or {}).get("client", ""), "browser": browser[:100]}
        journal.append(ctx, uow, event, principal=user.name, data=data)


def _demand_provider(ctx: Context, user: User, device: Credential) -> None:
    data = device.data or {}
    if data.get("issuer", user.issuer) != user.issuer:
        label = data.get("provider", "another provider")
        wrong = Refusal(
            "other-provider",
            f"That terminal asks for a sign-in at {label}, and you are signed in as {user.name} from elsewhere.",
            next_steps=(f"Sign out here, sign in at {label}, and open the page again.",),
        )
        raise journal.refuse(ctx, "device:denied", wrong, principal=user.name)


def _waiting(ctx: Context, user: User, user_code: str) -> Credential:
    at = ctx.clock.now()
    code = normal_code(user_code)
    with ctx.store.begin() as uow:
        device = uow.credentials.find_by_data("device", "user_code", code) if code else None
        found = device is not None and at < device.expires_at and (device.data or {}).get("state") == "pending"
        # Counted in the store: a restart, another browser or a new login does not reset it (ASVS 6.3.1, 6.6.3).
        guesses = attempts.count(uow, f"user-code:{user.id}", at, add=0 if found else 1)
    if guesses > _GUESSES_PER_WINDOW:
        raise journal.refuse(ctx, "device:denied", _too_many("Too many wrong codes."), principal=user.name)
    if device is None or not found:
        unknown = Refusal("unknown-code", "No sign-in waits under that code.", next_steps=("Run gw login again.",))
        raise journal.refuse(ctx, "device:denied", unknown, NotFound, principal=user.name)
    return device


def device_view(device: Credential, browser: str) -> DeviceView:
    """What the person who is to confirm is shown in a browser at an address."""
    data = device.data or {}
    return DeviceView(
        user_code=data.get("user_code", ""),
        client=data.get("client", ""),
        program=data.get("agent", ""),
        provider=data.get("provider", ""),
        started_at=device.issued_at,
        expires_at=device.expires_at,
        is_elsewhere=is_elsewhere(data.get("client", ""), browser),
    )


def normal_code(text: str) -> str:
    """`bcdf ghjk` as `BCDF-GHJK`; "" for what cannot be a code."""
    letters = [c for c in unicodedata.normalize("NFKC", text[:64]).upper() if c not in " -_"]
    if len(letters) != CODE_LENGTH or any(c not in ALPHABET for c in letters):
        return ""
    return "".join(letters[:4]) + "-" + "".join(letters[4:])


def _free_user_code(ctx: Context, uow: UnitOfWork, at: datetime) -> str:
    while True:
        number = int.from_bytes(sha256(ctx.ids.secret().encode()).digest(), "big")  # 256 bits: no bias over 20^8
        letters = "".join(ALPHABET[number // 20**place % 20] for place in range(CODE_LENGTH))
        code = f"{letters[:4]}-{letters[4:]}"
        taken = uow.credentials.find_by_data("device", "user_code", code)
        if taken is None or at >= taken.expires_at:
            return code


def _too_many(message: str) -> Refusal:
    return Refusal("too-many-attempts", message, next_steps=("Wait ten minutes and try again.",))


def _seconds(span: timedelta) -> str:
    return f"{span.total_seconds():g}"
