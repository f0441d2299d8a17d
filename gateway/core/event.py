"""One immutable audit record. Its canonical bytes are made in `audit.leaf`; storing it is the journal's business."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Event:
    """`type` is `subject:action` (`grant:issued`); `source` the component and gateway that saw it.

    `data` holds JSON values only, never a secret; `outcome` is attempt, ok, denied or failed.
    """

    id: str
    at: datetime
    type: str
    source: str
    outcome: str = "ok"
    principal: str = ""
    target: str = ""
    request: str = ""
    grant: str = ""
    session: str = ""
    data: Mapping[str, object] = field(default_factory=dict)
