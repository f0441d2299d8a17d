"""What is stored of requests, grants and reviews."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from gateway.core.grant import Grant, Review
from gateway.core.principal import User
from gateway.core.request import Request, RequestState


class Requests(Protocol):
    def add(self, request: Request) -> None: ...
    def get(self, request_id: str) -> Request | None: ...
    def save(self, request: Request, expected: RequestState) -> bool:
        """Store with its approvals if the stored state is still `expected`; False when somebody was faster."""
        ...

    def list(self, *, requester: str = "", state: RequestState | None = None, limit: int = 200) -> Sequence[Request]:
        """Newest first."""
        ...


@dataclass(frozen=True, slots=True)
class GrantInUse:
    """A grant, whose it is, and what was known when it was asked for."""

    grant: Grant
    holder: User
    facts: Mapping[str, object]
    requested_at: datetime


class Grants(Protocol):
    def add(self, grant: Grant) -> None: ...
    def get(self, grant_id: str) -> Grant | None: ...
    def in_use(self, grant_id: str) -> GrantInUse | None:
        """All that a connection under a grant is judged by, in one question."""
        ...

    def save(self, grant: Grant) -> bool:
        """Store a revocation; False when it was revoked already."""
        ...

    def extend(self, grant: Grant, was: datetime) -> bool:
        """Store a later end with the deadlines of its live sessions; False when it is revoked or no longer `was`."""
        ...

    def list(
        self,
        *,
        holder: str = "",
        target: str = "",
        active_at: datetime | None = None,
        unfinished_at: datetime | None = None,
        limit: int = 200,
    ) -> Sequence[Grant]:
        """Newest first. `active_at` keeps the ones that are active at that instant, `unfinished_at` those that are not
        over by then: also what begins a moment later.
        """
        ...


class Reviews(Protocol):
    def add(self, review: Review) -> None: ...
    def get(self, review_id: str) -> Review | None: ...
    def by_grant(self, grant_id: str) -> Review | None: ...
    def save(self, review: Review) -> bool:
        """Store a signature; False when it was signed already."""
        ...

    def open(self) -> Sequence[Review]: ...
