"""What the SSH door asks of the rest of the gateway, in one value: the use cases behind it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from gateway.app.open_session import Opened
from gateway.app.recording_ports import Recording
from gateway.app.session_ports import LiveSession
from gateway.core.errors import Refusal
from gateway.core.grant import Grant
from gateway.core.principal import User
from gateway.core.session import EndReason, Session


@dataclass(frozen=True, slots=True)
class Doorkeeper:
    """The use cases behind the door. `grant_for`, `open` and `tell` raise GatewayError for a no; `refused` records one.

    `ticket(user name, ticket, client)` is whose it is; `tell(session, type, outcome, data)` stores an event.
    """

    now: Callable[[], datetime]
    user: Callable[[str], User | None]
    ticket: Callable[[str, str, str], tuple[User, Grant] | Refusal]
    grant_for: Callable[[User, str, str], Grant]
    open: Callable[[User, Grant, str], Opened]
    end: Callable[[Session, Recording, EndReason, str], None]
    tell: Callable[[Session, str, str, dict[str, object]], None]
    hold: Callable[[str, LiveSession], None]
    release: Callable[[str], None]
    refused: Callable[[str, str, Refusal], None]
