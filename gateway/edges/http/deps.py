"""What routes are given: the wiring of this process, and who is calling."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials

from gateway.app.api_tokens import API_PREFIX, READ_ACCESS, READ_AUDIT, authenticate_machine
from gateway.app.authenticate import authenticate_device
from gateway.app.browser_session import authenticate_page, authenticate_web
from gateway.app.context import Context
from gateway.app.emergency_credential import EMERGENCY_PREFIX, emergency_of
from gateway.app.identity import NotSignedIn
from gateway.app.passkey_ports import RelyingParty
from gateway.app.possession import MISSING, SeenProofs, demand_possession
from gateway.app.providers import Providers
from gateway.app.refuse_stranger import refuse_stranger
from gateway.app.search_statements import StatementSearch
from gateway.app.sign_in import CLI_PREFIX
from gateway.app.verify_deploy_token import misplaced
from gateway.core.device_proof import DeviceProof
from gateway.core.emergency import REFUSAL, BreakGlassOnly
from gateway.core.errors import Denied, GatewayError, Refusal, Unavailable
from gateway.core.principal import Machine, User
from gateway.edges.http.device_bound import SCHEME, BearerOrBound, read_from
from gateway.edges.http.kept_krl import KeptKrl
from gateway.edges.http.live_views import LiveViews


@dataclass(frozen=True, slots=True)
class DoorFacts:
    """Public facts that a client needs to reach the doors. A port of 0 is a door that is closed here."""

    ssh_host: str
    ssh_port: int
    ssh_host_key: str
    postgres_host: str
    postgres_port: int
    postgres_ca_pem: str
    audit_key: str
    postgres_knows_certificates: bool = False  # TLS client certificates of its own
    postgres_binds: bool = False  # SCRAM with channel binding, which a client should then insist on


@dataclass(frozen=True, slots=True)
class Wiring:
    """Set once on `app.state`; no `providers` keep sign-in closed, `statements` None the search in recordings."""

    ctx: Context
    providers: Providers
    doors: DoorFacts
    public_url: str
    statements: StatementSearch | None = None
    views: LiveViews = field(default_factory=LiveViews)
    krl: KeptKrl = field(default_factory=KeptKrl)
    passkeys: RelyingParty | None = None
    seen: SeenProofs = field(default_factory=SeenProofs)

    def relying_party(self) -> RelyingParty:
        """The gateway towards passkeys; Unavailable where it is not wired."""
        if self.passkeys is None:
            raise Unavailable(Refusal("no-passkeys", "This gateway takes no passkeys."))
        return self.passkeys

    def is_https(self) -> bool:
        """True when browsers reach the API over TLS."""
        return self.public_url.startswith("https://")


_T = TypeVar("_T")


def _at_once(read: Callable[[Request], _T]) -> Callable[[Request], Awaitable[_T]]:
    """What only looks at the request, on the event loop: FastAPI sends every plain function through a thread."""

    async def dependency(request: Request) -> _T:
        return read(request)

    return dependency


def wiring(request: Request) -> Wiring:
    """The wiring of this process."""
    wired: Wiring = request.app.state.wiring
    return wired


def context(request: Request) -> Context:
    """The use cases' context."""
    return wiring(request).ctx


def client_address(request: Request) -> str:
    """The peer of the socket. Forwarding headers are anybody's word and are not read (ASVS 4.1.3)."""
    return request.client.host if request.client else "unknown"


presented = BearerOrBound(
    auto_error=False,
    scheme_name="bearer",
    description="A token; a person's (`gwc_…`) as `DPoP`, with a proof.",
)
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(presented)]
_NOBODY = Refusal("not-signed-in", "You are not signed in.", ("a bearer token",), ("Run gw login",))


def _proof(request: Request, credentials: HTTPAuthorizationCredentials) -> DeviceProof | Refusal:
    """What the request proves. A bound token that comes as `Bearer` proves nothing (RFC 9449 §7.2)."""
    wired = wiring(request)
    if credentials.scheme != SCHEME:
        return MISSING
    return read_from(request, wired.ctx, wired.public_url, credentials.credentials)


def signed_in(request: Request, credentials: Credentials) -> tuple[str, User]:
    """The token of the Authorization header and whose it is, from the device that it was issued to.

    NotSignedIn (401) otherwise. The one place where a person's bearer is judged, as a proof is good once.
    """
    token, ctx = credentials.credentials if credentials else "", context(request)
    _demand_a_person(token)
    if credentials is not None and token.startswith(EMERGENCY_PREFIX):
        raise _only_for_breaking_the_glass(ctx, _emergency(request, credentials), client_address(request))
    if credentials is None or not token.startswith(CLI_PREFIX):
        raise NotSignedIn(_NOBODY)
    seen, client = wiring(request).seen, client_address(request)
    return token, authenticate_device(ctx, token, lambda: _proof(request, credentials), seen, client)


def _emergency(request: Request, credentials: HTTPAuthorizationCredentials) -> BreakGlassOnly:
    ctx = context(request)
    held, who = emergency_of(ctx, credentials.credentials)
    seen, client = wiring(request).seen, client_address(request)
    demand_possession(ctx, held, who.user, _proof(request, credentials), seen, client)
    return who


SignedIn = Annotated[tuple[str, User], Depends(signed_in)]


async def bearer(signed_in: SignedIn) -> str:
    """The token of whoever calls."""
    return signed_in[0]


def _demand_a_person(token: str) -> None:
    """Denied for a deploy token, which says what it is good for."""
    if (no := misplaced(token)) is not None:
        raise Denied(no)


async def current_user(signed_in: SignedIn) -> User:
    """Whoever calls, enabled now."""
    return signed_in[1]


def _only_for_breaking_the_glass(ctx: Context, who: BreakGlassOnly, client: str) -> GatewayError:
    """What such a sign-in is told on every route that was not opened to it on purpose."""
    return refuse_stranger(ctx, client, "emergency:denied", REFUSAL, about={"principal": who.user.name})


def glass_breaker(request: Request, credentials: Credentials) -> User | BreakGlassOnly:
    """Whoever calls, also one who came in by passkey while the identity provider was down."""
    if credentials is not None and credentials.credentials.startswith(EMERGENCY_PREFIX):
        return _emergency(request, credentials)
    return signed_in(request, credentials)[1]


def new_device(request: Request) -> str | Refusal:
    """The key that a device proves which begins to sign in. A proof sent twice begins one more for the same key."""
    wired = wiring(request)
    proof = read_from(request, wired.ctx, wired.public_url)
    return proof if isinstance(proof, Refusal) else proof.key


def cookie_name(wired: Wiring, name: str) -> str:
    """The name of a cookie: __Host- needs Secure, which a browser keeps off plain http (ASVS 3.3.1, 3.3.3)."""
    return f"__Host-gw-{name}" if wired.is_https() else f"gw-{name}"


def web_session(request: Request) -> str:
    """The browser session's secret, "" without one."""
    return request.cookies.get(cookie_name(wiring(request), "session"), "")


def viewer(
    request: Request,
    session: Annotated[str, Depends(_at_once(web_session))],
    credentials: Credentials,
) -> User:
    """Whoever calls, by token or by browser session: only for reading, as a cookie comes along by itself."""
    if credentials is not None:
        return signed_in(request, credentials)[1]
    return authenticate_page(context(request), session)


def page_user(request: Request, session: Annotated[str, Depends(_at_once(web_session))]) -> User:
    """Whose browser session it is. The route must see to it that a page of ours, in that browser, has sent this."""
    return authenticate_web(context(request), session)


def user_agent(request: Request) -> str:
    """What the client calls itself: a note for the person, on one line, and bounded."""
    told = request.headers.get("user-agent", "")[:200]
    return "".join(c for c in told if c.isprintable())


def log_reader(request: Request, credentials: Credentials) -> User | Machine:
    """A person, or a machine whose token is for reading the log."""
    return _person_or_machine(request, credentials, READ_AUDIT)


def access_reader(request: Request, credentials: Credentials) -> User | Machine:
    """A person, or a machine whose token is for reading who asked for and has what."""
    return _person_or_machine(request, credentials, READ_ACCESS)


def _person_or_machine(request: Request, credentials: Credentials, scope: str) -> User | Machine:
    if credentials is not None and credentials.credentials.startswith(API_PREFIX):
        return authenticate_machine(context(request), credentials.credentials, scope, client_address(request))
    return signed_in(request, credentials)[1]


NewDevice = Annotated[str | Refusal, Depends(new_device)]
Agent = Annotated[str, Depends(_at_once(user_agent))]
Ctx = Annotated[Context, Depends(_at_once(context))]
Wired = Annotated[Wiring, Depends(_at_once(wiring))]
GlassBreaker = Annotated[User | BreakGlassOnly, Depends(glass_breaker)]
Caller = Annotated[User, Depends(current_user)]
LogReader = Annotated[User | Machine, Depends(log_reader)]
AccessReader = Annotated[User | Machine, Depends(access_reader)]
Token = Annotated[str, Depends(bearer)]
Client = Annotated[str, Depends(_at_once(client_address))]
Session = Annotated[str, Depends(_at_once(web_session))]
BROWSER = Depends(page_user)  # for routes: whoever is not signed in is told so before the body is looked at
Viewer = Annotated[User, Depends(viewer)]
