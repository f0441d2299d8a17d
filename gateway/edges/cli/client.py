"""The CLI's way to the API: where it is, who one is there, and how its answers become exit codes.

Environment: `GW_URL` (API), `GW_TOKEN` (bearer, wins over stored ones), `GW_HOME` (state, default
`~/.config/gw`), `GW_CA_FILE` (PEM that signs the API's certificate), `GW_KEYRING=off` (use the file).
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from gateway.edges.cli import output

if TYPE_CHECKING:
    import httpx2

    from gateway.edges.cli.device import DeviceKey

BOUND = ("gwc_", "gwe_")  # credentials of people, which are worth nothing without the device's key
_DEVICE = "gw-device"  # of the key, in the keyring
_ROTATE_EVERY = timedelta(hours=1)
DEFAULT_URL = "http://127.0.0.1:8420"
TIMEOUT_S = 15.0
MAX_ANSWER = 64 * 1024 * 1024
_EXITS = {
    400: output.EXIT_USAGE,
    401: output.EXIT_DENIED,
    403: output.EXIT_DENIED,
    404: output.EXIT_NOT_FOUND,
    409: output.EXIT_CONFLICT,
    422: output.EXIT_USAGE,
}


def home() -> Path:
    """The state directory, made 0700 when missing."""
    path = Path(os.environ.get("GW_HOME") or Path.home() / ".config" / "gw").expanduser().absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        output.fail(
            f"{path} cannot be made: {error.strerror}.", output.EXIT_ERROR, "Set GW_HOME to a directory of yours."
        )
    return path


def write_private(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace a file at once, with its mode from the first byte on; OSError when that cannot be."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    import tempfile  # noqa: PLC0415  +6 ms, and only for what is written

    number, name = tempfile.mkstemp(dir=path.parent, prefix=".gw-")  # mkstemp creates 0600
    try:
        with os.fdopen(number, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def base_url(wanted: str | None = None) -> str:
    """The API's address (`wanted`, else GW_URL, else the last one) without a trailing slash; https if not loopback."""
    url = (wanted or os.environ.get("GW_URL") or str(_state().get("url", "")) or DEFAULT_URL).rstrip("/")
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
        output.fail(
            f"{url!r} is not an API address.", output.EXIT_USAGE, "Set GW_URL, for example https://gw.example.org"
        )
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        output.fail("The API must be reached over https; a token sent in clear could be stolen.", output.EXIT_USAGE)
    return url


def is_loopback(host: str) -> bool:
    """True for this machine itself."""
    import ipaddress  # noqa: PLC0415  +2 ms, and only for http

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# ---------------------------------------------------------------- the stored credential


def _state_path() -> Path:
    return home() / "credentials.json"


def _state() -> dict[str, Any]:
    try:
        state = json.loads(_state_path().read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        output.fail(f"{_state_path()} cannot be read.", output.EXIT_ERROR, "Remove it and run gw login again.")
    return state if isinstance(state, dict) else {}


def _keyring() -> Any | None:
    """The system's keyring module when it has a real backend; imported late (+107 ms)."""
    if os.environ.get("GW_KEYRING", "").lower() in ("0", "off", "no"):
        return None
    import keyring  # noqa: PLC0415  slow, and only for people who signed in interactively
    import keyring.backends.fail  # noqa: PLC0415  as above
    import keyring.backends.null  # noqa: PLC0415  as above

    backend = keyring.get_keyring()
    useless = (keyring.backends.fail.Keyring, keyring.backends.null.Keyring)
    return None if isinstance(backend, useless) else keyring


def store_token(url: str, token: str, expires_at: str, key: "DeviceKey | None" = None) -> str:
    """Keep a token, and the new key of this device if any, in the keyring, else in 0600 files; where, in words."""
    rotate_at = (datetime.now(UTC) + _ROTATE_EVERY).isoformat()
    state: dict[str, Any] = {"url": url, "expires_at": expires_at, "rotate_at": rotate_at}
    ring, where = _keyring(), "the system keyring"
    if ring is not None:
        from keyring.errors import KeyringError  # noqa: PLC0415  as above

        try:
            ring.set_password("gw", url, token)
            if key is not None:
                ring.set_password(_DEVICE, url, key.seed)
                _key_path().unlink(missing_ok=True)
            state["keyring"] = True
        except KeyringError:
            ring = None
    if ring is None:
        state["token"], where = token, str(_state_path())
        if key is not None:
            write_private(_key_path(), key.seed.encode())
    write_private(_state_path(), json.dumps(state).encode())
    return where


def forget_token() -> None:
    """Remove the stored token, keep the address and the key: a `GW_TOKEN` may be bound to it, too."""
    state = _state()
    if state.get("keyring") and (ring := _keyring()) is not None:
        from keyring.errors import KeyringError  # noqa: PLC0415  as above

        try:
            ring.delete_password("gw", state["url"])
        except KeyringError:
            output.progress("The system keyring did not remove the token; it is revoked all the same.")
    if state:
        write_private(_state_path(), json.dumps({"url": state.get("url", "")}).encode())


def _key_path() -> Path:
    return home() / "device.key"


def device_key(url: str) -> "DeviceKey | None":
    """This device's key for one API address, None when there is none (and then a person's credential is no good)."""
    from gateway.edges.cli.device import DeviceKey  # noqa: PLC0415  +7 ms, and a pipeline has none

    state = _state()
    try:
        return DeviceKey(_key_path().read_text().strip())
    except (OSError, ValueError):
        pass
    if not state.get("keyring") or state.get("url") != url or (ring := _keyring()) is None:
        return None
    from keyring.errors import KeyringError  # noqa: PLC0415  as above

    try:
        seed = ring.get_password(_DEVICE, url)
    except KeyringError:
        return None
    return DeviceKey(seed) if seed else None


def proving(method: str, url: str, token: str, key: "DeviceKey | None") -> dict[str, str]:
    """The headers of one request with a credential; `url` is whole."""
    if token and not token.startswith(BOUND):
        return {"authorization": f"Bearer {token}"}
    from gateway.edges.cli import device  # noqa: PLC0415  as above

    try:
        return device.headers(key, method, url, token)
    except ValueError:
        output.fail("The key of this device cannot be read.", output.EXIT_ERROR, "Run gw login", code="device-key")


def token_of_environment() -> str:
    """`GW_TOKEN`, "" without."""
    return os.environ.get("GW_TOKEN", "")


def stored_token(url: str) -> str:
    """The bearer token for one API address, "" when there is none. A token is never sent to another address."""
    if token := token_of_environment():
        return token
    state = _state()
    if state.get("url") != url:
        return ""
    if state.get("keyring") and (ring := _keyring()) is not None:
        from keyring.errors import KeyringError  # noqa: PLC0415  as above

        try:
            return ring.get_password("gw", url) or ""
        except KeyringError:
            return ""
    return str(state.get("token", ""))


def renewed_token(url: str, token: str) -> str:
    """The stored token, replaced by a new one when it has been around for an hour: a copy of it is then worth nothing.

    One process at a time; whoever comes second finds the new one. What fails leaves the old one for the next command.
    """
    if os.environ.get("GW_TOKEN") or token.startswith("gwe_") or not _is_time_to_rotate():  # gwe_ is never renewed
        return token
    with (home() / "credentials.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_time_to_rotate():
            return stored_token(url)
        try:
            answer = Api(url, token).post("/api/token/rotate")
        except output.Failure as no:
            if no.exit_code == output.EXIT_DENIED:
                raise
            return token
        store_token(url, str(answer["access_token"]), str(answer["expires_at"]))
        return str(answer["access_token"])


def _is_time_to_rotate() -> bool:
    try:
        return datetime.now(UTC) >= datetime.fromisoformat(str(_state().get("rotate_at", "")))
    except ValueError:
        return False


def sign_in_mark() -> str:
    """Something that changes with every sign-in and is cheap to read: no keyring is opened for it."""
    return os.environ.get("GW_TOKEN") or str(_state().get("expires_at", ""))


# ---------------------------------------------------------------- requests


class Api:
    """Calls with JSON in and out. Every failure is an `output.Failure` with a sentence and an exit code."""

    def __init__(self, url: str, token: str, key: "DeviceKey | None" = None) -> None:
        """`key` is this device's; without it, the one that is kept here is used for a person's token."""
        self.url = url
        self.token = token
        self.key = key or (device_key(url) if token.startswith(BOUND) else None)

    def get(self, path: str, **query: object) -> Any:
        """GET `path` (`/api/...`) with the query's non-empty items; the decoded JSON."""
        return self._call("GET", path, query=query)

    def post(self, path: str, body: Mapping[str, object] | None = None, *, read_s: float = TIMEOUT_S) -> Any:
        """POST a JSON object; the decoded JSON, None for an empty answer."""
        return self._call("POST", path, body=dict(body or {}), read_s=read_s)

    def post_form(self, path: str, form: Mapping[str, str]) -> tuple[int, Any]:
        """POST a form and return (status, JSON) unjudged, for OAuth endpoints (RFC 6749 §5)."""
        with self._reachable() as client:
            answer = client.post(path, data=dict(form))
        return answer.status_code, _decoded(answer)

    def get_bytes(self, path: str, **query: object) -> bytes:
        """GET a body that is not JSON, bounded by `MAX_ANSWER`."""
        parts: list[bytes] = []
        size = 0
        for part in self.stream(path, 60.0, **query):
            size += len(part)
            if size > MAX_ANSWER:
                output.fail("The answer is too large.")
            parts.append(part)
        return b"".join(parts)

    def stream(self, path: str, silence_s: float = 60.0, /, **query: object) -> Iterator[bytes]:
        """GET a body piece by piece, for recordings and live views; ends when the server is silent too long."""
        with self._reachable(silence_s) as client, client.stream("GET", path, params=_non_empty(query)) as answer:
            if answer.is_error:
                answer.read()
                raise _failure(answer)
            yield from answer.iter_bytes()

    def lines(self, path: str, silence_s: float = 60.0, /, **query: object) -> Iterator[str]:
        """GET a body line by line (server-sent events, JSON lines)."""
        rest = b""
        for part in self.stream(path, silence_s, **query):
            *whole, rest = (rest + part).split(b"\n")
            if len(rest) > MAX_ANSWER:
                output.fail("The answer is too large.")
            yield from (line.decode(errors="replace") for line in whole)
        if rest:
            yield rest.decode(errors="replace")

    def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: object = None,
        read_s: float = TIMEOUT_S,
    ) -> Any:
        with self._reachable(read_s) as client:
            answer = client.request(method, path, params=_non_empty(query or {}), json=body)
        if answer.is_error or answer.is_redirect:
            raise _failure(answer)
        return _decoded(answer)

    def _prove(self, request: "httpx2.Request") -> None:
        request.headers.update(proving(request.method, str(request.url), self.token, self.key))

    @contextmanager
    def _reachable(self, read_s: float = TIMEOUT_S) -> "Iterator[httpx2.Client]":
        import httpx2  # noqa: PLC0415  +93 ms, not needed for --help

        headers = {"accept": "application/json", "user-agent": "gw"}
        timeout = httpx2.Timeout(TIMEOUT_S, read=read_s)
        try:
            # No redirects and no proxies from the environment: the token goes to the one address and nowhere else.
            with httpx2.Client(
                base_url=self.url,
                headers=headers,
                timeout=timeout,
                verify=_trust(self.url),
                trust_env=False,
                event_hooks={"request": [self._prove]},
            ) as client:
                yield client
        except httpx2.TimeoutException:
            output.fail(
                f"{self.url} did not answer in time.", output.EXIT_ERROR, "Try again in a moment.", code="timeout"
            )
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            output.fail(
                f"{self.url} cannot be reached: {error}.", output.EXIT_ERROR,
                "Is the gateway running, and is GW_URL right?", code="unreachable",
            )  # fmt: skip


def _trust(url: str) -> Any:
    import ssl  # noqa: PLC0415  only together with a connection

    if urlsplit(url).scheme == "http":
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody
    path = os.environ.get("GW_CA_FILE")
    try:
        return _authorities(path or None)
    except (OSError, ssl.SSLError):
        output.fail(f"GW_CA_FILE {path} is not a readable PEM file.", output.EXIT_USAGE)


@cache
def _authorities(path: str | None) -> Any:
    """Read once: the system's take tens of milliseconds."""
    import ssl  # noqa: PLC0415  as above

    return ssl.create_default_context(cafile=path)


def _non_empty(query: Mapping[str, object]) -> dict[str, str]:
    return {
        key: ("true" if value else "false") if isinstance(value, bool) else str(value)
        for key, value in query.items()
        if value not in (None, "")
    }


def _decoded(answer: "httpx2.Response") -> Any:
    if not answer.content:
        return None
    try:
        return answer.json()
    except ValueError:
        output.fail(
            f"The server at {answer.url.host} does not speak the gateway's API.", output.EXIT_ERROR, "Is GW_URL right?"
        )


def _failure(answer: "httpx2.Response") -> output.Failure:
    try:
        return failure(answer.status_code, answer.json())
    except ValueError:
        return failure(answer.status_code, None)


def failure(status: int, problem: object) -> output.Failure:
    """An error answer (RFC 9457) as what the person sees."""
    if not isinstance(problem, dict):
        problem = {"code": "error", "detail": f"The server answered {status}.", "next_steps": []}
    said = problem.get("detail") or problem.get("title") or problem.get("error") or f"The server answered {status}."
    wants_proof = problem.get("code") == "step-up-required"
    status_code = output.EXIT_STEP_UP if wants_proof else _EXITS.get(status, output.EXIT_ERROR)
    return output.Failure(str(said), status_code, problem)


def anonymous(url: str | None = None, key: "DeviceKey | None" = None) -> Api:
    """The API without a token, for signing in (with a new key of this device) and public facts."""
    return Api(base_url(url), "", key)


def api() -> Api:
    """The API as whoever is signed in; says how to sign in when nobody is."""
    url = base_url()
    token = stored_token(url)
    if not token:
        output.fail("You are not signed in.", output.EXIT_DENIED, "Run gw login", code="not-signed-in")
    return Api(url, renewed_token(url, token))


def segment(text: str) -> str:
    """One path segment, escaped: an id or name that a person typed may not leave its place in the path."""
    if text in ("", ".", ".."):
        output.fail(f"{text!r} is not a name.", output.EXIT_USAGE)
    return quote(text, safe="")
