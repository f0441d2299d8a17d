"""What providers have said is over, for a sign-in that is still on its way here when they say it."""

from datetime import datetime, timedelta

from gateway.app.credentials import digest_of
from gateway.app.identity import SignedClaims, SignedLogout
from gateway.app.people_ports import Credential
from gateway.app.ports import UnitOfWork
from gateway.core.errors import Refusal

_PURPOSE = "logged-out"
_REMEMBERED = timedelta(hours=1)  # longer than a sign-in may be on its way
LOGGED_OUT = Refusal(
    "signed-out-meanwhile",
    "Your identity provider has ended this sign-in while it was on its way here.",
    ("a sign-in that is not over",),
    ("Sign in again.",),
)


def remember_logout(uow: UnitOfWork, issuer: str, logout: SignedLogout, at: datetime) -> None:
    """Of a session where it is named, else of the person: as the logout counts for what is here already."""
    mark = _session(issuer, logout.sid) if logout.sid else _person(issuer, logout.subject)
    uow.credentials.remove(mark, _PURPOSE)
    uow.credentials.add(Credential(mark, _PURPOSE, "", at, at + _REMEMBERED))


def was_logged_out(uow: UnitOfWork, issuer: str, claims: SignedClaims, since: datetime) -> bool:
    """True when the session or person that the claims are of was logged out since an instant."""
    sid, subject = claims.get("sid"), claims.get("sub")
    marks = [_session(issuer, sid)] if isinstance(sid, str) and sid else []
    marks += [_person(issuer, subject)] if isinstance(subject, str) else []
    found = (uow.credentials.find(mark, _PURPOSE) for mark in marks)
    return any(mark is not None and mark.issued_at >= since for mark in found)


def _session(issuer: str, sid: str) -> str:
    return digest_of(f"{issuer}\nsession\n{sid}")


def _person(issuer: str, subject: str) -> str:
    return digest_of(f"{issuer}\nperson\n{subject}")
