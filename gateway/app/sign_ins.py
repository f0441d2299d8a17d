"""One sign-in: a person's credential on one device (a browser or a command line), carried by a session at the provider.

The secret of a sign-in is renewed while it is used (`rotate_sign_in`). A sign-in keeps its id over that, and the id is
what is listed and ended.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway.app.context import Context
from gateway.app.credentials import digest_of
from gateway.app.identity import IdentityProvider, Redeemed
from gateway.app.people_ports import Credential, ProviderSession
from gateway.app.ports import UnitOfWork
from gateway.app.sign_in import CLI_PREFIX, WEB_PREFIX, SignedIn
from gateway.core.principal import User

CHECK_EVERY = timedelta(seconds=30)  # so that who is disabled at the provider is out within a minute
_CALLERS = ("cli", "web", "emergency")
PREFIXES = {"cli": CLI_PREFIX, "web": WEB_PREFIX}


@dataclass(frozen=True, slots=True)
class Device:
    """Where a sign-in was asked from, as it was seen then. Shown to the person; never a reason to believe anything."""

    address: str = ""
    agent: str = ""

    def told(self) -> dict[str, str]:
        """As a credential's data and in events, bounded."""
        return {"client": self.address[:100], "agent": self.agent[:200]}


def open_provider_session(
    ctx: Context, uow: UnitOfWork, user: User, provider: IdentityProvider, redeemed: Redeemed, at: datetime
) -> str:
    """Remember the session at the provider that a sign-in came from; its id."""
    session_id = ctx.ids.new("psn")
    token = redeemed.refresh_token
    sealed = ctx.sealer.seal(token, session_id) if token else ""
    sid = redeemed.claims.get("sid")
    uow.provider_sessions.add(
        ProviderSession(
            id=session_id,
            user=user.id,
            provider=provider.name,
            sid=sid if isinstance(sid, str) and len(sid) <= 255 else "",
            sealed_token=sealed,
            created_at=at,
            checked_at=at,
            next_check_at=at + CHECK_EVERY if sealed else None,
        )
    )
    return session_id


def open_sign_in(
    ctx: Context,
    uow: UnitOfWork,
    user: User,
    purpose: str,
    at: datetime,
    *,
    device: Device,
    provider_session: str = "",
    data: Mapping[str, str] | None = None,
) -> SignedIn:
    """A new sign-in of `purpose` `cli` or `web`, with a secret that nobody has had before (ASVS 7.2.4)."""
    lifetime = ctx.limits.web_session_lifetime if purpose == "web" else ctx.limits.cli_credential_lifetime
    secret = PREFIXES[purpose] + ctx.ids.secret()
    told = {
        "login": ctx.ids.new("lgn"),
        "since": at.isoformat(),
        "seen_at": at.isoformat(),
        "provider_session": provider_session,
        **device.told(),
        **(data or {}),
    }
    uow.credentials.add(Credential(digest_of(secret), purpose, user.id, at, at + lifetime, data=told))
    return SignedIn(user, secret, at + lifetime)


def login_id(credential: Credential) -> str:
    """What a sign-in is called, over all renewals of its secret."""
    return (credential.data or {}).get("login", f"lgn_{credential.digest[:26]}")


def is_over(uow: UnitOfWork, user: User) -> bool:
    """True when whoever calls was signed in when they came, and is not any more."""
    if not user.proof.sign_in:
        return False
    held = (each for purpose in _CALLERS for each in uow.credentials.of_subject(user.id, purpose))
    return user.proof.sign_in not in map(login_id, held)


def end_credentials(uow: UnitOfWork, user_id: str, key: str, values: Iterable[str]) -> int:
    """Remove a person's sign-ins whose data has one of `values` under `key`; how many sign-ins that were."""
    wanted = set(values)
    ended: set[str] = set()
    for purpose in PREFIXES:
        for credential in uow.credentials.of_subject(user_id, purpose):
            data = credential.data or {}
            value = login_id(credential) if key == "login" else data.get(key, "")
            if value in wanted and uow.credentials.remove(credential.digest, purpose):
                ended.add(login_id(credential))
    return len(ended)
