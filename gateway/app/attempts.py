"""Counting attempts in the store: a restart, another process or a new login does not reset them (ASVS 6.3.1)."""

from dataclasses import replace
from datetime import datetime, timedelta

from gateway.app.credentials import digest_of
from gateway.app.people_ports import Credential
from gateway.app.ports import UnitOfWork

WINDOW = timedelta(minutes=10)
_PURPOSE = "attempts"


def count(uow: UnitOfWork, what: str, at: datetime, add: int = 1) -> int:
    """How often `what` was tried within its window, `add` more included. Kept as a credential's data, by digest."""
    digest = digest_of(what)
    found = uow.credentials.find(digest, _PURPOSE)
    so_far = int((found.data or {}).get("count", "0")) if found is not None and at < found.expires_at else 0
    if add == 0:
        return so_far
    if found is None:
        uow.credentials.add(Credential(digest, _PURPOSE, "", at, at + WINDOW, data={"count": str(add)}))
    elif so_far == 0:
        uow.credentials.save(replace(found, issued_at=at, expires_at=at + WINDOW, data={"count": str(add)}))
    else:
        uow.credentials.save(replace(found, data={"count": str(so_far + add)}))
    return so_far + add
