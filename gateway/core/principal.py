"""Who is asking. Identity is (issuer, subject), never an e-mail address (ASVS 10.5.2)."""

from dataclasses import dataclass, field
from datetime import datetime

from gateway.core.authentication import Proof


@dataclass(frozen=True, slots=True)
class User:
    """A person known by an identity provider's signed claims.

    `name` is unique and what people type and read; `groups` come from claims; `disabled_at` ends every right.
    `proof` is how whoever is calling now has proved to be this person; a user that was looked up has proved nothing.
    """

    id: str
    issuer: str
    subject: str
    name: str
    email: str = ""
    groups: frozenset[str] = field(default_factory=frozenset)
    disabled_at: datetime | None = None
    proof: Proof = field(default=Proof(), compare=False)

    def is_enabled(self) -> bool:
        """False from the moment that an operator or the provider disabled the person."""
        return self.disabled_at is None


@dataclass(frozen=True, slots=True)
class Workload:
    """A CI job known by verified OIDC claims that a trust policy matched.

    `id` is the same in every run: the trust policy with the numeric ids that it binds, never a name that can be
    given away and registered by somebody else. `name` is what people read. `run` is one attempt of one pipeline run,
    the key by which a repeated call is known. `actor` is whoever set the run off, as the issuer tells it.
    """

    id: str
    name: str
    trust_policy: str
    issuer: str
    subject: str
    repository: str
    ref: str
    commit: str
    run: str
    environment: str = ""
    actor: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """Whoever holds an API token. It may do what is in `scopes` and nothing else; it provisions `provider`'s people."""

    id: str
    name: str
    scopes: frozenset[str]
    provider: str = ""


Principal = User | Workload
