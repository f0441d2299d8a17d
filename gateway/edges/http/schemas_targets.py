"""The API's shapes around targets."""

from dataclasses import asdict
from datetime import datetime

from gateway.app.examine_target import Examination
from gateway.edges.http.schemas import Schema


class FindingOut(Schema):
    """One thing that the gateway needs on a target; `remedy` is what mends it, mostly SQL.

    A `problem` of what is `ok` is a warning: it is not in the gateway's way.
    """

    what: str
    of: str
    ok: bool
    problem: str
    remedy: list[str]


class ExaminationOut(Schema):
    """`ok` when nothing is in the way."""

    target: str
    at: datetime
    ok: bool
    findings: list[FindingOut]

    @classmethod
    def of(cls, examination: Examination) -> "ExaminationOut":
        """Rendered."""
        findings = [FindingOut(**asdict(finding)) for finding in examination.findings]
        return cls(target=examination.target, at=examination.at, ok=examination.is_sound, findings=findings)
