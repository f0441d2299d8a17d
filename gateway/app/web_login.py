"""Sign a person in with a browser, at an identity provider.

The three values of a login in flight (state, nonce, PKCE verifier) are derived from one secret in the browser's
cookie, so the store holds none of them and a login can only be finished by the browser that began it (RFC 9700 §4.7,
ASVS 10.2.1).
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import sha256

from gateway.app import attempts, journal
from gateway.app.context import Context
from gateway.app.credentials import digest_of
from gateway.app.demand_proof import claimed_proof
from gateway.app.identity import IdentityProvider, NotSignedIn, person_of, remember
from gateway.app.logged_out import LOGGED_OUT, was_logged_out
from gateway.app.people_ports import Credential
from gateway.app.place import origin_of
from gateway.app.provision import admit
from gateway.app.refuse_stranger import refuse_stranger
from gateway.app.sign_in import LONGEST_SECRET, SignedIn, b64, derived
from gateway.app.sign_ins import Device, open_provider_session, open_sign_in
from gateway.core.authentication import LEEWAY, proof_of
from gateway.core.errors import Denied, GatewayError, Refusal
from gateway.core.principal import User

NOWHERE = Device()
LOGIN_LIFETIME = timedelta(minutes=10)
_STARTS_PER_WINDOW = 300  # of one client address; many people may share one
_WAIT = ("Wait ten minutes and try again.",)


@dataclass(frozen=True, slots=True)
class LoginStart:
    """`secret` belongs in the browser's cookie, `url` is where to send the browser."""

    secret: str = field(repr=False)
    url: str
    expires_at: datetime


def begin_web_login(
    ctx: Context, provider: IdentityProvider, client: str, next_path: str = "/", *, fresh: bool = False
) -> LoginStart:
    """Start a login at the provider for a browser at `client` (address). Unavailable when the provider is down.

    `fresh` has the provider ask the person once more, whatever session it has with them.
    """
    secret = ctx.ids.secret()
    url = provider.authorization_url(
        state=derived(secret, "state"),
        nonce=derived(secret, "nonce"),
        challenge=b64(sha256(derived(secret, "verifier").encode()).digest()),
        fresh=fresh,
    )
    at = ctx.clock.now()
    data = {"next": local_path(next_path), "provider": provider.name} | ({"fresh": "yes"} if fresh else {})
    login = Credential(digest_of(secret), "login", "", at, at + LOGIN_LIFETIME, single_use=True, data=data)
    with ctx.store.begin() as uow:
        if attempts.count(uow, f"login:{origin_of(client)}", at) > _STARTS_PER_WINDOW:
            raise Denied(Refusal("too-many-attempts", "Too many sign-ins were begun from your address.", (), _WAIT))
        uow.credentials.add(login)
    return LoginStart(secret, url, login.expires_at)


def complete_web_login(
    ctx: Context,
    provider: IdentityProvider,
    *,
    secret: str,
    state: str,
    code: str,
    issuer: str = "",
    device: Device = NOWHERE,
) -> SignedIn:
    """Finish a login with what the provider sent back. The person is whoever the provider says, nobody else.

    `issuer` is the `iss` parameter of RFC 9207, "" when the provider sends none. Raises Denied or Unavailable.
    """
    login = _claim_login(ctx, secret, state, device.address)
    mixed_up = _mixed_up(provider, login, issuer)
    if mixed_up is not None:
        raise _failed(ctx, device.address, mixed_up)  # before the code is sent anywhere (RFC 9207 §2.4)
    try:
        redeemed = provider.redeem(code=code, verifier=derived(secret, "verifier"), nonce=derived(secret, "nonce"))
    except Denied as no:
        raise _failed(ctx, device.address, no.refusal) from no
    person = person_of(redeemed.claims, provider.names)
    if isinstance(person, Refusal):
        raise _failed(ctx, device.address, person)
    proof = claimed_proof(redeemed.claims)
    _demand_asked_again(ctx, login, proof, device.address, person.name)
    at = ctx.clock.now()
    with ctx.store.begin() as uow:
        is_over = was_logged_out(uow, provider.issuer, redeemed.claims, login.issued_at)
        admitted = LOGGED_OUT if is_over else admit(uow, provider, redeemed.claims, person)
        user = remember(uow, admitted) if isinstance(admitted, User) else admitted
        if isinstance(user, User):
            uow.users.confirm(user.id, at)
            carrier = open_provider_session(ctx, uow, user, provider, redeemed, at)
            signed_in = open_sign_in(ctx, uow, user, "web", at, device=device, provider_session=carrier, data=proof)
            told = {"via": "web", "issuer": user.issuer, "provider": provider.name, **device.told(), **proof}
            journal.append(ctx, uow, "login:succeeded", principal=user.name, data=told)
            return replace(signed_in, next=(login.data or {}).get("next", "/"))
    raise _failed(ctx, device.address, user, person.name)


def _mixed_up(provider: IdentityProvider, login: Credential, issuer: str) -> Refusal | None:
    """A login that was begun at one provider is not finished by another's answer (RFC 9700 §4.4)."""
    begun_at = (login.data or {}).get("provider", "")
    is_silent = not issuer and provider.names_itself()
    if begun_at != provider.name or is_silent or (issuer and issuer != provider.issuer):
        return Refusal("issuer-mismatch", "The answer came from another identity provider.", (), ("Sign in again.",))
    return None


def _demand_asked_again(ctx: Context, login: Credential, proof: Mapping[str, str], client: str, name: str) -> None:
    """A provider that was told to ask says when it did (`auth_time`, Core §3.1.2.1); what it does not say is no."""
    if "fresh" not in (login.data or {}):
        return
    asked_at = proof_of(proof).provider_at
    if asked_at is None or asked_at < login.issued_at - LEEWAY:
        stale = Refusal(
            "sign-in-not-fresh",
            "Your identity provider did not ask you anew, or did not say that it did (auth_time).",
            ("auth_time",),
            ("Sign in once more. If that does not help, the gateway's operators ask the provider's for auth_time.",),
        )
        raise _failed(ctx, client, stale, name)


def _claim_login(ctx: Context, secret: str, state: str, client: str) -> Credential:
    """The login in flight, used up; NotSignedIn when it is not this browser's, too old or used."""
    at = ctx.clock.now()
    stale = Refusal(
        "login-stale", "This sign-in is not one that you began here, or it is too old.", next_steps=("Sign in again.",)
    )
    is_ours = 0 < len(secret) <= LONGEST_SECRET
    if not is_ours or not hmac.compare_digest(state.encode(), derived(secret, "state").encode()):
        raise NotSignedIn(stale)  # no event: a stranger could fill the log with these
    digest = digest_of(secret)
    with ctx.store.begin() as uow:
        login = uow.credentials.find(digest, "login")
        claimed = login is not None and at < login.expires_at and uow.credentials.claim(digest, "login", at)
    if login is None:
        raise NotSignedIn(stale)  # nobody began it: a secret that was made up has its state as well
    if not claimed:
        raise _failed(ctx, client, stale)
    return login


def _failed(ctx: Context, client: str, refusal: Refusal, principal: str = "") -> GatewayError:
    return refuse_stranger(ctx, client, "login:failed", refusal, NotSignedIn, about={"principal": principal})


def local_path(text: str) -> str:
    """A path of this site, or "/": never another host or scheme, nor what a browser takes for one."""
    # Browsers read a backslash as a slash and drop tabs and line breaks (URL Standard, oauth2-proxy CVE-2021-21291).
    is_local = text.startswith("/") and not text.startswith("//") and "\\" not in text
    return text if is_local and text.isprintable() and len(text) <= 512 else "/"
