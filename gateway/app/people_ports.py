"""What is stored of people, their sign-ins, secrets and machines. Adapters and fakes implement it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from gateway.core.principal import User


class Users(Protocol):
    def get(self, user_id: str) -> User | None: ...
    def by_name(self, name: str) -> User | None: ...
    def several(self, ids: Collection[str]) -> Sequence[User]:
        """Those of them that there are, in few questions."""
        ...

    def upsert(self, user: User) -> None: ...
    def regroup(self, users: Sequence[User]) -> None:
        """Store the groups of people who are known, in one go, and nothing else of them."""
        ...

    def confirm(self, user_id: str, at: datetime | None) -> None:
        """Their provider has just said who they are and which groups they are in; None: that they are out."""
        ...

    def confirmed_at(self, user_id: str) -> datetime | None:
        """When it last did; None when that is not known."""
        ...

    def all(self) -> Sequence[User]: ...


@dataclass(frozen=True, slots=True)
class Credential:
    """A bearer secret, known only by the SHA-256 hex of its text.

    `purpose`: `cli` (API bearer), `ticket` (database door), `device` (device code being confirmed),
    `web` (browser session), `login` (OIDC state in flight), `deploy-keys` (no secret:
    see `compare_deploy_keys`). `subject` is a user id, "" while unknown.
    `data` is small JSON for the purpose (grant id, user code, nonce, …). `single_use` ones are consumed by `claim`.
    """

    digest: str
    purpose: str
    subject: str
    issued_at: datetime
    expires_at: datetime
    single_use: bool = False
    used_at: datetime | None = None
    data: dict[str, str] | None = None


class Credentials(Protocol):
    def add(self, credential: Credential) -> None: ...
    def find(self, digest: str, purpose: str) -> Credential | None: ...
    def count_for(self, subject: str, purpose: str) -> int: ...
    def find_by_data(self, purpose: str, key: str, value: str) -> Credential | None: ...
    def save(self, credential: Credential) -> None: ...
    def claim(self, digest: str, purpose: str, at: datetime) -> bool:
        """Mark as used, atomically; False when it was used already or does not exist."""
        ...

    def remove_for(self, subject: str, purpose: str) -> int: ...
    def of_subject(self, subject: str, purpose: str) -> Sequence[Credential]:
        """All of a person's, used or not, the oldest first."""
        ...

    def usable(self, user_name: str, target: str, key: str, at: datetime, limit: int) -> Sequence[tuple[str, str]]:
        """(digest, `data[key]`) of a person's tickets for a target that may be used at an instant, the newest first.

        One question for any name: whether somebody has it shows neither in the answer nor in the time that it takes.
        """
        ...

    def remove(self, digest: str, purpose: str) -> int: ...
    def purge(self, before: datetime, purpose: str = "") -> int:
        """Forget what expired before an instant, of one purpose or ("") of all; how many that were."""
        ...


@dataclass(frozen=True, slots=True)
class ProviderSession:
    """A person's session at an identity provider, as far as it carries sign-ins here.

    `sid` is the provider's own name for it ("" when it tells none). `sealed_token` is the refresh token, encrypted, ""
    when there is none; `next_check_at` says when the provider is to be asked again, None for never.
    """

    id: str
    user: str
    provider: str
    sid: str
    sealed_token: str = field(repr=False)
    created_at: datetime
    checked_at: datetime
    next_check_at: datetime | None
    failures: int = 0
    ended_at: datetime | None = None


class ProviderSessions(Protocol):
    def add(self, session: ProviderSession) -> None: ...
    def get(self, session_id: str) -> ProviderSession | None: ...
    def save(self, session: ProviderSession) -> bool:
        """Store a check or an end; False when it had ended meanwhile."""
        ...

    def alive(self, *, user: str = "", provider: str = "", sid: str = "") -> Sequence[ProviderSession]:
        """What has not ended, of one person or under one `sid` of a provider."""
        ...

    def has_due(self, provider: str, at: datetime) -> bool:
        """True when somebody is to be checked; asked often, so that nothing is written when nobody is."""
        ...

    def claim_due(self, provider: str, at: datetime, until: datetime, limit: int) -> Sequence[ProviderSession]:
        """Those to be checked now, the longest overdue first; nobody else gets them before `until`."""
        ...

    def purge(self, before: datetime) -> int:
        """Forget what ended, or was made and never checked since, before an instant."""
        ...


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A bearer secret of a machine, known only by the SHA-256 hex of its text.

    `provider` is whose people it may provision (scope `scim:write`), "" otherwise.
    """

    id: str
    name: str
    digest: str
    scopes: frozenset[str]
    provider: str
    created_by: str
    created_by_name: str
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None = None
    last_used_from: str = ""
    revoked_at: datetime | None = None


class ApiTokens(Protocol):
    def add(self, token: ApiToken) -> None: ...
    def by_digest(self, digest: str) -> ApiToken | None: ...
    def by_name(self, name: str) -> ApiToken | None:
        """The one that is not revoked."""
        ...

    def used(self, token_id: str, at: datetime, client: str) -> None: ...
    def revoke(self, token_id: str, at: datetime) -> bool:
        """False when it was revoked already."""
        ...

    def all(self) -> Sequence[ApiToken]:
        """Newest first."""
        ...


@dataclass(frozen=True, slots=True)
class ProvisionedUser:
    """A person as a provider's SCIM client tells of them, before and after their first sign-in.

    `user` is the user id once it is known; `resource` the SCIM resource as JSON; `disabled_at` the instant at which
    this row shut the user out, so that only that is undone when the provider lets them in again.
    """

    id: str
    provider: str
    external_id: str
    user_name: str
    active: bool
    resource: Mapping[str, object]
    created_at: datetime
    updated_at: datetime
    user: str = ""
    disabled_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ProvisionedGroup:
    """A group as a provider's SCIM client tells of it; `members` are ids of provisioned users."""

    id: str
    provider: str
    external_id: str
    display_name: str
    members: frozenset[str]
    resource: Mapping[str, object]
    created_at: datetime
    updated_at: datetime


class Provisioning(Protocol):
    """Everything here is of one provider: no SCIM client sees another's people."""

    def save_user(self, user: ProvisionedUser) -> None:
        """Add or replace; Conflict when another one of the provider has the name or the external id."""
        ...

    def user(self, provider: str, id: str) -> ProvisionedUser | None: ...
    def user_by(
        self, provider: str, *, user_name: str = "", external_id: str = "", user: str = ""
    ) -> ProvisionedUser | None: ...
    def several(self, provider: str, ids: Collection[str]) -> Sequence[ProvisionedUser]:
        """Those of them that there are, in few questions."""
        ...

    def users(self, provider: str) -> Sequence[ProvisionedUser]:
        """The oldest first."""
        ...

    def remove_user(self, provider: str, id: str) -> bool: ...
    def save_group(self, group: ProvisionedGroup) -> None:
        """Add or replace; Conflict when another one of the provider has the name."""
        ...

    def group(self, provider: str, id: str) -> ProvisionedGroup | None: ...
    def groups(self, provider: str) -> Sequence[ProvisionedGroup]:
        """The oldest first."""
        ...

    def remove_group(self, provider: str, id: str) -> bool: ...


class Sealer(Protocol):
    """Encrypts what must be stored and given back. `bound` is what the secret belongs to: it opens nowhere else."""

    def seal(self, secret: str, bound: str) -> str: ...
    def unseal(self, sealed: str, bound: str) -> str:
        """ValueError when it is damaged, bound to something else, or the key is not here."""
        ...
