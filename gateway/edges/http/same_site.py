"""What comes with a browser's cookie must come from a page of this site, and from the browser that signed in.

No script can read the cookie, so what a page proves its key for is the page's own token, which is derived from the
cookie's secret (`ath`, RFC 9449 §4.2).
"""

from fastapi import Request

from gateway.app.browser_session import authenticate_form, authenticate_web
from gateway.core.device_proof import DeviceProof
from gateway.core.errors import Denied, Refusal
from gateway.core.principal import User
from gateway.edges.http.deps import Wiring, client_address
from gateway.edges.http.device_bound import read_from
from gateway.edges.web import views


def demand_origin(wired: Wiring, request: Request) -> None:
    """Denied when a browser says that the request comes from another site's page."""
    origin = request.headers.get("origin", wired.public_url)
    if origin != "/".join(wired.public_url.split("/", 3)[:3]) and origin != wired.public_url:
        raise Denied(Refusal("cross-site", "That came from another site."))


def demand_form(wired: Wiring, request: Request, session: str, csrf: str) -> None:
    """The same, and the page must know the browser session's own token."""
    demand_origin(wired, request)
    if not session or not views.is_csrf_valid(session, csrf):
        raise Denied(Refusal("csrf", "That page is too old or not from here.", (), ("Open the page again.",)))


def form_sender(wired: Wiring, request: Request, session: str, csrf: str, proof: str | None = None) -> User:
    """Who sends one of our forms, from the browser that signed in; NotSignedIn or Denied otherwise.

    `proof` is the form's; None takes the header `DPoP`, which our scripts send.
    """
    authenticate_web(wired.ctx, session)  # who is nobody is told that first
    demand_form(wired, request, session, csrf)
    return authenticate_form(
        wired.ctx, session, page_proof(wired, request, session, proof), wired.seen, client_address(request)
    )


def page_proof(wired: Wiring, request: Request, session: str, proof: str | None = None) -> DeviceProof | Refusal:
    """What a page of a browser session proves; see `form_sender`."""
    told = None if proof is None else [proof] if proof else []
    return read_from(request, wired.ctx, wired.public_url, views.csrf_token(session), told)
