"""The pages on which a passkey answers."""

from collections.abc import Sequence

from fastapi import Request
from starlette.responses import Response

from gateway.app.device_flow import DeviceView
from gateway.app.passkey_ports import Passkey
from gateway.app.step_up import StepUpView
from gateway.core.principal import User
from gateway.edges.web.views import csrf_token, render


def passkeys_page(
    request: Request, user: User, session_secret: str, passkeys: Sequence[Passkey], *, is_fresh: bool
) -> Response:
    """One's own: add, remove."""
    values = {"user": user, "csrf": csrf_token(session_secret), "passkeys": passkeys, "is_fresh": is_fresh}
    return render(request, "passkeys.html", values)


def step_up_page(request: Request, view: StepUpView | None) -> Response:
    """Type a code, or answer for the terminal that shows it."""
    return render(request, "step_up.html", {"user": None, "view": view})


def emergency_page(request: Request, view: DeviceView | None) -> Response:
    """The same, while the identity provider is down."""
    return render(request, "emergency.html", {"user": None, "view": view})


def denied_page(request: Request) -> Response:
    """What was decided."""
    return render(request, "step_up_denied.html", {"user": None})
