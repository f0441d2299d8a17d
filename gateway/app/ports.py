"""What the use cases need from outside, beside the `*_ports` that are about one thing. Adapters implement these; fakes
in tests/fakes do too.

Everything here is synchronous and thread-safe: an asyncio edge calls use cases through an executor.
"""

from contextlib import AbstractContextManager
from datetime import datetime
from typing import Protocol

from gateway.app.access_ports import Grants, Requests, Reviews
from gateway.app.commit_ports import HeldCommits
from gateway.app.deploy_ports import Deploys
from gateway.app.fact_ports import Incidents, Shifts
from gateway.app.log_ports import Events
from gateway.app.passkey_ports import Passkeys
from gateway.app.people_ports import ApiTokens, Credentials, ProviderSessions, Provisioning, Users
from gateway.app.session_ports import Gateways, Sessions
from gateway.app.target_ports import Leases
from gateway.core.decision import Decision, Query
from gateway.core.ids import Prefix
from gateway.core.target import Catalogue


class Clock(Protocol):
    def now(self) -> datetime:
        """The present, timezone-aware UTC."""
        ...


class Ids(Protocol):
    def new(self, prefix: Prefix) -> str:
        """A fresh identifier."""
        ...

    def secret(self) -> str:
        """256 bits from the system's generator, base64url without padding."""
        ...


class Policy(Protocol):
    """Cedar behind a port. Any evaluation error is a Deny."""

    def decide(self, query: Query) -> Decision:
        """Permit with merged obligations, or Deny with what would have made it a permit."""
        ...

    def digest(self) -> str:
        """SHA-256 (hex) of the policy set in force."""
        ...

    def reload(self) -> str | None:
        """Load anew from the files; None when a new or the same set is in force, else why the old one stays."""
        ...


class CatalogueSource(Protocol):
    def current(self) -> Catalogue:
        """The catalogue in force."""
        ...

    def reload(self) -> str | None:
        """As `Policy.reload`."""
        ...


class Notifier(Protocol):
    def notify(self, channel: str, title: str, body: str, fields: dict[str, str]) -> None:
        """Queue a message; delivery is retried in the background and its failure is an event, never an exception."""
        ...


class UnitOfWork(AbstractContextManager["UnitOfWork"], Protocol):
    """One transaction, serialisable against other writers. Commits on a clean exit, rolls back on an exception."""

    users: Users
    requests: Requests
    grants: Grants
    reviews: Reviews
    sessions: Sessions
    held: HeldCommits
    leases: Leases
    credentials: Credentials
    shifts: Shifts
    incidents: Incidents
    gateways: Gateways
    provider_sessions: ProviderSessions
    api_tokens: ApiTokens
    provisioning: Provisioning
    deploys: Deploys
    passkeys: Passkeys
    events: Events


class Store(Protocol):
    def begin(self) -> UnitOfWork:
        """A writing transaction."""
        ...

    def read(self) -> UnitOfWork:
        """A consistent view; writing through it is an error."""
        ...
