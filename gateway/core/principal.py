"""Who is asking. Identity is (issuer, subject), never an e-mail address (ASVS 10.5.2)."""

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class User:
    """A person known by an identity provider's signed claims.

    `name` is unique and what people type and read; `groups` come from claims; `disabled_at` ends every right.
    """

    id: str
    issuer: str
    subject: str
    name: str
    email: str = ""
    groups: frozenset[str] = field(default_factory=frozenset)
    disabled_at: datetime | None = None

    def is_enabled(self) -> bool:
        """False from the moment that an operator or the provider disabled the person."""
        return self.disabled_at is None
