"""People as their identity provider's signed claims tell of them.

`SignedClaims` is made in one place only: the provider adapter, after the signature, issuer, audience, time and
nonce were verified. Whatever takes `SignedClaims` may believe them; nothing else may be turned into a `User`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import NewType, Protocol

from gateway.app.ports import UnitOfWork
from gateway.core.errors import Denied, Refusal
from gateway.core.principal import User

SignedClaims = NewType("SignedClaims", Mapping[str, object])

MAX_GROUPS = 500
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?")
_GROUP = re.compile(r"[\x21-\x7e][\x20-\x7e]{0,127}")
_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


@dataclass(frozen=True, slots=True)
class ClaimNames:
    """Which claims hold the person's name and groups at this provider, and how the gateway tells its people apart.

    Rota, catalogue and policies know people and groups by name, so what one provider says must never look like what
    another says (ASVS 6.8.1): every name of it ends in `suffix` and every group begins with `group_prefix`; a provider
    without a suffix may not give a name that ends in one of `reserved`, the suffixes of the others.
    """

    name: str = "preferred_username"
    groups: str = "groups"
    suffix: str = ""
    group_prefix: str = ""
    reserved: tuple[str, ...] = ()
    provisioned: bool = False  # only who is provisioned by SCIM may come
    from_scim: bool = False  # groups are what SCIM provisions; claims about them are not read
    external_id: str = "sub"  # the claim that equals the externalId of a provisioned user


@dataclass(frozen=True, slots=True)
class Redeemed:
    """What an authorization code was worth. `refresh_token` is a secret, "" when the provider gave none."""

    claims: SignedClaims
    refresh_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Refreshed:
    """The provider still vouches. `refresh_token` is the next one, "" when the old one stays.

    `tells_groups` is False when nothing that it sent was about groups: then they are as they were. `flaw` says why
    nothing could be had of what it knows about the person, although it vouches, "" when that is not so.
    """

    claims: SignedClaims
    tells_groups: bool
    refresh_token: str = field(default="", repr=False)
    flaw: str = ""


@dataclass(frozen=True, slots=True)
class SignedLogout:
    """A verified logout token: a person (`subject`), or one session of theirs (`sid`), or both."""

    subject: str
    sid: str
    jti: str


class IdentityProvider(Protocol):
    """An OpenID Connect provider as this gateway sees it."""

    name: str  # in settings, in the address of its callback and in `gw login --provider`
    label: str  # what people are shown
    issuer: str
    names: ClaimNames

    def names_itself(self) -> bool:
        """True when it promises an `iss` with every answer (RFC 9207 §3); one without is then somebody else's."""
        ...

    def authorization_url(self, *, state: str, nonce: str, challenge: str, fresh: bool = False) -> str:
        """Where to send the browser; `challenge` is the S256 of the verifier (RFC 7636). Unavailable when down.

        `fresh` has the provider ask the person anew (`prompt=login`, `max_age=0`; OpenID Connect Core §3.1.2.1).
        """
        ...

    def redeem(self, *, code: str, verifier: str, nonce: str) -> Redeemed:
        """What is behind an authorization code. Denied when it does not verify, Unavailable when down."""
        ...

    def refresh(self, refresh_token: str) -> Refreshed:
        """Ask again. Denied only when the provider says that this token is worth nothing any more (RFC 6749 §5.2).

        Unavailable for everything else: no answer, or one that is about us (`invalid_client`) and not the person.
        """
        ...

    def verify_logout(self, token: str) -> SignedLogout:
        """A logout token (Back-Channel Logout 1.0 §2.6). Denied when it does not verify, Unavailable without keys."""
        ...

    def is_reachable(self) -> bool:
        """Ask the provider now: False when it does not answer as one does. Unavailable when that is not known yet.

        Nothing is remembered, but that it was down a moment ago while it is being asked again.
        """
        ...


class NotSignedIn(Denied):
    """Nobody is known behind this call: no credential, or one that is worth nothing any more."""


def user_id_of(issuer: str, subject: str) -> str:
    """The stable id of an (issuer, subject) pair, in the shape of every other identifier (ASVS 10.5.2)."""
    digest = sha256(f"{len(issuer)}:{issuer}{subject}".encode()).digest()
    number = int.from_bytes(digest[:17], "big") >> 6  # 130 bits are 26 base32 digits
    return "usr_" + "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))


def person_of(claims: SignedClaims, names: ClaimNames) -> User | Refusal:
    """The user that verified claims describe; a Refusal when they lack what the gateway needs."""
    issuer, subject, name = claims.get("iss"), claims.get("sub"), claims.get(names.name)
    if not isinstance(issuer, str) or not isinstance(subject, str) or not 0 < len(subject) <= 255:
        return Refusal("claims-incomplete", "Your identity provider did not say who you are.", ("sub",))
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return Refusal(
            "name-unusable",
            f"Your identity provider gave no usable {names.name}.",
            (names.name,),
            ("Ask its operators for a name of lower-case letters, digits, dots, dashes and underscores.",),
        )
    if name.endswith(names.reserved) or not _NAME.fullmatch(name + names.suffix):
        return Refusal(
            "name-reserved",
            f"The name {name} cannot be told from one of another identity provider.",
            next_steps=("Ask the gateway's operators: the provider must give you another name.",),
        )
    groups = groups_of(claims, names)
    if groups is None:
        return Refusal("groups-unusable", f"The claim {names.groups} is not a list of group names.", (names.groups,))
    email = claims.get("email")
    # An address is shown, never matched on: email_verified=false and a@b@c are the provider's business then.
    shown = email if isinstance(email, str) and len(email) <= 254 and email.isprintable() else ""
    return User(user_id_of(issuer, subject), issuer, subject, name + names.suffix, shown, groups)


def groups_of(claims: SignedClaims, names: ClaimNames) -> frozenset[str] | None:
    """The groups that claims tell of, as they are called here; None when the claim is no list of names."""
    claim = claims.get(names.groups)
    if claim is None or names.from_scim:
        return frozenset()  # no groups, so no right that needs one
    if not isinstance(claim, list) or len(claim) > MAX_GROUPS:
        return None
    if not all(isinstance(group, str) and _GROUP.fullmatch(group) for group in claim):
        return None
    return frozenset(names.group_prefix + group for group in claim)


def remember(uow: UnitOfWork, person: User) -> User | Refusal:
    """Store the person with today's groups. A disabled one stays out; a name belongs to one identity."""
    namesake = uow.users.by_name(person.name)
    if namesake is not None and namesake.id != person.id:
        return Refusal(
            "name-taken",
            f"The name {person.name} belongs to another identity here.",
            next_steps=("Ask the gateway's operators; names are never passed on by themselves.",),
        )
    known = uow.users.get(person.id)
    if known is not None and not known.is_enabled():
        return disabled(known)
    # Rota and events know people by name, so a name stays with its first owner for ever, whatever the provider says
    # later: a freed one would hand its new owner the old one's duty.
    user = replace(person, name=known.name if known else person.name, disabled_at=None)
    if user != known:
        uow.users.upsert(user)
    return user


def disabled(user: User) -> Refusal:
    """What a disabled person is told."""
    return Refusal(
        "user-disabled",
        f"The account {user.name} is disabled.",
        ("an enabled account",),
        ("Ask the gateway's operators.",),
    )
