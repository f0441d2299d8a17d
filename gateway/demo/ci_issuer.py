"""A CI system's token issuer that really serves discovery and keys over HTTP, and mints tokens in the shapes of GitHub
Actions and GitLab CI. It can misbehave in the ways that issuers and networks do.
"""

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from urllib.parse import parse_qs, urlsplit

from joserfc import jws
from joserfc.jwk import Key, RSAKey

DISCOVERY, KEYS = "/.well-known/openid-configuration", "/keys"
JOB = "/job"  # where a GitHub job asks for its token, with the secret that it was given
MOODS = (
    "", "down", "stall", "dribble", "huge", "redirect", "not-json", "other-issuer", "foreign-keys", "repeated-kid",
    "no-keys",
)  # fmt: skip
AUDIENCE = "https://gw.example.org"
_OF_A_RUN = frozenset({"run_id", "run_number", "run_attempt"})  # claims that a job's own address may tell
_HUGE = 8 * 1024 * 1024


class CiIssuer:
    """`mood` is how it answers from now on, `asked` the paths that were asked for, in order."""

    def __init__(self, server: ThreadingHTTPServer, clock: Callable[[], datetime]) -> None:
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        self.mood = ""
        self.asked: list[str] = []
        self.stopping = Event()
        self.job_secret = uuid.uuid4().hex
        self.job: dict[str, object] = {}  # what the claims of the job that runs now have different
        self._clock = clock
        self._keys: dict[str, Key] = {}
        self.kid = ""
        self.rotate()

    def rotate(self, *, keep: bool = True) -> None:
        """A new key signs from now on; the old ones stay in the key set unless they are withdrawn."""
        self.kid = uuid.uuid4().hex[:12]
        self._keys = {**(self._keys if keep else {}), self.kid: RSAKey.generate_key(2048, private=True)}

    def public_key(self) -> dict[str, object]:
        """The signing key as the key set shows it."""
        return {**self._keys[self.kid].as_dict(private=False), "kid": self.kid, "use": "sig", "alg": "RS256"}

    def key_set(self) -> dict[str, object]:
        """The JWKS."""
        shown = [{**key.as_dict(private=False), "kid": kid, "use": "sig"} for kid, key in self._keys.items()]
        return {"keys": [] if self.mood == "no-keys" else shown + (shown if self.mood == "repeated-kid" else [])}

    def signed(self, claims: Mapping[str, object], **header: object) -> str:
        """Any claims, under the present key; a header of None is left out."""
        wanted = {"alg": "RS256", "typ": "JWT", "kid": self.kid, **header}
        shown = {name: value for name, value in wanted.items() if value is not None}
        registry = jws.JWSRegistry(algorithms=["RS256"], strict_check_header=False)
        text = json.dumps(dict(claims)).encode()
        return jws.serialize_compact(shown, text, self._keys[self.kid], registry=registry)

    def github_claims(self, **changes: object) -> dict[str, object]:
        """A job of `acme/web` on main in the environment production; a change of None leaves the claim out."""
        at = int(self._clock().timestamp())
        owner, name = "acme", "web"
        claims: dict[str, object] = {
            "iss": self.url, "aud": AUDIENCE, "jti": str(uuid.uuid4()), "iat": at, "nbf": at - 300, "exp": at + 300,
            "sub": f"repo:{owner}/{name}:environment:production", "repository": f"{owner}/{name}",
            "repository_owner": owner, "repository_id": "1296269", "repository_owner_id": "65",
            "repository_visibility": "private", "environment": "production", "ref": "refs/heads/main",
            "ref_type": "branch", "ref_protected": "true", "event_name": "push", "sha": "c0ffee" * 6 + "c0ff",
            "run_id": "987", "run_number": "12", "run_attempt": "1", "actor": "ada", "actor_id": "583231",
            "runner_environment": "github-hosted", "workflow": "deploy", "base_ref": "", "head_ref": "",
            "workflow_ref": f"{owner}/{name}/.github/workflows/deploy.yml@refs/heads/main",
            "job_workflow_ref": f"{owner}/{name}/.github/workflows/deploy.yml@refs/heads/main",
        }  # fmt: skip
        return _changed(claims, changes)

    def gitlab_claims(self, **changes: object) -> dict[str, object]:
        """A job of `acme/web` on main in the environment production."""
        at = int(self._clock().timestamp())
        claims: dict[str, object] = {
            "iss": self.url, "aud": AUDIENCE, "jti": str(uuid.uuid4()), "iat": at, "nbf": at - 5, "exp": at + 3600,
            "sub": "project_path:acme/web:ref_type:branch:ref:main", "project_path": "acme/web", "project_id": "22",
            "namespace_path": "acme", "namespace_id": "72", "job_project_path": "acme/web", "job_project_id": "22",
            "job_namespace_path": "acme", "job_namespace_id": "72", "ref": "main", "ref_type": "branch",
            "ref_path": "refs/heads/main", "ref_protected": "true", "environment": "production",
            "environment_protected": "true", "pipeline_source": "push", "pipeline_id": "1212", "job_id": "8080",
            "sha": "c0ffee" * 6 + "c0ff", "user_id": "1", "user_login": "ada", "user_email": "ada@example.org",
            "runner_id": 1, "runner_environment": "gitlab-hosted", "project_visibility": "private",
            "ci_config_ref_uri": "gitlab.example.org/acme/web//.gitlab-ci.yml@refs/heads/main",
        }  # fmt: skip
        return _changed(claims, changes)

    def job_environment(self, **job: object) -> dict[str, str]:
        """What GitHub Actions puts into the environment of a job that may ask for its identity."""
        self.job = job
        url = f"{self.url}{JOB}?api-version=2.0"
        return {"ACTIONS_ID_TOKEN_REQUEST_URL": url, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": self.job_secret}

    def github(self, **changes: object) -> str:
        """A token of `github_claims`."""
        return self.signed(self.github_claims(**changes))

    def gitlab(self, **changes: object) -> str:
        """A token of `gitlab_claims`."""
        return self.signed(self.gitlab_claims(**changes))


def _changed(claims: dict[str, object], changes: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in {**claims, **changes}.items() if value is not None}


@contextmanager
def ci_issuer(clock: Callable[[], datetime] = lambda: datetime.now(UTC), port: int = 0) -> Iterator[CiIssuer]:
    """Run one on a loopback port until the end of the block."""
    server = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
    server.daemon_threads = True
    issuer = CiIssuer(server, clock)
    server.issuer = issuer  # type: ignore[attr-defined]
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield issuer
    finally:
        issuer.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """As the mood says."""
        issuer: CiIssuer = self.server.issuer  # type: ignore[attr-defined]
        issuer.asked.append(self.path)
        mood = issuer.mood
        if mood == "stall":
            issuer.stopping.wait(30)
            self.close_connection = True
            return
        if mood == "down":
            self._answer(503, b"down")
        elif mood == "redirect":
            self._answer(302, b"", location="http://127.0.0.1:1/elsewhere")
        elif mood in ("dribble", "dribble-head"):
            self._dribble(issuer, in_head=mood == "dribble-head")
        elif mood == "not-json":
            self._answer(200, b"<html>")
        elif mood == "huge":
            self._answer(200, b'{"keys":[' + b" " * _HUGE + b"]}")
        elif self.path == DISCOVERY:
            name = "https://token.actions.githubusercontent.com" if mood == "other-issuer" else issuer.url
            keys = "https://keys.example.org/keys" if mood == "foreign-keys" else f"{issuer.url}{KEYS}"
            self._answer(200, json.dumps({"issuer": name, "jwks_uri": keys}).encode())
        elif self.path.startswith(f"{JOB}?"):
            self._job(issuer)
        elif self.path == KEYS:
            self._answer(200, json.dumps(issuer.key_set()).encode())
        else:
            self._answer(404, b"{}")

    def _job(self, issuer: CiIssuer) -> None:
        asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        audience = asked.pop("audience", "")
        job = {**issuer.job, **{name: asked[name] for name in _OF_A_RUN & asked.keys()}}
        if self.headers.get("authorization") != f"Bearer {issuer.job_secret}":
            self._answer(401, b"{}")
            return
        self._answer(200, json.dumps({"value": issuer.github(aud=audience, **job)}).encode())

    def _answer(self, status: int, body: bytes, location: str = "") -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        if location:
            self.send_header("location", location)
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            self.close_connection = True

    def _dribble(self, issuer: CiIssuer, *, in_head: bool) -> None:
        """One byte every now and then, so that no single read times out."""
        self.send_response(200)
        self.send_header("content-length", "100000")
        if in_head:
            self.flush_headers()
        else:
            self.end_headers()
        try:
            while not issuer.stopping.wait(0.2):
                self.wfile.write(b"x" if in_head else b" ")
                self.wfile.flush()
        except OSError:
            pass
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""
