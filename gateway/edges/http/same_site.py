"""What comes with a browser's cookie must come from a page of this site, too."""

from fastapi import Request

from gateway.core.errors import Denied, Refusal
from gateway.edges.http.deps import Wiring
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
