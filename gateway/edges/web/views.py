"""The few pages that a browser sees: signing in, confirming a CLI, and errors. Templates escape everything.

Their scripts are of this site; there is no inline one. `at`, which each template has, is the gateway's clock in Unix
time: a browser's may be off, and a proof must be of now.
"""

import hmac
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlencode

from fastapi import Request
from fastapi.templating import Jinja2Templates
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import Response

from gateway.app.device_flow import DeviceView
from gateway.app.list_sign_ins import SignInView
from gateway.app.providers import Providers
from gateway.app.sign_in import derived
from gateway.core.errors import Refusal
from gateway.core.principal import User

HERE = Path(__file__).parent
STATIC = HERE / "static"
CSP = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)


def _time(request: Request) -> dict[str, object]:
    return {"at": int(request.app.state.wiring.ctx.clock.now().timestamp())}


_templates = Jinja2Templates(
    env=Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined),
    context_processors=[_time],
)


def csrf_token(session_secret: str) -> str:
    """Bound to the browser session: another site cannot know it, and it dies with the session."""
    return derived(session_secret, "csrf")


def is_csrf_valid(session_secret: str, token: str) -> bool:
    """Constant time."""
    return hmac.compare_digest(csrf_token(session_secret).encode(), token.encode())


def render(request: Request, template: str, values: dict[str, object], status: int = HTTPStatus.OK) -> Response:
    """A page from a template; everything in `values` is escaped."""
    return _templates.TemplateResponse(
        request, template, values, status_code=status, headers={"content-security-policy": CSP}
    )


def prove_page(request: Request, status: int, session_secret: str) -> Response:
    """Opened instead of the page that was asked for; its script proves the browser's key and asks again."""
    return render(request, "prove.html", {"user": None, "csrf": csrf_token(session_secret)}, status)


def signed_in_page(
    request: Request, user: User | None, session_secret: str, sign_ins: Sequence[SignInView]
) -> Response:
    """The front page: who one is here, or where to sign in."""
    csrf = csrf_token(session_secret) if session_secret else ""
    return render(request, "signed_in.html", {"user": user, "csrf": csrf, "sign_ins": sign_ins})


def choose_provider_page(request: Request, providers: Providers, next_path: str, fresh: str = "") -> Response:
    """Where do you sign in?"""
    again = {"fresh": fresh} if fresh else {}
    choices = [
        {"label": each.label, "href": "/login?" + urlencode({"provider": each.name, "next": next_path, **again})}
        for each in providers
    ]
    return render(request, "choose_provider.html", {"choices": choices, "user": None})


def device_page(
    request: Request, user: User, session_secret: str, view: DeviceView | None, typed: str = ""
) -> Response:
    """Type a code, or compare the one that was found."""
    values = {"user": user, "csrf": csrf_token(session_secret), "view": view, "typed": typed}
    return render(request, "device.html", values)


def device_done_page(request: Request, user: User, *, is_confirmed: bool) -> Response:
    """What was decided."""
    return render(request, "device_done.html", {"user": user, "is_confirmed": is_confirmed})


def error_page(request: Request, status: int, refusal: Refusal) -> Response:
    """A refusal in words."""
    return render(request, "error.html", {"refusal": refusal, "user": None}, status)
